"""Tables in binary files: NumPy's .npy and .npz, and Parquet."""

import io
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.files import open_regular
from ddpm_jax.points.mapped import LIMIT, fault, first_bad, load_all, npy_header, too_large
from ddpm_jax.points.reading import Options, Reading
from ddpm_jax.points.tables import Origin, Table, is_missing


def read_npy(path: Path, options: Options, max_bytes: int) -> tuple[Table, Reading]:
    """The table in a .npy file: numbers [N, D] or [N], or named columns [N]."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            named = npy_header(file, path, size)[0].names
            if named and size > max_bytes:
                raise too_large(path, max_bytes, "of values")
            file.seek(0)
            content = file.read() if named else b""
    except OSError as error:
        remedy = "Check what it is, and its permissions."
        raise fault(path, f"cannot be read ({error})", remedy) from error
    if named:
        return read_bytes(path, content, options, max_bytes)
    points = load_all(path, [path], max_bytes, missing=True)
    return _of_numbers(path, points, options)


def read_npz(path: Path, options: Options, max_bytes: int) -> tuple[Table, Reading]:
    """The table in a .npz file with one array."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) != 1:
                names = ", ".join(m.filename.removesuffix(".npy")[:40] for m in members[:8])
                found = f"{len(members)} arrays ({names})" if members else "no arrays"
                remedy = "Save the one to read alone: np.save(name, array)."
                raise fault(path, found, remedy)
            with archive.open(members[0]) as stream:
                content = stream.read(max_bytes + 2**16)
                if stream.read(1):
                    raise too_large(path, max_bytes, "of values")
    except (
        OSError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise fault(path, f"cannot be read ({error})", "Save it anew with np.savez.") from None
    return read_bytes(path, content, options, max_bytes)


def read_bytes(
    path: Path, content: bytes, options: Options, max_bytes: int
) -> tuple[Table, Reading]:
    """The table in the bytes of a .npy file."""
    dtype, order, shape, start = npy_header(io.BytesIO(content), path, len(content))
    if 8 * int(np.prod(shape)) * len(dtype.names or "1") > max_bytes:
        raise too_large(path, max_bytes, "as float64")
    values = np.frombuffer(content, dtype, offset=start).reshape(shape, order=order)
    if not dtype.names:
        points = values.reshape(len(values), -1)
        return _of_numbers(path, points.astype(np.float64), options)
    if len(values) < 2:
        raise fault(path, "1 row of points", "Give at least two.")
    try:
        table = Table.of(values)
    except (UnicodeDecodeError, ValueError) as error:
        if isinstance(error, DataError):
            raise fault(path, str(error).rstrip("."), "Leave such columns out.") from None
        raise fault(path, f"words that are none ({error})", "Save it anew.") from None
    for name, column in zip(table.labels, table.columns, strict=True):
        if column.dtype == np.float64:
            _check(path, column[:, None], f"{name}, ")
    table = Table(table.columns, table.names, Origin())
    return chosen(path, table, options), Reading()


def read_parquet(path: Path, options: Options, max_bytes: int) -> tuple[Table, Reading]:
    """The table in a Parquet file."""
    import polars as pl

    try:
        lazy = pl.scan_parquet(path)
        names = lazy.collect_schema().names()
        rows = lazy.select(pl.len()).collect().item()
        if 8 * rows * max(len(names), 1) > max_bytes:
            raise too_large(path, max_bytes, "as float64")
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        found = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise fault(path, f"cannot be read ({found})", "Write it anew as Parquet.") from None
    if rows < 2:
        raise fault(path, f"{rows} row(s) of points", "Give at least two.")
    try:
        table = Table.of(frame)
    except ValueError as error:
        raise fault(path, str(error).rstrip("."), "Leave such columns out.") from None
    for name, column in zip(table.labels, table.columns, strict=True):
        if is_missing(column).all():
            raise fault(path, f"no value in {name}", "Leave it out.")
        if column.dtype == np.float64:
            _check(path, column[:, None], f"{name}, ")
    return chosen(path, table, options), Reading()


def _of_numbers(path: Path, points: np.ndarray, options: Options) -> tuple[Table, Reading]:
    if len(points) < 2:
        raise fault(path, "1 row of points", "Give at least two.")
    _check(path, points, "")
    n, d = points.shape
    notes = ()
    if n < d:
        notes = (f"{n} rows of {d} columns: if it lies on its side, save x.T",)
    table = Table(tuple(points[:, i] for i in range(d)))
    return chosen(path, table, options), Reading(notes)


def _check(path: Path, points: np.ndarray, where: str) -> None:
    if (bad := first_bad(points, missing=True)) is not None:
        found = f"{where}row {bad + 1} is {points[bad, :8].tolist()}"
        raise fault(path, found, f"Remove it, or rescale: finite, at most {LIMIT:.0e}.")


def chosen(path: Path, table: Table, options: Options) -> Table:
    """The columns that the options name; ConfigError if there is no such column."""
    try:
        wanted = options.chosen(table.names, len(table.columns))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return table if wanted is None else table.keep(wanted)
