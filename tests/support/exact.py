"""Equality of the metrics with exact numbers."""

from functools import partial

import pytest

# Float64 sums of at most 1e5 terms, then a square root: far below this, and so is no real mistake.
exactly = partial(pytest.approx, rel=1e-9, abs=1e-12)
