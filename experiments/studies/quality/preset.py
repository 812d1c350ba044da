"""The fast preset as it is, on data of many kinds: a study of quality.py."""

from dataclasses import dataclass

import numpy as np

from ddpm_jax.config import PRESETS
from ddpm_jax.diffusion import sampling
from ddpm_jax.points.sources import load_points
from ddpm_jax.quality import metrics
from studies.quality.fit import Row, Study, fit, over, quick, say


def rose(seed: int, n: int = 50_000) -> np.ndarray:
    """n points [n, 2] of the rhodonea r = 0.9 cos 4θ, drawn with a pen 0.005 to 0.08 wide.

    A drawing that had no part in choosing the preset: thin lines and thick ones, all through 0.
    """
    rng = np.random.default_rng(seed)
    angle, across = 2 * np.pi * rng.uniform(size=n), rng.uniform(-0.5, 0.5, n)
    along = 0.9 * np.cos(4 * angle) * np.exp(1j * angle)
    velocity = 0.9 * (1j * np.cos(4 * angle) - 4 * np.sin(4 * angle)) * np.exp(1j * angle)
    width = 0.005 + 0.075 * np.sin(angle / 2) ** 2
    z = along + 1j * velocity / abs(velocity) * width * across
    return np.stack([z.real, z.imag], axis=1)


@dataclass(frozen=True)
class Preset(Study):
    """The fast preset, unchanged and trained in full, on data sets of many kinds."""

    data: tuple[str, ...] = (
        "bicycle",
        "rose",
        "dino",
        "swissroll",
        "checkerboard",
        "spirals",
        "moons",
        "8gaussians",
    )
    """Files of points, toy distributions, or `rose`, a drawing unlike those the preset is for."""
    seeds: int = 3
    """Seeds of training and sampling; the table has their median ± standard deviation."""
    num_samples: int = 20_000
    """Samples measured, ancestral ones in all of the schedule's steps."""
    train_steps: int = 0
    """Training steps; 0: the preset's own."""

    def __call__(self) -> list[Row]:
        """Train and measure for every data set and seed."""
        rows = []
        for source in self.data:
            data = rose(0) if source == "rose" else load_points(source)
            found = over([self._measure(data, seed) for seed in range(self.seeds)], np.median)
            rows.append({"data": source, **found})
            say(*rows[-1].values())
        return rows

    def _measure(self, data: np.ndarray, seed: int) -> Row:
        config = PRESETS["fast"].replace(seed=seed)
        model = fit(config, data, self.train_steps)
        drawn = model.sample(self.num_samples, seed, config.noise.num_steps, sampling.DDPM)
        real, fake = model.run.scaler.apply(data), model.run.scaler.apply(drawn)
        redrawn = np.random.default_rng(seed).choice(real, self.num_samples)
        ours, theirs = (quick(real, x, projections=256) for x in (fake, redrawn))
        return {
            "train s": model.seconds,
            "off, %": 100 * ours["off"],
            "off, % of real points": 100 * metrics.isolated_fraction(real),
            "TV": ours["TV"],
            "TV floor": theirs["TV"],
            "TV / floor": ours["TV"] / theirs["TV"],
            "1000 SW": 1000 * ours["SW"],
            "1000 SW floor": 1000 * theirs["SW"],
            "C2ST": metrics.classifier_two_sample(real, fake[:10_000], seed),
        }
