"""Any sampler as a program: keys, noise, scans, memory, compilation, gradients, blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ddpm_jax.diffusion import process, schedules
from ddpm_jax.diffusion.sampling import DDPM, SAMPLERS, ddim, sample, sample_blocks
from ddpm_jax.drawing import make_block_sampler
from ddpm_jax.errors import ConfigError
from gaussian import T, denoise, make_schedule

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
    ideal = process.ideal_denoiser(schedules.sigmoid(T), point)
    x_T, zs = jax.random.normal(key, (100, 2)), jax.random.normal(key, (num_steps, 100, 2))
    x = sample(key, ideal, make_schedule(num_steps), x_T, sampler, noises=zs)
    # The last step gives x̂0. ε* is off by ulp / √(1 - ᾱ), the point by √(1 - ᾱ) / √ᾱ times that:
    # a few roundings of numbers near 1, unless the only step divides by √ᾱ_T = 1/150.
    atol = 1e-4 if num_steps == 1 else 1e-6
    np.testing.assert_allclose(x, jnp.broadcast_to(point, x.shape), rtol=0, atol=atol)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_points_may_be_of_more_precision_than_the_schedule(sampler, x64, key):
    """As JAX_ENABLE_X64 makes them: the carry of the scan is of theirs."""
    x_T = jax.random.normal(key, (4, 2))
    x = sample(key, denoise, make_schedule(5), x_T, sampler)
    assert x.dtype == x_T.dtype == jnp.float64
    assert jnp.isfinite(x).all()


@pytest.mark.medium
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
    normal = functools.partial(jax.random.normal, shape=shape, dtype=schedule.betas.dtype)
    x_T = normal(jax.random.fold_in(key, T))
    zs = jnp.stack([normal(jax.random.fold_in(key, t)) for t in schedule.t])
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


@pytest.mark.medium
def test_jit_and_vmap_over_keys(key):
    schedule = make_schedule(6)

    def run(key):
        return sample(key, denoise, schedule, (5, 2), SAMPLER)

    expected = run(key)
    # See the tolerance above.
    np.testing.assert_allclose(jax.jit(run)(key), expected, atol=1e-5)
    keys = jnp.stack([jax.random.key(1), key])
    np.testing.assert_allclose(jax.vmap(run)(keys)[1], expected, atol=1e-5)


@pytest.mark.medium
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


@pytest.mark.medium
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


@pytest.mark.medium
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


@pytest.mark.medium
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
