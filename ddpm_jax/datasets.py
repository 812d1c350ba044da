"""Points: read from files, with strict errors; told apart; scaled for training and back.

Text is parsed by `np.loadtxt`. When that fails, or lets something bad through, a slow reader,
which defines the format, goes over it again to name the line at fault.
"""

import codecs
import gzip
import hashlib
import io
import math
import os
import re
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Num

from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.mapped import (
    LIMIT,
    MappedPoints,
    Points,
    blocks,
    fault,
    first_bad,
    map_all,
    shards_of,
    too_large,
)
from ddpm_jax.toys import TOYS, toy

_LINE_BYTES = 2**24
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_COLUMN_NAME = re.compile(r"""(?!(nan|inf|infinity)$)["']?[^\W\d].*""", re.IGNORECASE)


def load_points(path: str | Path, *, max_bytes: int = 2**30) -> Float64[np.ndarray, "n d"]:
    """Read points [N, D], N ≥ 2, D ≥ 1, from a text file, a NumPy file or a directory of those.

    - `.txt`: one point a line, separated by whitespace; `.csv`: by commas, semicolons or tabs,
      with or without a line of column names. Blank lines and `#` comments are skipped. Either
      may be compressed (`.txt.gz`, `.csv.gz`).
    - `.npy`: integers or floats, [N, D], or [N] for D = 1.
    - a directory: every `.npy` in it, in order of name, one after the other.

    `max_bytes` bounds the decompressed text, and the points as float64; a line, 16 MiB.

    Raises:
        DataError: anything wrong, with the file, the line (of `.npy`, the row), what was found,
            and the remedy. Values must be finite and at most 1e30 in magnitude.
    """
    path, name = Path(path), Path(path).name.lower()
    if os.path.isdir(path):
        return np.concatenate(map_all(path, shards_of(path), max_bytes), dtype=np.float64)
    if not os.path.isfile(path):
        raise fault(path, "no such file", "Give a .txt, .csv or .npy file of points.")
    if name.endswith(".npy"):
        return np.concatenate(map_all(path, [path], max_bytes), dtype=np.float64)
    if name.endswith((".txt", ".txt.gz", ".csv", ".csv.gz")):
        return _read_text(path, max_bytes, csv=".csv" in name[-7:])
    raise fault(path, "unknown kind of file", "Use .txt, .csv, .txt.gz, .csv.gz or .npy.")


def open_shards(directory: str | Path) -> list[Num[np.ndarray, "_ d"]]:
    """Map every `.npy` of a directory, in order of name, read-only and without loading it.

    Each is [N_i, D], its dtype as stored. Every value is read once, to check it.

    Raises:
        DataError: as `load_points`; also if the directory has no shards or they differ in D.
    """
    return map_all(Path(directory), shards_of(Path(directory)), sys.maxsize)


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


def _read_text(path: Path, max_bytes: int, csv: bool) -> np.ndarray:
    data = _decompress(path, max_bytes)
    lines = max(data.count(b"\n"), data.count(b"\r"))
    if 8 * lines > max_bytes:
        raise too_large(path, max_bytes, "as float64")
    number, first = next(_rows(data), (0, ""))
    if not first:
        raise fault(path, "no points in it", "Write one point a line, numbers and nothing else.")
    separator = next((s for s in ";,\t" if s in first), ",") if csv else None
    names = [field.strip() for field in first.split(separator)]
    header = number if csv and all(map(_COLUMN_NAME.fullmatch, names)) else 0
    if 8 * len(names) * lines > max_bytes:
        raise too_large(path, max_bytes, "as float64")
    if len(list(islice(_rows(data), 3))) == 3:  # np.loadtxt only warns of a file without points
        try:
            points = np.loadtxt(_lines(data), delimiter=separator, skiprows=header, ndmin=2)
            if points.shape[1] == len(names) and first_bad(points) is None:
                return points
        except ValueError:
            pass
    return _parse_slowly(path, data, separator, header, len(names))


def _decompress(path: Path, max_bytes: int) -> bytes:
    content, decoder, line = io.BytesIO(), codecs.getincrementaldecoder("utf-8")(), 0
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as stream:
            while chunk := stream.read(2**20):
                content.write(chunk)
                if content.tell() > max_bytes:
                    raise too_large(path, max_bytes, "of text")
                end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
                line = len(chunk) - end - 1 if end >= 0 else line + len(chunk)
                if line > _LINE_BYTES:
                    found = f"a line of more than {_LINE_BYTES:,} bytes"
                    raise fault(path, found, "Write one point a line.")
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        # The object is the last chunk, and what the one before left of a character.
        before = content.getvalue()[: content.tell() - len(error.object) + error.start]
        number = before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") + 1
        found = f"byte {error.object[error.start]:#04x}, which is not UTF-8"
        raise fault(path, found, "Save it as plain text in UTF-8.", number) from error
    except (OSError, EOFError, zlib.error) as error:
        remedy = "Check its permissions; if it ends in .gz, compress it anew with gzip."
        raise fault(path, f"cannot be read ({error})", remedy) from error
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
    points = array("d")
    for number, content in _rows(data):
        fields = [field.strip() for field in content.split(separator)]
        if len(fields) != width:
            found = f"{len(fields)} values where the first row has {width}"
            raise fault(path, found, remedy, number)
        if number == header:
            continue
        for column, field in enumerate(fields, start=1):
            if not _NUMBER.fullmatch(field) or abs(float(field)) > LIMIT:
                raise fault(path, f"{field[:40]!r} in column {column}", remedy, number)
        points.extend(map(float, fields))
    if len(points) < 2 * width:
        raise fault(path, f"{len(points) // width} row(s) of points", "Give at least two.")
    return np.array(points).reshape(-1, width)
