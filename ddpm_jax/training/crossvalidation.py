"""For how many steps to train on few rows, by cross-validation, so that none need be held out.

Each fold trains on the other rows and is checked on its own: the number of steps whose mean
held-out loss is least is then that of the final model, which learns from all of them.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.numerics import seed_key
from ddpm_jax.training import steps, validation
from ddpm_jax.training.steps import Apply, Params

FOLDS = 3
CHECK = 100
"""Steps between checks."""
PATIENCE = 4
"""A fold is trained no further after as many checks without a smaller loss."""
TRIPLES = 2048
"""Of rows, times and noises, in a check."""

Rows = Float[np.ndarray, "_ d"]


@dataclass(frozen=True)
class Folds:
    """How every fold is trained."""

    schedule: Schedule
    apply: Apply
    init: Callable[[Key[Array, ""], Rows], Params]
    """The first parameters, with what lies under the network fitted to the fold's rows."""
    batch_size: int
    learning_rate: float
    steps: int
    """At most."""
    conditions: tuple[int, ...] = ()
    """Widths of the conditions, the last columns of the rows."""
    missing: bool = False
    """Whether cells may be NaN."""


def cross_validate(folds: Folds, rows: Rows, seed: int) -> list[float]:
    """The mean held-out loss of `FOLDS` folds of the rows after 0, 100, 200, ... steps.

    A fold that ended early counts with its last loss. Equal seeds give equal bits.
    """
    parts = np.array_split(np.random.default_rng(seed).permutation(len(rows)), FOLDS)
    advance, check = _programs(folds)
    curves = []
    for number, part in enumerate(parts):
        key = jax.random.fold_in(seed_key(seed), number)
        others = np.delete(rows, part, axis=0)
        curves.append(_curve(folds, advance, check, key, others, rows[part]))
    longest = max(map(len, curves))
    return np.mean([c + c[-1:] * (longest - len(c)) for c in curves], axis=0).tolist()


def steps_of_least(losses: list[float]) -> int:
    """The steps after which the loss was least: 0, 100, 200, ..."""
    return int(np.argmin(losses)) * CHECK


def _programs(folds: Folds) -> tuple[Callable, Callable]:
    optimizer = _optimizer(folds)
    points_per_time = int(np.gcd(16, folds.batch_size))

    @jax.jit
    def advance(key: Array, state: steps.TrainState, x0: Array) -> steps.TrainState:
        return steps.train_points(
            key,
            folds.apply,
            optimizer,
            folds.schedule,
            state,
            x0,
            stratified=True,
            points_per_time=points_per_time,
            conditions=folds.conditions,
            ema_decay=0.999,
            missing=folds.missing,
        )[0]

    @jax.jit
    def check(params: Params, drawn: validation.Validation) -> Array:
        denoise = functools.partial(folds.apply, params)
        return validation.held_out_loss(folds.schedule, denoise, drawn, missing=folds.missing)[0]

    return advance, check


def _optimizer(folds: Folds) -> optax.GradientTransformation:
    return steps.adam(folds.learning_rate, folds.steps, "cosine")


def _curve(
    folds: Folds,
    advance: Callable,
    check: Callable,
    key: Key[Array, ""],
    train: Rows,
    held_out: Rows,
) -> list[float]:
    key_init, key_noise, key_check = jax.random.split(key, 3)
    state = steps.init_state(folds.init(key_init, train), _optimizer(folds), ema=True)
    drawn = validation.draw_validation(
        key_check,
        jnp.asarray(held_out, jnp.float32),
        folds.schedule.num_steps,
        TRIPLES,
        sum(folds.conditions),
    )
    order = _batches(np.random.default_rng(np.asarray(jax.random.key_data(key))), len(train), folds)
    losses = [float(check(state.ema, drawn))]
    for _ in range(folds.steps // CHECK):
        batches = np.stack([next(order) for _ in range(CHECK)])
        state = advance(key_noise, state, jnp.asarray(train[batches], jnp.float32))
        losses.append(float(check(state.ema, drawn)))
        if len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE:
            break
    return losses


def _batches(rng: np.random.Generator, n: int, folds: Folds) -> Iterator[Int[np.ndarray, "B"]]:
    """Batches of rows, pass after pass, each without replacement."""
    while True:
        order = rng.permutation(n)
        yield from order[: n // folds.batch_size * folds.batch_size].reshape(-1, folds.batch_size)
