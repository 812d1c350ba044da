"""The samplers against their papers' equations, in NumPy and float64, and against exact solutions.

For data N(μ, s²) the ideal denoiser is linear in x, so every sampler maps x_T and its noises to its
output by an affine form: `affine_form` works it out from the papers, independently of the library.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.sampling import DDPM, SAMPLERS, ddim, sample
from ddpm_jax.errors import ConfigError
from gaussian import ALPHA_BARS, MU, S2, denoise, make_schedule, marginal

# The name says what σ² is: for ddpm the schedule's `variances`, for ddim η² β̃.
PROCESSES = {
    "ddpm, beta": DDPM,
    "ddpm, posterior": DDPM,
    "ddpm, 0.3 beta": DDPM,
    "ddim, eta 0": ddim(0.0),
    "ddim, eta 0.4": ddim(0.4),
    "ddim, eta 1": ddim(1.0),
    "dpmpp": SAMPLERS["dpmpp"],
    "sde-dpmpp": SAMPLERS["sde-dpmpp"],
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_points_have_the_precision_of_the_schedule(name, key, x64):
    """Whatever the network's: parameters made under jax_enable_x64 are float64."""
    schedule, x_T = make_schedule(8), jnp.ones((3, 2), jnp.float32)
    found = sample(
        key, lambda x, t: denoise(x, t).astype(jnp.float64), schedule, x_T, SAMPLERS[name]
    )
    expected = sample(key, denoise, schedule, x_T, SAMPLERS[name])
    assert found.dtype == jnp.float32
    # The same numbers, cast there and back.
    np.testing.assert_array_equal(found, expected)


def affine_form(process, times):
    """Coefficients c of the sampler's output: c[0] + c[1] x_T + c[2] z_0 + c[3] z_1 + ...

    Ho et al. 2020, algorithm 2; Song et al. 2021, equation (12); Lu et al. 2022, algorithm 2 and
    its stochastic form, in the papers' α = √ᾱ, σ = √(1 - ᾱ), λ = log(α / σ).
    """
    one, x, *zs = np.eye(len(times) + 2)
    alpha_bar = ALPHA_BARS[times]
    last_x0, last_h = None, None
    for i in reversed(range(len(times))):
        ab, ab_next = alpha_bar[i], alpha_bar[i - 1] if i else 1.0
        eps = np.sqrt(1 - ab) * (x - np.sqrt(ab) * MU * one) / (ab * S2 + 1 - ab)
        x0 = (x - np.sqrt(1 - ab) * eps) / np.sqrt(ab)
        posterior = (1 - ab_next) / (1 - ab) * (1 - ab / ab_next)
        if process.startswith("ddpm"):
            beta = 1 - ab / ab_next
            variance = {"ddpm, beta": beta, "ddpm, 0.3 beta": 0.3 * beta}.get(process, posterior)
            x = (x - beta / np.sqrt(1 - ab) * eps) / np.sqrt(1 - beta)
            x = x + np.sqrt(variance if i else 0) * zs[i]
        elif process.startswith("ddim"):
            sigma = float(process.split()[-1]) * np.sqrt(posterior)
            x = np.sqrt(ab_next) * x0 + np.sqrt(1 - ab_next - sigma**2) * eps + sigma * zs[i]
        elif i == 0:
            x = x0  # λ = ∞: both solvers end on the prediction itself
        else:
            alpha, sigma = np.sqrt(ab_next), np.sqrt(1 - ab_next)
            h = np.log(alpha / sigma) - np.log(np.sqrt(ab / (1 - ab)))
            d = x0 if last_h is None else x0 + (x0 - last_x0) / (2 * last_h / h)
            ratio = sigma / np.sqrt(1 - ab)
            last_x0, last_h = x0, h
            if process == "dpmpp":
                x = ratio * x - alpha * np.expm1(-h) * d
            else:
                noise = sigma * np.sqrt(-np.expm1(-2 * h)) * zs[i]
                x = ratio * np.exp(-h) * x - alpha * np.expm1(-2 * h) * d + noise
    return x


