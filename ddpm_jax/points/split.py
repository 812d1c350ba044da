"""Rows held out: chosen by the seed, before anything is fitted to the others."""

import numpy as np
from jaxtyping import Float64, Int

from ddpm_jax.errors import ConfigError
from ddpm_jax.points import sources
from ddpm_jax.points.mapped import ChosenRows, MappedPoints, Points


def split_rows(
    num_rows: int, fraction: float, seed: int
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "m"]]:
    """The rows to train on and those held out, each in their order; the seed decides which.

    round(fraction · N) are held out, at least one and leaving at least two; none for fraction 0.
    Raises ConfigError for a fraction outside [0, 1), or fewer than three rows to split.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"hold_out must lie in [0, 1), got {fraction}")
    if fraction == 0:
        return np.arange(num_rows), np.arange(0)
    if num_rows < 3:
        raise ConfigError(f"hold_out = {fraction} of {num_rows} rows: give at least three, or 0")
    count = min(max(round(fraction * num_rows), 1), num_rows - 2)
    order = np.random.default_rng(seed).permutation(num_rows)
    return np.sort(order[count:]), np.sort(order[:count])


def held_out_of(
    points: Points, fraction: float, seed: int
) -> tuple[np.ndarray | MappedPoints, Float64[np.ndarray, "m d"] | None]:
    """The points to train on, and those held out, or None for fraction 0.

    Points on disk stay there; of those held out, as many as are shown are read. Raises ConfigError
    as `split_rows`.
    """
    train, held_out = split_rows(len(points), fraction, seed)
    if not len(held_out):
        return points, None
    if isinstance(points, MappedPoints):
        return ChosenRows(points, train), sources.shown(ChosenRows(points, held_out))
    return points[train], np.asarray(points[held_out], np.float64)
