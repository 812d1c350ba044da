"""Columns of a table that a model is told, instead of drawing them: which, and with what values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.points.columns import Columns
from ddpm_jax.points.kinds import Kind, Number, Word
from ddpm_jax.points.scaler import Scaler
from ddpm_jax.points.tables import Table

MOST = 1000
"""Different rows of conditions that are remembered; of more, as many of them, at random."""

Pool = tuple[tuple[float, tuple[float, ...]], ...]
"""How many training rows have each row of codes."""


@dataclass(frozen=True)
class Conditions:
    """The columns at the positions `chosen` are conditions; all others are drawn."""

    columns: Columns
    chosen: tuple[int, ...] = ()

    @staticmethod
    def named(columns: Columns, names: Sequence[str]) -> "Conditions":
        """The conditions of those names, or numbers from 1 where columns have none.

        Raises:
            ConfigError: a name that no column has, or none left to draw; it lists the columns.
        """
        labels = columns.labels
        places = {str(i + 1): i for i in range(len(labels))} | {n: i for i, n in enumerate(labels)}
        for name in names:
            if str(name) not in places:
                raise ConfigError(f"condition: no column {name!r}; there are {', '.join(labels)}")
        chosen = tuple(sorted({places[str(name)] for name in names}))
        if len(chosen) == len(labels):
            raise ConfigError("condition: all columns; leave one to draw")
        return Conditions(columns, chosen)

    @property
    def names(self) -> tuple[str, ...]:
        """What the conditions are called."""
        return tuple(self.columns.labels[i] for i in self.chosen)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many numbers each condition is coded as."""
        return tuple(self.columns.kinds[i].width for i in self.chosen)

    @property
    def dim(self) -> int:
        """How many numbers of a row are drawn."""
        return self.columns.dim - sum(self.widths)

    def encode(self, data: Any) -> Float32[np.ndarray, "n width"]:
        """Codes of a table: those that are drawn, then those of the conditions."""
        return self.columns.encode(data)[..., self._order()]

    def points(self, data: Any) -> Float64[np.ndarray, "n width"]:
        """As `encode`, in float64."""
        # Sums over rows are of other bits where columns, not rows, lie together.
        return np.ascontiguousarray(self.columns.points(data)[..., self._order()])

    def fit_scaler(self, points: Float64[np.ndarray, "n width"]) -> Scaler:
        """What brings these codes to a network's scale; of all but plain numbers, the identity."""
        ordered = [k for i, k in enumerate(self.columns.kinds) if i not in self.chosen]
        ordered += [self.columns.kinds[i] for i in self.chosen]
        plain = np.concatenate([[isinstance(k, Number) and k.is_affine] * k.width for k in ordered])
        if plain.all() and not np.isnan(points).any():
            return Scaler.fit(points)
        shift, scale = np.zeros(len(plain)), np.ones(len(plain))
        for j in np.flatnonzero(plain):
            there = points[~np.isnan(points[:, j]), j]
            alone = Scaler.fit(there[:, None])
            shift[j], scale[j] = alone.shift[0], alone.scale[0]
        return Scaler(tuple(shift.tolist()), tuple(scale.tolist()))

    def log_det(self, data: Any) -> Float64[np.ndarray, " n"]:
        """log |dz/dx| of each row, over the columns that are drawn: see `Columns.log_det`."""
        return self.columns.log_det(data, self.chosen)

    def beside(self, rows: Any, given: Any) -> Table:
        """Whole rows of those that may be without their conditions, and what is given instead.

        Raises:
            DataError: neither all columns nor those that are drawn.
        """
        table, labels = Table.of(rows), self.columns.labels
        drawn = [i for i in range(len(labels)) if i not in self.chosen]
        if len(table.columns) != len(drawn):
            return table
        names = table.names or tuple(labels[i] for i in drawn)
        if set(names) != {labels[i] for i in drawn}:
            raise DataError(
                f"a table of {', '.join(names)}, where {', '.join(labels)} are expected."
            )
        there = dict(zip(names, table.columns, strict=True))
        cells = self.given(given, len(table))[1]
        cells |= {i: there[labels[i]] for i in drawn}
        for i in self.chosen:
            cells.setdefault(i, self.columns.kinds[i].nothing(len(table)))
        return Table(tuple(cells[i] for i in range(len(labels))), self.columns.names)

    def decode(self, z: Float[np.ndarray, "n d"], given: Float[np.ndarray, "n c"]) -> Table:
        """The table of codes of both."""
        both = np.empty((len(z), self.columns.dim))
        both[:, self._order()] = np.concatenate([z, given], axis=1)
        return self.columns.decode(both)

    def pool(self, codes: Float[np.ndarray, "n width"], seed: int = 0) -> Pool:
        """How often each whole row of conditions stands in the encoded rows of a table."""
        given = codes[:, self.dim :]
        given = given[~np.isnan(given).any(axis=1)]
        if not len(given):
            raise DataError(f"{', '.join(self.names)}: in every row one of them is missing.")
        rows, counts = np.unique(given, axis=0, return_counts=True)
        if len(rows) > MOST:
            kept = np.random.default_rng(seed).choice(len(rows), MOST, replace=False)
            rows, counts = rows[kept], counts[kept]
        return tuple(
            (float(count), tuple(row)) for count, row in zip(counts, rows.tolist(), strict=True)
        )

    def given(
        self, values: Any, count: int
    ) -> tuple[Float32[np.ndarray, "{count} c"], dict[int, np.ndarray]]:
        """Codes of what is given to each of `count` rows, NaN where nothing is, and the cells.

        `values` has a value or `count` values for the names of some conditions, or is a DataFrame.

        Raises:
            ConfigError: a name that is no condition, or another number of values than `count`.
            DataError: a word never seen; it lists those that were.
        """
        if values is not None and not isinstance(values, Mapping):
            table = Table.of(values)
            if table.names is None:
                raise ConfigError("given: without names; give a dict or a DataFrame")
            values = dict(zip(table.names, table.columns, strict=True))
        codes = np.full((count, sum(self.widths)), np.nan, np.float32)
        cells: dict[int, np.ndarray] = {}
        ends = np.cumsum(self.widths)
        for name, value in (values or {}).items():
            place = self._place(name)
            j = self.chosen.index(place)
            column = _column(name, value, count)
            try:
                coded = self.columns.kinds[place].encode(column)
            except (DataError, ValueError) as error:
                raise DataError(f"given, {name}: {error}") from None
            codes[:, ends[j] - self.widths[j] : ends[j]] = coded
            cells[place] = column
        return codes, cells

    def parse(self, assignments: Sequence[str]) -> dict[str, Any]:
        """What `COLUMN=VALUE` on a command line gives, each VALUE as its column has them.

        Raises:
            ConfigError: no condition of that name, or no such number or date.
        """
        values: dict[str, Any] = {}
        for text in assignments:
            name, _, value = text.partition("=")
            self._place(name)
            if name in values or "=" not in text:
                raise ConfigError(f"given={text!r}: give each condition once, as COLUMN=VALUE")
            values[name] = _parsed(self.columns.kinds[self._place(name)], name, value)
        return values

    def _place(self, name: str) -> int:
        for place in self.chosen:
            if str(name) in (self.columns.labels[place], str(place + 1)):
                return place
        told = ", ".join(self.names) or "none"
        raise ConfigError(f"given: {name!r} is no condition of this model; those are {told}")

    @property
    def places(self) -> tuple[np.ndarray, ...]:
        """Where among a row's codes those of each column stand."""
        order = np.argsort(self._order())
        return tuple(order[part] for part in self.columns.slices)

    def _order(self) -> np.ndarray:
        """Places of the codes that are drawn, then of the conditions'."""
        places = [np.arange(part.start, part.stop) for part in self.columns.slices]
        drawn = [p for i, p in enumerate(places) if i not in self.chosen]
        return np.concatenate(drawn + [places[i] for i in self.chosen])


