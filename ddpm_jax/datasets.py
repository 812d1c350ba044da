"""Points: read from files, with strict errors; told apart; scaled for training and back.

Text is parsed by `np.loadtxt`. When that fails, or lets something bad through, a slow reader,
which defines the format, goes over it again to name the line at fault.
"""

import gzip
import hashlib
import io
import math
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Num

from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.mapped import MappedPoints, Points, blocks
from ddpm_jax.toys import TOYS, toy

LIMIT = 1e30
"""The largest magnitude accepted in a file: float32 ends at 3.4e38, and scaling needs room."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_COLUMN_NAME = re.compile(r"""(?!(nan|inf|infinity)$)["']?[^\W\d].*""", re.IGNORECASE)
_NPY_HEADER = re.compile(
    r"\{ *'descr': *('[^']*'|\[.*\]), *'fortran_order': *(True|False), *"
    r"'shape': *(\(.*\)) *,? *\}[ \n]*"
)
_NPY_DTYPE = re.compile(r"[<>=|]?([iu][1248]|f[248])")
_NPY_SHAPE = re.compile(r"\((\d{1,18}),(?: *(\d{1,18}),?)? *\)")


def load_points(path: str | Path, *, max_bytes: int = 4 * 2**30) -> Float64[np.ndarray, "n d"]:
    """Read points [N, D], N ≥ 2, D ≥ 1, from a text file, a NumPy file or a directory of those.

    - `.txt`: one point a line, separated by whitespace; `.csv`: by commas, semicolons or tabs,
      with or without a line of column names. Blank lines and `#` comments are skipped. Either
      may be compressed (`.txt.gz`, `.csv.gz`).
    - `.npy`: integers or floats, [N, D], or [N] for D = 1.
    - a directory: every `.npy` in it, in order of name, one after the other.

    `max_bytes` bounds the decompressed text, or the array in memory.

    Raises:
        DataError: anything wrong, with the file, the line (of `.npy`, the row), what was found,
            and the remedy. Values must be finite and at most 1e30 in magnitude.
    """
    path, name = Path(path), Path(path).name.lower()
    if os.path.isdir(path):
        return np.concatenate(_map_all(path, _shards(path), max_bytes), dtype=np.float64)
    if not os.path.isfile(path):
        raise _fault(path, "no such file", "Give a .txt, .csv or .npy file of points.")
    if name.endswith(".npy"):
        return np.concatenate(_map_all(path, [path], max_bytes), dtype=np.float64)
    if name.endswith((".txt", ".txt.gz", ".csv", ".csv.gz")):
        return _read_text(path, max_bytes, csv=".csv" in name[-7:])
    raise _fault(path, "unknown kind of file", "Use .txt, .csv, .txt.gz, .csv.gz or .npy.")


def open_shards(directory: str | Path) -> list[Num[np.ndarray, "_ d"]]:
    """Map every `.npy` of a directory, in order of name, read-only and without loading it.

    Each is [N_i, D], its dtype as stored. Every value is read once, to check it.

    Raises:
        DataError: as `load_points`; also if the directory has no shards or they differ in D.
    """
    return _map_all(Path(directory), _shards(Path(directory)), sys.maxsize)


def points(data: str, *, seed: int = 0, n: int = 50_000) -> Points:
    """Points by the name of a toy distribution, or else from a file (`./dino` is a file).

    Those of a directory stay on disk: see `MappedPoints`. `seed` and `n` matter to toy
    distributions only. Raises what `toy`, `load_points` and `open_shards` raise.
    """
    if data in TOYS:
        return toy(data, seed, n=n)
    if not os.path.exists(data):
        raise DataError(f"{data!r}: neither a file nor one of the toys {', '.join(TOYS)}.")
    return MappedPoints(open_shards(data)) if os.path.isdir(data) else load_points(data)


def digest(points: Points) -> str:
    """SHA-256 of the shape and the values, by which a run can tell that its data changed."""
    sha = hashlib.sha256(repr(points.shape).encode())
    for block in blocks(points):
        sha.update(np.ascontiguousarray(block, dtype="<f8").data)
    return sha.hexdigest()


