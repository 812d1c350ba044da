"""Adam on the touched rows of a table: against dense Adam, in NumPy and in optax."""

import functools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.networks.denoiser import Denoiser
from ddpm_jax.training import sparse, steps
from epochs import (
    DATA,
    ROWS,
    assert_a_bad_step_is_skipped,
    assert_chunks_change_no_bit,
    assert_data_of_more_precision_leave_the_state_s,
)
from harness import assert_same_bits

T = 20
SCHEDULE = schedules.from_betas(np.linspace(0.01, 0.3, T))
NETWORK = Denoiser(width=8, depth=1, time_width=4, tables=(4, 9), table_features=3)
RATE = 1e-2


def apply(params, x, t, **looked_up):
    return NETWORK.apply({"params": params}, x, t, **looked_up)


OPTIMIZER = steps.adam(RATE)
TABLE = sparse.Table(NETWORK.around, lambda n: RATE)
KEY = jax.random.key(3)
epoch = steps.make_trainer(
    functools.partial(
        steps.train_epoch, KEY, apply, OPTIMIZER, SCHEDULE, ema_decay=0.9, table=TABLE
    )
)


def initial(table=True):
    x, t = jnp.zeros((1, 2), jnp.float32), jnp.zeros((1,), jnp.int32)
    params = jax.jit(NETWORK.init)(jax.random.key(0), x, t)["params"]
    return steps.init_state(params, OPTIMIZER, ema=True, table=table)


def nodes_of(table):
    """A table before the first step, in float64."""
    return sparse.init(jnp.asarray(table, jnp.float64), ema=False)


def trained(nodes, touched_rows, gradients, first=0):
    """Steps whose rows and gradients are given, from step `first` on."""

    @jax.jit
    def step(nodes, rows, gradient, n):
        table = sparse.Table(lambda x: rows, lambda n: RATE)
        touched = sparse.gather(table, nodes, jnp.zeros((len(rows), 2)), n)
        return sparse.update(table, nodes, touched, gradient, n)

    for n, (rows, gradient) in enumerate(zip(touched_rows, gradients, strict=True), first):
        nodes = step(nodes, jnp.asarray(rows)[:, None], jnp.asarray(gradient), jnp.asarray(n))
    return nodes


def dense_adam(table, touched_rows, gradients, first=0):
    """Kingma & Ba 2015, algorithm 1, on all rows; the table after every step."""
    m, v, path = np.zeros_like(table), np.zeros_like(table), []
    for n, (rows, gradient) in enumerate(zip(touched_rows, gradients, strict=True), first + 1):
        whole = np.zeros_like(table)
        np.add.at(whole, rows, gradient)
        m, v = 0.9 * m + 0.1 * whole, 0.999 * v + 0.001 * whole**2
        m_hat, v_hat = m / (1 - 0.9**n), v / (1 - 0.999**n)
        table = table - RATE * m_hat / (np.sqrt(v_hat) + 1e-8)
        path.append(table)
    return path


def test_rows_that_every_step_touches_are_trained_by_dense_adam(x64, rng):
    """Also those that it touches several times, whose gradients add up."""
    table = rng.standard_normal((4, 3))
    rows = [rng.permutation([0, 1, 2, 3, 3, 0, 3]) for _ in range(20)]
    gradients = rng.standard_normal((20, 7, 3))
    nodes = trained(nodes_of(table), rows, gradients)
    # Float64: a dozen operations a step, each off by 1e-16 of numbers near 1.
    np.testing.assert_allclose(nodes.table, dense_adam(table, rows, gradients)[-1], rtol=1e-12)
    assert np.all(np.asarray(nodes.steps) == 20)


def test_rows_that_wait_are_where_dense_adam_has_them_when_they_are_touched(x64, rng):
    count, late = 400, 10**5
    table = rng.standard_normal((40, 3))
    rows = rng.integers(0, 40, (count, 3))
    gradients = rng.standard_normal((count, 3, 3))
    # So late the corrections of the bias, (1 - β^n), are 1, as they are not between early steps.
    path = dense_adam(table, rows, gradients, late)
    nodes = trained(nodes_of(table), rows, gradients, late)
    last = np.asarray(nodes.steps) - 1 - late
    assert np.ptp(last) > 20, "all rows were touched of late: nothing waited"
    for row, n in enumerate(last):
        # ε = 1e-8 is left out of the sum over the idle steps, in which √v is 0.03 or more.
        np.testing.assert_allclose(nodes.table[row], path[n][row], rtol=0, atol=1e-6)
    moved = np.abs(np.array(path[-1]) - table).mean()
    assert moved > 1e5 * 1e-6, "the tolerance would not tell"


def test_a_row_that_is_never_touched_is_never_changed(rng):
    table = jnp.asarray(rng.standard_normal((5, 3)), jnp.float32)
    rows = [np.array([0, 2])] * 3
    nodes = trained(sparse.init(table, ema=False), rows, np.ones((3, 2, 3), np.float32))
    assert_same_bits(nodes.table[jnp.array([1, 3, 4])], table[jnp.array([1, 3, 4])])


@pytest.mark.medium
def test_the_first_step_of_a_network_is_that_of_dense_training():
    """Loss, gradients and parameters: nothing waits yet, and the network sees the same rows."""
    state, losses = epoch(initial(), DATA, ROWS[:1])
    dense, dense_losses = jax.jit(
        functools.partial(steps.train_epoch, KEY, apply, OPTIMIZER, SCHEDULE, ema_decay=0.9)
    )(initial(table=False), DATA, ROWS[:1])
    np.testing.assert_allclose(losses, dense_losses, rtol=1e-6)
    for ours, theirs in zip(
        *(jax.tree.leaves((s.params, s.ema)) for s in (state, dense)), strict=True
    ):
        # Adam's first step is ±RATE whatever the gradient's size: rounding shows where it is tiny.
        assert np.quantile(np.abs(ours - theirs), 0.99) < 1e-4 * RATE


