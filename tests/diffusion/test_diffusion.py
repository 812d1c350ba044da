"""The forward process, its posterior and the ideal denoiser, each derived a second way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import process, schedules
from ddpm_jax.diffusion.schedules import SCHEDULES

every_schedule = pytest.mark.parametrize("name", sorted(SCHEDULES))


def in_float64(name, num_steps=50):
    return SCHEDULES[name](num_steps, dtype=jnp.float64)


def noise_levels(schedule, t):
    """√ᾱ_t and √(1 - ᾱ_t) in float64, [n, 1]."""
    alpha_bars = np.asarray(schedule.alpha_bars, np.float64)[t]
    rest = np.asarray(schedule.one_minus_alpha_bars, np.float64)[t]
    return np.sqrt(alpha_bars)[..., None], np.sqrt(rest)[..., None]


# --- the forward process ---


@every_schedule
def test_moments_of_the_chain_are_the_closed_form(name):
    """Mean and variance of x_t = √α x_{t-1} + √β ε, step by step, against (3)."""
    with jax.enable_x64(True):
        s = in_float64(name)
        x0 = jnp.array([[0.7, -1.3]])
        mean, variance = np.asarray(x0), 0.0
        for t, (alpha, beta) in enumerate(zip(s.alphas, s.betas, strict=True)):
            mean, variance = np.sqrt(float(alpha)) * mean, float(alpha * variance + beta)
            at_zero = process.diffuse(s, x0, jnp.array([t]), jnp.zeros_like(x0))
            # 50 steps' roundings of float64.
            np.testing.assert_allclose(at_zero, mean, rtol=1e-12)
            np.testing.assert_allclose(s.one_minus_alpha_bars[t], variance, rtol=1e-12)


def check_moments(draws, mean, variance):
    """The draws' mean and variance within 5 standard errors of a Gaussian's."""
    n = len(draws)
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * np.sqrt(variance / n))
    assert np.all(np.abs(draws.var(axis=0) / variance - 1) < 5 * np.sqrt(2 / n))


@every_schedule
def test_draws_of_the_chain_have_the_moments_of_diffuse(name, key):
    num_points, schedule = 40_000, SCHEDULES[name](50)
    x0 = jnp.broadcast_to(jnp.array([0.7, -1.3]), (num_points, 2))

    def step(x, inputs):
        row, key = inputs
        x = jnp.sqrt(row.alphas) * x + jnp.sqrt(row.betas) * jax.random.normal(key, x.shape)
        return x, x

    keys = jax.random.split(key, schedule.num_steps)
    chain = jax.jit(lambda: jax.lax.scan(step, x0, (schedule, keys))[1])()
    eps = jax.random.normal(jax.random.fold_in(key, 1), x0.shape)
    for t in (0, 1, 10, 49):
        signal, noise = noise_levels(schedule, t)
        jumped = process.diffuse(schedule, x0, jnp.full(num_points, t), eps)
        for draws in (chain[t], jumped):
            check_moments(np.asarray(draws, np.float64), signal * [0.7, -1.3], noise**2)


def test_each_point_is_diffused_to_its_own_time():
    schedule = schedules.sigmoid()
    x0, eps, t = jnp.ones((3, 2)), -jnp.ones((3, 2)), jnp.array([0, 500, 999])
    signal, noise = noise_levels(schedule, np.asarray(t))
    # A few float32 roundings of numbers below 1.
    np.testing.assert_allclose(
        process.diffuse(schedule, x0, t, eps), np.tile(signal - noise, 2), rtol=0, atol=3e-7
    )
    single = process.diffuse(schedule, x0[1], t[1], eps[1])
    np.testing.assert_allclose(single, (signal - noise)[1].repeat(2), rtol=0, atol=3e-7)


@every_schedule
def test_predict_x0_inverts_diffuse(name, key):
    with jax.enable_x64(True):
        schedule = in_float64(name)
        x0, eps = jax.random.normal(key, (2, 50, 3), jnp.float64)
        x_t = process.diffuse(schedule, x0, schedule.t, eps)
        back = jax.vmap(process.predict_x0)(schedule, x_t, eps)
        # Roundings of float64, magnified by 1/√ᾱ, at most 1e4 here.
        np.testing.assert_allclose(back, x0, rtol=0, atol=1e-11)


@every_schedule
def test_posterior_is_the_product_of_two_gaussians(name, key):
    """q(x_{t-1} | x_t, x0) ∝ q(x_{t-1} | x0) q(x_t | x_{t-1}): precisions add up."""
    with jax.enable_x64(True):
        schedule = in_float64(name)
        x0, x_t = jax.random.normal(key, (2, 50, 2), jnp.float64)
        mean = jax.vmap(process.posterior_mean)(schedule, x0, x_t)
        x0, x_t, variance = map(np.asarray, (x0, x_t, schedule.posterior_variances))
    alphas, betas, alpha_bars_prev, rest_prev = (
        np.asarray(getattr(schedule, leaf))[1:, None]
        for leaf in ("alphas", "betas", "alpha_bars_prev", "one_minus_alpha_bars_prev")
    )
    prior, likelihood = 1 / rest_prev, alphas / betas
    by_prior, by_likelihood = np.sqrt(alpha_bars_prev) * x0[1:], x_t[1:] / np.sqrt(alphas)
    expected = (prior * by_prior + likelihood * by_likelihood) / (prior + likelihood)
    # A dozen roundings of float64, magnified by 1/√α, at most 32.
    np.testing.assert_allclose(mean[1:], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(variance[1:], 1 / (prior + likelihood)[:, 0], rtol=1e-12)
    # Before the first step of noise there is only x0.
    np.testing.assert_allclose(mean[0], x0[0], rtol=1e-15)
    assert variance[0] == 0


def test_denoising_loss_is_the_mean_square(key):
    schedule, t = schedules.linear(10), jnp.array([0, 4, 9])
    x0, eps = jax.random.normal(key, (2, 3, 2))
    guess = jnp.arange(6.0).reshape(3, 2)
    loss = process.denoising_loss(schedule, lambda x_t, t: guess, x0, t, eps)
    # A handful of float32 roundings.
    np.testing.assert_allclose(loss, np.mean((np.asarray(eps) - guess) ** 2), rtol=1e-6)
    exact = process.denoising_loss(schedule, lambda x_t, t: eps, x0, t, eps)
    assert exact == 0


# --- the ideal denoiser ---


def brute_force_posterior(schedule, data, x_t, t):
    """Bayes' rule over every point of `data`, one x_t at a time, in float64."""
    data, x_t = np.asarray(data, np.float64), np.asarray(x_t, np.float64)
    means, variances = [], []
    for x, signal, noise in zip(x_t, *noise_levels(schedule, np.asarray(t)), strict=True):
        logs = -np.sum((x - signal * data) ** 2, axis=1) / (2 * noise**2)
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        means.append(weights @ data)
        variances.append(weights @ np.sum((data - means[-1]) ** 2, axis=1))
    return np.array(means), np.array(variances)


