"""Kinds of columns: what each becomes for a model, and how that becomes the column again.

A column of kind K is coded as K.width numbers z a row, whose bulk has a standard deviation of 0.5
or fills [-1, 1]; `decode` inverts `encode`, and `log_det` is log |dz/dx|.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from ddpm_jax.errors import DataError
from ddpm_jax.points import lattice, warps
from ddpm_jax.points.lattice import Lattice, Values
from ddpm_jax.points.tables import is_missing
from ddpm_jax.points.warps import Warp

GAP = 1.0
"""How far in z a value that is a mass of its own is put from the others: two of their spreads."""

MAX_WORDS = 1000
"""A column of more different words is none that a model could learn."""


@dataclass(frozen=True)
class Number:
    """z = (w(x) - shift) / scale; masses at z of their own; decoded to the lattice.

    - warp: w, the identity if None
    - masses: (value, z, share of the rows), values that many rows have exactly in a column of
      others, such as the zeros of rain; their z are beyond those of the others, by `GAP`
    - lattice: the steps in which the numbers are written, or the few values that there are
    - unit: of dates and times, which are counted since 1970: "D", "s", "ms", "us" or "ns"

    A constant column has scale 0: it becomes 0, and comes back exactly.
    """

    shift: float
    scale: float
    low: float
    high: float
    warp: Warp | None = None
    masses: tuple[tuple[float, float, float], ...] = ()
    edges: tuple[float, float] = (0.0, 0.0)
    """The least and the largest z of the numbers that are no masses."""
    lattice: Lattice | Values | None = None
    unit: str | None = None
    kind: str = "number"
    reach: float = 0.0
    """Of a heavy tail: how many spreads its farthest value is from the median."""

    width = 1

    @property
    def is_affine(self) -> bool:
        """Whether z = (x - shift) / scale is all."""
        return self.warp is None and not self.masses

    def encode(self, column: np.ndarray) -> Float64[np.ndarray, "n 1"]:
        """z, NaN where missing; of what the map does not reach, such as rain below 0, the end."""
        x = self.numbers(column)
        u = x if self.warp is None else self.warp.apply(x)
        z = np.divide(u - self.shift, self.scale, out=np.zeros(len(x)), where=self.scale > 0)
        z[np.isnan(x)] = np.nan
        if self.warp is not None:
            outside = np.isnan(z) & ~np.isnan(x)
            above = outside & (x > self.warp.centre)
            z[outside] = self.edges[0] - GAP
            z[above] = self.edges[1] + GAP
        for value, at, _ in self.masses:
            z[x == value] = at
        return z[:, None]

    def decode(self, z: Float[np.ndarray, "n 1"]) -> np.ndarray:
        """The column, on its lattice."""
        z = z[:, 0].astype(np.float64)
        u = self.shift + self.scale * z
        x = u if self.warp is None else self.warp.invert(u)
        if self.lattice is not None:
            x = self.lattice.snap(x)
        for value, *_ in self.masses:
            # Near a bound the lattice's nearest point may be the bound, which is a mass apart.
            if isinstance(self.lattice, Lattice) and value in (self.low, self.high):
                inward = 1 if value == self.low else -1
                x = np.where(x == value, self.lattice.move(x, inward), x)
        for (value, *_), (begin, end) in zip(self.masses, self._intervals(), strict=True):
            x = np.where((z >= begin) & (z < end), value, x)
        if self.unit is None:
            return x
        found = np.full(len(x), np.datetime64("NaT", self.unit))
        there = ~np.isnan(x)
        found[there] = np.rint(x[there]).astype(np.int64).view(f"datetime64[{self.unit}]")
        return found

    def log_det(self, column: np.ndarray) -> Float64[np.ndarray, " n"]:
        """log |dz/dx|; 0 for what has no density: masses, constants, and what is missing."""
        x = self.numbers(column)
        if self.scale == 0:
            return np.zeros(len(x))
        slope = np.zeros(len(x)) if self.warp is None else self.warp.log_slope(x)
        found = slope - np.log(self.scale)
        found[np.isnan(found) & ~np.isnan(x)] = -np.inf  # no x there has any density
        for value, *_ in self.masses:
            found[x == value] = 0
        found[np.isnan(x)] = 0
        return found

    def nothing(self, count: int) -> np.ndarray:
        """A column of as many missing cells."""
        if self.unit is not None:
            return np.full(count, np.datetime64("NaT", self.unit))
        return np.full(count, np.nan)

    def describe(self) -> str:
        """What the column is, in a few words."""
        if self.unit is not None:
            start, end = (self._date(x) for x in (self.low, self.high))
            return f"dates, {start} to {end}" if self.unit == "D" else f"times, {start} to {end}"
        if self.low == self.high and not self.masses:
            return f"always {self.low:.6g}"
        step = self.lattice
        if isinstance(step, Values):
            what = f"numbers, {len(step.values)} different ones"
        elif step is None or self.high - self.low > 10**6 * step.step:
            what = "numbers"
        elif step.step == 1:
            what = "whole numbers"
        else:
            what = f"numbers in steps of {step.step:.6g}"
        what += f", {self.low:.6g} to {self.high:.6g}"
        if self.reach > 0:
            what += f", with a heavy tail that reaches {self.reach:.3g} times its spread"
        for value, _, share in self.masses:
            what += f", {100 * share:.3g} % exactly {value:.6g}"
        return what

    @property
    def sentinels(self) -> list[float]:
        """Masses farther from all other numbers than those from each other, such as -9999."""
        z = np.array(self.edges)
        u = self.shift + self.scale * z
        low, high = u if self.warp is None else self.warp.invert(u)
        width = high - low
        return [v for v, *_ in self.masses if v < low - width or v > high + width]

    def _date(self, x: float) -> str:
        return str(np.int64(round(x)).view(f"datetime64[{self.unit}]"))

    def numbers(self, column: np.ndarray) -> Float64[np.ndarray, " n"]:
        """The cells as numbers, dates counted in `unit` since 1970; NaN where missing."""
        if column.dtype.kind == "M":
            if self.unit is None:
                raise DataError("dates in a column of numbers.")
            counted = column.astype(f"datetime64[{self.unit}]").view(np.int64).astype(np.float64)
            return np.where(np.isnat(column), np.nan, counted)
        if self.unit is not None or column.dtype.kind not in "fb":
            raise DataError(f"cells of dtype {column.dtype} in a column of other ones.")
        return column.astype(np.float64)

    def _intervals(self) -> list[tuple[float, float]]:
        """Which z stand for each mass: those nearer to its own than to others'."""
        low, high = self.edges
        ends = sorted([at for _, at, _ in self.masses] + [low, high])
        found = []
        for _, at, _ in self.masses:
            i = ends.index(at)
            begin = (ends[i - 1] + at) / 2 if i else -np.inf
            end = (at + ends[i + 1]) / 2 if i + 1 < len(ends) else np.inf
            found.append((begin, end))
        return found


