"""Toy distributions, by exact W2 to points that were held out: the study `toys`."""

from dataclasses import dataclass, field

import numpy as np

from ddpm_jax.config import Config
from ddpm_jax.diffusion import sampling
from ddpm_jax.points.toys import toy
from ddpm_jax.quality import metrics
from studies.quality.fit import Over, Row, Study, fit, in_processes, say

TRAINED = 10_000
"""Points to train on; others are compared with."""


@dataclass(frozen=True)
class Toys(Study):
    """Exact W2 of samples to held-out points, in the data's own units, beside real-vs-real."""

    toys: tuple[str, ...] = ("moons", "8gaussians")
    """Which distributions: 10,000 points to train on, others to compare with."""
    train_steps: int = 10_000
    """Training steps; 0 for as many as the recipe takes."""
    seeds: int = 3
    """Seeds of data, training and sampling."""
    size: int = 2000
    """Points a side; the floor depends on it."""
    evaluations: int = 100
    """Of the network, a sample, by SDE-DPM-Solver++(2M)."""
    config: Config = field(default_factory=Config)
    """The recipe."""
    workers: int = 1
    """Processes that train and measure at once."""

    def __call__(self) -> list[Row]:
        """Train on and measure each toy for every seed."""
        each = [(self, name, seed) for name in self.toys for seed in range(self.seeds)]
        drawn = in_processes(_draw, each, self.workers)
        pairs = [(held_out, x) for held_out, *others, _ in drawn for x in others]
        distances = np.reshape(in_processes(_distance, pairs, self.workers), (len(each), -1))
        found = np.column_stack([distances, [seconds for *_, seconds in drawn]])
        for (_, name, seed), values in zip(each, found, strict=True):
            say(name, seed, *values)
        return [
            self._row(*it) for it in zip(self.toys, np.split(found, len(self.toys)), strict=True)
        ]

    def _row(self, name: str, found: np.ndarray) -> Row:
        w2, floor, one_by_one, training, seconds = found.T
        return {
            "data": name,
            "W2": Over(list(w2)),
            "real vs real": Over(list(floor)),
            "ratio": float(w2.mean() / floor.mean()),
            "median W2": float(np.median(w2)),
            "ratio of medians": float(np.median(w2) / np.median(floor)),
            "real, one by one": Over(list(one_by_one)),
            "training points": Over(list(training)),
            "points": self.size,
            "seeds": self.seeds,
            "train s": Over(list(seconds)),
        }


def _draw(study: Toys, name: str, seed: int) -> tuple:
    """Points held out; samples and three kinds of real points to compare with them; seconds."""
    size = study.size
    points = toy(name, seed, n=TRAINED + size)
    train, held_out = points[:TRAINED], points[TRAINED:]
    model = fit(study.config.replace(seed=seed), train, study.train_steps)
    again = toy(name, seed + 1000, n=TRAINED + size)[:size]
    # The toys have as many points in each mode; of a hundred times as many, these are as good as
    # drawn one by one, which is all that a model of the density can do.
    one_by_one = toy(name, seed + 2000, n=100 * size)[:size]
    drawn = model.sample(size, seed, study.evaluations, sampling.SDE_DPMPP)
    # What is more than its share in the training points is less in the points held out.
    return held_out, drawn, again, one_by_one, train[:size], model.seconds


def _distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Exact W2, of minutes where there are 10,000 points: each is told as it is found."""
    found = metrics.wasserstein2(real, fake)
    say("W2", found)
    return found
