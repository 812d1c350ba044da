"""The samplers against their papers' equations, in NumPy and float64, and against exact solutions.

For data N(μ, s²) the ideal denoiser is linear in x, so every sampler maps x_T and its noises to its
output by an affine form: `affine_form` works it out from the papers, independently of the library.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ddpm_jax import diffusion, schedules
from ddpm_jax.errors import ConfigError
from ddpm_jax.sampling import (
    DDPM,
    SAMPLERS,
    ddim,
    make_block_sampler,
    sample,
    sample_blocks,
)

MU, S2 = 0.7, 0.09
T = 1000
ALPHA_BARS = 1 / (1 + np.exp(20 * np.arange(T) / T - 10))  # the sigmoid schedule, k = 10

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


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def make_schedule(num_steps, process="", dtype=jnp.float32):
    """The sigmoid schedule, k = 10, in `num_steps` of its 1000 steps, with the process's σ²."""
    schedule = schedules.respace(schedules.sigmoid(T, dtype=dtype), num_steps, "time")
    if process == "ddpm, posterior":
        return dataclasses.replace(schedule, variances=schedule.posterior_variances)
    if process == "ddpm, 0.3 beta":
        return dataclasses.replace(schedule, variances=0.3 * schedule.variances)
    return schedule


def denoise(x, t):
    """ε* = √(1 - ᾱ) (x - √ᾱ μ) / (ᾱ s² + 1 - ᾱ), for data N(μ, s²)."""
    slope = np.sqrt(1 - ALPHA_BARS) / (ALPHA_BARS * S2 + 1 - ALPHA_BARS)
    shift = np.sqrt(ALPHA_BARS) * MU
    return jnp.asarray(slope, x.dtype)[t] * (x - jnp.asarray(shift, x.dtype)[t])


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


def marginal(alpha_bar):
    """Mean and variance of x_t for data N(μ, s²): equation (3) of `schedules`."""
    return np.sqrt(alpha_bar) * MU, alpha_bar * S2 + 1 - alpha_bar


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


STOCHASTIC = {"ddpm": DDPM, "ddim, eta 0.5": ddim(0.5), "sde-dpmpp": SAMPLERS["sde-dpmpp"]}
DETERMINISTIC = {"ddim": ddim(), "dpmpp": SAMPLERS["dpmpp"]}
ALL = STOCHASTIC | DETERMINISTIC
each_sampler = pytest.mark.parametrize("sampler", ALL.values(), ids=ALL)
# For what cannot depend on the formulas: the sampler with the most state, and with noise.
SAMPLER = SAMPLERS["sde-dpmpp"]


@each_sampler
@pytest.mark.parametrize("num_steps", [1, 20])
def test_with_the_denoiser_of_one_point_every_sample_is_that_point(sampler, num_steps, key):
    point = jnp.array([[0.3, -0.8]])
    ideal = diffusion.ideal_denoiser(schedules.sigmoid(T), point)
    x_T, zs = jax.random.normal(key, (100, 2)), jax.random.normal(key, (num_steps, 100, 2))
    x = sample(key, ideal, make_schedule(num_steps), x_T, sampler, noises=zs)
    # The last step gives x̂0. ε* is off by ulp / √(1 - ᾱ), the point by √(1 - ᾱ) / √ᾱ times that:
    # a few roundings of numbers near 1, unless the only step divides by √ᾱ_T = 1/150.
    atol = 1e-4 if num_steps == 1 else 1e-6
    np.testing.assert_allclose(x, jnp.broadcast_to(point, x.shape), rtol=0, atol=atol)