@pytest.mark.parametrize("process", PROCESSES)
def test_matches_the_papers_equations(process, x64, key):
    for num_steps in (1, 2, 13):
        schedule = make_schedule(num_steps, process, jnp.float64)
        key_x, key_z = jax.random.split(key)
        x_T = jax.random.normal(key_x, (3, 2))
        noises = jax.random.normal(key_z, (num_steps, 3, 2))
        c = affine_form(process, np.asarray(schedule.t))
        expected = c[0] + c[1] * x_T + np.tensordot(c[2:], noises, 1)
        x = sample(key, denoise, schedule, x_T, PROCESSES[process], noises=noises)
        # x̂0 divides by √ᾱ_T = 1/150 at first, which magnifies rounding (1e-16) to some 1e-14.
        np.testing.assert_allclose(x, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("process", ["ddpm, beta", "ddim, eta 0.4", "dpmpp", "sde-dpmpp"])
def test_output_has_the_papers_moments(process, key):
    schedule = make_schedule(50, process)
    x = np.asarray(sample(key, denoise, schedule, (20_000, 2), PROCESSES[process]), np.float64)
    c = affine_form(process, np.asarray(schedule.t))
    variance = np.sum(c[1:] ** 2)
    # Five standard errors of a Gaussian's mean and variance: missed by chance once in 2 million.
    assert abs(x.mean() - c[0]) < 5 * np.sqrt(variance / x.size)
    assert abs(x.var() - variance) < 5 * variance * np.sqrt(2 / x.size)
    assert abs(np.mean((x[:, 0] - c[0]) * (x[:, 1] - c[0]))) < 5 * variance / np.sqrt(len(x))


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp", 2)])
def test_deterministic_samplers_converge_to_the_flow_at_their_order(name, order, x64, key):
    def error(num_steps):
        schedule = make_schedule(num_steps, dtype=jnp.float64)
        x_T = jnp.asarray([1.3])
        zs = jnp.zeros((num_steps, 1))
        path = sample(key, denoise, schedule, x_T, SAMPLERS[name], noises=zs, trajectory=True)
        mean, variance = marginal(ALPHA_BARS[schedule.t[0]])
        mean_T, variance_T = marginal(ALPHA_BARS[-1])
        return abs(path[-2] - mean - np.sqrt(variance / variance_T) * (x_T - mean_T)).item()

    errors = np.array([error(k) for k in (50, 100, 200)])
    # Richardson: the slope nears the order as the steps shrink; measured within 0.03 at these.
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), order, atol=0.1)


@pytest.mark.medium
@pytest.mark.parametrize(("name", "order"), [("ddpm", 1), ("sde-dpmpp", 2)])
def test_stochastic_samplers_converge_weakly_at_their_order(name, order, x64, key):
    def error(num_steps, row):
        """Of the variance of x before the step of row 0, or, relative to s², of the output."""
        schedule = make_schedule(num_steps, dtype=jnp.float64)

        def run(x_T, noises):
            return sample(
                key, denoise, schedule, x_T, SAMPLERS[name], noises=noises, trajectory=True
            )[-1 - row].squeeze()

        # The output is affine, so its gradient is constant and gives its variance exactly.
        by_x_T, by_noise = jax.grad(run, (0, 1))(jnp.zeros(1), jnp.zeros((num_steps, 1)))
        _, start = marginal(ALPHA_BARS[-1])
        _, exact = marginal(ALPHA_BARS[schedule.t[0]]) if row else (MU, S2)
        return abs(jnp.sum(by_x_T**2) * start + jnp.sum(by_noise**2) - exact).item() / S2

    errors = np.array([error(k, row=1) for k in (50, 100, 200)])
    # As above; the next term of the expansion is larger: within 0.06 of 1 and 0.03 of 2.
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), order, atol=0.15)
    if name == "sde-dpmpp":
        errors = np.array([error(k, row=0) for k in (25, 50, 100)])
        # Second order here too, until the 1000 steps' own first row (ᾱ = 1 - 5e-5) is felt.
        assert (errors[:-1] / errors[1:] > 2**1.7).all()


@pytest.mark.parametrize("eta", [-0.01, 1.01, float("nan")])
def test_a_bad_eta_is_a_config_error(eta):
    with pytest.raises(ConfigError, match=r"eta must lie in \[0, 1\]"):
        ddim(eta)


@pytest.mark.parametrize("shape", [(7, 3, 2), (8, 3, 1), (8, 2, 2), (3, 2)])
def test_noises_of_another_shape_are_a_config_error(shape, key):
    with pytest.raises(ConfigError, match=r"noises must have shape \(8, 3, 2\)"):
        sample(key, denoise, make_schedule(8), (3, 2), noises=jnp.zeros(shape))