@dataclass(frozen=True)
class Scaler:
    """The affine map z = (x - shift) / scale of each column, and back; it never clamps."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self):
        finite = all(map(math.isfinite, self.shift + self.scale))
        if not finite or len(self.shift) != len(self.scale) or min(self.scale, default=-1) < 0:
            raise ConfigError(
                f"Scaler: shift {self.shift} and scale {self.scale} must be of one length, "
                "at least 1, and finite, and no scale negative. Fit it on finite points."
            )

    @classmethod
    def fit(cls, points: Points) -> "Scaler":
        """The identity for points in [-1, 1] of std ≥ 0.1; else shift = mean, scale = 2 std.

        Scaled data then have std 0.5, about that of data which fill [-1, 1]. A constant column
        gets scale 0: it becomes 0, and comes back exactly.
        """
        ends = [(block.min(axis=0), block.max(axis=0)) for block in blocks(points)]
        low, high = (
            np.min([end[0] for end in ends], axis=0),
            np.max([end[1] for end in ends], axis=0),
        )
        spread = high - low
        divisor = np.where(spread > 0, spread, 1)

        def mean(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            # In units of the range no square overflows or underflows, and no large offset cancels.
            parts = [of((block - low) / divisor).sum(axis=0) for block in blocks(points)]
            return np.sum(parts, axis=0) / len(points)

        centre = mean(lambda unit: unit)
        std = np.sqrt(mean(lambda unit: (unit - centre) ** 2)) * spread
        if np.abs([low, high]).max() <= 1 and std.min() >= 0.1:
            return cls((0.0,) * points.shape[1], (1.0,) * points.shape[1])
        shift = low + centre * spread
        return cls(tuple(shift.tolist()), tuple((2 * std).tolist()))

    @property
    def is_identity(self) -> bool:
        """Whether the points are used as they are."""
        return set(self.shift) == {0.0} and set(self.scale) == {1.0}

    def apply(self, points: Num[np.ndarray, "*batch d"]) -> Float32[np.ndarray, "*batch d"]:
        """z = (x - shift) / scale, and 0 in a constant column; computed in float64."""
        shift, scale = self._columns(points.shape[-1])
        z = np.divide(points - shift, scale, out=np.zeros(points.shape), where=scale > 0)
        return z.astype(np.float32)

    def invert(self, samples: Float[np.ndarray, "*batch d"]) -> Float64[np.ndarray, "*batch d"]:
        """x = shift + scale z, in float64."""
        shift, scale = self._columns(samples.shape[-1])
        return shift + scale * samples.astype(np.float64)

    def _columns(self, d: int) -> tuple[np.ndarray, np.ndarray]:
        if d != len(self.shift):
            raise DataError(f"points have {d} columns; this Scaler is for {len(self.shift)}.")
        return np.array(self.shift), np.array(self.scale)


def _fault(path: Path, found: str, remedy: str, line: int | None = None) -> DataError:
    where = f"{path}, line {line}" if line else f"{path}"
    return DataError(f"{where}: {found}. {remedy}")


def _read_text(path: Path, max_bytes: int, csv: bool) -> np.ndarray:
    data = _decompress(path, max_bytes)
    number, first = next(_rows(data), (0, ""))
    if not first:
        raise _fault(path, "no points in it", "Write one point a line, numbers and nothing else.")
    separator = next((s for s in ";,\t" if s in first), ",") if csv else None
    names = [field.strip() for field in first.split(separator)]
    header = number if csv and all(map(_COLUMN_NAME.fullmatch, names)) else 0
    if len(list(islice(_rows(data), 3))) == 3:  # np.loadtxt only warns of a file without points
        try:
            points = np.loadtxt(_lines(data), delimiter=separator, skiprows=header, ndmin=2)
            if points.shape[1] == len(names) and _first_bad(points) is None:
                return points
        except ValueError:
            pass
    return _parse_slowly(path, data, separator, header, len(names))


def _decompress(path: Path, max_bytes: int) -> bytes:
    content = io.BytesIO()
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as stream:
            while content.write(stream.read(2**20)):
                if content.tell() > max_bytes:
                    remedy = "Raise max_bytes, or split it into .npy shards for open_shards."
                    raise _fault(path, f"more than {max_bytes:,} bytes of text", remedy)
        content.getvalue().decode()
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n?|\n", error.object[: error.start])) + 1
        found = f"byte {error.object[error.start]:#04x}, which is not UTF-8"
        raise _fault(path, found, "Save it as plain text in UTF-8.", line) from error
    except (OSError, EOFError, zlib.error) as error:
        remedy = "Check its permissions; if it ends in .gz, compress it anew with gzip."
        raise _fault(path, f"cannot be read ({error})", remedy) from error
    return content.getvalue()


def _lines(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig")


def _rows(data: bytes) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_lines(data), start=1):
        content = line.partition("#")[0]
        if content.strip():
            yield number, content.strip(" \n")


def _parse_slowly(
    path: Path, data: bytes, separator: str | None, header: int, width: int
) -> np.ndarray:
    by = "whitespace" if separator is None else repr(separator)
    remedy = f"Write {width} finite numbers such as -1.5e-3, at most 1e30, separated by {by}."
    points = []
    for number, content in _rows(data):
        fields = [field.strip() for field in content.split(separator)]
        if len(fields) != width:
            found = f"{len(fields)} values where the first row has {width}"
            raise _fault(path, found, remedy, number)
        if number == header:
            continue
        for column, field in enumerate(fields, start=1):
            if not _NUMBER.fullmatch(field) or abs(float(field)) > LIMIT:
                raise _fault(path, f"{field[:40]!r} in column {column}", remedy, number)
        points.append([float(field) for field in fields])
    if len(points) < 2:
        raise _fault(path, f"{len(points)} row(s) of points", "Give at least two.")
    return np.array(points)


def _first_bad(points: np.ndarray) -> int | None:
    start = 0
    for block in blocks(points):
        good = np.abs(block.astype(np.float64)) <= LIMIT
        if not good.all():
            return start + int(good.all(axis=1).argmin())
        start += len(block)
    return None


def _shards(directory: Path) -> list[Path]:
    # Names with a dot in front are of files that are still being written, or of another program.
    shards = sorted(path for path in directory.glob("*.npy") if path.name[0] != ".")
    if not shards:
        raise _fault(directory, "no directory with .npy files", "Put the shards there as .npy.")
    return shards


def _map_all(source: Path, paths: list[Path], max_bytes: int) -> list[np.ndarray]:
    arrays: list[np.ndarray] = [_map_npy(path) for path in paths]
    for path, points in zip(paths, arrays, strict=True):
        if points.shape[1] != arrays[0].shape[1]:
            found = f"{points.shape[1]} columns where {paths[0].name} has {arrays[0].shape[1]}"
            raise _fault(path, found, "Give all shards the same columns.")
    if sum(map(len, arrays)) < 2:
        raise _fault(source, "1 row of points", "Give at least two.")
    if 8 * sum(points.size for points in arrays) > max_bytes:
        remedy = "Raise max_bytes, or use open_shards."
        raise _fault(source, f"more than {max_bytes:,} bytes as float64", remedy)
    for path, points in zip(paths, arrays, strict=True):
        if (bad := _first_bad(points)) is not None:
            found = f"row {bad + 1} is {points[bad, :8].tolist()}"
            raise _fault(path, found, "Remove it, or rescale: finite, at most 1e30.")
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
        raise _fault(path, f"cannot be read ({error})", "Check its permissions.") from error
    fields = _NPY_HEADER.fullmatch(header)
    if not re.fullmatch(rb"\x93NUMPY[\1-\3]\0", magic) or not fields:
        raise _fault(path, "not a NumPy file", remedy)
    dtype, order, shape = fields[1].strip("'"), "F" if fields[2] == "True" else "C", fields[3]
    if not _NPY_DTYPE.fullmatch(dtype):
        raise _fault(path, f"dtype {dtype[:40]}", remedy)
    match = _NPY_SHAPE.fullmatch(shape)
    rows, columns = (int(match[1]), int(match[2] or 1)) if match else (0, 0)
    if rows * columns == 0:
        raise _fault(path, f"shape {shape[:40]}", remedy)
    promised = start + rows * columns * np.dtype(dtype).itemsize
    if promised != size:
        raise _fault(path, f"{size} bytes, where its header needs {promised}", remedy)
    return np.memmap(path, dtype, "r", start, (rows, columns), order)
