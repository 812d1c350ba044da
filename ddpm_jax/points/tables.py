"""A table in memory: columns of numbers, words, truth values or dates, and what it came as.

An array or a DataFrame of any library becomes a `Table`, and a `Table` becomes that again, with its
names, order and dtypes. Missing cells are NaN, NaT or None.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ddpm_jax.errors import DataError
from ddpm_jax.points import frames
from ddpm_jax.points.mapped import shape_remedy


@dataclass(frozen=True)
class Origin:
    """What a table came as: a library of DataFrames or "array", and the dtype of each column."""

    library: str = "array"
    dtypes: tuple[Any, ...] = ()
    labels: tuple[str | int, ...] = ()
    flat: bool = False
    """Whether it was an array [N], not [N, 1]."""


@dataclass(frozen=True, eq=False)
class Table:
    """N rows of named or unnamed columns, each an array [N] of one of four dtypes.

    - float64: numbers, NaN where missing
    - object: words (str; bool or float if they were told to be words), None where missing
    - bool: truth values, none missing (with missing ones they are words)
    - datetime64: dates and times, NaT where missing
    """

    columns: tuple[np.ndarray, ...]
    names: tuple[str, ...] | None = None
    origin: Origin = field(default=Origin())

    def __post_init__(self):
        if not self.columns:
            raise DataError("a table needs at least one column.")
        if len({len(column) for column in self.columns}) > 1:
            raise DataError("the columns of a table must have the same number of rows.")
        if self.names is not None:
            if len(self.names) != len(self.columns):
                raise DataError(f"{len(self.names)} names for {len(self.columns)} columns.")
            for i, name in enumerate(self.names):
                if name in self.names[:i]:
                    raise DataError(f"two columns named {name!r}: give each a name of its own.")

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def labels(self) -> tuple[str, ...]:
        """How to speak of each column: its name, or `column 1` and so on."""
        return self.names or tuple(f"column {i}" for i in range(1, len(self.columns) + 1))

    @property
    def missing(self) -> Bool[np.ndarray, "n columns"]:
        """Which cells are missing."""
        return np.stack([is_missing(column) for column in self.columns], axis=1)

    @property
    def is_plain(self) -> bool:
        """Whether every cell is a number, and none is missing: an array would do."""
        return all(c.dtype == np.float64 and not np.isnan(c).any() for c in self.columns)

    @classmethod
    def of(cls, data: Any) -> "Table":
        """The table in an array [N, D] or [N], a structured array [N], or a DataFrame.

        DataFrames are those of any library that narwhals knows, such as pandas, Polars and PyArrow.

        Raises:
            DataError: neither of these, no rows or columns, an infinite value, or a column that is
                neither numbers nor words, truth values, dates or times; it names the column.
        """
        if isinstance(data, Table):
            return data
        if (frame := frames.of(data)) is not None:
            columns, names, library, dtypes, labels = frames.read(frame)
            table = cls(columns, names, Origin(library, dtypes, labels))
        else:
            table = _of_array(np.asarray(data))
        if not len(table):
            raise DataError("a table needs at least one row.")
        for label, column in zip(table.labels, table.columns, strict=True):
            if column.dtype == np.float64 and np.isinf(column).any():
                row = int(np.isinf(column).argmax()) + 1
                raise DataError(f"{label}, row {row}: infinite. Give finite numbers, or NaN.")
        return table

    def take(self, rows: np.ndarray | slice) -> "Table":
        """Those rows, in that order."""
        return Table(tuple(column[rows] for column in self.columns), self.names, self.origin)

    def keep(self, columns: Sequence[int]) -> "Table":
        """Those columns, by position, in that order."""
        origin = Origin(
            self.origin.library,
            tuple(self.origin.dtypes[i] for i in columns) if self.origin.dtypes else (),
            tuple(self.origin.labels[i] for i in columns) if self.origin.labels else (),
        )
        names = None if self.names is None else tuple(self.names[i] for i in columns)
        return Table(tuple(self.columns[i] for i in columns), names, origin)

    def to_array(self) -> Float64[np.ndarray, "n columns"]:
        """The numbers [N, D]; truth values are 0 and 1.

        Raises:
            DataError: a column holds words or dates.
        """
        for label, column in zip(self.labels, self.columns, strict=True):
            if column.dtype.kind not in "fb":
                what = "dates" if column.dtype.kind == "M" else "words"
                raise DataError(f"{label} holds {what}, not numbers.")
        return np.stack([column.astype(np.float64) for column in self.columns], axis=1)

    def to_npy(self) -> np.ndarray:
        """As a .npy file holds it without pickles: [N, D], or records where not all are numbers."""
        if all(column.dtype.kind in "fb" for column in self.columns):
            return np.ascontiguousarray(self.to_array())  # in one order, whatever the columns' is
        cells = [
            np.array(["" if cell is None else str(cell) for cell in column])
            if column.dtype == object
            else column
            for column in self.columns
        ]
        names = self.names or tuple(f"column_{i}" for i in range(1, len(cells) + 1))
        found = np.empty(len(self), [(n, c.dtype) for n, c in zip(names, cells, strict=True)])
        for name, column in zip(names, cells, strict=True):
            found[name] = column
        return found

    def to_data(self) -> Any:
        """The table as it came: an array, or a DataFrame of its library, names and dtypes."""
        if self.origin.library != "array":
            names = self.names or self.labels
            origin = self.origin
            return frames.write(self.columns, names, origin.library, origin.dtypes, origin.labels)
        dtypes = [np.dtype(dtype) for dtype in self.origin.dtypes or ["float64"]]
        columns = [_as(c, t) for c, t in zip(self.columns, _each(dtypes, self), strict=True)]
        if self.names is not None:  # a structured array
            pairs = list(zip(self.names, (column.dtype for column in columns), strict=True))
            found = np.empty(len(self), np.dtype(pairs))
            for name, column in zip(self.names, columns, strict=True):
                found[name] = column
            return found
        return columns[0] if self.origin.flat else np.stack(columns, axis=1)


def is_missing(column: np.ndarray) -> Bool[np.ndarray, " n"]:
    """Where a column's cells are NaN, NaT or None."""
    if column.dtype == object:
        return np.array([cell is None for cell in column], bool)
    if column.dtype.kind == "M":
        return np.isnat(column)
    return np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), bool)