@dataclass(frozen=True)
class Word:
    """One of K levels as K numbers, 1/2 at its own and -1/2 at the others; K = 2 as one of them.

    Decoded to the level with the largest number. Levels are words, truth values, or numbers that
    were told to be words.
    """

    levels: tuple[str | bool | float, ...]
    unit: None = None
    kind: str = "word"

    @property
    def width(self) -> int:
        """How many numbers it takes."""
        return 1 if len(self.levels) <= 2 else len(self.levels)

    def encode(self, column: np.ndarray) -> Float64[np.ndarray, "n width"]:
        """The codes, NaN where missing.

        Raises:
            DataError: a level that was never seen; it lists those that were.
        """
        place = {level: i for i, level in enumerate(self.levels)}
        gone = is_missing(column)
        try:
            codes = np.array(
                [0 if no else place[cell] for cell, no in zip(column.tolist(), gone, strict=True)],
                dtype=np.int64,
            )
        except KeyError as error:
            known = ", ".join(map(repr, self.levels[:20])) + (", …" if self.levels[20:] else "")
            raise DataError(f"{error.args[0]!r} was never seen; seen were {known}.") from None
        if len(self.levels) == 1:
            z = np.zeros((len(codes), 1))
        elif len(self.levels) == 2:
            z = codes[:, None] - 0.5
        else:
            z = np.eye(len(self.levels))[codes] - 0.5
        z[gone] = np.nan
        return z

    def decode(self, z: Float[np.ndarray, "n width"]) -> np.ndarray:
        """The levels."""
        gone = np.isnan(z).any(axis=1)
        if len(self.levels) > 2:
            codes = np.nan_to_num(z).argmax(axis=1)
        else:
            codes = (z[:, 0] > 0).astype(np.int64) * (len(self.levels) - 1)
        kinds = {type(level) for level in self.levels}
        if kinds == {float}:
            return np.where(gone, np.nan, np.array(self.levels)[codes])
        if kinds == {bool} and not gone.any():
            return np.array(self.levels)[codes]
        levels = np.empty(len(self.levels) + 1, object)
        levels[:] = [*self.levels, None]
        return levels[np.where(gone, len(self.levels), codes)]

    def log_det(self, column: np.ndarray) -> Float64[np.ndarray, " n"]:
        """0: words have no density."""
        return np.zeros(len(column))

    def nothing(self, count: int) -> np.ndarray:
        """A column of as many missing cells."""
        if all(isinstance(level, float) for level in self.levels):
            return np.full(count, np.nan)
        return np.full(count, None, object)

    def describe(self) -> str:
        """What the column is, in a few words."""
        if all(isinstance(level, bool) for level in self.levels):
            return "true or false" if len(self.levels) == 2 else f"always {self.levels[0]}"
        shown = ", ".join(str(level)[:20] for level in self.levels[:4])
        more = ", …" if len(self.levels) > 4 else ""
        return f"{len(self.levels)} words ({shown}{more})"


