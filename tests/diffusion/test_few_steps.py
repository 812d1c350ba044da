"""Few, large steps: the SA-Solver, and the optimal ancestral variances.

For data N(μ, s²) the ideal denoiser is linear in x, and x_t is N(√ᾱ_t μ, v_t), with
v_t = ᾱ_t s² + 1 - ᾱ_t. A sampler's output is then affine in x_T and its noises, so that its mean
and variance are exact numbers.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import process, schedules
from ddpm_jax.diffusion.sampling import DDPM, SA_SOLVER, sa_solver, sample
from ddpm_jax.diffusion.schedules import respace
from ddpm_jax.errors import ConfigError
from gaussian import ALPHA_BARS, MU, S2, T, denoise, marginal


def moments(schedule, sampler, row=1):
    """Of x before the step of `row`: mean from the true x_T, slope in x_T, variance. All exact."""
    mean_T, variance_T = marginal(ALPHA_BARS[-1])

    def run(x_T, noises):
        path = sample(
            jax.random.key(0), denoise, schedule, x_T, sampler, noises=noises, trajectory=True
        )
        return path[-1 - row].squeeze()

    zeros = jnp.zeros((schedule.num_steps, 1))
    mean, (by_x_T, by_noise) = jax.value_and_grad(run, (0, 1))(jnp.asarray([mean_T]), zeros)
    return mean, by_x_T.item(), (jnp.sum(by_x_T**2) * variance_T + jnp.sum(by_noise**2)).item()


def even(num_steps):
    return respace(schedules.sigmoid(T, dtype=jnp.float64), num_steps, "time")


@pytest.mark.medium
@pytest.mark.parametrize("tau", [0.0, 0.7, 1.5])
def test_sa_solver_converges_at_its_order(tau, x64):
    def errors(num_steps):
        """Relative errors of the slope of E[x | x_T] in x_T, and of the variance."""
        schedule = even(num_steps)
        alpha_bar = ALPHA_BARS[schedule.t[0]]
        (_, v), (_, v_T) = marginal(alpha_bar), marginal(ALPHA_BARS[-1])
        # y = x / √ᾱ has variance w = v / ᾱ, and dy/dλ = -p (y - E[x0 | y]) + noise: y ∝ w^{p/2}.
        ratio = alpha_bar / ALPHA_BARS[-1]
        slope = np.sqrt(ratio) * (v / v_T / ratio) ** ((1 + tau**2) / 2)
        _, *found = moments(schedule, sa_solver(tau))
        return np.abs(np.divide(found, [slope, v]) - 1)

    orders = np.log2(errors(100) / errors(200))
    # The parabola is of third order; noise drawn between the predictions allows the variance no
    # more than the second. Orders near them as steps shrink: here to a tenth, or from above.
    assert orders[0] > 2.85
    assert orders[1] > (2.85 if tau == 0 else 1.9)


def adams(tau, times, x, noises):
    """The same by the paper's words: Lagrange's parabola, and its integral by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    alpha, sigma = np.sqrt(ALPHA_BARS), np.sqrt(1 - ALPHA_BARS)
    lam = np.log(alpha / sigma)
    seen = []
    for i in reversed(range(len(times))):
        t = times[i]
        seen = [*seen, (lam[t], (x - sigma[t] * np.asarray(denoise(x, t))) / alpha[t])][-3:]
        if i == 0:
            return seen[-1][1]  # λ = ∞: the prediction itself
        s = times[i - 1]
        h = lam[s] - lam[t]
        integral = 0.0
        for node, weight in zip(nodes, weights, strict=True):
            at = lam[t] + h * (node + 1) / 2
            d = sum(x0 * np.prod([(at - b) / (a - b) for b, _ in seen if b != a]) for a, x0 in seen)
            p = 1 + tau**2
            integral = integral + weight * h / 2 * p * np.exp(-p * (lam[s] - at)) * d
        kept = sigma[s] / sigma[t] * np.exp(-(tau**2) * h)
        noise = sigma[s] * np.sqrt(1 - np.exp(-2 * tau**2 * h))
        x = kept * x + alpha[s] * integral + noise * noises[i]


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 11])
def test_sa_solver_is_adams_predictor(tau, num_steps, x64, key):
    schedule = respace(schedules.sigmoid(T, dtype=jnp.float64), num_steps)
    key_x, key_z = jax.random.split(key)
    x_T = jax.random.normal(key_x, (3, 2))
    noises = jax.random.normal(key_z, (num_steps, 3, 2))
    x = sample(key, denoise, schedule, x_T, sa_solver(tau), noises=noises)
    expected = adams(tau, np.asarray(schedule.t), np.asarray(x_T), np.asarray(noises))
    # x̂0 divides by √ᾱ_T = 1/150 at first, which magnifies rounding (1e-16) to some 1e-14; 40 nodes
    # integrate a parabola times an exponential to the last digit.
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-10)


