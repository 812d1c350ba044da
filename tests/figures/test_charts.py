"""Charts of the page about a run: what their axes say."""

import re

import numpy as np
import pytest

from ddpm_jax.figures import charts


@pytest.mark.parametrize("losses", [(0.3452, 0.3432), (1.0, 0.1), (0.5, 0.5), (0.50001, 0.5)])
def test_the_marks_of_the_losses_are_told_apart(losses):
    series = np.array([1, 2]), np.array(losses)
    svg = charts.losses({"training": series}, None)
    marks = re.findall(r'text-anchor="end">([\d.]+)</text>', svg)[:4]
    values = [float(mark) for mark in marks]
    assert values == sorted(values)
    if losses[0] != losses[1]:
        assert len(set(values)) == 4
