"""Imputation of Gaussian data, whose conditional laws are known: means, covariances, coverage.

Given coordinates k, the others u of N(m, S) are Gaussian with mean m_u + S_uk S_kk⁻¹ (y - m_k) and
covariance S_uu - S_uk S_kk⁻¹ S_ku.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.imputation import impute, knowing

SCHEDULE = schedules.sigmoid(1000, k=12.0)
STEPS = schedules.respace(SCHEDULE, 40)
MEAN = np.array([0.3, -0.2, 0.5])
# Two columns that follow each other closely, and one that depends on both weakly.
COVARIANCE = np.array([[1.0, 0.9, 0.4], [0.9, 1.2, 0.2], [0.4, 0.2, 0.5]])


def denoise(x, t):
    """ε* = √(1 - ᾱ) (ᾱ S + (1 - ᾱ) I)⁻¹ (x - √ᾱ m)."""
    signal, noise = SCHEDULE.alpha_bars[t], SCHEDULE.one_minus_alpha_bars[t]
    total = signal * jnp.asarray(COVARIANCE, x.dtype) + noise * jnp.eye(3, dtype=x.dtype)
    offsets = x - jnp.sqrt(signal) * jnp.asarray(MEAN, x.dtype)[None]
    return jnp.sqrt(noise) * jnp.linalg.solve(total, offsets.T).T


def law(row):
    """Mean and covariance of the unknown coordinates of `row`, given the others."""
    u, k = np.isnan(row), ~np.isnan(row)
    gain = COVARIANCE[np.ix_(u, k)] @ np.linalg.inv(COVARIANCE[np.ix_(k, k)])
    covariance = COVARIANCE[np.ix_(u, u)] - gain @ COVARIANCE[np.ix_(k, u)]
    return MEAN[u] + gain @ (row[k] - MEAN[k]), covariance


fill_in = jax.jit(lambda key, known: impute(key, denoise, SCHEDULE, known, STEPS))


@pytest.mark.medium
@pytest.mark.parametrize(
    "row",
    [
        [1.5, np.nan, np.nan],
        [np.nan, 1.0, 0.75],
        [np.nan, -1.5, np.nan],
        [np.nan, np.nan, np.nan],
    ],
)
def test_the_unknown_have_their_conditional_law(row, key):
    count, row = 2000, np.array(row)
    x = np.asarray(fill_in(key, jnp.tile(jnp.asarray(row, jnp.float32), (count, 1))))
    np.testing.assert_array_equal(x[:, ~np.isnan(row)], np.tile(row[~np.isnan(row)], (count, 1)))
    mean, covariance = law(row)
    drawn = x[:, np.isnan(row)]
    spread = np.sqrt(np.diag(covariance))
    # 4 standard errors of 2000 draws, s / 45, and 1 % of s for the 40 large steps.
    np.testing.assert_array_less(np.abs(drawn.mean(axis=0) - mean), 0.1 * spread)
    # The same for variances, √2 / 45 of them, and 4 % for the steps.
    error = (np.atleast_2d(np.cov(drawn.T)) - covariance) / np.outer(spread, spread)
    np.testing.assert_array_less(np.abs(error), 0.17)


@pytest.mark.medium
def test_intervals_cover_what_was_hidden(key, rng):
    """A truth is exchangeable with its draws: it lies between the 2nd and 38th of 39 in 36/40."""
    rows, draws = 300, 39
    truth = rng.multivariate_normal(MEAN, COVARIANCE, rows).astype(np.float32)
    # Any one or two of three cells.
    patterns = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], bool)
    hidden = patterns[np.arange(rows) % len(patterns)]
    known = np.tile(np.where(hidden, np.nan, truth), (draws, 1))
    filled = np.sort(np.asarray(fill_in(key, jnp.asarray(known))).reshape(draws, rows, 3), axis=0)
    covered = (filled[1] <= truth) & (truth <= filled[37])
    # 4 standard errors of 450 cells, of which those of one row count as one: √(0.09 / 300).
    assert abs(covered[hidden].mean() - 0.9) < 0.07


@pytest.fixture(scope="module")
def given():
    """ε of the conditioned denoiser and of the plain one: rows of every kind, known ones too."""
    known = jnp.array([[1.5, np.nan, -0.4], [np.nan, 0.1, np.nan], [0.0, 1.0, 2.0], [np.nan] * 3])

    @jax.jit
    def both(x, t):
        return knowing(denoise, SCHEDULE, known)(x, t), denoise(x, t)

    return known, both


@pytest.mark.parametrize("t", [0, 500, 999])
def test_known_cells_are_held_at_every_level(t, given, key):
    """ε of a known cell leads from any x_t straight to its value; of a row of none, nowhere new."""
    x = jax.random.normal(key, (4, 3))
    known, both = given
    eps, plain = both(x, jnp.int32(t))
    signal, noise = np.sqrt(SCHEDULE.alpha_bars[t]), np.sqrt(SCHEDULE.one_minus_alpha_bars[t])
    held = ~np.isnan(known)
    # A few roundings of x_t, divided by the least noise, 0.0025.
    close = {"rtol": 1e-4, "atol": 1e-3}
    np.testing.assert_allclose(eps[held], ((x - signal * known) / noise)[held], **close)
    np.testing.assert_allclose(eps[3], plain[3], **close)
