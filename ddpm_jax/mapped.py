"""Points that stay on disk: the .npy files of a directory as one array, rows read on demand."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int, Num

from ddpm_jax.errors import DataError

LIMIT = 1e30
"""The largest magnitude accepted in a file: float32 ends at 3.4e38, and scaling needs room."""

BLOCK_VALUES = 2**21
"""Values read at a time where all are: 16 MiB as float64."""

_NPY_HEADER = re.compile(
    r"\{ *'descr': *('[^']*'|\[.*\]), *'fortran_order': *(True|False), *"
    r"'shape': *(\(.*\)) *,? *\}[ \n]*"
)
_NPY_DTYPE = re.compile(r"[<>=|]?([iu][1248]|f[248])")
_NPY_SHAPE = re.compile(r"\((\d{1,18}),(?: *(\d{1,18}),?)? *\)")


class MappedPoints:
    """Points [N, D] in arrays [N_i, D], such as memory maps; what is indexed becomes float64."""

    def __init__(self, shards: Sequence[Num[np.ndarray, "_ d"]]) -> None:
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
            found[order[begin:end]] = shard[wanted[begin:end] - first]
        return found.reshape(*rows.shape, self.shape[1])

    def some(self, count: int) -> Float64[np.ndarray, "n d"]:
        """All points, or `count` of them that are spread evenly over the rows."""
        count = min(count, len(self))
        return self[np.arange(count) * len(self) // count]


Points = Num[np.ndarray, "n d"] | MappedPoints


def blocks(points: Points) -> Iterator[np.ndarray]:
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


def first_bad(points: np.ndarray) -> int | None:
    """The first row that is not finite or beyond LIMIT."""
    start = 0
    for block in blocks(points):
        good = np.abs(block.astype(np.float64)) <= LIMIT
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


def map_all(source: Path, paths: list[Path], max_bytes: int) -> list[np.ndarray]:
    """Map the files read-only, all of D columns, after every value was read once to check it."""
    arrays: list[np.ndarray] = [_map_npy(path) for path in paths]
    for path, points in zip(paths, arrays, strict=True):
        if points.shape[1] != arrays[0].shape[1]:
            found = f"{points.shape[1]} columns where {paths[0].name} has {arrays[0].shape[1]}"
            raise fault(path, found, "Give all shards the same columns.")
    if sum(map(len, arrays)) < 2:
        raise fault(source, "1 row of points", "Give at least two.")
    if 8 * sum(points.size for points in arrays) > max_bytes:
        raise too_large(source, max_bytes, "as float64")
    for path, points in zip(paths, arrays, strict=True):
        if (bad := first_bad(points)) is not None:
            found = f"row {bad + 1} is {points[bad, :8].tolist()}"
            raise fault(path, found, "Remove it, or rescale: finite, at most 1e30.")
    return arrays


def _map_npy(path: Path) -> np.memmap:
    # The header is matched, not evaluated, and nothing is allocated on its word alone.
    remedy = "Save an [N, D] array of floats or integers with np.save."
    try:
        with open(path, "rb") as file:
            magic = file.read(8)
            length = int.from_bytes(file.read(2 if magic[6:7] == b"\x01" else 4), "little")
            header, start = file.read(min(length, 2**16)).decode("latin-1"), file.tell()
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise fault(path, f"cannot be read ({error})", "Check its permissions.") from error
    fields = _NPY_HEADER.fullmatch(header)
    if not re.fullmatch(rb"\x93NUMPY[\1-\3]\0", magic) or not fields:
        raise fault(path, "not a NumPy file", remedy)
    dtype, order, shape = fields[1].strip("'"), "F" if fields[2] == "True" else "C", fields[3]
    if not _NPY_DTYPE.fullmatch(dtype):
        raise fault(path, f"dtype {dtype[:40]}", remedy)
    match = _NPY_SHAPE.fullmatch(shape)
    rows, columns = (int(match[1]), int(match[2] or 1)) if match else (0, 0)
    if rows * columns == 0:
        raise fault(path, f"shape {shape[:40]}", remedy)
    promised = start + rows * columns * np.dtype(dtype).itemsize
    if promised != size:
        raise fault(path, f"{size} bytes, where its header needs {promised}", remedy)
    return np.memmap(path, dtype, "r", start, (rows, columns), order)
