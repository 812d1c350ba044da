"""Points that stay on disk: the .npy files of a directory as one array, rows read on demand."""

import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int, Num

from ddpm_jax.errors import DataError
from ddpm_jax.files import open_regular

LIMIT = 1e30
"""The largest magnitude accepted in a file: float32 ends at 3.4e38, and scaling needs room."""

BLOCK_VALUES = 2**21
"""Values read at a time where all are: 16 MiB as float64."""

_NPY_HEADER = re.compile(
    r"\{ *'descr': *('[^']*'|\[.*\]), *'fortran_order': *(True|False), *"
    r"'shape': *(\(.*\)) *,? *\}[ \n]*"
)
_NPY_DTYPE = re.compile(r"[<>=|]?([iu][1248]|f[248])")
_NPY_KIND = r"[<>=|]?(?:[iu][1248]|f[248]|b1|U\d{1,4}|M8\[(?:D|h|m|s|ms|us|ns)\])"
_NPY_FIELD = re.compile(rf"\('((?:[^'\\]|\\[^\n])+)', *'({_NPY_KIND})'\)")
_NPY_FIELDS = re.compile(rf"\[{_NPY_FIELD.pattern}(, *{_NPY_FIELD.pattern})*,?\]")
_NPY_SHAPE = re.compile(r"\((\d{1,18}),(?: *(\d{1,18})(?:, *(\d{1,18})(?:, *(\d{1,18}))?)?,?)? *\)")


@dataclass(frozen=True)
class NpyFile:
    """Points [N, D] in a .npy file, its dtype as stored, of which rows are read on demand.

    It is open only while rows are read, so that there may be more files than a process may open.
    Reading raises DataError where the file is no longer the one that was checked. One that is cut
    short in the very moment in which its pages are read ends the process (SIGBUS): no program that
    maps files can prevent that.
    """

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype
    order: Literal["C", "F"]
    start: int
    stamp: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Numbers in it."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, rows: slice | Int[np.ndarray, "n"]) -> Num[np.ndarray, "n d"]:
        """Those rows, as an array in memory."""
        try:
            with open_regular(self.path) as file:
                if _stamp(file) != self.stamp:
                    found = "it was changed while it was in use"
                    raise fault(self.path, found, "Put it back as it was, or start anew with it.")
                mapped = np.memmap(file, self.dtype, "r", self.start, self.shape, self.order)
                return np.array(mapped[rows])
        except OSError as error:
            raise fault(self.path, f"cannot be read ({error})", "Put it back.") from error


def _stamp(file: io.BufferedIOBase) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


class MappedPoints:
    """Points [N, D] in arrays [N_i, D], such as files; what is indexed becomes float64."""

    def __init__(self, shards: Sequence[NpyFile | Num[np.ndarray, "_ d"]]) -> None:
        self.shards = shards
        self.starts = np.cumsum([0, *map(len, shards)])
        self.shape = int(self.starts[-1]), shards[0].shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Int[np.ndarray, "*batch"]) -> Float64[np.ndarray, "*batch d"]:
        """The points of those rows, read in the order in which they lie on the disk."""
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}")
        found = np.empty((rows.size, self.shape[1]))
        order = np.argsort(rows, axis=None, kind="stable")
        wanted = rows.ravel()[order]
        bounds = np.searchsorted(wanted, self.starts)
        for shard, first, begin, end in zip(
            self.shards, self.starts[:-1], bounds[:-1], bounds[1:], strict=True
        ):
            if end > begin:
                found[order[begin:end]] = shard[wanted[begin:end] - first]
        return found.reshape(*rows.shape, self.shape[1])

    def some(self, count: int) -> Float64[np.ndarray, "n d"]:
        """All points, or `count` of them that are spread evenly over the rows."""
        count = min(count, len(self))
        return self[np.arange(count) * len(self) // count]


class ChosenRows(MappedPoints):
    """Some rows of points that stay on disk, in the order given."""

    def __init__(self, points: MappedPoints, rows: Int[np.ndarray, "n"]) -> None:
        self.points, self.rows = points, rows
        self.shape = len(rows), points.shape[1]

    def __getitem__(self, rows: Int[np.ndarray, "*batch"]) -> Float64[np.ndarray, "*batch d"]:
        """The points of those of the chosen rows."""
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}")
        return self.points[self.rows[rows]]


Points = Num[np.ndarray, "n d"] | MappedPoints