@dataclass(frozen=True)
class Periodic:
    """An angle as a point on a circle: z = (cos θ, sin θ) / √2, θ = 2π (x - low) / period.

    Decoded to low ≤ x < low + period. It has no density in the plane of z: `log_det` is 0.
    """

    period: float
    low: float
    lattice: Lattice | None = None
    unit: None = None
    kind: str = "periodic"

    width = 2

    def encode(self, column: np.ndarray) -> Float64[np.ndarray, "n 2"]:
        """The points, NaN where missing."""
        angle = 2 * np.pi * (column.astype(np.float64) - self.low) / self.period
        return np.stack([np.cos(angle), np.sin(angle)], axis=1) / np.sqrt(2)

    def decode(self, z: Float[np.ndarray, "n 2"]) -> np.ndarray:
        """The angles of the points, wherever they are on their rays."""
        turn = np.arctan2(z[:, 1].astype(np.float64), z[:, 0].astype(np.float64)) / (2 * np.pi)
        x = self.low + self.period * np.mod(turn, 1)
        if self.lattice is not None:
            x = self.lattice.snap(x)
        return np.where(x >= self.low + self.period, x - self.period, x)

    def log_det(self, column: np.ndarray) -> Float64[np.ndarray, " n"]:
        """0: see the class."""
        return np.zeros(len(column))

    def nothing(self, count: int) -> np.ndarray:
        """A column of as many missing cells."""
        return np.full(count, np.nan)

    def describe(self) -> str:
        """What the column is, in a few words."""
        return f"an angle, {self.low:.6g} to {self.low + self.period:.6g}"


Kind = Number | Word | Periodic


def find(label: str, column: np.ndarray, told: str | None) -> Kind:
    """The kind of a column, by what is in it, or as `told`; affine numbers are not yet scaled.

    Told may be "real" (nothing but scaled), "positive" (only numbers above 0 come back), "integer",
    "word", or "periodic:360" and the like.

    Raises:
        DataError: nothing in it, or what is told does not fit; it names the column.
    """
    there = column[~is_missing(column)]
    if not len(there):
        raise DataError(f"{label}: no value in any row. Leave it out.")
    if column.dtype == object or column.dtype == bool or told == "word":
        if told not in (None, "word"):
            raise DataError(f'{label}: words are not of kind "{told}".')
        return _word(label, there)
    unit = None
    if column.dtype.kind == "M":
        if told not in (None, "real", "integer"):
            raise DataError(f'{label}: dates and times are not of kind "{told}".')
        unit = np.datetime_data(column.dtype)[0]
        there = there.view(np.int64)
    x = there.astype(np.float64)
    told = told or "number"
    if told.partition(":")[0] == "periodic":
        return _periodic(label, x, told)
    if told == "real":
        return Number(0.0, 0.0, float(x.min()), float(x.max()), unit=unit, kind="real")
    if told == "positive":
        if x.min() <= 0:
            raise DataError(f'{label}: kind "positive", but its least value is {x.min():.6g}.')
        warp = warps.of_bound(x, 0.0, None)
        return _warped(x, warp, {}, lattice.find(x), None)
    if told == "integer":
        step = Lattice(0, 1, 0)
        if not (step.snap(x) == x).all():
            raise DataError(f'{label}: kind "integer", but some of its values are not whole.')
        return Number(0.0, 0.0, float(x.min()), float(x.max()), lattice=step, unit=unit)
    if told != "number":
        raise DataError(
            f'{label}: kind "{told}"; use "real", "positive", "integer", "word" or "periodic:360".'
        )
    return _number(x, unit)


