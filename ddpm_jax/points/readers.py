"""Points and tables by the names of their files: read with strict errors, and told apart.

What a file is, its ending says: text (`text`), NumPy's or Parquet (`binary`), or a directory of
.npy shards, which stay on disk (`mapped`). What was understood of it comes back in a few lines, and
`Options` have it read otherwise.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ddpm_jax.points import binary, frames, text
from ddpm_jax.points.mapped import (
    LIMIT,
    NpyFile,
    Points,
    blocks,
    fault,
    load_all,
    map_all,
    shards_of,
)
from ddpm_jax.points.reading import Options, Reading
from ddpm_jax.points.tables import Table, is_missing
from ddpm_jax.settings import listed

__all__ = ["LIMIT", "digest", "load_points", "open_shards", "read"]

_ENDINGS = (
    f"Use {', '.join(text.SUFFIXES)} (also with {', '.join(text.COMPRESSED)} behind), "
    ".parquet, .npy or .npz."
)


def load_points(
    path: str | Path,
    *,
    columns: str | Sequence[str] | None = None,
    decimal: Literal[".", ","] | None = None,
    delimiter: str | None = None,
    header: Literal["none", "first"] | None = None,
    skip_lines: int = 0,
    missing: str | Sequence[str] = (),
    encoding: str | None = None,
    max_bytes: int = 2**30,
) -> Any:
    """Read points [N, D], N ≥ 2, D ≥ 1, from a file: an array, or a DataFrame of named columns.

    - text (.csv, .tsv, .txt, .dat, …): one point a line; by commas, semicolons, tabs, bars or white
      space; with or without names, units, an index, decimal commas; numbers, words, dates, truth
      values; `#` comments. May be compressed (.gz, .bz2, .xz).
    - .parquet; .npy of numbers [N, D] or [N], or of named columns [N]; .npz with one array
    - a directory: every .npy in it, in order of name, one after the other.

    Missing cells are NaN, or null. The DataFrame is one of Polars. The other parameters have a file
    read otherwise than it seems: see `Options`. `max_bytes` bounds the decompressed text, and the
    points as float64; a line, 16 MiB.

    Raises:
        DataError: anything wrong, with the file, the line (of arrays, the row), what was found, and
            the remedy. Numbers must be at most 1e30 in magnitude.
        ConfigError: an option that is none, or a column that is not there.
    """
    chosen, absent = None if columns is None else listed(columns), listed(missing)
    options = Options(chosen, decimal, delimiter, header, skip_lines, absent, encoding)
    return to_data(read(path, options, max_bytes=max_bytes)[0])


def read(
    path: str | Path, options: Options | None = None, *, max_bytes: int = 2**30
) -> tuple[Table, Reading]:
    """The table in a file or a directory, and what was understood of it; as `load_points`."""
    path, options = Path(path), options or Options()
    name, suffix = path.name.lower(), text.suffix_of(path)
    if os.path.isdir(path):
        whole = load_all(path, _only_shards(path), max_bytes)
        table = Table(tuple(whole[:, i] for i in range(whole.shape[1])))
        return binary.chosen(path, table, options), Reading()
    if not os.path.exists(path):
        raise fault(path, "no such file", _ENDINGS)
    if not os.path.isfile(path):
        found = "not a file but a pipe, a device or a socket"
        raise fault(path, found, "Write its points into a .txt, .csv or .npy file.")
    if name.endswith(".npy"):
        return binary.read_npy(path, options, max_bytes)
    if name.endswith(".npz"):
        return binary.read_npz(path, options, max_bytes)
    if name.endswith((".parquet", ".pq")):
        return binary.read_parquet(path, options, max_bytes)
    if suffix:
        return text.read_text(path, options, max_bytes)
    raise fault(path, "unknown kind of file", _ENDINGS)


def to_data(table: Table) -> Any:
    """An array of numbers without names; of all else a DataFrame of Polars, whole ones integers."""
    if table.names is None and all(column.dtype == np.float64 for column in table.columns):
        return table.to_array()
    dtypes = [
        "Int64" if column.dtype == np.float64 and _whole(column) else None
        for column in table.columns
    ]
    names = table.names or tuple(f"column_{i}" for i in range(1, len(table.columns) + 1))
    return frames.write(table.columns, names, "polars", dtypes)


def open_shards(directory: str | Path) -> list[NpyFile]:
    """Every `.npy` of a directory, in order of name, without loading it: `shard[rows]` reads.

    Each is [N_i, D], its dtype as stored. Every value is read once, to check it.

    Raises:
        DataError: as `load_points`; also if the directory has no shards or they differ in D, or
            holds other tables besides.
    """
    return map_all(Path(directory), _only_shards(Path(directory)), sys.maxsize)


def digest(points: Points | Table) -> str:
    """SHA-256 of the shape and the values, by which a run can tell that its data changed.

    A table of numbers has that of its array, whatever their names.
    """
    if isinstance(points, Table) and points.is_plain:
        points = points.to_array()
    if isinstance(points, Table):
        sha = hashlib.sha256(json.dumps([len(points), points.names]).encode())
        for column in points.columns:
            sha.update(_bytes_of(column))
        return sha.hexdigest()
    sha = hashlib.sha256(repr(points.shape).encode())
    for block in blocks(points):
        sha.update(np.ascontiguousarray(block, dtype="<f8").data)
    return sha.hexdigest()


def _bytes_of(column: np.ndarray) -> bytes:
    if column.dtype == object:
        return json.dumps(column.tolist()).encode()
    if column.dtype.kind == "f":
        column = np.where(np.isnan(column), np.nan, column)  # there are many NaN
    if column.dtype.kind == "M":  # a day is the midnight that it begins with
        return b"time" + column.astype("datetime64[us]").view("<i8").tobytes()
    return column.dtype.str.encode() + np.ascontiguousarray(column).tobytes()


def _whole(column: np.ndarray) -> bool:
    there = column[~is_missing(column)]
    return bool((there == np.rint(there)).all() and np.abs(there).max(initial=0) < 2**53)


def _only_shards(directory: Path) -> list[Path]:
    """The shards of a directory that holds no other tables, which would be left out unsaid."""
    shards = shards_of(directory)
    others = sorted(
        path.name
        for path in directory.iterdir()
        if path.name[0] != "."
        and path.is_file()
        and (text.suffix_of(path) or path.name.lower().endswith((".npz", ".parquet", ".pq")))
        and not path.name.lower().startswith(("readme", "license"))
    )
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        found = f"{len(shards)} .npy files, and beside them {', '.join(others[:3])}{more}"
        raise fault(directory, found, "Name the file to read, or keep the shards apart.")
    return shards