def blocks(points: Points | NpyFile) -> Iterator[np.ndarray]:
    """All points in order, a bounded number at a time."""
    size = max(BLOCK_VALUES // points.shape[1], 1)
    for start in range(0, len(points), size):
        end = min(start + size, len(points))
        mapped = isinstance(points, MappedPoints)
        yield points[np.arange(start, end)] if mapped else points[start:end]


def fault(path: Path, found: str, remedy: str, line: int | None = None) -> DataError:
    """The error that names the file, the line, what was found and what would be right."""
    where = f"{path}, line {line}" if line else f"{path}"
    return DataError(f"{where}: {found}. {remedy}")


def too_large(path: Path, max_bytes: int, of: str) -> DataError:
    """The error for a file beyond the limit."""
    remedy = "Raise max_bytes, or give a directory of .npy shards, which stay on disk."
    return fault(path, f"more than {max_bytes:,} bytes {of}", remedy)


def first_bad(points: np.ndarray | NpyFile, *, missing: bool = False) -> int | None:
    """The first row that is not finite or beyond LIMIT; NaN will do where it means `missing`."""
    start = 0
    for block in blocks(points):
        values = block.astype(np.float64)
        good = np.abs(values) <= LIMIT
        if missing:
            good |= np.isnan(values)
        if not good.all():
            return start + int(good.all(axis=1).argmin())
        start += len(block)
    return None


def shards_of(directory: Path) -> list[Path]:
    """Every .npy of a directory, in order of name."""
    # Names with a dot in front are of files that are still being written, or of another program.
    shards = sorted(path for path in directory.glob("*.npy") if path.name[0] != ".")
    if not shards:
        raise fault(directory, "no directory with .npy files", "Put the shards there as .npy.")
    return shards


def map_all(
    source: Path, paths: list[Path], max_bytes: int, *, missing: bool = False
) -> list[NpyFile]:
    """The files, all of D columns, after every value was read once to check it."""
    found = [_npy_file(path) for path in paths]
    for file in found:
        if file.shape[1] != found[0].shape[1]:
            columns = f"{file.shape[1]} columns where {paths[0].name} has {found[0].shape[1]}"
            raise fault(file.path, columns, "Give all shards the same columns.")
    if sum(map(len, found)) < 2:
        raise fault(source, "1 row of points", "Give at least two.")
    if 8 * sum(file.size for file in found) > max_bytes:
        raise too_large(source, max_bytes, "as float64")
    for file in found:
        if (bad := first_bad(file, missing=missing)) is not None:
            row = f"row {bad + 1} is {file[bad : bad + 1][0, :8].tolist()}"
            raise fault(file.path, row, "Remove it, or rescale: finite, at most 1e30.")
    return found


def load_all(
    source: Path, paths: list[Path], max_bytes: int, *, missing: bool = False
) -> Float64[np.ndarray, "n d"]:
    """The points of the files, one after the other, in memory; checked as `map_all` does."""
    points = MappedPoints(map_all(source, paths, max_bytes, missing=missing))
    whole = np.empty(points.shape)
    for shard, start in zip(points.shards, points.starts, strict=False):
        whole[start : start + len(shard)] = shard[:]
    return whole


def shape_remedy(shape: Sequence[int]) -> str:
    """How to make an array of another shape one of points."""
    if len(shape) > 2 and math.prod(shape):
        rows = math.prod(shape[:-1])
        return (
            f"Make it [N, D], a point a row: x.reshape(-1, {shape[-1]}) gives {rows} points of "
            f"{shape[-1]} values, x.reshape(len(x), -1) {shape[0]} of {math.prod(shape[1:])}."
        )
    return "Make it [N, D], a point a row, or [N]."


def npy_header(
    file: io.BufferedIOBase, path: Path, size: int
) -> tuple[np.dtype, Literal["C", "F"], tuple[int, ...], int]:
    """The dtype, order, shape and start of the values of a .npy of `size` bytes.

    The header is matched, not evaluated, and nothing is allocated on its word alone.

    Raises:
        DataError: not such a file, or not one of numbers, [N] or [N, D], or named columns [N].
    """
    remedy = "Save an [N, D] array of floats or integers with np.save."
    magic = file.read(8)
    length = int.from_bytes(file.read(2 if magic[6:7] == b"\x01" else 4), "little")
    header, start = file.read(min(length, 2**16)).decode("latin-1"), file.tell()
    fields = _NPY_HEADER.fullmatch(header)
    if not re.fullmatch(rb"\x93NUMPY[\1-\3]\0", magic) or not fields:
        raise fault(path, "not a NumPy file", remedy)
    order, shape = "F" if fields[2] == "True" else "C", fields[3]
    name = fields[1].strip("'")
    named = _NPY_FIELD.findall(name) if _NPY_FIELDS.fullmatch(name) else []
    if not (_NPY_DTYPE.fullmatch(name) or named):
        raise fault(path, f"dtype {name[:40]}", remedy)
    try:
        dtype = np.dtype([(field, kind) for field, kind in named]) if named else np.dtype(name)
    except ValueError:  # one name twice
        raise fault(path, f"dtype {name[:40]}", remedy) from None
    match = _NPY_SHAPE.fullmatch(shape)
    sizes = tuple(int(n) for n in match.groups() if n) if match else ()
    if not 0 < len(sizes) <= (1 if named else 2) or not math.prod(sizes):
        if match and math.prod(sizes):
            remedy = f"{remedy} {shape_remedy(sizes)}"
        raise fault(path, f"shape {shape[:40]}", remedy)
    promised = start + math.prod(sizes) * dtype.itemsize
    if promised != size:
        raise fault(path, f"{size} bytes, where its header needs {promised}", remedy)
    return dtype, order, sizes, start


def _npy_file(path: Path) -> NpyFile:
    try:
        with open_regular(path) as file:
            stamp = _stamp(file)
            dtype, order, shape, start = npy_header(file, path, stamp[0])
    except OSError as error:
        remedy = "Check what it is, and its permissions."
        raise fault(path, f"cannot be read ({error})", remedy) from error
    if dtype.names:
        raise fault(path, f"dtype {str(dtype)[:40]}", "Save shards as [N, D] with np.save.")
    return NpyFile(path, (shape[0], shape[1] if len(shape) > 1 else 1), dtype, order, start, stamp)
