"""The denoising loss of held-out rows, at times and noises that never change, and when to stop.

The same (row, time, noise) at every check are common random numbers: what is left of the difference
between two checks is the parameters'. Held-out loss falls while a network learns the distribution,
and rises once it learns the rows: at its least, training is done.

Where the least lies is known as far as the held-out rows can tell. Between the fall and the rise
the loss is level, and the smallest of its values there is one of luck, while the network still
improves in what the loss hardly sees, such as how many points each part has. So the last
of the checks that are no worse than the least is kept: no worse by more than the standard error of
the difference, the rows being the independent draws (the one-standard-error rule of Breiman et al.
1984, section 3.4.3, of the difference, and for the last instead of the simplest).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddpm_jax.diffusion.process import denoising_loss, ideal_denoiser
from ddpm_jax.diffusion.schedules import Schedule

SIZE = 8192
"""(row, time, noise) triples of a check, about."""
BLOCK = 512
"""Triples evaluated together: a bound on memory."""
MEMORY = 2**23
"""Numbers, of training rows times triples, that the memoriser holds at a time."""


class Validation(NamedTuple):
    """Held-out rows [V, d], each at R times [R, V], with noise [R, V, d]; and their conditions."""

    x0: Float[Array, "V d"]
    t: Int[Array, "R V"]
    eps: Float[Array, "R V d"]
    given: Float[Array, "V c"] | None = None


class Best(NamedTuple):
    """The last step whose held-out loss was no worse than the least, and its parameters."""

    losses: Float[Array, "s"]
    """Each held-out row's loss when their mean was least, and zeros up to `SIZE`."""
    step: Int[Array, ""]
    params: Any


def draw_validation(
    key: Key[Array, ""],
    rows: Float[Array, "n d"],
    num_times: int,
    size: int = SIZE,
    conditions: int = 0,
) -> Validation:
    """About `size` triples; of more rows than that, `size` of them. The key decides all.

    Together the times are evenly spread over 0..num_times-1, and so are those of each row: row i
    has ⌊T (j + u_i) / R⌋, j = 0..R-1, with u_i the middles of V equal parts of [0, 1] in random
    order. The last `conditions` columns are what is given, and get no noise.
    """
    key_rows, key_times, key_eps = jax.random.split(key, 3)
    if len(rows) > size:
        rows = rows[jax.random.permutation(key_rows, len(rows))[:size]]
    count = len(rows)
    repeats = max(size // count, 1)
    place = jax.random.permutation(key_times, count)
    # In whole numbers: rounded, a time could fall into the next part.
    fine = (2 * place[None] + 1 + 2 * count * jnp.arange(repeats)[:, None]) * num_times
    t = fine // (2 * count * repeats)
    points = rows[:, : rows.shape[1] - conditions]
    eps = jax.random.normal(key_eps, (repeats, *points.shape), rows.dtype)
    return Validation(points, t, eps, rows[:, -conditions:] if conditions else None)


def held_out_losses(
    schedule: Schedule,
    denoise: Callable[..., Any],
    validation: Validation,
    *,
    missing: bool = False,
    block: int = BLOCK,
) -> Float[Array, "V"]:
    """Each held-out row's mean of (ε - ε̂)² over its times, noises and coordinates.

    `denoise(x_t, t)` or, where there are conditions, `denoise(x_t, t, given)`; `missing` is that of
    `denoising_loss`. `block` triples are evaluated together.
    """
    x0, times, eps, given = validation
    repeats, rows = times.shape
    triples = (
        jnp.tile(x0, (repeats, 1)),
        times.reshape(-1),
        eps.reshape(repeats * rows, -1),
        *(() if given is None else (jnp.tile(given, (repeats, 1)),)),
    )

    def loss(triple: tuple[Array, ...]) -> Array:
        x0, t, eps, *known = (part[None] for part in triple)
        return denoising_loss(
            schedule, lambda x, t: denoise(x, t, *known), x0, t, eps, missing=missing
        )

    return jax.lax.map(loss, triples, batch_size=block).reshape(repeats, rows).mean(axis=0)


def held_out_loss(
    schedule: Schedule, denoise: Callable[..., Any], validation: Validation, **options: Any
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean of `held_out_losses`, and its standard error: see `mean_and_error`."""
    return mean_and_error(held_out_losses(schedule, denoise, validation, **options))


def mean_and_error(losses: Float[Array, "V"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean and its standard error, the rows being the independent draws; of one row infinite.

    The error is that of the number; of the difference of two checks it is much smaller.
    """
    spread = jnp.std(losses, ddof=1) if len(losses) > 1 else jnp.full((), jnp.inf)
    return jnp.mean(losses), spread / jnp.sqrt(len(losses))


def memorisers_loss(
    schedule: Schedule, rows: Float[Array, "n d"], validation: Validation
) -> Float[Array, ""]:
    """What the ideal denoiser of the training rows scores on held-out rows: the memoriser's mark.

    It knows the training rows by heart and nothing else. A network whose held-out loss climbs
    towards this has begun to copy.
    """
    block = max(MEMORY // rows.size, 1)
    alone = validation._replace(given=None)
    losses = held_out_losses(schedule, ideal_denoiser(schedule, rows), alone, block=block)
    return jnp.mean(losses)


def start(params: Any) -> Best:
    """Before the first check."""
    # Finite, as all that a checkpoint takes; every check's losses are smaller.
    nothing = jnp.full((SIZE,), jnp.finfo(jnp.float32).max)
    return Best(nothing, jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))


def better_of(best: Best, losses: Float[Array, "V"], step: Int[Array, ""], params: Any) -> Best:
    """The best so far and a later check of V ≤ `SIZE` rows, whichever is to be sampled from.

    That is the check, unless its mean loss is above the least by more than the standard error of
    the difference; of one row, by anything. A loss of NaN is never kept.
    """
    mean, error = mean_and_error(losses - best.losses[: len(losses)])
    least = mean < 0
    kept = least | (mean <= error) if len(losses) > 1 else least

    def choose(condition: Array, old: Any, new: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(condition, b, a), old, new)

    padded = jnp.zeros_like(best.losses).at[: len(losses)].set(losses)
    return Best(
        choose(least, best.losses, padded),
        *choose(kept, (best.step, best.params), (step, params)),
    )


def has_stalled(best: Best, step: int, patience: int) -> bool:
    """Whether the last step that was no worse than the least lies `patience` steps or more back."""
    return step - int(best.step) >= patience
