"""Guidance against laws known in closed form: a mixture of two kinds, and tilted Gaussians.

Data of kind c are N(m_c, v_c) in each coordinate. Noised they are N(√ᾱ m_c, ᾱ v_c + 1 - ᾱ), and a
product of powers of such densities is, up to a factor, the Gaussian whose precision and
precision-weighted mean are the sums of theirs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

from ddpm_jax.diffusion import sampling, schedules
from ddpm_jax.diffusion.guidance import guided

SHARES = np.array([0.3, 0.7])
MEANS = np.array([[-1.0, 0.4], [0.8, -0.2]])
VARIANCES = np.array([0.05, 0.2])
SCHEDULE = schedules.sigmoid(1000)


def noised(kinds, t):
    """Means [n, 2] and variances [n, 1] of each row's kind, once noised to t."""
    alpha_bar = SCHEDULE.alpha_bars[t]
    variances = jnp.asarray(VARIANCES, jnp.float32)[kinds][:, None]
    total = alpha_bar * variances + SCHEDULE.one_minus_alpha_bars[t]
    return jnp.sqrt(alpha_bar) * jnp.asarray(MEANS, jnp.float32)[kinds], total


def log_kind(x, t, kind):
    mean, total = noised(jnp.full(len(x), kind), t)
    return norm.logpdf(x, mean, jnp.sqrt(total)).sum(axis=-1)


def log_mixture(x, t):
    logs = jnp.stack([np.log(share) + log_kind(x, t, k) for k, share in enumerate(SHARES)])
    return logsumexp(logs, axis=0)


def denoiser(log_p):
    """ε = -√(1 - ᾱ) ∇ log p_t, by differentiating the formula."""

    def denoise(x, t):
        score = jax.grad(lambda x: log_p(x, t).sum())(x)
        return -jnp.sqrt(SCHEDULE.one_minus_alpha_bars[t]) * score

    return denoise


def of_kinds(kinds):
    """The conditional denoiser, with one kind for each row."""

    def denoise(x, t):
        mean, total = noised(kinds, t)
        return jnp.sqrt(SCHEDULE.one_minus_alpha_bars[t]) * (x - mean) / total

    return denoise


def test_weight_1_draws_each_row_from_the_law_of_its_kind(key):
    kinds = jnp.arange(20_000) % 2
    denoise = guided(of_kinds(kinds), denoiser(log_mixture), 1.0)
    schedule = schedules.respace(SCHEDULE, 50)
    x = np.asarray(sampling.sample(key, denoise, schedule, (20_000, 2), sampling.SA_SOLVER))
    for kind in (0, 1):
        mine = x[np.asarray(kinds) == kind]
        spread = np.sqrt(VARIANCES[kind])
        # 5 standard errors of 10,000 points, s / 100 and s² / 71, and 1 % for 50 large steps.
        np.testing.assert_allclose(mine.mean(axis=0), MEANS[kind], rtol=0, atol=0.06 * spread)
        np.testing.assert_allclose(mine.var(axis=0), VARIANCES[kind], rtol=0.08)


@pytest.mark.parametrize(("weight", "only"), [(1.0, "conditional"), (0.0, "unconditional")])
def test_whole_weights_ask_one_model_only(weight, only, key):
    asked = []

    def model(name, value):
        def denoise(x, t):
            asked.append(name)
            return jnp.full_like(x, value)

        return denoise

    x = jax.random.normal(key, (5, 2))
    eps = guided(model("conditional", jnp.nan), model("unconditional", jnp.nan), weight)(
        x, jnp.int32(3)
    )
    assert asked == [only]
    assert eps.shape == x.shape


@pytest.mark.medium
@pytest.mark.parametrize("weight", [-0.5, 0.3, 2.0, 5.0])
@pytest.mark.parametrize("t", [0, 400, 999])
def test_other_weights_are_the_score_of_the_tilted_law(weight, t, key):
    x, t = jax.random.normal(key, (100, 2)), jnp.int32(t)
    conditional = denoiser(lambda x, t: log_kind(x, t, 0))

    def tilted(x, t):
        return weight * log_kind(x, t, 0) + (1 - weight) * log_mixture(x, t)

    eps = guided(conditional, denoiser(log_mixture), weight)(x, t)
    # Scores reach |x - m| / v = 100 and are weighted by up to 5: float32 keeps seven digits.
    np.testing.assert_allclose(eps, denoiser(tilted)(x, t), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weight", [-1.0, 0.5, 3.0])
def test_samples_follow_the_tilted_gaussian(weight, key):
    """N(m_0, v)^(1 - w) N(m_1, v)^w is N(m_0 + w (m_1 - m_0), v) up to a factor, at every noise."""
    variance = 0.1

    def shifted(mean):
        def denoise(x, t):
            alpha_bar, noise = SCHEDULE.alpha_bars[t], SCHEDULE.one_minus_alpha_bars[t]
            mean_t = jnp.sqrt(alpha_bar) * jnp.asarray(mean, x.dtype)[None]
            return jnp.sqrt(noise) * (x - mean_t) / (alpha_bar * variance + noise)

        return denoise

    denoise = guided(shifted(MEANS[1]), shifted(MEANS[0]), weight)
    schedule = schedules.respace(SCHEDULE, 50)
    x = np.asarray(sampling.sample(key, denoise, schedule, (20_000, 2), sampling.SA_SOLVER))
    expected = MEANS[0] + weight * (MEANS[1] - MEANS[0])
    # 5 standard errors of 20,000 points are s / 28 = 0.011; the start at √ᾱ_T m = 0.007 m instead
    # of 0 is forgotten but for √v of it.
    np.testing.assert_allclose(x.mean(axis=0), expected, rtol=0, atol=0.03)
    np.testing.assert_allclose(x.var(axis=0), variance, rtol=0.06)
