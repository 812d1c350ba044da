"""Epochs: the promises that make a run repeatable, and what it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import assert_same_bits

from ddpm_jax import diffusion, schedules, training
from ddpm_jax.models import Denoiser

T = 20
BETAS = np.linspace(0.01, 0.3, T)
SCHEDULE = schedules.from_betas(BETAS)

draw = jax.jit(
    training.draw_batches, static_argnames=["num_times", "stratified", "points_per_time"]
)

# Epochs of six steps, cut in every way: each size is compiled once for all tests.

DATA = np.random.default_rng(1).standard_normal((50, 2), np.float32)
ROWS = np.random.default_rng(2).permutation(50)[:48].reshape(6, 8)
OPTIMIZER = training.adam(1e-2, 6, "cosine")
KEY = jax.random.key(3)
traces = []


def apply(params, x, t):
    """A network of two layers, with the time in the first."""
    traces.append(x.shape)
    return jax.nn.relu(x @ params["in"] + jnp.cos(t)[:, None]) @ params["out"]


def initial():
    random = np.random.default_rng(0)
    params = {"in": random.standard_normal((2, 4)), "out": random.standard_normal((4, 2))}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    return training.init_state(params, OPTIMIZER, ema=True)


one_epoch = functools.partial(
    training.train_epoch, KEY, apply, OPTIMIZER, SCHEDULE, stratified=True, ema_decay=0.9
)
epoch = training.make_trainer(one_epoch)


def in_chunks(state, data, rows, sizes):
    losses = []
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        state, loss = epoch(state, data, part)
        losses.append(loss)
    return state, jnp.concatenate(losses)


def test_batches_depend_on_the_step_alone():
    x0 = jnp.asarray(DATA[ROWS])
    whole = draw(KEY, x0, jnp.array(7), T, stratified=True)
    parts = [
        draw(KEY, x0[i:j], jnp.array(7 + i), T, stratified=True)
        for i, j in [(0, 1), (1, 3), (3, 6)]
    ]
    assert_same_bits(whole, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts))
    assert len(np.unique(whole.eps)) == whole.eps.size


def test_an_epoch_is_a_loop_of_steps_to_the_bit():
    expected, expected_losses = initial(), []
    batches = draw(KEY, jnp.asarray(DATA[ROWS]), expected.step, T, stratified=True)
    step = jax.jit(
        functools.partial(training.train_step, apply, OPTIMIZER, SCHEDULE, ema_decay=0.9)
    )
    for n in range(6):
        expected, loss = step(expected, jax.tree.map(lambda leaf, n=n: leaf[n], batches))
        expected_losses.append(loss)
    state, losses = epoch(initial(), DATA, ROWS)
    assert_same_bits((state, losses), (expected, jnp.stack(expected_losses)))


BAD = {"none": 0.0, "not a number": np.nan, "loss overflows": 1e30, "gradient squared does": 1e12}


def with_bad_point(bad):
    """The data with one point of the fourth batch replaced."""
    data = DATA.copy()
    data[ROWS[3, 0]] = bad
    return data


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_chunks_change_no_bit(bad):
    data = with_bad_point(bad)
    whole = epoch(initial(), data, ROWS)
    for sizes in [(3, 3), (1, 3, 1, 1), (1,) * 6]:
        assert_same_bits(whole, in_chunks(initial(), data, ROWS, sizes))


@pytest.mark.parametrize("bad", list(BAD.values())[1:], ids=list(BAD)[1:])
def test_a_step_that_is_not_finite_is_skipped_and_training_goes_on(bad):
    data = with_bad_point(bad)
    before, _ = epoch(initial(), DATA, ROWS[:3])
    skipped, loss = epoch(before, data, ROWS[3:4])
    assert np.isnan(loss).all()
    assert_same_bits(skipped, before._replace(step=before.step + 1))
    after, losses = epoch(initial(), data, ROWS)
    np.testing.assert_array_equal(np.isnan(losses), np.arange(6) == 3)
    assert after.step == 6
    assert_same_bits(after, in_chunks(skipped, DATA, ROWS[4:], (1, 1))[0])
    moved = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (after, skipped)), strict=True)]
    assert all(moved)


def test_traced_once_for_each_shape_and_guarded_only_when_needed():
    train = training.make_trainer(one_epoch)
    state, _ = train(initial(), DATA, ROWS)
    plain = len(traces)
    train(state, 2 * DATA, ROWS[::-1])
    assert len(traces) == plain
    train(state, with_bad_point(np.nan), ROWS)
    guarded = len(traces)
    assert guarded > plain
    train(state, with_bad_point(1e30), ROWS)
    assert len(traces) == guarded
    train(state, DATA, ROWS[:5])
    assert len(traces) > guarded


def test_a_donated_state_is_used_up():
    state = initial()
    result = jax.jit(one_epoch, donate_argnums=0)(state, DATA, ROWS)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert_same_bits(result, epoch(initial(), DATA, ROWS))


@pytest.mark.slow
def test_loss_falls_to_the_floor_and_no_lower(key):
    data = jnp.asarray(DATA[:6])
    floor, floor_error = diffusion.ideal_loss(key, SCHEDULE, data, rounds=200)
    network = Denoiser(width=64, depth=2, time_width=16)
    params = network.init(key, data, jnp.zeros(6, jnp.int32))
    optimizer = training.adam(1e-2, 1000, "cosine")
    rows = jax.random.randint(key, (1000, 128), 0, 6)
    _, losses = jax.jit(
        lambda state: training.train_epoch(
            key, network.apply, optimizer, SCHEDULE, state, data, rows, stratified=True
        )
    )(training.init_state(params, optimizer))
    last = np.asarray(losses[-300:], np.float64)
    error = np.hypot(last.std() / np.sqrt(len(last)), floor_error)
    # By definition no denoiser is below the floor; five standard errors are the luck of 300 steps.
    assert floor - 5 * error < last.mean()
    assert last.mean() - floor < 0.1 * (losses[:5].mean() - floor)
