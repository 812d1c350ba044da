"""Lattices: the steps in which a column's numbers were written, and numbers put back on them.

A number with two decimals lies on a lattice of step 0.01, a whole number on one of step 1, a
picture's coordinates perhaps on one of 1/256. Samples that lie between its points tell. Where there
is none, but values recur, as in standardised columns, they are put back on those that were seen.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

MAX_DECIMALS = 12
CELLS = 2**32
"""A lattice has at most so many steps from end to end; finer ones are those of a format."""

_CHANCE_BITS = 40

MAX_VALUES = 100
ROWS_A_VALUE = 5
CLOSEST = 1e-5
"""Of the values' range: float32, which the network works in, tells values so far apart."""


@dataclass(frozen=True)
class Lattice:
    """The numbers (origin + stride · k) / 10^decimals, k whole.

    All three are whole, and a quotient of whole numbers is rounded once: what is put on the lattice
    is bit for bit the number that the decimal stands for.
    """

    origin: int
    stride: int
    decimals: int

    @property
    def step(self) -> float:
        """The distance of neighbours."""
        return self.stride / 10**self.decimals

    def snap(self, x: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """The nearest points of the lattice; NaN stays NaN."""
        k = np.rint((x * 10.0**self.decimals - self.origin) / self.stride)
        return (self.origin + self.stride * k) / 10.0**self.decimals

    def move(self, x: Float64[np.ndarray, "*n"], steps: int) -> Float64[np.ndarray, "*n"]:
        """The points of the lattice that many steps above (below, if negative) those given."""
        k = np.rint((x * 10.0**self.decimals - self.origin) / self.stride) + steps
        return (self.origin + self.stride * k) / 10.0**self.decimals


@dataclass(frozen=True)
class Values:
    """Numbers in no regular steps, ascending: the only ones that a column has."""

    values: tuple[float, ...]

    decimals = 0
    """In which whole ones among them are written; the others keep all of their digits."""

    def snap(self, x: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """The nearest of the values; NaN stays NaN."""
        values = np.array(self.values)
        nearest = values[np.searchsorted((values[1:] + values[:-1]) / 2, x)]
        return np.where(np.isnan(x), x, nearest)


def recurring(x: Float64[np.ndarray, " n"]) -> Values | None:
    """The values of x, finite, where they are few; None where they are not.

    Few are at most `MAX_VALUES`, each in `ROWS_A_VALUE` rows on average: measurements of a
    continuous quantity do not recur so. No two may be closer than `CLOSEST`.
    """
    u = np.unique(x)
    if not 2 <= len(u) <= min(MAX_VALUES, len(x) // ROWS_A_VALUE):
        return None
    if np.diff(u).min() < CLOSEST * (u[-1] - u[0]):
        return None
    return Values(tuple(u.tolist()))


def find(x: Float64[np.ndarray, " n"]) -> Lattice | None:
    """The coarsest lattice on which all of x, finite, lies; None if there is none that counts.

    Numbers count as on a lattice of h = g · 10^-k, k ≤ 12, if all are within 4 units in the last
    place of it. Every float64 is on some lattice, so two things are asked besides:

    - numbers at random would lie on it with a chance below 2^-40, which for m distinct values is
      (8 ulp / h)^m: two whole numbers are enough, of numbers with 12 decimals it takes more;
    - it has at most 2^32 steps from the least to the largest (`CELLS`).

    Numbers that were float32 before, all of them, are looked at with float32's units.
    """
    u = np.unique(x)
    if len(u) < 2:
        return None
    single = bool((u == u.astype(np.float32)).all())
    own = 16 * float(np.spacing(np.float32(np.abs(u).max()))) if single else 0.0
    for ulps in [np.float64, np.float32] if single else [np.float64]:
        found = _find(u, ulps)
        # Steps of 2^-m, as fine as float32's own there, are those of the format.
        if found and not (found.step <= own and found.decimals and _is_power_of_two(found.step)):
            return found
    return None


def _is_power_of_two(step: float) -> bool:
    return math.frexp(step)[0] == 0.5


def _find(u: np.ndarray, dtype: type) -> Lattice | None:
    tolerance = 4 * np.spacing(np.abs(u).astype(dtype)).astype(np.float64)
    top = max(abs(u[0]), abs(u[-1]))
    for decimals in range(MAX_DECIMALS + 1):
        power = 10.0**decimals
        if top * power > 2**52:
            return None
        near = np.rint(u * power)
        if not (np.abs(near / power - u) <= tolerance).all():
            continue
        whole = near.astype(np.int64)
        stride = int(np.gcd.reduce(np.diff(whole)))
        if stride == 0 or (whole[-1] - whole[0]) // stride > CELLS:
            return None
        # What counts as near is less than a whole step, or the chance is no chance.
        bits = math.log2(stride / power / (2 * tolerance.max()))
        if bits * len(u) < _CHANCE_BITS:
            return None
        return Lattice(int(whole[0]) % stride, stride, decimals)
    return None
