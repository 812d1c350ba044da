"""The loss of the ideal denoiser: against quadrature, closed forms, and the plain estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri

from ddpm_jax.diffusion import process, schedules


def squared_levels(schedule):
    """ᾱ and 1 - ᾱ in float64, [2, T]."""
    return np.array([schedule.alpha_bars, schedule.one_minus_alpha_bars], np.float64)


def quadrature_loss(schedule, points):
    """E (ε - ε*)² for x0 uniform on `points` of the line, at every t: Gauss-Hermite, in float64.

    ε* is smooth on the scale of ε where √ᾱ |x0| / √(1 - ᾱ) is at most about 10.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(180)
    signal, noise = np.sqrt(squared_levels(schedule))[..., None, None]
    points = np.asarray(points)
    x_t = signal * points[:, None] + noise * nodes
    # [T, m, nodes, m]: the last axis is over the points that may have led to x_t.
    offsets = x_t[..., None] - signal[..., None] * points
    likelihoods = np.exp(-(offsets**2) / (2 * noise[..., None] ** 2))
    ideal = np.sum(likelihoods * offsets, axis=-1) / np.sum(likelihoods, axis=-1) / noise
    return np.mean((nodes - ideal) ** 2 @ weights / weights.sum())


LINE = [0.8, 0.6, 0.5, -0.1, -0.8]


@pytest.fixture
def gentle():
    """A schedule whose least noise is 0.3, so that quadrature and sampling are both accurate."""
    return schedules.linear(20, 0.1, 0.5)


@pytest.mark.parametrize("points", [[0.8, -0.8], LINE])
def test_ideal_loss_of_a_few_points_is_the_quadrature(points, key, gentle):
    data = jnp.array(points)[:, None]
    value, error = process.ideal_loss(key, gentle, data, rounds=20_000, block=5000)
    assert error < 4e-3 * value, "too few draws to tell"
    assert abs(float(value) - quadrature_loss(gentle, points)) < 5 * float(error)


@pytest.mark.medium
def test_ideal_loss_is_per_coordinate(key, gentle):
    """Corners of a square: two coordinates that know nothing of each other."""
    data = jnp.array([[0.8, 0.5], [0.8, -0.5], [-0.8, 0.5], [-0.8, -0.5]])
    value, error = process.ideal_loss(key, gentle, data, rounds=20_000, block=5000)
    expected = np.mean([quadrature_loss(gentle, [a, -a]) for a in (0.8, 0.5)])
    assert abs(float(value) - expected) < 5 * float(error)


@pytest.mark.medium
def test_standard_error_of_the_ideal_loss_is_the_spread_between_keys(key, gentle):
    data = jnp.array(LINE)[:, None]
    estimate = jax.vmap(lambda key: process.ideal_loss(key, gentle, data, rounds=16, block=70))
    values, errors = map(np.asarray, estimate(jax.random.split(key, 200)))
    # The spread of 200 values is itself known to 5 %, 1/√400: five times that.
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(ddof=1), rel=0.25)
    standard_error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - quadrature_loss(gentle, LINE)) < 5 * standard_error


def test_ideal_loss_of_many_gaussian_points_is_the_closed_form(key, gentle):
    """For x0 ~ N(0, s²), snr Var(x0 | x_t) = ᾱ s² / (ᾱ s² + 1 - ᾱ)."""
    data = 0.5 * ndtri((np.arange(4000) + 0.5) / 4000)[:, None]
    value, error = process.ideal_loss(key, gentle, jnp.asarray(data, jnp.float32), rounds=100)
    signal, noise = squared_levels(gentle)
    s2 = data.var()
    expected = np.mean(signal * s2 / (signal * s2 + noise))
    # The quantiles stand for the density but in the tails: 1e-3.
    assert abs(float(value) - expected) < 5 * float(error) + 1e-3 * expected


def test_ideal_loss_of_a_single_point_is_zero(key, gentle):
    value, error = process.ideal_loss(key, gentle, jnp.array([[0.3, -0.2]]), rounds=2)
    # Var(x0 | x_t) = 0, found as the difference of squares of about 1, times snr < 10.
    assert abs(float(value)) < 1e-5
    assert float(error) < 1e-5


@pytest.mark.medium
def test_ideal_loss_agrees_with_the_denoising_loss_of_the_ideal_denoiser(key):
    """The estimate in closed form against the plain one, on a schedule that ends in pure noise."""
    keys = jax.random.split(key, 4)
    n, schedule = 20_000, schedules.sigmoid(100)
    data = jax.random.uniform(keys[0], (30, 2), minval=-1, maxval=1)
    value, error = process.ideal_loss(keys[1], schedule, data, rounds=200, block=2000)
    x0 = data[jax.random.randint(keys[2], (n,), 0, 30)]
    eps, t = jax.random.normal(keys[3], (n, 2)), jnp.arange(n) % 100
    ideal = jax.jit(process.ideal_denoiser(schedule, data))
    plain = float(process.denoising_loss(schedule, ideal, x0, t, eps))
    # |ε - ε*|² is at most as spread out as the |ε|²/2 of pure noise: √(1 / n) for the mean.
    assert abs(float(value) - plain) < 5 * np.hypot(float(error), np.sqrt(1 / n))