def test_25_steps_of_sa_solver_keep_the_variance_of_gaussian_data(x64):
    full = schedules.sigmoid(T, dtype=jnp.float64)
    _, _, few = moments(respace(full, 25), SA_SOLVER, row=0)
    _, _, ancestral = moments(respace(full, 25), DDPM, row=0)
    # Noise between the steps costs the variance some per cent; the first-order sampler, far more.
    assert abs(few / S2 - 1) < 0.03 < 0.2 < abs(ancestral / S2 - 1)


@pytest.mark.medium
def test_one_point_is_hit_in_float32(key):
    point = jnp.array([[0.3, -0.8]])
    ideal = process.ideal_denoiser(schedules.sigmoid(T), point)
    for num_steps in (2, 25, 1000):
        x = sample(key, ideal, respace(schedules.sigmoid(T), num_steps), (50, 2), SA_SOLVER)
        # The last step gives x̂0; ε* is off by ulp / √(1 - ᾱ), the point by √(1 - ᾱ) times that.
        np.testing.assert_allclose(x, jnp.broadcast_to(point, x.shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tau", [-0.1, float("nan"), float("inf")])
def test_a_bad_tau_is_a_config_error(tau):
    with pytest.raises(ConfigError, match="tau"):
        sa_solver(tau)


@pytest.mark.medium
@pytest.mark.parametrize("num_steps", [5, 25, 1000])
def test_optimal_variances_are_those_of_the_true_reverse_step(num_steps, x64, key):
    schedule = respace(schedules.sigmoid(T, dtype=jnp.float64), num_steps)
    x0 = MU + np.sqrt(S2) * jax.random.normal(key, (20_000, 2))
    found = process.optimal_variances(key, denoise, schedule, x0)
    # x_{t-1} and x_t are jointly normal: Var(x_{t-1} | x_t) = v_{t-1} - α_t v_{t-1}² / v_t.
    t = np.asarray(schedule.t)
    v = marginal(ALPHA_BARS[t])[1]
    alpha = ALPHA_BARS[t[1:]] / ALPHA_BARS[t[:-1]]
    assert found[0] == 0
    # A mean square of 40,000 normal numbers: five standard errors are 3.5 %.
    np.testing.assert_allclose(found[1:], v[:-1] - alpha * v[:-1] ** 2 / v[1:], rtol=0.04)


def test_with_optimal_variances_few_ancestral_steps_are_exact_on_gaussian_data(x64, key):
    schedule = even(10)
    x0 = MU + np.sqrt(S2) * jax.random.normal(key, (20_000, 2))
    best = process.optimal_variances(key, denoise, schedule, x0)
    _, exact = marginal(ALPHA_BARS[schedule.t[0]])
    *_, variance = moments(dataclasses.replace(schedule, variances=best), DDPM)
    *_, with_betas = moments(schedule, DDPM)
    # The estimates' error, as above; with β_t the variance is several times too large.
    assert abs(variance / exact - 1) < 0.04
    assert with_betas / exact > 1.5