@pytest.mark.medium
def test_chunks_change_no_bit():
    assert_chunks_change_no_bit(epoch, initial, DATA)


@pytest.mark.medium
@pytest.mark.usefixtures("x64")
def test_data_of_more_precision_change_no_dtype():
    assert_data_of_more_precision_leave_the_state_s(epoch, initial)


@pytest.mark.usefixtures("x32")  # where 1e30 is too large to be squared
@pytest.mark.parametrize("bad", [np.nan, 1e30, 1e12])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    skipped, after = assert_a_bad_step_is_skipped(epoch, initial, bad)
    assert_same_bits(after, epoch(skipped, DATA, ROWS[4:])[0])


def test_the_average_is_taken_of_all_early_steps_and_of_every_fiftieth_later():
    def average(mean, table, n):
        table, mean = jnp.full((3, 2), table, jnp.float32), jnp.full((3, 2), mean, jnp.float32)
        nodes = sparse.init(table, ema=True)._replace(ema=mean)
        touched = sparse.gather(
            sparse.Table(lambda x: jnp.zeros((1, 1), jnp.int32), lambda n: 0.0),
            nodes,
            jnp.zeros((1, 2), jnp.float32),
            jnp.asarray(n),
        )
        rule = sparse.Table(lambda x: x, lambda n: 0.0)
        gradients = jnp.zeros((1, 2), jnp.float32)
        new = sparse.update(rule, nodes, touched, gradients, jnp.asarray(n), jnp.float32(0.9))
        return np.asarray(new.ema)

    np.testing.assert_allclose(average(1.0, 2.0, 999), 0.9 * 1 + 0.1 * 2, rtol=1e-6)
    assert np.all(average(1.0, 2.0, 1000) == 1)
    # 50 steps at once: what is kept of the average is 0.9^50.
    np.testing.assert_allclose(average(1.0, 2.0, 1049), 2 - 0.9**50, rtol=1e-6)


def test_the_compiled_loop_copies_no_table():
    """Of a table large enough to tell: no array of its size is made anew in a step."""
    network = Denoiser(width=8, depth=1, time_width=4, tables=(97,), table_features=3)
    rows = 97 * 97

    def apply(params, x, t, **looked_up):
        return network.apply({"params": params}, x, t, **looked_up)

    state = jax.eval_shape(
        lambda: steps.init_state(
            network.init(KEY, jnp.zeros((1, 2)), jnp.zeros((1,), jnp.int32))["params"],
            OPTIMIZER,
            ema=True,
            table=True,
        )
    )
    table = sparse.Table(network.around, optax.cosine_decay_schedule(RATE, 100))
    train = functools.partial(
        steps.train_epoch, KEY, apply, OPTIMIZER, SCHEDULE, ema_decay=0.9, table=table
    )
    compiled = jax.jit(train, donate_argnums=0).lower(state, DATA, ROWS).compile().as_text()
    (loop,) = [part for part in compiled.split("\n\n") if part.count(" dot(") > 4]
    assert loop.count(f"[{rows},3]") > 5, "this is not the loop"
    whole = re.compile(rf"= (f32\[{rows},3\]|s32\[{rows}\])\S* (copy|broadcast)\(")
    assert not [line for line in loop.splitlines() if whole.search(line)]


ON_DEVICES = """
import jax
import numpy as np

jax.config.update("jax_num_cpu_devices", 2)
from ddpm_jax import parallel
from ddpm_jax.config import Config
from ddpm_jax.runs.record import Run
from ddpm_jax.training.trainer import Trainer

points = np.random.default_rng(0).uniform(-1, 1, (320, 2))
config = Config().replace(epochs=4, batch_size=64, width=16, tables=(16,), learning_rate=1e-4)
config = config.replace(base="none", hold_out=0.0)
run, states = Run.of(config, points), []
for count in (1, 2):
    mesh = parallel.make_mesh(jax.devices()[:count])
    trainer = Trainer(run.task(), run.first_state(), run.scaler.apply(points), mesh=mesh)
    assert len(list(trainer)) == 4
    nodes = trainer.state.params["tables"]["nodes"]
    assert len(nodes.devices()) == count
    copies = [np.asarray(shard.data) for shard in nodes.addressable_shards]
    assert all(np.array_equal(copies[0], copy) for copy in copies)
    states.append(jax.tree.map(np.asarray, trainer.state))
first, *others = states
moved = np.abs(first.params["tables"]["nodes"] - run.first_state().params["tables"]["nodes"])
assert moved.max() > 1e-4
for other in others:
    for a, b in zip(*map(jax.tree.leaves, (first.params, other.params)), strict=True):
        error = np.linalg.norm(a - b) / np.linalg.norm(a)
        assert error < 1e-5, error
"""


@pytest.mark.slow
def test_devices_that_share_the_batches_keep_one_table():
    """The same bits on every device, and one device's table to rounding.

    A process of its own, as JAX fixes the number of devices when it starts. Float32 sums of 64
    terms in another order differ by 1e-7, which twenty steps of Adam at a small rate let grow.
    """
    done = subprocess.run([sys.executable, "-c", ON_DEVICES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
