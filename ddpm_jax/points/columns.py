"""The columns of a table as numbers for a model, and back: one reversible transform.

Of each column the kind is found (`kinds.find`), shown (`Columns.describe`), or told instead.
Columns of numbers that are only shifted and scaled are so by `Scaler`, bit for bit.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.points import kinds
from ddpm_jax.points.kinds import Kind, Number, Periodic, Word
from ddpm_jax.points.lattice import MAX_DECIMALS, MAX_VALUES, Lattice, Values
from ddpm_jax.points.mapped import MappedPoints
from ddpm_jax.points.reading import Reading
from ddpm_jax.points.scaler import Scaler
from ddpm_jax.points.tables import Origin, Table, is_missing
from ddpm_jax.points.warps import Warp


@dataclass(frozen=True)
class Columns:
    """Of each column the kind, the share of missing cells, and what the table came as."""

    kinds: tuple[Kind, ...]
    names: tuple[str, ...] | None = None
    origin: Origin = dataclasses.field(default=Origin())
    gaps: tuple[float, ...] = ()

    @classmethod
    def fit(cls, data: Any, told: Mapping[str, str] | str | None = None) -> "Columns":
        """The transform for a table, an array, a DataFrame, or points that stay on disk.

        `told` gives the kinds of columns, by name or number (`{"zip": "word"}`), or of all: "real"
        shifts and scales, and nothing else. Points on disk are always so.

        Raises:
            DataError: a column that is none of these kinds, or not the one that was told.
        """
        if isinstance(data, MappedPoints):
            scaler = Scaler.fit(data)
            shifts = zip(scaler.shift, scaler.scale, strict=True)
            return cls(tuple(Number(*pair, low=math.nan, high=math.nan) for pair in shifts))
        table = Table.of(data)
        ways = _told(table, told)
        found = [
            kinds.find(label, column, way)
            for label, column, way in zip(table.labels, table.columns, ways, strict=True)
        ]
        affine = [i for i, kind in enumerate(found) if isinstance(kind, Number) and kind.is_affine]
        for i, scaled in zip(affine, _scaled(found, table, affine), strict=True):
            found[i] = scaled
        gaps = tuple(float(is_missing(column).mean()) for column in table.columns)
        return cls(tuple(found), table.names, table.origin, gaps)

    @property
    def dim(self) -> int:
        """How many numbers a row becomes."""
        return sum(kind.width for kind in self.kinds)

    @property
    def labels(self) -> tuple[str, ...]:
        """How to speak of each column."""
        return self.names or tuple(f"column {i}" for i in range(1, len(self.kinds) + 1))

    @property
    def slices(self) -> tuple[slice, ...]:
        """Which of the numbers each column becomes."""
        ends = np.cumsum([0, *(kind.width for kind in self.kinds)]).tolist()
        return tuple(slice(a, b) for a, b in pairwise(ends))

    @property
    def scaler(self) -> Scaler | None:
        """The scaler that is all of it, where every column is numbers that are only scaled."""
        numbers = [k for k in self.kinds if isinstance(k, Number) and k.is_affine and not k.unit]
        if len(numbers) < len(self.kinds):
            return None
        return Scaler(tuple(k.shift for k in numbers), tuple(k.scale for k in numbers))

    def encode(self, data: Any) -> Float32[np.ndarray, "*batch dim"]:
        """z of a table, an array or a DataFrame of these columns; NaN where a cell is missing.

        Raises:
            DataError: other columns, or a word that was never seen; it names the column.
        """
        if isinstance(data, np.ndarray) and data.dtype.kind in "iuf" and self.scaler:
            return self.scaler.apply(data)
        return self.points(data).astype(np.float32)

    def points(self, data: Any) -> Float64[np.ndarray, "n dim"]:
        """As `encode`, in float64."""
        table = self._matching(data)
        z = np.empty((len(table), self.dim))
        for part, column in zip(self.slices, self._each(table, "encode"), strict=True):
            z[:, part] = column
        return z

    def unscaled(self) -> "Columns":
        """The same, except that columns which would only be shifted and scaled stay as they are."""
        found = [
            dataclasses.replace(kind, shift=0.0, scale=1.0)
            if isinstance(kind, Number) and kind.is_affine
            else kind
            for kind in self.kinds
        ]
        return dataclasses.replace(self, kinds=tuple(found))

    def decode(self, z: Float[np.ndarray, "n dim"]) -> Table:
        """The table of z; `.to_data()` is an array or a DataFrame, as the data came."""
        if z.shape[1] != self.dim:
            raise DataError(f"{z.shape[1]} numbers a row; these columns have {self.dim}.")
        columns = (k.decode(z[:, part]) for k, part in zip(self.kinds, self.slices, strict=True))
        return Table(tuple(columns), self.names, self.origin)

    def log_det(self, data: Any, without: Sequence[int] = ()) -> Float64[np.ndarray, " n"]:
        """log |dz/dx| of each row, over columns that have a density: log p(x) = log p(z) + this.

        The columns at the positions `without` do not count.

        -∞ for what no sample can be, such as rain below 0.
        """
        table = self._matching(data)
        parts = [part for i, part in enumerate(self._each(table, "log_det")) if i not in without]
        return np.sum(parts, axis=0)

    def describe(self) -> list[str]:
        """A line a column: its name, kind and range, and what to ask its owner.

        Options stand as `{name=value}`: see `reading.phrase`.
        """
        lines = []
        gaps = self.gaps or (0.0,) * len(self.kinds)
        for label, kind, gap in zip(self.labels, self.kinds, gaps, strict=True):
            line = f"{label}: {kind.describe()}"
            if gap:
                line += f", {100 * gap:.3g} % missing"
            lines.append(line)
            for value in kind.sentinels if isinstance(kind, Number) else []:
                lines.append(
                    f"{label}: {value:.6g} is far from all others, and read as a number: "
                    f"{{missing={value:.6g}}} takes it as missing"
                )
        return lines

    def to_json(self) -> dict[str, Any]:
        """The transform as JSON holds it; `from_json` reads it back."""
        return {
            "names": self.names,
            "origin": dataclasses.asdict(self.origin),
            "gaps": self.gaps,
            "kinds": [kinds.to_json(kind) for kind in self.kinds],
        }

    @staticmethod
    def from_json(values: Any) -> "Columns":
        """The transform that `to_json` wrote.

        Raises:
            ConfigError: anything else; it names the field.
        """
        _require(isinstance(values, dict), "columns")
        parts = _field(values, "kinds", lambda v: isinstance(v, list) and len(v) > 0)
        found = tuple(_kind(part, f"columns.kinds[{i}]") for i, part in enumerate(parts))
        names = _field(
            values, "names", lambda v: v is None or (_are(v, str) and len(v) == len(found))
        )
        if names is not None:
            _require(len(set(names)) == len(names), "columns.names")
        gaps = _field(values, "gaps", lambda v: _are(v, float, int) and len(v) in (0, len(found)))
        origin = _field(values, "origin", lambda v: isinstance(v, dict))
        try:
            came = Origin(
                str(origin["library"]),
                tuple(origin["dtypes"]),
                tuple(origin["labels"]),
                bool(origin["flat"]),
            )
        except (KeyError, TypeError):
            raise _wrong("columns.origin") from None
        return Columns(found, None if names is None else tuple(names), came, tuple(gaps))

    def _each(self, table: Table, method: str):
        for label, kind, column in zip(self.labels, self.kinds, table.columns, strict=True):
            try:
                yield getattr(kind, method)(column)
            except DataError as error:
                raise DataError(f"{label}: {error}") from None

    def _matching(self, data: Any) -> Table:
        table = Table.of(data)
        if self.names and table.names and set(self.names) <= set(table.names):
            return table.keep([table.names.index(name) for name in self.names])
        if len(table.columns) != len(self.kinds) or (self.names and table.names):
            theirs = ", ".join(table.names) if table.names else f"{len(table.columns)} columns"
            ours = ", ".join(self.names) if self.names else f"{len(self.kinds)} columns"
            raise DataError(f"a table of {theirs}, where {ours} are expected.")
        return table


def lines(columns: Columns, rows: int, reading: Reading | None = None) -> list[str]:
    """What was understood of a file or a table, in a few lines; options as in `describe`."""
    notes = list(reading.notes) if reading else []
    described = columns.describe()
    if columns.names is None and columns.scaler and len(columns.kinds) > 8:
        described = [f"{len(columns.kinds)} columns of numbers"]
    return [f"{rows:,} rows", *described, *notes]


def _told(table: Table, told: Mapping[str, str] | str | None) -> list[str | None]:
    if told is None or isinstance(told, str):
        return [told if c.dtype.kind in "fM" else None for c in table.columns]
    numbers = {str(i): i - 1 for i in range(1, len(table.columns) + 1)}
    places = numbers | {label: i for i, label in enumerate(table.labels)}
    ways: list[str | None] = [None] * len(table.columns)
    for name, way in told.items():
        if name not in places:
            raise DataError(f"kinds: no column {name!r}; there are {', '.join(table.labels)}.")
        ways[places[name]] = way
    return ways


def _scaled(found: Sequence[Kind], table: Table, affine: list[int]) -> list[Number]:
    """The affine columns, scaled together, as `Scaler` does it; each alone where cells miss."""
    plain = [kind for kind in (found[i] for i in affine) if isinstance(kind, Number)]
    if not plain:
        return []
    numbers = [kind.numbers(table.columns[i]) for i, kind in zip(affine, plain, strict=True)]
    whole = [x[~np.isnan(x)] for x in numbers]
    if all(len(x) == len(table) for x in whole):
        scaler = Scaler.fit(np.stack(numbers, axis=1))
        pairs = list(zip(scaler.shift, scaler.scale, strict=True))
    else:
        each = [Scaler.fit(x[:, None]) for x in whole]
        pairs = [(s.shift[0], s.scale[0]) for s in each]
    return [
        dataclasses.replace(kind, shift=shift, scale=scale)
        for kind, (shift, scale) in zip(plain, pairs, strict=True)
    ]


def _kind(values: Any, where: str) -> Kind:
    _require(isinstance(values, dict), where)
    kind = values.get("kind")
    number = _number_in(where)
    if kind == "word":
        levels = values.get("levels")
        _require(
            isinstance(levels, list)
            and 0 < len(levels) <= kinds.MAX_WORDS
            and any(all(type(v) is t for v in levels) for t in (str, bool, float))
            and all(not isinstance(v, float) or math.isfinite(v) for v in levels)
            and len(set(levels)) == len(levels),
            f"{where}.levels",
        )
        return Word(tuple(levels))
    if kind == "periodic":
        period = number(values, "period")
        _require(period > 0, f"{where}.period")
        return Periodic(period, number(values, "low"), _lattice(values, where))
    _require(kind in ("number", "real"), f"{where}.kind")
    warp = values.get("warp")
    if warp is not None:
        _require(isinstance(warp, dict), f"{where}.warp")
        _require(warp.get("kind") in ("asinh", "log", "above", "below", "between"), f"{where}.warp")
        warp = Warp(warp["kind"], number(warp, "centre"), number(warp, "width"))
        _require(warp.width > 0, f"{where}.warp")
    masses = values.get("masses")
    _require(
        isinstance(masses, list)
        and len(masses) <= 4
        and all(isinstance(m, list) and len(m) == 3 and all(map(_is_finite, m)) for m in masses),
        f"{where}.masses",
    )
    edges = values.get("edges")
    _require(
        isinstance(edges, list) and len(edges) == 2 and all(map(_is_finite, edges)),
        f"{where}.edges",
    )
    unit = values.get("unit")
    _require(unit in (None, "D", "h", "m", "s", "ms", "us", "ns"), f"{where}.unit")
    scale = number(values, "scale")
    _require(scale >= 0, f"{where}.scale")
    for name in ("low", "high"):
        _require(type(values.get(name)) in (int, float), f"{where}.{name}")
    return Number(
        number(values, "shift"),
        scale,
        float(values["low"]),
        float(values["high"]),
        warp,
        tuple((float(a), float(b), float(c)) for a, b, c in masses),
        (float(edges[0]), float(edges[1])),
        _values(values, where) or _lattice(values, where),
        unit,
        kind,
        number(values, "reach"),
    )


def _values(values: dict[str, Any], where: str) -> Values | None:
    found = values.get("lattice")
    if not isinstance(found, dict) or "values" not in found:
        return None
    seen = found["values"]
    _require(
        isinstance(seen, list)
        and 2 <= len(seen) <= MAX_VALUES
        and all(type(v) is float and math.isfinite(v) for v in seen)
        and all(a < b for a, b in pairwise(seen)),
        f"{where}.lattice.values",
    )
    return Values(tuple(seen))


def _lattice(values: dict[str, Any], where: str) -> Lattice | None:
    found = values.get("lattice")
    if found is None:
        return None
    _require(
        isinstance(found, dict)
        and all(type(found.get(n)) is int for n in ("origin", "stride", "decimals"))
        and 0 <= found["origin"] < 2**53
        and 0 < found["stride"] < 2**53
        and 0 <= found["decimals"] <= MAX_DECIMALS,
        f"{where}.lattice",
    )
    return Lattice(found["origin"], found["stride"], found["decimals"])


def _number_in(where: str) -> Callable[[dict[str, Any], str], float]:
    def number(values: dict[str, Any], name: str) -> float:
        _require(_is_finite(values.get(name)), f"{where}.{name}")
        return float(values[name])

    return number


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _are(value: Any, *types: type) -> bool:
    return isinstance(value, list) and all(type(v) in types for v in value)


def _field(values: dict[str, Any], name: str, good: Callable[[Any], bool]) -> Any:
    _require(name in values and good(values[name]), f"columns.{name}")
    return values[name]


def _require(good: Any, where: str) -> None:
    if not good:
        raise _wrong(where)


def _wrong(where: str) -> ConfigError:
    return ConfigError(f"{where}: missing, or not what it should be; restore it, or train again")
