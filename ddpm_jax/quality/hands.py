"""Samples and other real rows, dealt into hands and measured against the same rows.

A hand is a set of rows that no other hand shares: so the spread over hands is that of independent
draws, and that of real hands is what any perfect model must reckon with.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev

import numpy as np
from jaxtyping import Float

from ddpm_jax.quality import metrics

Rows = Float[np.ndarray, "_ _"]

MAX_AGAINST = 10_000
"""Rows to compare with; of more, as many."""
CLASSIFIER_HANDS = 3
"""The classifier takes a second or two of each hand."""


@dataclass(frozen=True)
class Measurement:
    """A metric of samples and its floor: means over hands, and standard deviations.

    A spread is None of a single hand. Of `nearest_training_row` and `copies` the floor is what
    rows have that the model has not seen, and the spreads are standard errors. `size` counts the
    samples of a hand.
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


@dataclass(frozen=True)
class _Way:
    """A metric(real, fake), the most rows a side that it is given, and the most hands."""

    metric: Callable[[Rows, Rows], float]
    most: int
    hands: int
    paired: bool = False
    """Whether both sides must have as many rows."""


class Hands:
    """Rows to compare with, and hands of other real rows, by which any samples are measured.

    There are `repeats` hands, or fewer where rows are fewer than two a hand; a hand has as many
    rows as the smaller of both sets allows. The energy distance takes at most `size` rows a side,
    mmd_rbf and the assignment of wasserstein2 half as many, the classifier twice as many. Metrics
    named in `without` are not taken. `against`, in random order, is cut to `MAX_AGAINST` rows.
    """

    def __init__(
        self,
        against: Rows,
        others: Rows,
        num_samples: int,
        *,
        repeats: int,
        size: int,
        seed: int,
        without: Collection[str] = (),
        norm: int = 2,
    ) -> None:
        self.against, self.seed, self.norm = against[:MAX_AGAINST], seed, norm
        against = self.against
        self.count = max(1, min(repeats, len(others) // 2, num_samples // 2))
        self.size = min(len(others), num_samples) // self.count
        radius = metrics.neighbour_radius(against, norm)
        bins = metrics.bins_for(min(len(against), self.size), against.shape[1])
        far = partial(metrics.far_fraction, radius=radius, norm=norm)
        uncovered = partial(metrics.uncovered_fraction, radius=radius, norm=norm)
        whole, half = max(len(against), self.size), max(size // 2, 2)
        trees = partial(metrics.classifier_two_sample, seed=seed)
        assigned = partial(metrics.wasserstein2, norm=norm)
        ways = {
            "energy_distance": _Way(partial(metrics.energy_distance, norm=norm), size, repeats),
            "sliced_wasserstein": _Way(metrics.sliced_wasserstein, whole, repeats),
            "wasserstein2": _Way(assigned, half, repeats, paired=True),
            "mmd_rbf": _Way(metrics.mmd_rbf, half, repeats),
            "total_variation": _Way(partial(metrics.total_variation, bins=bins), whole, repeats),
            "far_fraction": _Way(far, whole, repeats),
            "uncovered_fraction": _Way(uncovered, whole, repeats),
            "classifier_two_sample": _Way(trees, 2 * size, CLASSIFIER_HANDS),
        }
        self.ways = {name: way for name, way in ways.items() if name not in without}
        others_dealt = self._deal(others)
        self.floors = {name: self._values(way, others_dealt) for name, way in self.ways.items()}

    def measure(self, samples: Rows, names: Sequence[str] = ()) -> list[Measurement]:
        """The metrics of those names, by default all, of as many samples as this was made for."""
        dealt = self._deal(samples)
        return [
            Measurement(
                name,
                *_spread(self._values(way, dealt)),
                *_spread(self.floors[name]),
                min(way.most, self.size, len(self.against) if way.paired else self.size),
            )
            for name, way in self.ways.items()
            if not names or name in names
        ]

    def _deal(self, rows: Rows) -> list[Rows]:
        shuffled = np.random.default_rng((self.seed, 1)).permutation(rows)
        return [shuffled[i * self.size : (i + 1) * self.size] for i in range(self.count)]

    def _values(self, way: _Way, dealt: Sequence[Rows]) -> list[float]:
        against = self.against[: way.most]
        size = min(way.most, self.size)
        if way.paired:
            size = min(size, len(against))
            against = against[:size]
        return [way.metric(against, hand[:size]) for hand in dealt[: way.hands]]


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    return fmean(values), stdev(values) if len(values) > 1 else None
