"""The affine map that brings every column to the network's scale, and back."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Num

from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.points.mapped import Points, blocks


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