def near_duplicates(key):
    points = jax.random.uniform(key, (100, 2), minval=-1, maxval=1)
    return jnp.concatenate([points, points + 1e-6, points])


@every_schedule
@pytest.mark.parametrize("stretch", [1.0, 100.0])
def test_ideal_posterior_is_the_brute_force_sum(name, stretch, key):
    """Tiny noise, near-duplicates, and x_t up to 100 times farther out than any that is drawn."""
    schedule, data = SCHEDULES[name](), near_duplicates(key)
    t = jnp.repeat(jnp.array([0, 10, 300, 700, 999]), 60)
    eps = jax.random.normal(jax.random.fold_in(key, 1), data.shape)
    x_t = stretch * process.diffuse(schedule, data, t, eps)
    mean, variance = jax.jit(process.ideal_posterior)(schedule, data, x_t, t)
    expected_mean, expected_variance = brute_force_posterior(schedule, data, x_t, t)
    # Float32 sums over data within [-1, 1]: 300 weights, each off by some ulps of its exponent.
    np.testing.assert_allclose(mean, expected_mean, rtol=0, atol=2e-5)
    np.testing.assert_allclose(variance, expected_variance, rtol=0, atol=2e-5)


@every_schedule
def test_ideal_denoiser_is_finite_however_far_out(name, key):
    schedule, data = SCHEDULES[name](), near_duplicates(key)
    scales = jnp.repeat(jnp.array([0.0, 1e-6, 1.0, 1e3, 1e6]), 60)[:, None]
    x_t = scales * jax.random.normal(key, data.shape)
    t = jnp.arange(300) % 3 * 499
    assert np.isfinite(jax.jit(process.ideal_denoiser(schedule, data))(x_t, t)).all()