def _word(label: str, there: np.ndarray) -> Word:
    cells = [bool(cell) if isinstance(cell, np.bool_) else cell for cell in there.tolist()]
    levels = tuple(sorted(set(cells)))
    if len(levels) > MAX_WORDS or (len(levels) > 20 and 2 * len(levels) > len(cells)):
        raise DataError(
            f"{label}: {len(levels)} different words in {len(cells)} rows, as names of rows are. "
            "Leave it out."
        )
    return Word(levels)


def _periodic(label: str, x: np.ndarray, told: str) -> Periodic:
    try:
        period = float(told.partition(":")[2])
        low = -period / 2 if x.min() < 0 else 0.0
        good = period > 0 and bool((x >= low).all() and (x <= low + period).all())
    except ValueError:
        period, low, good = 0.0, 0.0, False
    if not good:
        raise DataError(
            f'{label}: kind "{told}" for values from {x.min():.6g} to {x.max():.6g}; name the '
            'whole turn, such as "periodic:360", within which all must lie, or within half of it '
            "on both sides of 0."
        )
    return Periodic(period, low, lattice.find(x))


def _number(x: np.ndarray, unit: str | None) -> Number:
    masses = _masses(x) if unit is None else {}
    step = lattice.find(x) or (None if masses else lattice.recurring(x))
    bulk = x[~np.isin(x, list(masses))] if masses else x
    low = next((m for m in masses if m == x.min()), None)
    high = next((m for m in masses if m == x.max()), None)
    if low is not None or high is not None:
        return _warped(bulk, warps.of_bound(bulk, low, high), masses, step, unit)
    if unit is None and warps.is_heavy(bulk):
        return _warped(bulk, warps.of_tail(bulk), masses, step, unit)
    if masses:
        return _warped(bulk, None, masses, step, unit)
    return Number(0.0, 0.0, float(x.min()), float(x.max()), lattice=step, unit=unit)


def _warped(
    bulk: np.ndarray,
    warp: Warp | None,
    masses: dict[float, float],
    step: Lattice | Values | None,
    unit: str | None,
) -> Number:
    u = bulk if warp is None else warp.apply(bulk)
    # The scale is the bulk's: what is beyond a hundredth of the rows on either side is not asked.
    inner = np.clip(u, *np.quantile(u, [0.01, 0.99]))
    shift, scale = float(inner.mean()), 2 * float(inner.std()) or 2 * float(u.std()) or 1.0
    ends = ((u - shift) / scale).astype(np.float32)
    edges = float(ends.min()), float(ends.max())
    middle = float(np.median(bulk))
    below = sorted((m for m in masses if m < middle), reverse=True)
    above = sorted(m for m in masses if m >= middle)
    placed = [(m, edges[0] - GAP * (i + 1)) for i, m in enumerate(below)]
    placed += [(m, edges[1] + GAP * (i + 1)) for i, m in enumerate(above)]
    every = [float(bulk.min()), float(bulk.max()), *masses]
    return Number(
        shift,
        scale,
        min(every),
        max(every),
        warp,
        tuple((m, float(np.float32(at)), masses[m]) for m, at in placed),
        edges,
        step,
        unit,
        reach=warps.reach(bulk) if warps.is_heavy(bulk) else 0.0,
    )


def _masses(x: np.ndarray) -> dict[float, float]:
    """Up to four values that many rows have, and their shares of the rows.

    Each at least 5 times as often as any other value, in 5 rows and 2 % of all at least, in a
    column of 20 other values or more: in one of few values all are shared.
    """
    values, counts = np.unique(x, return_counts=True)
    if len(values) < 24:
        return {}
    order = np.argsort(-counts, kind="stable")
    top = counts[order[:5]]
    for m in range(4, 0, -1):
        if top[m - 1] >= max(5, 0.02 * len(x), 5 * top[m]):
            return {float(values[i]): float(counts[i] / len(x)) for i in sorted(order[:m])}
    return {}


def to_json(kind: Kind) -> dict[str, Any]:
    """The kind as JSON holds it."""
    found: dict[str, Any] = {}
    for name, value in vars(kind).items():
        if isinstance(value, Warp | Lattice | Values):
            value = vars(value)
        found[name] = value
    return found