class Filling:
    """Completes rows of conditions from a pool of those that training rows had."""

    def __init__(self, pool: Pool) -> None:
        self.counts, self.rows = (np.array(part, np.float32) for part in zip(*pool, strict=True))
        self.width = self.rows.shape[1]

    def __call__(
        self, given: Float[np.ndarray, "n c"], rng: np.random.Generator
    ) -> Float32[np.ndarray, "n c"]:
        """Codes with what is not given drawn: a row of the pool's that agrees in what is given.

        Where none agrees, as with numbers that no row had, any row of the pool. Each row is drawn
        by a number of its own: fewer rows are the first of more.
        """
        filled, place = np.array(given, np.float32), rng.random(len(given))
        patterns, which = np.unique(filled, axis=0, return_inverse=True, equal_nan=True)
        for k, pattern in enumerate(patterns):
            known = ~np.isnan(pattern)
            agree = (self.rows[:, known] == pattern[known]).all(axis=1)
            shares = np.cumsum(self.counts * agree if agree.any() else self.counts, dtype=float)
            mine = np.flatnonzero(which.reshape(-1) == k)
            at = np.searchsorted(shares, place[mine] * shares[-1], side="right")
            filled[mine] = np.where(known[None], pattern, self.rows[at])
        return filled


def _parsed(kind: Kind, name: str, value: str) -> Any:
    """The cell that a text stands for; a word never seen is left to `given` to refuse."""
    if isinstance(kind, Word):
        return next((level for level in kind.levels if _as_text(level) == value), value)
    try:
        return float(value) if kind.unit is None else np.datetime64(value, kind.unit)
    except ValueError:
        what = "number" if kind.unit is None else "date"
        raise ConfigError(f"given: {name} takes a {what}, and {value!r} is none") from None


def _as_text(level: str | bool | float) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


def _column(name: str, value: Any, count: int) -> np.ndarray:
    """`count` cells of a column: numbers as they are, all else as objects."""
    cells = np.asarray(value)
    if cells.ndim == 0:
        cells = np.broadcast_to(cells, (count,))
    if cells.shape != (count,):
        raise ConfigError(f"given: {len(cells)} values of {name!r} for {count} rows")
    if cells.dtype.kind in "iuf":
        return cells.astype(np.float64)
    return cells.copy() if cells.dtype.kind in "bM" else cells.astype(object)
