"""A run's rows as they are measured: in coordinates whose distances mean something."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from ddpm_jax import gmm
from ddpm_jax.errors import InputError
from ddpm_jax.points.kinds import Kind, Number, Word
from ddpm_jax.quality.evaluation import Evaluation, evaluate
from ddpm_jax.quality.gower import Gower
from ddpm_jax.runs.record import Run

Scaled = Float[np.ndarray, "_ d"]


def measured(run: Run, rows: Any) -> Float32[np.ndarray, "n d"]:
    """Rows as the data have them, in the network's coordinates, missing cells filled in."""
    return completed(run, run.encode(rows))


def completed(run: Run, points: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Points of a run in the network's coordinates, missing cells filled in.

    In a column that is constant in the data, what differs from the constant is kept as it is.
    """
    scaled = gmm.completed(run.scaler.apply(points), run.config.seed)
    constant = np.asarray(run.scaler.scale) == 0
    if constant.any():
        scaled[:, constant] = points[:, constant] - np.asarray(run.scaler.shift)[constant]
    return scaled


def judge(
    run: Run,
    samples: Scaled,
    held_out: Scaled | None,
    train: Scaled | None = None,
    *,
    log_prob: Callable[[np.ndarray], Any] | None = None,
    **settings: Any,
) -> Evaluation:
    """`ddpm_jax.quality.evaluation.evaluate` of rows in the network's coordinates.

    Of a table with words distances are Gower's, of the columns as they were; else Euclid's, of
    these coordinates. `settings` are those of `evaluate`.
    """
    kinds = () if run.columns is None else run.columns.kinds
    if not any(isinstance(kind, Word) for kind in kinds):
        return evaluate(samples, held_out, train, log_prob=log_prob, **settings)
    known = train if train is not None else held_out
    if known is None:
        raise InputError("held_out and train are both None: pass rows to compare the samples with")
    gower = Gower.of(_cells(run, known))

    def coordinates(rows: Scaled | None) -> np.ndarray | None:
        return None if rows is None else gower(_cells(run, rows))

    found = gower(_cells(run, samples))
    return evaluate(found, coordinates(held_out), coordinates(train), gower=gower, **settings)


def _cells(run: Run, scaled: Scaled) -> list[np.ndarray]:
    """The columns that the rows stand for: numbers, dates as numbers, words."""
    assert run.columns is not None
    pairs = zip(run.columns.kinds, run.table_of(scaled).columns, strict=True)
    return [_as_gower(kind, cells) for kind, cells in pairs]


def _as_gower(kind: Kind, cells: np.ndarray) -> np.ndarray:
    if isinstance(kind, Number):
        return kind.numbers(cells)
    # Words may be numbers that were told to be words.
    return np.array([str(cell) for cell in cells], object) if isinstance(kind, Word) else cells
