"""A run's rows as pictures and the page show them: columns by name, in their units, and words."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator

from ddpm_jax.figures.plotting import Axis, Words
from ddpm_jax.points.kinds import Kind, Number, Word
from ddpm_jax.runs.record import Run

Scaled = Float[np.ndarray, "_ d"]


@dataclass(frozen=True)
class View:
    """What is shown of rows in the network's coordinates."""

    run: Run
    places: tuple[int, ...] | None
    """The columns of numbers among the coordinates; None: all are points of the plane, or more."""
    axes: tuple[Axis, ...] | None
    """Of each of them its name, and ticks in its units."""

    @staticmethod
    def of(run: Run) -> "View":
        """Of points without names, the coordinates themselves."""
        told = run.told
        if told is None or (
            told.columns.names is None and told.columns.dim == len(told.columns.kinds)
        ):
            return View(run, None, None)
        parts = zip(told.columns.labels, told.columns.kinds, told.places, strict=True)
        numbers = [(n, k, int(at[0])) for n, k, at in parts if isinstance(k, Number)]
        if not numbers:
            return View(run, None, None)
        return View(run, tuple(at for *_, at in numbers), tuple(_axis(run, *x) for x in numbers))

    def __call__(self, scaled: Scaled) -> Float[np.ndarray, "_ c"]:
        """The coordinates of the columns of numbers."""
        return scaled if self.places is None else scaled[:, list(self.places)]

    def words(self, data: Scaled, samples: Scaled) -> Words:
        """How often each word occurs in both, by column; the most frequent words of many."""
        if self.run.columns is None:
            return {}
        tables, found = [self.run.table_of(x) for x in (data, samples)], {}
        columns = self.run.columns
        for i, (label, kind) in enumerate(zip(columns.labels, columns.kinds, strict=True)):
            if isinstance(kind, Word):
                shares = [_shares(kind, table.columns[i]) for table in tables]
                most = np.sort(np.argsort(-shares[0], kind="stable")[:12])
                levels = [str(kind.levels[k]) for k in most]
                found[label] = levels, shares[0][most], shares[1][most]
        return found

    def readable(self, scaled: Scaled) -> Float[np.ndarray, "_ c"]:
        """The columns as numbers: as they were, dates as days or seconds, words as their places."""
        if self.run.columns is None:
            return self.run.scaler.invert(scaled)
        columns, kinds = self.run.table_of(scaled).columns, self.run.columns.kinds
        return np.stack([_as_numbers(k, c) for k, c in zip(kinds, columns, strict=True)], axis=1)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the columns, where they have any."""
        return None if self.run.columns is None else self.run.columns.names

    @property
    def levels(self) -> dict[int, list[str]]:
        """The words of each column of words."""
        if self.run.columns is None:
            return {}
        kinds = enumerate(self.run.columns.kinds)
        return {i: [str(x) for x in kind.levels] for i, kind in kinds if isinstance(kind, Word)}


def _axis(run: Run, name: str, kind: Number, place: int) -> Axis:
    ticks = MaxNLocator(4).tick_values(kind.low, kind.high)
    inside = [x for x in ticks if kind.low <= x <= kind.high] or [kind.low]
    column = np.array(inside)
    if kind.unit is not None:
        column = np.rint(column).astype(np.int64).view(f"datetime64[{kind.unit}]")
    scaler = run.scaler
    codes = kind.encode(column)[:, 0]
    scale = scaler.scale[place] or 1.0
    labels = [str(x) if kind.unit is not None else f"{x:g}" for x in column.tolist()]
    return Axis(name, ((codes - scaler.shift[place]) / scale).tolist(), labels)


def _shares(kind: Word, column: np.ndarray) -> Float[np.ndarray, " k"]:
    return np.array([np.mean([cell == level for cell in column]) for level in kind.levels])


def _as_numbers(kind: Kind, column: np.ndarray) -> Float[np.ndarray, " n"]:
    if isinstance(kind, Word):
        place = {level: float(i) for i, level in enumerate(kind.levels)}
        return np.array([place.get(cell, np.nan) for cell in column.tolist()])
    return kind.numbers(column) if isinstance(kind, Number) else column.astype(np.float64)
