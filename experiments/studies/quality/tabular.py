"""Tables of numbers in more than two dimensions: the diffusion model against a Gaussian mixture."""

import itertools
import warnings

import numpy as np
from scipy.spatial import KDTree
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from ddpm_jax.config import PRESETS
from ddpm_jax.quality import metrics
from studies.quality.fit import Over, Row, fit, say


def synthetic(rng: np.random.Generator, n: int = 8000, dim: int = 8) -> np.ndarray:
    """Correlated, multimodal and skewed: arcs of three radii, with columns that follow them."""
    angle, branch = rng.uniform(0, 1.5 * np.pi, n), rng.integers(0, 3, n)
    radius = 1 + 0.5 * branch
    x = 0.3 * rng.standard_normal((n, dim))
    x[:, 0] += radius * np.cos(angle)
    x[:, 1] += radius * np.sin(angle)
    x[:, 2] += 2.0 * (branch - 1)
    x[:, 3] += angle
    x[:, 4:6] += x[:, :2]
    x[:, 6] = np.exp(0.8 * x[:, 6] / 0.3 + 0.3 * x[:, 3])
    x[:, 7] = rng.exponential(1 + branch)
    return x


def breast_cancer(rng: np.random.Generator) -> np.ndarray:
    """scikit-learn's 569 rows of 30 measurements, shuffled."""
    return rng.permutation(np.asarray(load_breast_cancer(return_X_y=True)[0]))


RECIPE = PRESETS["fast"].replace(width=128, tables=(8, 16))
"""Few rows spread over many columns: coarser tables, and more units to bring them together."""

SETS = 5
"""Sets of samples whose energy distances are averaged: one alone is off by a third of it."""

TABLES = {"synthetic, 8-D": synthetic, "breast cancer, 30-D": breast_cancer}


def best_mixture(points: np.ndarray, seed: int) -> GaussianMixture:
    """The Gaussian mixture of least BIC: 1 to 30 components, full, tied or diagonal covariance."""
    counts, kinds = (1, 2, 3, 5, 8, 12, 20, 30), ("full", "tied", "diag")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixtures = [
            GaussianMixture(count, covariance_type=kind, random_state=seed, reg_covar=1e-4).fit(
                points
            )
            for count, kind in itertools.product(counts, kinds)
        ]
    return min(mixtures, key=lambda mixture: mixture.bic(points))


def compare(train_steps: int, seeds: int) -> list[Row]:
    """Energy distance and two-sample test of held-out rows against each model's samples.

    Columns are standardised by the training rows. "nearest" is the median distance of a sample to
    the closest training row over a held-out row's: far below 1, training rows have been copied.
    """
    rows = []
    for name, make in TABLES.items():
        found: dict[str, list[list[float]]] = {}
        for seed in range(seeds):
            points = make(np.random.default_rng(seed))
            train, held_out = np.split(points, [len(points) // 2])
            shift, scale = train.mean(axis=0), train.std(axis=0)
            train, held_out = (train - shift) / scale, (held_out - shift) / scale
            model = fit(RECIPE.replace(seed=seed), train, train_steps)
            mixture = best_mixture(train, seed)
            mixture.random_state = np.random.RandomState(seed)  # which goes on from set to set
            size = len(held_out)
            sets = {
                "training rows": [train[:size]],
                "diffusion": np.split(model.sample(SETS * size, seed), SETS),
                "Gaussian mixture, BIC": [mixture.sample(size)[0] for _ in range(SETS)],
            }
            closest = float(np.median(KDTree(train).query(held_out)[0]))
            for label, drawn in sets.items():
                nearest = float(np.median(KDTree(train).query(drawn[0])[0])) / closest
                found.setdefault(label, []).append(
                    [
                        float(np.mean([metrics.energy_distance(held_out, x) for x in drawn])),
                        metrics.classifier_two_sample(held_out, drawn[0], seed),
                        nearest,
                    ]
                )
                say(name, seed, label, *found[label][-1])
        for label, values in found.items():
            energy, c2st, nearest = (Over(list(column)) for column in np.transpose(values))
            rows.append(
                {
                    "data": name,
                    "model": label,
                    "energy distance": energy,
                    "two-sample test": c2st,
                    "nearest": nearest,
                    "seeds": seeds,
                }
            )
    return rows
