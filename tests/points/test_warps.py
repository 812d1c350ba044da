"""Monotone maps: there and back, upwards, and with the slope that they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_jax.points.warps import Warp, is_heavy, of_bound, of_tail, reach, spread

KINDS = ["asinh", "log", "above", "below", "between"]


def inside(kind, y):
    """Numbers in the domain of a kind, in units of its width from its centre."""
    return {
        "asinh": y,
        "log": np.exp(y / 4),
        "above": np.exp(y / 4),
        "below": -np.exp(-y / 4),
        "between": 1 / (1 + np.exp(-y / 4)),
    }[kind]


@given(
    kind=st.sampled_from(KINDS),
    centre=st.floats(-100, 100),
    width=st.floats(1e-3, 1e3),
    y=st.lists(st.floats(-20, 20), min_size=1, max_size=5),
)
@settings(deadline=None, max_examples=300)
def test_there_and_back_with_its_slope(kind, centre, width, y):
    warp = Warp(kind, centre, width)
    x = centre + width * inside(kind, np.array(y))
    u = warp.apply(x)
    # Where a warp begins, x - centre has lost the digits that x has from its centre.
    lost = 1e-15 * (np.abs(x) + abs(centre))
    np.testing.assert_allclose(warp.invert(u), x, rtol=1e-12, atol=10 * lost.max())
    # A central difference is off by h² times the third derivative, and by what u is rounded.
    h = 1e-5 * np.minimum(np.abs(x - centre), np.abs(x - centre - width * (kind == "between")))
    h = np.where(kind == "asinh", 1e-5 * (width + np.abs(x - centre)), h)
    slope = (warp.apply(x + h) - warp.apply(x - h)) / ((x + h) - (x - h))
    good = h > 1e5 * lost
    np.testing.assert_allclose(np.log(slope[good]), warp.log_slope(x)[good], atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_upwards_over_all_magnitudes(kind):
    y = np.linspace(-100, 100, 401)
    u = Warp(kind, 0.0, 1.0).apply(inside(kind, y))
    good = np.isfinite(u)
    assert (np.diff(u[good]) >= 0).all()
    assert good.sum() > 300


@pytest.mark.parametrize(
    ("kind", "x"), [("log", 0.0), ("above", -1.0), ("below", 0.0), ("between", 1.0)]
)
def test_what_is_out_of_bounds_is_nan(kind, x):
    warp = Warp(kind, 0.0, 1.0)
    assert np.isnan(warp.apply(np.array([x]))).all()
    assert np.isnan(warp.log_slope(np.array([x]))).all()


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("log", 0, np.inf), ("above", 0, np.inf), ("below", -np.inf, 0), ("between", 0, 1)],
)
def test_whatever_comes_back_is_within_bounds(kind, low, high):
    x = Warp(kind, 0.0, 1.0).invert(np.array([-1e6, -50.0, 0.0, 50.0, 1e6]))
    assert ((x >= low) & (x <= high)).all()
    assert np.isfinite(x).all()


@pytest.mark.parametrize(
    ("draw", "heavy"),
    [
        (lambda rng: rng.normal(size=100_000), False),
        (lambda rng: rng.uniform(size=100_000), False),
        (lambda rng: rng.exponential(size=100_000), False),
        (lambda rng: rng.lognormal(size=10_000), True),
        (lambda rng: 1 + rng.pareto(1.5, 10_000), True),
        (lambda rng: rng.standard_cauchy(1000), True),
        (lambda rng: np.append(rng.normal(size=20_000), 1000), True),
        (lambda rng: np.full(100, 3.0), False),
    ],
)
def test_which_tails_are_heavy(draw, heavy):
    assert is_heavy(draw(np.random.default_rng(0))) == heavy


def test_the_spread_is_the_bulks():
    x = np.random.default_rng(0).normal(3, 2, 100_000)
    # Quartiles of n Gaussian values are off by 1.4 σ / √n.
    assert spread(x) == pytest.approx(2, abs=0.05)
    assert spread(np.append(x, 1e9)) == pytest.approx(2, abs=0.05)
    assert reach(np.append(x, 2003)) == pytest.approx(1000, rel=0.02)


def test_a_lognormal_law_becomes_a_gaussian():
    x = np.random.default_rng(0).lognormal(2, 1.5, 10_000)
    assert of_tail(x).kind == "log"
    assert (of_tail(-x).kind, of_bound(x, 0.0, None).kind) == ("asinh", "log")
    u = of_tail(-x).apply(-x)
    assert reach(u) < 6  # of the Gaussian: 4; of x, 200


def test_one_wild_value_comes_near_and_leaves_the_bulk_as_it_is():
    x = np.append(np.random.default_rng(0).normal(size=20_000), 1000)
    u = of_tail(x).apply(x)
    assert reach(u) < 30
    bulk = np.quantile(u, [0.01, 0.5, 0.99]) / spread(u)
    np.testing.assert_allclose(bulk, [-2.33, 0, 2.33], atol=0.15)