def test_ideal_denoiser_of_two_points_is_a_tanh():
    """For x0 = ±a, E[x0 | x_t] = a tanh(√ᾱ a x_t / (1 - ᾱ))."""
    a = 0.8
    with jax.enable_x64(True):
        schedule = in_float64("sigmoid")
        denoise = jax.jit(process.ideal_denoiser(schedule, jnp.array([[a], [-a]])))
        x_t = np.linspace(-3, 3, 61)[:, None]
        for t in range(50):
            signal, noise = noise_levels(schedule, t)
            x0 = a * np.tanh(signal * a * x_t / noise**2)
            expected = (x_t - signal * x0) / noise
            # Float64 roundings, magnified by 1/√(1 - ᾱ), at most 150.
            np.testing.assert_allclose(denoise(x_t, jnp.array(t)), expected, rtol=0, atol=1e-12)


def test_ideal_denoiser_takes_one_time_or_one_for_each_point(key):
    schedule, data = schedules.sigmoid(), near_duplicates(key)
    denoise, x_t = jax.jit(process.ideal_denoiser(schedule, data)), data[:7] + 0.1
    np.testing.assert_array_equal(denoise(x_t, jnp.array(300)), denoise(x_t, jnp.full(7, 300)))
    mixed = denoise(x_t[:2], jnp.array([0, 300]))
    # The same sums, perhaps in another order.
    np.testing.assert_allclose(mixed[1], denoise(x_t, jnp.array(300))[1], rtol=1e-5, atol=1e-6)


@pytest.mark.medium
def test_no_perturbation_beats_the_ideal_denoiser(key):
    """E|ε - ε* - δ|² = E|ε - ε*|² + E|δ|²: the ideal error is orthogonal to any function of x_t."""
    keys = jax.random.split(key, 4)
    n, schedule = 20_000, schedules.sigmoid()
    data = jax.random.uniform(keys[0], (30, 2), minval=-1, maxval=1)
    x0 = data[jax.random.randint(keys[1], (n,), 0, 30)]
    t = jax.random.randint(keys[2], (n,), 0, schedule.num_steps)
    eps = jax.random.normal(keys[3], (n, 2))
    x_t = process.diffuse(schedule, x0, t, eps)
    best = jax.jit(process.ideal_denoiser(schedule, data))(x_t, t)
    error = np.asarray(eps - best, np.float64)

    def loss(eps_hat):
        return float(process.denoising_loss(schedule, lambda x_t, t: eps_hat, x0, t, eps))

    late = (t > 500).astype(jnp.float32)[:, None]
    for delta in (0.3 * best, -0.1 * x_t, 0.2 * jnp.sin(5 * x_t), 0.3 * late * jnp.ones_like(x_t)):
        delta64 = np.asarray(delta, np.float64)
        excess = loss(best + delta) - loss(best)
        # What is left is -2 (ε - ε*)·δ, of mean zero: five of its standard errors.
        allowed = 5 * (2 * error * delta64).mean(axis=1).std() / np.sqrt(n)
        assert allowed < np.mean(delta64**2) / 2, "too few points to tell"
        assert abs(excess - np.mean(delta64**2)) < allowed
        assert excess > 0


@pytest.mark.parametrize("there", [0, 1, 2, 5])
def test_the_loss_of_rows_with_missing_cells_is_the_mean_over_those_there(there, key):
    """Of one it is that one's square; of none it is 0, and so is its gradient."""
    schedule = schedules.sigmoid(10)
    eps = jax.random.normal(key, (3, 2))
    x0 = jnp.where(jnp.arange(6).reshape(3, 2) < there, 0.5, jnp.nan)

    def loss(factor):
        wrong = lambda x, t: factor * jnp.ones_like(x)  # noqa: E731
        return process.denoising_loss(schedule, wrong, x0, jnp.array([0, 4, 9]), eps, missing=True)

    squares = (np.asarray(eps).ravel()[:there] - 0.5) ** 2
    # Sums of at most five float32 numbers.
    np.testing.assert_allclose(loss(0.5), squares.mean() if there else 0, rtol=1e-6)
    assert np.isfinite(jax.grad(loss)(0.5))
