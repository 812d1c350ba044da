"""Many models in one program: the training loop, vmapped over seeds and learning rates.

A member is the run that its seed makes alone, to rounding. Members do not communicate: several
devices take whole members each. Members with learned tables take turns on a device instead of being
vmapped, which was measured to be ten times slower on a CPU.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from ddpm_jax import config, parallel, training
from ddpm_jax.errors import ConfigError
from ddpm_jax.runs import Run
from ddpm_jax.training import TrainState

States = TrainState
"""A TrainState whose every leaf has a leading axis of members."""

VARYING = ("seed", "learning_rate")


def grid(base: Run, seeds: Sequence[int], learning_rates: Sequence[float] = ()) -> list[Run]:
    """A run for each pair of a seed and a learning rate (by default, the base's), seeds fastest."""
    return [
        dataclasses.replace(
            base, config=dataclasses.replace(base.config, seed=seed, learning_rate=rate)
        )
        for rate in learning_rates or (base.config.learning_rate,)
        for seed in seeds
    ]


def member_mesh(members: int, devices: Sequence[Any]) -> Mesh:
    """A mesh of as many of the devices as share the members evenly."""
    return parallel.make_mesh(devices[: parallel.even_share(members, len(devices))])


def init_states(runs: Sequence[Run]) -> States:
    """The states before the first step, stacked.

    Raises ConfigError for runs that differ in more than seed and learning rate.
    """
    settings = [
        {k: v for k, v in config.to_json(run.config).items() if k not in VARYING}
        | {"data": run.digest}
        for run in runs
    ]
    for other in settings[1:]:
        if lines := config.differences(settings[0], other, "in one member"):
            raise ConfigError(f"members may differ in {' and '.join(VARYING)} only: {lines[0]}")
    return jax.vmap(runs[0].init_state)(_stack(runs, "init"))


def make_trainer(
    runs: Sequence[Run], mesh: Mesh
) -> Callable[[States, Array, Array], tuple[States, Array]]:
    """A compiled `train(states, data, rows) -> (states, losses [M, S])`: steps of all M members.

    `data` [n, d] are the points of all, `rows` [M, S, B] those of each member's batches. A step
    that is not finite is skipped, its loss is NaN: `train_step` with `guard`.
    """
    first, schedule = runs[0], runs[0].config.make_schedule()
    c, apply, noise_keys = first.config, first.apply(), _stack(runs, "noise")
    rates = jnp.array([run.config.learning_rate for run in runs])

    def member(
        key: Key[Array, ""],
        rate: Float[Array, ""],
        state: TrainState,
        rows: Int[Array, "S B"],
        data: Float[Array, "n d"],
    ) -> tuple[TrainState, Array]:
        optimizer = training.adam(rate, first.total_steps, c.decay)
        draw = {"stratified": c.stratified, "points_per_time": c.points_per_time}
        ema_decay = c.ema_decay or None
        if c.tables:
            inputs = key, apply, optimizer, schedule, state, data, rows
            epoch = partial(training.train_epoch, *inputs, **draw, ema_decay=ema_decay)
            plain = epoch()
            return jax.lax.cond(
                training.all_finite(plain), lambda: plain, lambda: epoch(guard=True)
            )
        # Guarded from the start, as under vmap a `cond` runs both branches.
        batches = training.draw_batches(key, data[rows], state.step, schedule.num_steps, **draw)
        return training.train_steps(
            apply, optimizer, schedule, state, batches, ema_decay=ema_decay, guard=True
        )

    def members(keys: Array, rates: Array, states: States, rows: Array, data: Array) -> Any:
        if c.tables:
            return jax.lax.map(lambda one: member(*one, data=data), (keys, rates, states, rows))
        return jax.vmap(member, in_axes=(0, 0, 0, 0, None))(keys, rates, states, rows, data)

    def train(states: States, data: Array, rows: Array) -> tuple[States, Array]:
        own, whole = PartitionSpec("data"), PartitionSpec()
        specs = {"in_specs": (own, own, own, own, whole), "out_specs": own}
        share = jax.shard_map(members, mesh=mesh, check_vma=False, **specs)
        return share(noise_keys, rates, states, rows, data)

    shared, everywhere = parallel.sharding(mesh, "data"), parallel.sharding(mesh)
    return jax.jit(train, in_shardings=(shared, everywhere, shared), out_shardings=shared)


def epoch_orders(runs: Sequence[Run], epoch: int) -> Int[Array, "M S B"]:
    """The rows of every batch of an epoch, for each member."""
    n, batch_size = runs[0].num_points, runs[0].config.batch_size
    return jax.vmap(lambda key: training.epoch_order(key, epoch, n, batch_size))(
        _stack(runs, "order")
    )


def unstack(states: States) -> list[TrainState]:
    """The states of the members, one by one, in host memory."""
    host = jax.tree.map(np.asarray, states)
    return [jax.tree.map(lambda leaf, i=i: leaf[i, ...], host) for i in range(len(host.step))]


def _stack(runs: Sequence[Run], purpose: str) -> Key[Array, "M"]:
    return jnp.stack([run.keys()[purpose] for run in runs])
