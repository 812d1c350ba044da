"""Every metric of samples beside its floor: what the same estimator gives for real points.

Raises InputError as the metrics do, and for fewer data than a floor can be measured with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax import metrics


@dataclass(frozen=True)
class Measurement:
    """A metric of samples and its real-vs-real floor: means over draws, and standard deviations.

    A spread is None of a single value: what compares everything with everything has no draws.
    """

    name: str
    value: float
    spread: float | None
    floor: float
    floor_spread: float | None
    size: int

    @property
    def ratio(self) -> float:
        """value / floor, or nan where the floor cannot be told from 0."""
        return self.value / self.floor if self.floor > (self.floor_spread or 0) else float("nan")


def evaluate(
    real: ArrayLike, fake: ArrayLike, *, seed: int = 0, repeats: int = 5, size: int = 2000
) -> list[Measurement]:
    """All metrics of samples against data, each beside the floor of the same estimator and sizes.

    The first four compare all samples with all data. The floor of total_variation and
    sliced_wasserstein redraws as many points from the data with replacement, as a perfect model of
    the file would. No point so drawn is ever far from the data, so the floors of far_fraction and
    uncovered_fraction hold points out: each in turn, and as many as there are samples, in both
    value and floor at most half the data. The rest compare random subsets, `size` points a side
    (5 size for classifier_two_sample), at most half the data; their floor compares two disjoint
    subsets of the data. `repeats` draws of each.
    Raises: InputError if size or repeats is below 2, or the data below 4 points.
    """
    real, fake = metrics.checked(real, fake)
    metrics.at_least(2, size=size, repeats=repeats, half_the_data=len(real) // 2)
    rngs = [np.random.default_rng((seed, i)) for i in range(repeats)]
    redrawn = [rng.choice(real, len(fake)) for rng in rngs]
    shuffled = [(rng.permutation(real), rng.permutation(fake)) for rng in rngs]

    def whole(metric: Callable[..., float]) -> Measurement:
        floors = [metric(real, x) for x in redrawn]
        return _measurement(metric, [metric(real, fake)], floors, len(fake))

    def subsets(metric: Callable[..., float], most: int) -> Measurement:
        n = min(most, len(real) // 2, len(fake))
        values = [metric(x[:n], y[:n]) for x, y in shuffled]
        floors = [metric(x[:n], x[n : 2 * n]) for x, _ in shuffled]
        return _measurement(metric, values, floors, n)

    far = metrics.far_fraction(real, fake), metrics.isolated_fraction(real)
    n, radius = min(len(fake), len(real) // 2), metrics.default_radius(real)
    uncovered = metrics.uncovered_fraction(real, shuffled[0][1][:n])
    held_out = [metrics.uncovered_fraction(x[n:], x[:n], radius) for x, _ in shuffled]
    return [
        whole(metrics.total_variation),
        whole(metrics.sliced_wasserstein),
        _measurement(metrics.far_fraction, far[:1], far[1:], len(fake)),
        _measurement(metrics.uncovered_fraction, [uncovered], held_out, n),
        subsets(metrics.wasserstein2, size),
        subsets(metrics.energy_distance, size),
        subsets(metrics.mmd_rbf, size),
        subsets(metrics.classifier_two_sample, 5 * size),
    ]


def format_table(measurements: Sequence[Measurement]) -> str:
    """A fixed-width table of measurements: value ± spread, floor ± spread, ratio, points a side."""
    lines = [f"{'metric':<22}{'samples':>20}{'real vs real':>20}{'ratio':>8}{'points':>9}"]
    for m in measurements:
        value, floor = _plus_minus(m.value, m.spread), _plus_minus(m.floor, m.floor_spread)
        lines.append(f"{m.name:<22}{value:>20}{floor:>20}{m.ratio:>8.2f}{m.size:>9,}")
    return "\n".join([*lines, "Lower is better; classifier_two_sample is best at 0.5, chance."])


def _plus_minus(value: float, spread: float | None) -> str:
    return f"{value:.4g}" if spread is None else f"{value:.4g} ± {spread:.1g}"


def _measurement(
    metric: Callable[..., float], values: Sequence[float], floors: Sequence[float], size: int
) -> Measurement:
    value, floor = ((fmean(v), stdev(v) if len(v) > 1 else None) for v in (values, floors))
    return Measurement(metric.__name__, *value, *floor, size)
