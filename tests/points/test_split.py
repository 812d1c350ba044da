"""The split into rows to train on and rows held out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpm_jax.errors import ConfigError
from ddpm_jax.points.split import split_rows


@given(st.integers(3, 300), st.floats(1e-6, 0.999), st.integers(0, 2**32 - 1))
def test_every_row_is_on_one_side_and_both_sides_have_enough(n, fraction, seed):
    train, held_out = split_rows(n, fraction, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(n))
    assert len(train) >= 2
    assert len(held_out) >= 1
    if 1 <= round(fraction * n) <= n - 2:
        assert len(held_out) == round(fraction * n)


def test_the_seed_decides():
    first, again, other = (split_rows(1000, 0.1, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    # 10 of 100 are common by chance, with a standard deviation of 3.
    assert len(np.intersect1d(first, other)) < 30


def test_held_out_rows_come_from_everywhere():
    """Files of points are often sorted: the mean row number is that of all, within 5 deviations."""
    held_out = split_rows(10_000, 0.1, 0)[1]
    assert abs(held_out.mean() - 4999.5) < 5 * 10_000 / np.sqrt(12 * 1000)


def test_nothing_is_held_out_by_a_fraction_of_zero():
    train, held_out = split_rows(5, 0.0, 0)
    assert (len(train), len(held_out)) == (5, 0)


@pytest.mark.parametrize(("n", "fraction"), [(2, 0.5), (10, 1.0), (10, -0.1), (10, float("nan"))])
def test_what_cannot_be_split_is_refused(n, fraction):
    with pytest.raises(ConfigError, match="hold_out"):
        split_rows(n, fraction, 0)
