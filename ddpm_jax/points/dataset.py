"""What a model is fitted to: the numbers of a table, and how its cells became them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ddpm_jax.errors import DataError
from ddpm_jax.points import columns, frames, readers, sources
from ddpm_jax.points.columns import Columns
from ddpm_jax.points.conditions import Conditions
from ddpm_jax.points.mapped import LIMIT, MappedPoints, Points, shape_remedy
from ddpm_jax.points.reading import Options, phrase
from ddpm_jax.points.tables import Table

IN_MEMORY = {"array": "(array)", "frame": "(DataFrame)", "table": "(table)", "disk": "(shards)"}
"""What the data are called that have no name."""
MAX_COLUMNS = 4096
"""50 rows of so many take 160 s and 2.5 GB, on two cores; more are refused."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Points [N, D], NaN where a cell is missing, their name, and of a table what they stand for.

    Points that stay on disk are as they are: `told` is None.
    """

    points: Points
    name: str
    digest: str
    told: Conditions | None = None
    notes: tuple[str, ...] = ()
    """What was understood of the data, in short lines; options as in `reading.phrase`."""
    held_out: Float64[np.ndarray, "m d"] | None = None
    """Rows to be held out, if they are other data."""

    @staticmethod
    def of(
        data: Any,
        options: Options | None = None,
        condition: Sequence[str] = (),
        held_out: Any = None,
    ) -> "Dataset":
        """The data by a name, from a file, a DataFrame or an array; a Dataset as it is.

        Raises:
            DataError: what cannot be read, fewer than two rows, more than `MAX_COLUMNS` columns, a
                column that is of no kind.
            ConfigError: an option that is none, or a condition that is no column.
        """
        if isinstance(data, Dataset):
            return data
        options = options or Options()
        name, found, notes = _found(data, options)
        width = len(found.columns) if isinstance(found, Table) else found.shape[1]
        if width > MAX_COLUMNS:
            raise DataError(
                f"{name}: {width:,} columns, and at most {MAX_COLUMNS:,} can be learnt together. "
                "Choose some of them, or reduce them first, to principal components say."
            )
        if isinstance(data, np.ndarray | list | tuple) and isinstance(found, Table):
            _warn_of_gaps(found)
        if not isinstance(found, Table):
            if condition:
                raise DataError(f"{name}: points on disk have no columns to be conditions.")
            others = None if held_out is None else checked(held_out)
            return Dataset(found, name, readers.digest(found), held_out=others)
        if len(found) < 2:
            raise DataError(f"{name}: 1 row of points. Give at least two.")
        try:
            fitted = Columns.fit(found, options.told).unscaled()
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        told = Conditions.named(fitted, condition)
        notes = tuple(columns.lines(fitted, len(found)))[1:] + notes
        others = None if held_out is None else told.points(held_out)
        return Dataset(told.points(found), name, readers.digest(found), told, notes, others)

    def __len__(self) -> int:
        return len(self.points)

    def lines(self, *, flags: bool = False) -> list[str]:
        """What was understood; options are named as parameters, or as flags of a command."""
        return [phrase(note, flags=flags) for note in self.notes]


def table_of(data: Any, options: Options | None = None) -> Table | Points:
    """The table in a file, a DataFrame or an array; points that stay on disk as they are."""
    return _found(data, options or Options())[1]


def checked(rows: Any) -> Float64[np.ndarray, "n d"]:
    """Rows [n, D], or [n] for D = 1, as float64; DataError unless all are finite numbers or NaN."""
    try:
        points = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"data: not an array of numbers ({error})") from error
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim != 2 or not points.size:
        raise DataError(f"data of shape {points.shape}: {shape_remedy(points.shape)}")
    bad = ~((np.abs(points) <= LIMIT) | np.isnan(points)).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"data, row {row}: {points[row, :8].tolist()}. Values must be finite")
    return points


def _found(data: Any, options: Options) -> tuple[str, Table | Points, tuple[str, ...]]:
    if isinstance(data, str | Path):
        return str(data), *_of_file(data, options)
    if isinstance(data, MappedPoints):
        return IN_MEMORY["disk"], data, ()
    if isinstance(data, Table):
        return IN_MEMORY["table"], data, ()
    if frames.of(data) is not None:
        return IN_MEMORY["frame"], Table.of(data), ()
    array = np.asarray(data) if _has_kinds(data) else checked(data)
    return IN_MEMORY["array"], Table.of(array), ()


def _has_kinds(data: Any) -> bool:
    """Whether an array may hold more than numbers that must be checked: names, words, dates."""
    dtype = getattr(data, "dtype", None)
    return isinstance(dtype, np.dtype) and (dtype.names is not None or dtype.kind in "bMOUiuf")


def _of_file(name: str | Path, options: Options) -> tuple[Table | Points, tuple[str, ...]]:
    if str(name) in (*sources.SHIPPED, *sources.TOYS) or not Path(name).is_file():
        found = sources.load(name)
        return (Table.of(found) if isinstance(found, np.ndarray) else found), ()
    table, reading = readers.read(name, options)
    # As `load_points` has it, so that a model gives what that gives: a DataFrame of named columns.
    return Table.of(readers.to_data(table)), reading.notes


def _warn_of_gaps(table: Table) -> None:
    if gaps := int(table.missing.sum()):
        warnings.warn(
            f"data: {gaps:,} cells are NaN, and taken for missing: the model learns from the rest "
            "of their rows. Leave these rows out if they are something else",
            stacklevel=4,
        )
