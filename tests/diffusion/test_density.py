"""Densities against Gaussian mixtures, whose noised densities and ideal denoisers are formulas.

The sigmoid schedule's steps are 10/T long in the logarithm of the noise ratio; so Heun's method, of
second order, may be off by (10/T)² a dimension: `heun`.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.density import log_prob, variational_bound

WEIGHTS = jnp.array([0.3, 0.5, 0.2])
CENTRES = {
    1: [[-1.0], [0.2], [1.3]],
    2: [[-1.0, 0.0], [0.5, 0.8], [0.6, -0.9]],
    3: [[-1.0, 0.0, 0.3], [0.5, 0.8, -0.4], [0.6, -0.9, 0.0]],
}
VARIANCE = 0.1


def components(x, alpha_bar, dim):
    """log w_k N(x; √ᾱ m_k, (ᾱ v + 1 - ᾱ) I) of each component, [n, 3]."""
    centres = jnp.sqrt(alpha_bar) * jnp.array(CENTRES[dim], x.dtype)
    scale = jnp.sqrt(alpha_bar * VARIANCE + 1 - alpha_bar)
    logs = norm.logpdf(x[:, None, :], centres[None], scale).sum(axis=-1)
    return logs + jnp.log(WEIGHTS.astype(x.dtype))[None]


def heun(num_steps, dim):
    return dim * (10 / num_steps) ** 2


def truth(x, alpha_bar):
    """The mixture's log density once noised to ᾱ, [n]."""
    return logsumexp(components(x, alpha_bar, x.shape[1]), axis=1)


def draw(key, n, dim):
    key_component, key_point = jax.random.split(key)
    chosen = jax.random.choice(key_component, 3, (n,), p=WEIGHTS)
    centres = jnp.array(CENTRES[dim])[chosen]
    return centres + jnp.sqrt(VARIANCE) * jax.random.normal(key_point, (n, dim))


def ideal(schedule):
    """ε* = -√(1 - ᾱ) ∇ log p_t, by differentiating the formula."""

    def denoise(x, t):
        alpha_bar, noise = schedule.alpha_bars[t], schedule.one_minus_alpha_bars[t]
        score = jax.grad(lambda x: truth(x, alpha_bar).sum())(x)
        return -jnp.sqrt(noise) * score

    return denoise


def flow(x, num_steps, dtype=jnp.float64):
    """log p(x) and x_T by the ideal flow, and the ᾱ at both its ends."""
    schedule = schedules.sigmoid(num_steps, dtype=dtype)
    log_p, x_T = jax.jit(lambda x: log_prob(ideal(schedule), schedule, x))(x)
    return log_p, x_T, schedule.alpha_bars[0], schedule.alpha_bars[-1]


@pytest.mark.medium
@pytest.mark.parametrize("dim", CENTRES)
def test_log_prob_is_that_of_the_mixture(dim, x64, key):
    x, errors = draw(key, 200, dim), []
    for num_steps in (50, 100, 200):
        log_p, x_T, first, last = flow(x, num_steps)
        # The flow starts from N(0, I), but the mixture is not quite that at T.
        prior = norm.logpdf(x_T).sum(axis=-1) - truth(x_T, last)
        errors.append(float(jnp.sqrt(jnp.mean((log_p - prior - truth(x, first)) ** 2))))
        # The centres, of size 1.3, are still at √ᾱ_T 1.3 = 0.009, at |x_T| < 5: below 0.05.
        assert jnp.abs(prior).max() < 0.05
    # Heun's method is of second order: half the step, a quarter of the error.
    for coarse, fine in itertools.pairwise(errors):
        assert 3 < coarse / fine < 5
    assert errors[-1] < heun(200, dim)


@pytest.mark.medium
def test_log_prob_in_float32(key):
    x = draw(key, 200, 2)
    log_p, _, first, _ = flow(x, 1000, jnp.float32)
    assert log_p.dtype == np.float32
    # The prior's 0.05 from above; rounding, 1e-7 in each of 1000 steps, is far below.
    np.testing.assert_allclose(log_p, truth(x, first), rtol=0, atol=0.05)


@pytest.mark.medium
def test_the_flow_keeps_the_share_of_the_points_on_either_side(x64, key):
    """In one dimension paths cannot cross: F_T(x_T) = F_0(x)."""

    def cdf(x, alpha_bar):
        centres = jnp.sqrt(alpha_bar) * jnp.array(CENTRES[1])[:, 0]
        scale = jnp.sqrt(alpha_bar * VARIANCE + 1 - alpha_bar)
        return norm.cdf(x, centres[None], scale) @ WEIGHTS

    x = draw(key, 500, 1)
    _, x_T, first, last = flow(x, 400)
    np.testing.assert_allclose(cdf(x_T, last), cdf(x, first), rtol=0, atol=heun(400, 1))


@pytest.mark.medium
def test_the_flow_of_a_gaussian_is_a_scaling(x64, key):
    schedule, variance = schedules.sigmoid(400, dtype=jnp.float64), 0.3
    total = schedule.alpha_bars * variance + schedule.one_minus_alpha_bars

    def denoise(x, t):
        return jnp.sqrt(schedule.one_minus_alpha_bars[t]) / total[t] * x

    x = jax.random.normal(key, (50, 4))
    log_p, x_T = log_prob(denoise, schedule, x)
    np.testing.assert_allclose(x_T, x * jnp.sqrt(total[-1] / total[0]), rtol=heun(400, 1))
    # That error of x_T, below 5 in each coordinate, enters log N(x_T) as x_T² times itself.
    expected = norm.logpdf(x, scale=jnp.sqrt(total[0])).sum(axis=-1)
    atol = heun(400, 4) + heun(400, 1) * jnp.sum(x_T**2, axis=-1).max()
    np.testing.assert_allclose(log_p, expected, rtol=0, atol=atol)


