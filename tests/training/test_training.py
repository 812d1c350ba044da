"""Training against Adam in NumPy and float64: gradients, shuffles, times and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.diffusion import process, schedules
from ddpm_jax.errors import ConfigError
from ddpm_jax.training import steps
from harness import assert_same_bits

T = 20
BETAS = np.linspace(0.01, 0.3, T)
SCHEDULE = schedules.from_betas(BETAS)


# Gradient and optimizer, in float64.


def random_batches(count, size=8):
    random = np.random.default_rng(0)
    x0, eps = random.standard_normal((2, count, size, 2))
    return steps.Batches(x0, random.integers(0, T, (count, size)), eps)


def noised(batch):
    """x_t = √ᾱ_t x0 + √(1 - ᾱ_t) ε, with ᾱ from its definition."""
    alpha_bar = np.cumprod(1 - BETAS)[batch.t][..., None]
    return np.sqrt(alpha_bar) * batch.x0 + np.sqrt(1 - alpha_bar) * batch.eps


def numpy_adam(w, batches, gain, rates, eps_inside=False):
    """Kingma & Ba 2015, algorithm 1, on the mean of (ε - gain x_t w)², whose gradient is known."""
    m, v, losses = 0.0, 0.0, []
    for n, (rate, x, eps) in enumerate(zip(rates, noised(batches), batches.eps, strict=True), 1):
        error = eps - gain * x @ w
        gradient = -2 * gain * x.T @ error / error.size
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        m_hat, v_hat = m / (1 - 0.9**n), v / (1 - 0.999**n)
        root = np.sqrt(v_hat + 1e-8) if eps_inside else np.sqrt(v_hat) + 1e-8
        w = w - rate * m_hat / root
        losses.append(np.mean(error**2))
    return w, losses


@pytest.mark.parametrize("decay", ["constant", "cosine"])
@pytest.mark.parametrize("gain", [1.0, 1e-8])
def test_steps_are_adam_s(gain, decay, x64, key):
    count, schedule = 5, schedules.from_betas(BETAS, dtype=jnp.float64)
    w, batches = jax.random.normal(key, (2, 2)), random_batches(count)
    optimizer = steps.adam(1e-3, count, decay)
    state, losses = steps.train_steps(
        lambda w, x, t: gain * x @ w,
        optimizer,
        schedule,
        steps.init_state(w, optimizer),
        batches,
    )
    half_cosine = (1 + np.cos(np.pi * np.arange(count) / count)) / 2
    rates = 1e-3 * (half_cosine if decay == "cosine" else np.ones(count))
    expected, expected_losses = numpy_adam(np.asarray(w), batches, gain, rates)
    # What moves is 1e-4 of w or more, which is known to 1e-16: twelve digits, a few lost in sums.
    np.testing.assert_allclose(state.params - w, expected - w, rtol=1e-10)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12)
    assert state.step == count
    if gain < 1:
        # Gradients of 1e-9: here ε = 1e-8 decides, and inside the root it would be another step.
        other, _ = numpy_adam(np.asarray(w), batches, gain, rates, eps_inside=True)
        assert np.all(np.abs(other - w) < 0.1 * np.abs(expected - w))


@pytest.mark.medium
def test_gradient_is_that_of_finite_differences(x64, key):
    schedule = schedules.from_betas(BETAS, dtype=jnp.float64)
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), random_batches(1))
    params = {"in": jax.random.normal(key, (2, 3)), "out": jax.random.normal(key, (3, 2))}

    def apply(params, x, t, xp=jnp):
        return xp.tanh(x @ params["in"] + xp.cos(t)[:, None]) @ params["out"]

    def numpy_loss(params):
        return np.mean((batch.eps - apply(params, noised(batch), np.asarray(batch.t), np)) ** 2)

    sgd = optax.sgd(1.0)
    state = steps.init_state(params, sgd)
    state, loss = steps.train_step(apply, sgd, schedule, state, batch)
    np.testing.assert_allclose(loss, numpy_loss(params), rtol=1e-12)
    for name, index in [("in", (0, 1)), ("in", (1, 2)), ("out", (0, 0)), ("out", (2, 1))]:
        up, down = (params | {name: params[name].at[index].add(h)} for h in (1e-5, -1e-5))
        slope = (numpy_loss(up) - numpy_loss(down)) / 2e-5
        # Central differences: an error of h² = 1e-10 times a third derivative near 1.
        np.testing.assert_allclose((params[name] - state.params[name])[index], slope, rtol=1e-7)


def test_average_has_its_closed_form(x64, key):
    batches, optimizer = random_batches(6), optax.sgd(0.1)
    schedule = schedules.from_betas(BETAS, dtype=jnp.float64)
    state = steps.init_state(jnp.eye(2), optimizer, ema=True)
    path = [state.params]
    for n in range(6):
        batch = jax.tree.map(lambda leaf, n=n: jnp.asarray(leaf[n]), batches)
        state, _ = steps.train_step(
            lambda w, x, t: x @ w, optimizer, schedule, state, batch, ema_decay=0.3
        )
        path.append(state.params)
    # 0.1, 2/11, 3/12, then 0.3: parameters n weigh 1 - d_n, and each later step keeps d of that.
    d = np.array([0.0, 1 / 10, 2 / 11, 3 / 12, 0.3, 0.3, 0.3])
    weights = (1 - d) * np.append(np.cumprod(d[:0:-1])[::-1], 1)
    np.testing.assert_allclose(weights.sum(), 1)
    # Float64, a dozen operations.
    np.testing.assert_allclose(state.ema, np.tensordot(weights, path, 1), rtol=1e-13)


def test_refuses_an_unknown_decay():
    with pytest.raises(ConfigError, match="'linear': choose from constant, cosine"):
        steps.adam(1e-3, 10, "linear")


# The order of the data, times and noise.

draw = jax.jit(steps.draw_batches, static_argnames=["num_times", "stratified", "points_per_time"])


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 2**16, 2**16 + 1])
def test_shuffled_numbers_are_all_there(n, key):
    np.testing.assert_array_equal(np.sort(steps.shuffled(key, n)), np.arange(n))


@pytest.mark.medium
def test_all_orders_are_equally_likely(key):
    count = 24_000
    keys = jax.random.split(key, count)
    orders = jax.vmap(lambda k: steps.shuffled(k, 4))(keys)
    _, found = np.unique(orders, axis=0, return_counts=True)
    # Chi-squared of 24 orders: of 23 degrees of freedom, above 61 once in 30,000 times.
    assert found.size == 24
    assert np.sum((found - count / 24) ** 2) / (count / 24) < 61


def test_an_epoch_is_a_permutation_of_the_data_without_the_rest(key):
    orders = [steps.epoch_order(key, epoch, 83, 8) for epoch in (0, 1)]
    for order in orders:
        assert order.shape == (10, 8)
        assert len(np.unique(order)) == 80
        assert order.min() >= 0
        assert order.max() < 83
    # All 83! orders are equally likely: two share 1 of 80 places on average, not 10.
    assert np.sum(orders[0] == orders[1]) < 10
    assert np.sum(orders[0] == steps.epoch_order(jax.random.key(1), 0, 83, 8)) < 10
    assert_same_bits(orders[1], steps.epoch_order(key, jnp.array(1), 83, 8))


def test_an_epoch_of_several_passes_is_as_many_epochs_of_one(key):
    whole = steps.epoch_order(key, 2, 83, 8, passes=3)
    parts = [steps.epoch_order(key, number, 83, 8) for number in (6, 7, 8)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def chi_square(t):
    counts = np.bincount(np.ravel(t), minlength=T)
    return np.sum((counts - counts.mean()) ** 2) / counts.mean()


@pytest.mark.medium
def test_times_are_uniform_and_noise_is_standard_normal(key):
    batches = draw(key, jnp.zeros((400, 50, 2)), jnp.array(0), T)
    assert batches.t.shape == (400, 50)
    # Each within five standard deviations: χ² of 19 degrees of freedom has 19 ± √38.
    assert abs(chi_square(batches.t) - (T - 1)) < 5 * np.sqrt(2 * (T - 1))
    eps = np.asarray(batches.eps, np.float64)
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(np.mean(eps**power) - moment) < 5 * np.sqrt(variance / eps.size)
    assert abs(np.mean(eps[1:] * eps[:-1])) < 5 / np.sqrt(eps[1:].size)
    assert abs(np.corrcoef(batches.t.ravel(), eps[..., 0].ravel())[0, 1]) < 5 / np.sqrt(20_000)


@pytest.mark.medium
@pytest.mark.parametrize(("size", "num_times"), [(1000, 1000), (7, T), (50, T)])
def test_stratified_times_are_one_from_each_part(size, num_times, key):
    x0 = jnp.zeros((200, size, 1))
    t = np.asarray(draw(key, x0, jnp.array(0), num_times, stratified=True).t)
    parts = np.arange(size + 1) * num_times
    # Time t is the interval [t, t + 1): it must meet part i, [i, i + 1) · num_times / size.
    assert np.all(t * size < parts[1:])
    assert np.all((t + 1) * size > parts[:-1])
    if num_times == T:
        # Uniform overall; stratification can but lower χ², hence one bound.
        assert chi_square(t) < T - 1 + 5 * np.sqrt(2 * (T - 1))
        assert len(np.unique(t, axis=0)) > 1


@pytest.mark.medium
def test_points_share_a_time_in_groups(key):
    x0 = jax.random.normal(key, (3, 8, 2))
    grouped, single = (
        draw(key, x0, jnp.array(0), T, stratified=True, points_per_time=g) for g in (4, 1)
    )
    assert grouped.t.shape == (3, 2, 1)
    assert grouped.x0.shape == (3, 2, 4, 2)
    assert_same_bits(grouped.x0.reshape(x0.shape), x0)
    assert_same_bits(grouped.eps.reshape(x0.shape), single.eps)
    assert ((grouped.t[:, 0] < T // 2) & (grouped.t[:, 1] >= T // 2)).all()
    repeated = single._replace(t=jnp.repeat(grouped.t, 4, axis=1).squeeze(-1))

    def loss(batches):
        batch = jax.tree.map(lambda leaf: leaf[0], batches)
        return process.denoising_loss(SCHEDULE, lambda x, t: x * jnp.cos(t)[..., None], *batch[:3])

    # The same sum in another order: a few roundings of 6e-8.
    np.testing.assert_allclose(loss(grouped), loss(repeated), rtol=1e-6)
