"""Epochs: the promises that make a run repeatable, and what it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import process, schedules
from ddpm_jax.networks.denoiser import Denoiser
from ddpm_jax.training import steps
from epochs import (
    DATA,
    ROWS,
    assert_a_bad_step_is_skipped,
    assert_chunks_change_no_bit,
    assert_data_of_more_precision_leave_the_state_s,
    in_chunks,
    with_bad_point,
)
from harness import assert_same_bits

T = 20
BETAS = np.linspace(0.01, 0.3, T)
SCHEDULE = schedules.from_betas(BETAS)

draw = jax.jit(steps.draw_batches, static_argnames=["num_times", "stratified", "points_per_time"])

# Epochs of six steps, cut in every way: each size is compiled once for all tests.

OPTIMIZER = steps.adam(1e-2, 6, "cosine")
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
    return steps.init_state(params, OPTIMIZER, ema=True)


one_epoch = functools.partial(
    steps.train_epoch, KEY, apply, OPTIMIZER, SCHEDULE, stratified=True, ema_decay=0.9
)
epoch = steps.make_trainer(one_epoch)


@pytest.mark.medium
def test_batches_depend_on_the_step_alone():
    x0 = jnp.asarray(DATA[ROWS])
    whole = draw(KEY, x0, jnp.array(7), T, stratified=True)
    parts = [
        draw(KEY, x0[i:j], jnp.array(7 + i), T, stratified=True)
        for i, j in [(0, 1), (1, 3), (3, 6)]
    ]
    assert_same_bits(whole, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts))
    assert len(np.unique(whole.eps)) == whole.eps.size


@pytest.mark.medium
def test_an_epoch_is_a_loop_of_steps_to_the_bit():
    expected, expected_losses = initial(), []
    batches = draw(KEY, jnp.asarray(DATA[ROWS]), expected.step, T, stratified=True)
    step = jax.jit(functools.partial(steps.train_step, apply, OPTIMIZER, SCHEDULE, ema_decay=0.9))
    for n in range(6):
        expected, loss = step(expected, jax.tree.map(lambda leaf, n=n: leaf[n], batches))
        expected_losses.append(loss)
    state, losses = epoch(initial(), DATA, ROWS)
    assert_same_bits((state, losses), (expected, jnp.stack(expected_losses)))


BAD = {"none": 0.0, "not a number": np.nan, "loss overflows": 1e30, "gradient squared does": 1e12}


@pytest.mark.medium
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_chunks_change_no_bit(bad):
    assert_chunks_change_no_bit(epoch, initial, with_bad_point(bad))


@pytest.mark.usefixtures("x64")
def test_data_of_more_precision_change_no_dtype():
    assert_data_of_more_precision_leave_the_state_s(epoch, initial)


@pytest.mark.parametrize("bad", list(BAD.values())[1:], ids=list(BAD)[1:])
def test_a_step_that_is_not_finite_is_skipped_and_training_goes_on(bad):
    skipped, after = assert_a_bad_step_is_skipped(epoch, initial, bad)
    assert after.step == 6
    assert_same_bits(after, in_chunks(epoch, skipped, DATA, ROWS[4:], (1, 1))[0])
    moved = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (after, skipped)), strict=True)]
    assert all(moved)


@pytest.mark.medium
def test_traced_once_for_each_shape_and_for_one_step_only_when_needed():
    train = steps.make_trainer(one_epoch)
    state, _ = train(initial(), DATA, ROWS)
    whole = len(traces)
    train(state, 2 * DATA, ROWS[::-1])
    assert len(traces) == whole
    train(state, with_bad_point(np.nan), ROWS)
    one_by_one = len(traces)
    assert one_by_one > whole
    train(state, with_bad_point(1e30), ROWS)
    assert len(traces) == one_by_one
    train(state, DATA, ROWS[:5])
    assert len(traces) > one_by_one


@pytest.mark.medium
def test_a_donated_state_is_used_up():
    state = initial()
    result = jax.jit(one_epoch, donate_argnums=0)(state, DATA, ROWS)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert_same_bits(result, epoch(initial(), DATA, ROWS))


@pytest.mark.slow
def test_loss_falls_to_the_floor_and_no_lower(key):
    data = jnp.asarray(DATA[:6])
    floor, floor_error = process.ideal_loss(key, SCHEDULE, data, rounds=200)
    network = Denoiser(width=64, depth=2, time_width=16)
    params = network.init(key, data, jnp.zeros(6, jnp.int32))
    optimizer = steps.adam(1e-2, 1000, "cosine")
    rows = jax.random.randint(key, (1000, 128), 0, 6)
    _, losses = jax.jit(
        lambda state: steps.train_epoch(
            key, network.apply, optimizer, SCHEDULE, state, data, rows, stratified=True
        )
    )(steps.init_state(params, optimizer))
    last = np.asarray(losses[-300:], np.float64)
    error = np.hypot(last.std() / np.sqrt(len(last)), floor_error)
    # By definition no denoiser is below the floor; five standard errors are the luck of 300 steps.
    assert floor - 5 * error < last.mean()
    assert last.mean() - floor < 0.1 * (losses[:5].mean() - floor)
