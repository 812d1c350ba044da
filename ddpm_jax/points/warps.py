"""Monotone maps u = w(x) under which heavy tails and bounds become plain, and their inverses.

A model learns numbers whose spread is that of their bulk. One value of a thousand spreads, or a
Pareto law, has a bulk that is nothing beside its tail; a logarithm, or an inverse hyperbolic sine,
has both. Each map is smooth, strictly increasing, inverted in closed form, and has log w'(x) for
the change of variables: log p(x) = log p(u) + log w'(x).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtri

Kind = Literal["asinh", "log", "above", "below", "between"]

_LARGEST = 690.0  # e^690 is finite in float64


@dataclass(frozen=True)
class Warp:
    """A map of one of these kinds, y = (x - centre) / width, width > 0:

    - asinh: u = asinh y; linear near the centre, logarithmic far from it, on both sides
    - log: u = log y, x above the centre; for a heavy tail from a bound
    - above: u = log(e^y - 1), x above the centre; logarithmic near that bound, linear far from it
    - below: u = -log(e^-y - 1), x below the centre
    - between: u = log(y / (1 - y)), x between the centre and centre + width
    """

    kind: Kind
    centre: float
    width: float

    def apply(self, x: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """u = w(x); NaN where x is NaN, or not within the bounds."""
        y = (x - self.centre) / self.width
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.kind == "asinh":
                return np.arcsinh(y)
            if self.kind == "log":
                u = np.log(y)
            elif self.kind == "above":
                u = y + np.log(-np.expm1(-y))
            elif self.kind == "below":
                u = y - np.log(-np.expm1(y))
            else:
                u = np.log(y) - np.log1p(-y)
        return np.where(np.isfinite(u), u, np.nan)

    def invert(self, u: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """x = w⁻¹(u)."""
        if self.kind == "asinh":
            y = np.sinh(np.clip(u, -_LARGEST, _LARGEST))
        elif self.kind == "log":
            y = np.exp(np.clip(u, -_LARGEST, _LARGEST))
        elif self.kind == "above":
            y = np.logaddexp(0, u)
        elif self.kind == "below":
            y = -np.logaddexp(0, -u)
        else:
            y = np.exp(-np.logaddexp(0, -u))
        return self.centre + self.width * y

    def log_slope(self, x: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """log w'(x); NaN where `apply` is."""
        y = (x - self.centre) / self.width
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.kind == "asinh":
                slope = -np.log(np.hypot(1, y))
            elif self.kind == "log":
                slope = -np.log(y)
            elif self.kind == "above":
                slope = -np.log(-np.expm1(-y))
            elif self.kind == "below":
                slope = -np.log(-np.expm1(y))
            else:
                slope = -np.log(y) - np.log1p(-y)
        return np.where(np.isfinite(slope), slope - np.log(self.width), np.nan)


TAIL = 9.0
"""A column is heavy-tailed if its outer half percent begins so many spreads from the median: 2.6 of
a Gaussian, 5.7 of an exponential, 11 of a standard lognormal law, 34 of Pareto's with α = 1.5."""

REACH = 20.0
"""A column is wild if its farthest value is so many spreads from the median: 4.3 among 100,000
Gaussian values, 14 among as many exponential ones."""

_PROBABILITIES = np.linspace(0.005, 0.995, 41)


def spread(x: Float64[np.ndarray, " n"]) -> float:
    """The standard deviation of a Gaussian with these quartiles; of more, where those coincide."""
    for low, high in ((0.25, 0.75), (0.1, 0.9), (0.01, 0.99)):
        between = float(np.diff(np.quantile(x, [low, high]))[0])
        if between > 0:
            return between / float(ndtri(high) - ndtri(low))
    return float(np.std(x))


def is_heavy(x: Float64[np.ndarray, " n"]) -> bool:
    """Whether the numbers have a heavy tail (`TAIL`) or a wild value (`REACH`)."""
    scale = spread(x)
    if scale == 0 or len(x) < 10:
        return False
    low, middle, high = np.quantile(x, [0.005, 0.5, 0.995])
    return bool(max(high - middle, middle - low) > TAIL * scale or reach(x) > REACH)


def reach(x: Float64[np.ndarray, " n"]) -> float:
    """How many spreads the farthest value is from the median."""
    scale = spread(x)
    return float(np.abs(x - np.median(x)).max() / scale) if scale > 0 else 0.0


def of_tail(x: Float64[np.ndarray, " n"]) -> Warp:
    """The map under which the quantiles of x are nearest to a Gaussian's: log, or asinh.

    A logarithm, which keeps what is positive positive, is taken unless asinh is much nearer.
    """
    scale, seen = spread(x), _Seen(x)
    centres = np.quantile(x, [0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0])
    candidates = [
        Warp("asinh", float(centre), scale * 2.0**power)
        for centre in np.unique(centres)
        for power in range(-5, 4)
    ]
    best = min(candidates, key=seen.misfit)
    if x.min() > 0:
        log = Warp("log", 0.0, float(np.median(x)))
        if seen.misfit(log) <= 1.5 * seen.misfit(best):
            return log
    return best


def of_bound(x: Float64[np.ndarray, " n"], low: float | None, high: float | None) -> Warp:
    """The map for numbers strictly above low, or below high, or between both."""
    if low is not None and high is not None:
        return Warp("between", low, high - low)
    scale, seen = spread(x) or 1.0, _Seen(x)
    if low is not None:
        near = [Warp("above", low, scale * 2.0**power) for power in range(-3, 3)]
        if is_heavy(x):
            near.append(Warp("log", low, float(np.median(x)) - low))
        return min(near, key=seen.misfit)
    if high is None:
        raise ValueError("of_bound: no bound")
    return min((Warp("below", high, scale * 2.0**p) for p in range(-3, 3)), key=seen.misfit)


class _Seen:
    """Numbers by their quantiles and their ends."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = np.concatenate([np.quantile(x, _PROBABILITIES), [x.min(), x.max()]])

    def misfit(self, warp: Warp) -> float:
        """How far the quantiles of u = w(x) are from a Gaussian's, and, a little, its ends."""
        u = warp.apply(self.x)
        if not np.isfinite(u).all() or np.ptp(u[:-2]) == 0:
            return np.inf
        z = ndtri(_PROBABILITIES)
        middle = u[:-2].mean()
        slope = max(((u[:-2] - middle) * z).mean() / (z**2).mean(), 1e-12)
        residual = (u[:-2] - middle - slope * z).std() / slope
        return float(residual + _END_COSTS * np.abs(u[-2:] - middle).max() / slope)


_END_COSTS = 0.002
"""A hundredth of the spread for an end five spreads farther: it is to come near, at little cost."""
