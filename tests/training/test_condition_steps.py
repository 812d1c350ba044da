"""Conditions in training: how many are dropped, that the rest stays, and what a model learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.diffusion import process, sampling, schedules
from ddpm_jax.diffusion.guidance import guided
from ddpm_jax.networks.denoiser import Denoiser
from ddpm_jax.training import steps
from ddpm_jax.training.conditions import drop_conditions


def test_as_many_are_dropped_as_said(key):
    given = jnp.ones((20_000, 4))
    lost = np.isnan(drop_conditions(key, given, (1, 3), drop_all=0.2, drop_each=0.1))
    # A word's three columns go together.
    assert np.all(lost[:, 1:] == lost[:, 1:2])
    first, second = lost[:, 0], lost[:, 1]
    # P(one) = 0.2 + 0.8 · 0.1, P(both) = 0.2 + 0.8 · 0.1²; 5 standard errors of 20,000.
    for share, expected in [(first, 0.28), (second, 0.28), (first & second, 0.208)]:
        assert abs(share.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / 20_000)


def test_of_one_condition_only_the_first_share_is_dropped(key):
    lost = np.isnan(drop_conditions(key, jnp.ones((20_000, 2)), (2,), 0.1, 0.5))
    assert abs(lost[:, 0].mean() - 0.1) < 5 * np.sqrt(0.09 / 20_000)


@pytest.mark.medium
@pytest.mark.parametrize("points_per_time", [1, 4])
def test_points_times_and_noise_are_those_of_the_points_alone(points_per_time, key, rng):
    rows = jnp.asarray(rng.standard_normal((5, 8, 5)), jnp.float32)
    settings = {"stratified": True, "points_per_time": points_per_time}
    plain = steps.draw_batches(key, rows[..., :2], jnp.int32(7), 100, **settings)
    with_conditions = steps.draw_batches(
        key, rows, jnp.int32(7), 100, conditions=(1, 2), **settings
    )
    assert plain.given is None
    for name in ("x0", "t", "eps"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(with_conditions, name))
    given = np.asarray(with_conditions.given).reshape(5, 8, 3)
    np.testing.assert_array_equal(given, np.where(np.isnan(given), given, rows[..., 2:]))


@pytest.mark.medium
def test_what_is_dropped_depends_on_the_step_s_number_alone(key, rng):
    rows = jnp.asarray(rng.standard_normal((6, 64, 3)), jnp.float32)
    together = steps.draw_batches(key, rows, jnp.int32(0), 100, conditions=(1,))
    apart = steps.draw_batches(key, rows[4:], jnp.int32(4), 100, conditions=(1,))
    np.testing.assert_array_equal(together.given[4:], apart.given)
    assert np.isnan(together.given).any()
    assert not np.array_equal(np.isnan(together.given[0]), np.isnan(together.given[1]))


@pytest.mark.medium
def test_missing_cells_have_no_part_in_loss_or_gradient(x64, rng):
    """The loss is the mean of the squares that are there; x W of a missing x is W's of a zero."""
    schedule = schedules.linear(50, dtype=jnp.float64)
    x0 = jnp.asarray(np.where(rng.random((40, 3)) < 0.3, np.nan, rng.standard_normal((40, 3))))
    eps = jnp.asarray(rng.standard_normal(x0.shape))
    t, w = jnp.arange(40), jnp.asarray(rng.standard_normal((3, 3)))

    def apply(w, x, t):
        return jnp.where(jnp.isnan(x), 0, x) @ w

    batch, sgd = steps.Batches(x0, t, eps), optax.sgd(1.0)
    state = steps.init_state(w, sgd)
    state, loss = steps.train_step(apply, sgd, schedule, state, batch, missing=True)
    x_t = np.nan_to_num(process.diffuse(schedule, x0, t, eps))
    error = np.where(np.isnan(x0), np.nan, eps - x_t @ w)
    np.testing.assert_allclose(loss, np.nanmean(error**2), rtol=1e-12)
    gradient = -2 * x_t.T @ np.nan_to_num(error) / np.sum(~np.isnan(error))
    np.testing.assert_allclose(w - state.params, gradient, rtol=1e-10)


@pytest.mark.slow  # Trains: 1500 steps of a small network.
def test_one_model_learns_both_laws(key):
    """Kinds a and b are N(-1, 0.2²) and N(1, 0.2²), three rows to one."""
    rng = np.random.default_rng(0)
    kind = np.arange(1024) % 4 == 0
    x = np.where(kind, 1, -1) + 0.2 * rng.standard_normal(1024)
    table = jnp.asarray(np.stack([x, ~kind, kind], axis=1), jnp.float32)
    schedule = schedules.sigmoid(100, k=8.0)
    model = Denoiser(dim=1, width=32, depth=2, conditions=2)
    params = model.init(key, jnp.zeros((1, 1)), jnp.zeros((1,), jnp.int32))
    optimizer = steps.adam(4e-3, 190 * 8, "cosine")

    @jax.jit
    def train(state):
        def epoch(state, number):
            rows = steps.epoch_order(key, number, 1024, 128)
            return steps.train_epoch(
                key, model.apply, optimizer, schedule, state, table, rows, conditions=(2,)
            )

        return jax.lax.scan(epoch, state, jnp.arange(190))[0]

    params = train(steps.init_state(params, optimizer)).params

    def draw(given, weight):
        denoise = guided(
            lambda x, t: model.apply(params, x, t, given),
            lambda x, t: model.apply(params, x, t),
            weight,
        )
        return np.asarray(sampling.sample(key, denoise, schedule, (4000, 1), sampling.DDIM))[:, 0]

    given = jnp.tile(jnp.array([[1.0, 0.0], [0.0, 1.0]]), (2000, 1))
    x = draw(given, 1.0)
    # Of a kind, one row in two million is on the other's side; of the model, one in a hundred may.
    assert np.mean(x[::2] < 0) > 0.99
    assert np.mean(x[1::2] > 0) > 0.99
    for mine, mean in [(x[::2], -1), (x[1::2], 1)]:
        # So short a training leaves a fourth of the spread.
        assert abs(mine.mean() - mean) < 0.05
        assert abs(mine.std() - 0.2) < 0.05
    # Without a condition: both, a quarter of them b, to 0.05.
    x = draw(given, 0.0)
    assert abs(np.mean(x > 0) - 0.25) < 0.05