@pytest.mark.medium
@pytest.mark.parametrize("wrong", [0.0, 0.2])
def test_any_denoisers_density_integrates_to_one(wrong):
    """Whatever the denoiser says, its flow moves mass and makes none."""
    schedule = schedules.sigmoid(400)
    exact, mixing = ideal(schedule), jnp.array([[1.0, -2.0], [1.5, 0.5]])

    def denoise(x, t):
        return exact(x, t) + wrong * jnp.tanh(x @ mixing)

    edges = jnp.linspace(-4, 4, 81)[:-1] + 0.05
    grid = jnp.stack(jnp.meshgrid(edges, edges), axis=-1).reshape(-1, 2)
    log_p, _ = jax.jit(lambda x: log_prob(denoise, schedule, x))(grid)
    # Cells of 0.1 under bumps of width 0.3 sum exactly; twice Heun's error, for a rougher flow.
    assert abs(jnp.exp(log_p).sum() * 0.1**2 - 1) < 2 * heun(400, 2)
    off = jnp.abs(jnp.exp(log_p) - jnp.exp(truth(grid, schedule.alpha_bars[0]))).sum() * 0.1**2
    assert (off > 0.1) == (wrong > 0)


@pytest.mark.medium
def test_bound_of_a_gaussian_is_above_its_own_chain_and_tight(key):
    """Ideal reverse steps on Gaussian data make a Gaussian, whose density follows step by step."""
    data_variance, x0 = 0.3, jnp.full((20_000, 2), 0.7)
    gaps = []
    for num_steps in (50, 100, 200):
        schedule = schedules.sigmoid(num_steps)
        total = schedule.alpha_bars * data_variance + schedule.one_minus_alpha_bars
        slope = jnp.sqrt(schedule.one_minus_alpha_bars) / total

        def denoise(x, t, slope=slope):
            return slope[t] * x

        bound = jax.jit(lambda x, d=denoise, s=schedule: variational_bound(key, d, s, x))(x0)
        assert bound.shape == (20_000,)
        error = bound.std() / np.sqrt(20_000)
        gaps.append(float(bound.mean() - chain_nll(schedule, data_variance, 0.7)))
        # A step h = 20/T in the log of signal to noise costs (e^h - 1 - h) / 2 too much wherever
        # the noise is below the data's scale, which is in half of the steps: about 50/T.
        h = 20 / num_steps
        assert -5 * error < gaps[-1] < num_steps / 2 * (np.expm1(h) - h) / 2
        assert error < 0.2 * gaps[-1]  # which must not hide how fast the gap falls
    for coarse, fine in itertools.pairwise(gaps):
        assert 1.5 < coarse / fine < 3  # h is 0.4 at first: e^h - 1 - h still feels h³


def chain_nll(schedule, data_variance, x):
    """-log p of the reverse chain at x: its variance, from 1 at T, through each affine step."""
    leaves = (schedule.betas, schedule.alpha_bars, schedule.posterior_variances)
    betas, alpha_bars, posterior = (np.asarray(leaf, np.float64) for leaf in leaves)
    variance = 1.0
    for t in reversed(range(schedule.num_steps)):
        total = alpha_bars[t] * data_variance + 1 - alpha_bars[t]
        gain = (1 - betas[t] / total) / np.sqrt(1 - betas[t])
        variance = gain**2 * variance + (posterior[t] if t > 0 else betas[0])
    return 0.5 * (np.log(2 * np.pi * variance) + x**2 / variance)


@pytest.mark.medium
def test_bound_of_a_mixture_is_above_its_entropy_and_tight(key):
    schedule, x0 = schedules.sigmoid(1000), draw(key, 5000, 2)
    bound = jax.jit(lambda x: variational_bound(key, ideal(schedule), schedule, x))(x0)
    excess = bound + truth(x0, jnp.array(1.0)) / 2  # in nats a dimension
    error = excess.std() / np.sqrt(len(x0))
    # Jensen's inequality, for the mean over data and noise; and 50/T from above.
    assert -4 * error < excess.mean() < 0.05 + 4 * error


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_bound_of_one_step_is_two_gaussians(beta, key):
    """With the noise known: KL(N(√ᾱ x0, 1 - ᾱ) | N(0, 1)) - log N(x0; x0, β), for any ᾱ_T."""
    x0 = jax.random.normal(jax.random.fold_in(key, 9), (4, 2))
    eps = jax.random.normal(jax.random.fold_in(key, 0), x0.shape)
    schedule = schedules.from_betas(np.array([beta]))
    found = variational_bound(key, lambda x, t: eps, schedule, x0)
    square = np.mean(np.asarray(x0) ** 2, axis=-1)
    prior = 0.5 * (beta + (1 - beta) * square - 1 - np.log(beta))
    # A handful of float32 roundings of numbers of order 1.
    np.testing.assert_allclose(found, prior + 0.5 * np.log(2 * np.pi * beta), atol=1e-5)
