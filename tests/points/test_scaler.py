"""The scaler: there and back, for any offset and spread."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.points.scaler import Scaler


def test_scaler_leaves_data_that_fill_the_square_alone():
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    scaler = Scaler.fit(x)
    assert scaler.is_identity
    np.testing.assert_array_equal(scaler.apply(x), x.astype(np.float32))
    assert not Scaler.fit(x + 0.1).is_identity  # leaves [-1, 1]
    assert not Scaler.fit(x * [1, 0.1]).is_identity  # std 0.06


@pytest.mark.parametrize(
    ("offset", "spread"),
    [
        (1e4, 1e3),
        (-3e-5, 1e-6),
        (1e8, 1e-3),
        (1e30, 1e24),
        (0, 1e30),
        (0, 1e-200),
        (1e-300, 1e-310),
    ],
)
def test_scaler_survives_any_offset_and_spread(offset, spread):
    n = 10_001
    u = np.linspace(-1, 1, n)[:, None]
    std = np.sqrt((n + 1) / (3 * (n - 1)))  # of n equidistant points on [-1, 1], by Σ k²
    x = offset + spread * u
    scaler = Scaler.fit(x)
    # x itself is off by half a unit in the last place of the offset.
    error = np.spacing(np.abs(x).max()) + 1e-12 * spread
    np.testing.assert_allclose(scaler.shift, [offset], rtol=0, atol=error)
    np.testing.assert_allclose(scaler.scale, [2 * spread * std], rtol=0, atol=2 * error)
    z = scaler.apply(x)
    assert z.dtype == np.float32
    # Half a unit of float32 at |z| < 1 is 3e-8.
    np.testing.assert_allclose(z, u / (2 * std), rtol=0, atol=1e-7 + 2 * error / spread)
    np.testing.assert_allclose(scaler.invert(z), x, rtol=0, atol=1e-7 * spread + error)


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
        elements=st.floats(-1e30, 1e30),
    )
)
@settings(max_examples=300, deadline=None)
def test_scaler_round_trip(x):
    scaler = Scaler.fit(x)
    assert (
        Scaler(**{k: tuple(v) for k, v in json.loads(json.dumps(vars(scaler))).items()}) == scaler
    )
    back = scaler.invert(scaler.apply(x))
    shift, scale = np.array(scaler.shift), np.array(scaler.scale)
    # One rounding to float32 (subnormal at worst), a few to float64, and float64's own subnormals.
    bound = 2**-24 * np.abs(x - shift) + 2**-149 * scale + 2**-50 * np.abs(x).max(0) + 1e-322
    assert (np.abs(back - x) <= bound).all()


def test_scaler_gives_a_constant_column_back_exactly():
    x = np.stack([np.full(1000, 0.1), np.arange(1000.0)], axis=1)
    scaler = Scaler.fit(x)
    assert not scaler.apply(x)[:, 0].any()
    samples = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    assert (scaler.invert(samples)[..., 0] == 0.1).all()


def test_scaler_never_clamps():
    scaler = Scaler((1.0,), (2.0,))
    np.testing.assert_array_equal(scaler.apply(np.array([[2e6 + 1]])), [[1e6]])
    np.testing.assert_array_equal(scaler.invert(np.array([[-1e6]])), [[1 - 2e6]])


def test_scaler_errors():
    for shift, scale in [((0.0,), ()), ((), ()), ((0.0,), (-1.0,)), ((float("nan"),), (1.0,))]:
        with pytest.raises(ConfigError, match="of one length"):
            Scaler(shift, scale)
    for convert in (Scaler((0.0, 0.0), (1.0, 1.0)).apply, Scaler((0.0, 0.0), (1.0, 1.0)).invert):
        with pytest.raises(DataError, match="points have 1 columns; this Scaler is for 2"):
            convert(np.zeros((5, 1)))
