"""Lattices: found where numbers lie on one, and nowhere else; numbers put back exactly."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ddpm_jax.points.lattice import Lattice, Values, find, recurring


@given(
    decimals=st.integers(0, 8),
    stride=st.integers(1, 999),
    ks=st.lists(st.integers(-(10**4), 10**4), min_size=2, max_size=30, unique=True),
    origin=st.integers(-(10**6), 10**6),
)
@settings(deadline=None, max_examples=200)
def test_numbers_as_they_are_written_come_back_bit_for_bit(decimals, stride, ks, origin):
    x = np.array([float(f"{origin + stride * k}e-{decimals}") for k in ks])
    lattice = find(x)
    assert lattice is not None
    np.testing.assert_array_equal(lattice.snap(x), x)
    # The greatest common divisor of the distances, in units of the last decimal.
    step = np.gcd.reduce(np.diff(sorted(ks))) * stride
    assert lattice.step == pytest.approx(step / 10**decimals, rel=1e-15)


@given(st.floats(-0.49, 0.49), st.integers(-500, 500))
def test_what_is_between_goes_to_the_nearest(part, k):
    lattice = Lattice(2, 5, 2)  # 0.02, 0.07, 0.12, …
    x = np.array([(2 + 5 * (k + part)) / 100])
    assert lattice.snap(x) == [float(f"{2 + 5 * k}e-2")]
    assert lattice.move(x, 1) == [float(f"{7 + 5 * k}e-2")]


@pytest.mark.parametrize(
    ("x", "step"),
    [
        (np.arange(-256, 257) / 256, 1 / 256),  # coordinates of pixels
        (np.array([1.0, 2.0]), 1.0),
        (np.array([5.0, 20.0, 10.0]), 5.0),
        (np.array([0.1, 0.2, 0.3]) * 3, 0.3),  # 0.30000000000000004 among them
        (np.linspace(0, 1, 11), 0.1),
        (np.round(np.random.default_rng(0).normal(size=60), 2), 0.01),
        (np.round(np.random.default_rng(0).normal(size=500), 2).astype(np.float32), 0.01),
        (np.array([695.1, 1099.5, 1248.8]), 0.1),
        (np.array([1e9, 1e9 + 0.5, 1e9 + 1.5]), 0.5),
    ],
)
def test_the_coarsest_lattice_is_found(x, step):
    lattice = find(x.astype(np.float64))
    assert lattice is not None
    assert lattice.step == pytest.approx(step, rel=1e-15)
    np.testing.assert_array_equal(
        lattice.snap(x.astype(np.float64)).astype(x.dtype),
        lattice.snap(lattice.snap(x.astype(np.float64))).astype(x.dtype),
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1e-8, 1, 1e5])
@pytest.mark.parametrize("n", [10, 10_000])
def test_numbers_at_random_are_on_none(dtype, scale, n):
    """Though every float is on a lattice of its own making, such as that of 2^-24 below 1."""
    rng = np.random.default_rng(0)
    for x in (rng.normal(size=n), rng.random(n), rng.exponential(size=n)):
        assert find((scale * x).astype(dtype).astype(np.float64)) is None


def test_one_value_is_on_none():
    assert find(np.full(5, 0.1)) is None


@given(st.lists(st.integers(-999, 999).map(lambda k: k / 8) | st.floats(-9, 9), max_size=8))
@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_a_lattice_that_is_found_has_all_the_numbers(x):
    lattice = find(np.array(x))
    assume(lattice is not None)
    assert lattice is not None
    snapped = lattice.snap(np.array(x))
    # 4 units in the last place, of float32 where all numbers are such; below its normal numbers it
    # has fewer places, and zero is near enough.
    np.testing.assert_allclose(snapped, x, rtol=4 * 2**-23, atol=np.finfo(np.float32).tiny)


def test_values_that_recur_are_kept():
    rng = np.random.default_rng(0)
    ages = rng.integers(20, 80, 400)
    for x in (
        (ages - ages.mean()) / ages.std(),  # standardised
        np.repeat([-0.0446, 0.0507], 200) / 3,
        np.log([1, 2, 5, 10])[rng.integers(0, 4, 20)],
    ):
        values = recurring(x)
        assert values is not None
        assert values.values == tuple(sorted(set(x)))
        off = 0.4 * np.diff(values.values).min() * rng.uniform(-1, 1, len(x))
        np.testing.assert_array_equal(values.snap(x + off), x)


def test_values_beyond_the_ends_are_the_ends_and_missing_ones_stay():
    snapped = Values((0.1, 0.3, 1.0)).snap(np.array([-5, 0.19, 0.21, 0.66, 5, np.nan]))
    np.testing.assert_array_equal(snapped, [0.1, 0.1, 0.3, 1.0, 1.0, np.nan])


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).normal(size=1000),
        np.repeat(np.random.default_rng(0).normal(size=101), 10),  # more than can be called few
        np.repeat([0.1, 0.7, 0.9], [5, 5, 4]),  # fewer than five rows a value
        np.full(100, 0.1),
        np.repeat([0.0, 0.3, 0.1 + 0.2], 50),  # one number, calculated in two ways
    ],
)
def test_values_that_do_not_recur_are_free(x):
    assert recurring(x) is None
