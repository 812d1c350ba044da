"""Points by name: what ships with the package, toy distributions, or files of the user's."""

import os
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.errors import DataError
from ddpm_jax.points import readers
from ddpm_jax.points.mapped import MappedPoints, Points
from ddpm_jax.points.tables import Table
from ddpm_jax.points.toys import TOYS, toy

SHIPPED = {"bicycle": "bicycle.txt.gz"}
SHOWN_VALUES = 2**19
"""Of data that stay on disk, as many numbers, a quarter of a million points of the plane, are shown
and measured, and make the ideal denoiser."""


def load(name: str | Path) -> Points:
    """The points of a shipped data set, of a toy distribution, or of a file or directory.

    The points of a toy distribution are always the same. Those of a directory stay on disk: see
    `MappedPoints`. `./dino` is a file. Raises DataError for what cannot be read.
    """
    if str(name) in SHIPPED:
        packed = resources.files("ddpm_jax.points").joinpath(SHIPPED[str(name)])
        with resources.as_file(packed) as path:
            return readers.load_points(path)
    if str(name) in TOYS:
        return toy(str(name), seed=0)
    if not is_there(name):
        known = ", ".join([*SHIPPED, *TOYS])
        raise DataError(f"{str(name)!r}: neither a file nor one of the names {known}.")
    if os.path.isdir(name):
        return MappedPoints(readers.open_shards(name))
    return numbers(readers.read(name)[0], str(name))


def is_there(name: str | Path) -> bool:
    """Whether it names data that ship, or a file or directory that exists."""
    return str(name) in (*SHIPPED, *TOYS) or os.path.exists(name)


def load_points(name: str | Path, **options: Any) -> Any:
    """Points by the name of a data set that ships, or from a file or directory, in memory.

    An array [N, D], or a DataFrame of Polars where columns have names; `options` have a file read
    otherwise than it seems: see `readers.load_points`. Raises DataError, which names the file, the
    line and the remedy, for what cannot be read.
    """
    if str(name) in SHIPPED or str(name) in TOYS:
        return load(name)
    return readers.load_points(name, **options)


def numbers(table: Table, where: str) -> np.ndarray:
    """The table as points; DataError where it is not numbers only, and all of them there."""
    try:
        found = table.to_array()
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if np.isnan(found).any():
        column = table.labels[int(np.isnan(found).any(axis=0).argmax())]
        raise DataError(f"{where}: cells of {column} are missing.")
    return found


def in_memory(points: Points, most: int = sys.maxsize) -> np.ndarray:
    """Points that are in memory as they are; of those on disk, `most` at most."""
    return points if isinstance(points, np.ndarray) else points.some(most)


def shown(points: Points) -> np.ndarray:
    """The points to show and measure: all in memory, and as many on disk as is reasonable."""
    return in_memory(points, max(SHOWN_VALUES // points.shape[1], 2))