@each_sampler
def test_scan_is_the_plain_loop_and_the_trajectory_is_every_x_of_it(sampler, x64, key):
    schedule = make_schedule(11, dtype=jnp.float64)
    x_T, zs = jax.random.normal(key, (4, 3)), jax.random.normal(key, (11, 4, 3))
    carry = sampler.init(x_T)
    expected = [x_T]
    for i in reversed(range(11)):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], schedule)
        carry = sampler.step(row, carry, denoise(carry[0], row.t), zs[i])
        expected.append(carry[0])
    run = functools.partial(sample, key, denoise, schedule, x_T, sampler, noises=zs)
    path = run(trajectory=True)
    assert path.shape == (12, 4, 3)
    # Compiled as one, the same operations are rounded differently: 1e-16, magnified as above.
    np.testing.assert_allclose(path, jnp.stack(expected), rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(path[0], x_T)
    np.testing.assert_array_equal(path[-1], run())


def test_same_key_same_bits_and_what_is_given_replaces_what_is_drawn(key):
    schedule, shape, other = make_schedule(5), (4, 2), jax.random.key(1)
    draw = jax.jit(lambda key: sample(key, denoise, schedule, shape, SAMPLER))
    x = draw(key)
    np.testing.assert_array_equal(x, draw(key))
    assert (x != draw(other)).all()
    x_T = jax.random.normal(jax.random.fold_in(key, T), shape)
    zs = jnp.stack([jax.random.normal(jax.random.fold_in(key, t), shape) for t in schedule.t])
    # Compiled otherwise, a few roundings (6e-8) may differ, magnified by up to 1/√ᾱ_T = 150.
    close = functools.partial(np.testing.assert_allclose, x, atol=1e-5)
    close(sample(key, denoise, schedule, x_T, SAMPLER))
    close(sample(other, denoise, schedule, x_T, SAMPLER, noises=zs))


@each_sampler
def test_noise_acts_in_every_step_but_the_last_and_only_where_it_should(sampler, key):
    schedule = make_schedule(4)
    x_T, zs = jnp.ones((2, 1)), jnp.ones((4, 2, 1))
    run = jax.jit(lambda zs: sample(key, denoise, schedule, x_T, sampler, noises=zs))
    for i in range(4):
        changed = run(zs.at[i].set(1e6)) != run(zs)
        assert changed.all() if i > 0 and sampler in STOCHASTIC.values() else not changed.any()


def test_jit_and_vmap_over_keys(key):
    schedule = make_schedule(6)

    def run(key):
        return sample(key, denoise, schedule, (5, 2), SAMPLER)

    expected = run(key)
    # See the tolerance above.
    np.testing.assert_allclose(jax.jit(run)(key), expected, atol=1e-5)
    keys = jnp.stack([jax.random.key(1), key])
    np.testing.assert_allclose(jax.vmap(run)(keys)[1], expected, atol=1e-5)


@each_sampler
def test_gradients_are_those_of_finite_differences(sampler, x64, key):
    schedule = schedules.linear(5, 0.1, 0.5, dtype=jnp.float64)

    def run(w, x_T, zs):
        def curved(x, t):
            return jnp.tanh(x @ w) * jnp.cos(t)

        return sample(key, curved, schedule, jnp.asarray(x_T), sampler, noises=jnp.asarray(zs))

    keys = jax.random.split(key, 3)
    args = [jax.random.normal(k, s) for k, s in zip(keys, [(2, 2), (3, 2), (5, 3, 2)], strict=True)]
    # Central differences over 1e-5 in float64 are right to 1e-10, times a third derivative of 100s.
    check_grads(jax.jit(run), args, order=1, modes=["rev"], rtol=1e-6, atol=1e-6, eps=1e-5)


def temporary_memory(num_steps, trajectory):
    schedule = schedules.sigmoid(num_steps, k=5.0)

    def run(key):
        return sample(key, denoise, schedule, (5000, 2), trajectory=trajectory)

    return jax.jit(run).lower(jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_steps_only_for_a_trajectory():
    points = 5000 * 2 * 4
    short, long = temporary_memory(30, False), temporary_memory(900, False)
    assert long - short < points
    assert temporary_memory(900, True) - long >= 900 * points


def test_traced_once_for_each_shape(key):
    traced = []

    def counting(x, t):
        traced.append(x.shape)
        return denoise(x, t)

    schedule = make_schedule(5)
    run = jax.jit(lambda key, n: sample(key, counting, schedule, (n, 2)), static_argnums=1)
    for seed in range(3):
        run(jax.random.key(seed), 7)
    assert traced == [(7, 2)]
    run(key, 8)
    assert traced == [(7, 2), (8, 2)]


def test_a_block_depends_on_its_number_alone(key):
    schedule = make_schedule(5)
    draw = jax.jit(lambda i: sample_blocks(key, denoise, schedule, i, (50, 2), SAMPLER))
    ten = draw(jnp.arange(10))
    np.testing.assert_array_equal(draw(jnp.arange(3)), ten[:3])
    np.testing.assert_array_equal(draw(jnp.array([9, 0, 4])), ten[jnp.array([9, 0, 4])])
    np.testing.assert_array_equal(draw(jnp.array([6])), ten[6:7])
    one = sample(jax.random.fold_in(key, 7), denoise, schedule, (50, 2), SAMPLER)
    np.testing.assert_allclose(ten[7], one, atol=1e-5)  # see the tolerance above
    assert len(np.unique(ten)) == ten.size


def test_block_sampler_compiles_once_for_each_count(key):
    traced = []

    def apply(shift, x, t):
        traced.append(x.shape)
        return denoise(x - shift, t)

    schedule = make_schedule(5)
    draw = functools.partial(make_block_sampler(apply, schedule, (50, 2)), jnp.array(0.1), key)
    eight = draw(0, 8)
    np.testing.assert_array_equal(draw(4, 8)[:4], eight[4:])
    assert len(traced) == 1
    np.testing.assert_array_equal(draw(5, 3), eight[5:])
    assert len(traced) == 2
    assert draw(0, 0).shape == (0, 50, 2)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_refuses_eta_out_of_range(eta):
    with pytest.raises(ConfigError, match=r"eta must lie in \[0, 1\]"):
        ddim(eta)


def test_refuses_noises_of_another_shape(key):
    with pytest.raises(ConfigError, match=r"noises must have shape \(5, 3, 2\).*got \(4, 3, 2\)"):
        sample(key, denoise, make_schedule(5), (3, 2), noises=jnp.zeros((4, 3, 2)))