def _of_array(array: np.ndarray) -> Table:
    if array.dtype.names and array.ndim == 1:
        names = array.dtype.names
        columns = tuple(_plain(array[name], name) for name in names)
        dtypes = tuple(array.dtype[name].str for name in names)
        return Table(columns, names, Origin("array", dtypes))
    if array.ndim not in (1, 2) or array.size == 0:
        raise DataError(f"an array of shape {array.shape}. {shape_remedy(array.shape)}")
    dtypes = (array.dtype.str,)
    matrix = array.reshape(len(array), -1)
    columns = tuple(_plain(matrix[:, i], f"column {i + 1}") for i in range(matrix.shape[1]))
    return Table(columns, None, Origin("array", dtypes, flat=array.ndim == 1))


def _plain(column: np.ndarray, label: str) -> np.ndarray:
    if column.ndim == 1 and column.dtype.kind in "iuf":
        return column.astype(np.float64)
    if column.ndim == 1 and column.dtype.kind in "bM":
        return column.copy()
    if column.ndim == 1 and column.dtype.kind in "UO":
        return frames.words(column.tolist(), label)
    raise DataError(f"{label}: dtype {column.dtype}. Give numbers, words, truth values or dates.")


def _each(dtypes: list[np.dtype], table: Table) -> list[np.dtype]:
    return dtypes if len(dtypes) == len(table.columns) else dtypes * len(table.columns)


def _as(column: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind in "iu" and column.dtype.kind == "f":
        if np.isnan(column).any():
            return column  # integers have no NaN
        ends = np.iinfo(dtype)
        column = np.clip(np.rint(column), float(ends.min), float(ends.max))
    return column.astype(dtype.newbyteorder("="))
