"""Has a model learned the distribution, or its training rows by heart? Distances to those rows.

A new row of the same law lies as far from the training rows as a held-out row does. Points that
repeat them lie on them, and score as well as real points do by every distance between sets.
Papers: the distance to the closest record is usual for tables (Zhao et al. 2021, arXiv 2102.08369);
Meehan et al. 2020 (arXiv 2004.05675) compare it, as here, with that of held-out rows.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

TOLERANCE = 0.1
"""Nearer than this share of the held-out rows' median distance, a row is a copy."""
MAX_ROWS = 5000
"""Of more rows, as many drawn at random are looked up among the training rows."""
_LEAST_EXCESS = 0.1  # of the share of copies over that of held-out rows, before it is one
_CLOSE = 0.7  # of the held-out rows' distance: nearer is too near
_ERRORS = 3  # standard errors that either must be beyond


@dataclass(frozen=True)
class Copying:
    """Median distances to the nearest training row, and shares within `tolerance` of one.

    Those of samples beside those of rows that the model has not seen, each with its standard error.
    """

    distance: float
    distance_error: float
    unseen_distance: float
    unseen_distance_error: float
    share: float
    share_error: float
    unseen_share: float
    unseen_share_error: float
    tolerance: float
    lattice: bool
    copies: bool
    """Far more samples than unseen rows are training rows."""
    too_close: bool
    """Most unseen rows are farther from the training rows than most samples are, by 1/0.7."""


def copying(
    samples: Float[np.ndarray, "M D"],
    train: Float[np.ndarray, "N D"],
    held_out: Float[np.ndarray, "H D"] | None = None,
    seed: int = 0,
    norm: int = 2,
) -> Copying:
    """How near samples are to their nearest training rows, and how near unseen rows are.

    Where nothing was held out, each of N >= 2 training rows is measured by the others. Where the
    rows are distinct points of a lattice (a picture's, say), unseen rows keep its spacing from the
    training rows and samples need not: `lattice` says that then nothing can be told.
    Distances are those of `norm`, as in `metrics`.
    """
    rng, tree = np.random.default_rng(seed), KDTree(train)
    found = tree.query(_some(rng, samples), p=norm)[0]
    if held_out is None:
        unseen = tree.query(_some(rng, train), k=2, p=norm)[0][:, 1]
    else:
        unseen = tree.query(_some(rng, held_out), p=norm)[0]
    # Rows that are written and read, scaled and unscaled, are equal to within rounding only.
    rounding = 1e-9 * float(np.abs(train).max())
    tolerance = max(TOLERANCE * float(np.median(unseen)), rounding)
    shares = [float(np.mean(d <= tolerance)) for d in (found, unseen)]
    apart = unseen[unseen > rounding]
    kinds = len(np.unique(np.round(apart / apart.min(), 3))) if apart.size else 0
    lattice = len(apart) == len(unseen) and 10 * kinds <= len(unseen)

    # Were there one law of both, each share would be near that of all rows together, and half of
    # the unseen rows would lie within the median distance of the samples.
    together = (len(found) * shares[0] + len(unseen) * shares[1]) / (len(found) + len(unseen))
    error = math.sqrt(together * (1 - together) * (1 / len(found) + 1 / len(unseen)))
    copies = shares[0] - shares[1] > _LEAST_EXCESS + _ERRORS * error
    within = float(np.mean(unseen <= np.median(found) / _CLOSE))
    too_close = within < 1 / 2 - _ERRORS / 2 / math.sqrt(len(unseen))
    return Copying(
        *_median(found),
        *_median(unseen),
        shares[0],
        _share_error(shares[0], len(found)),
        shares[1],
        _share_error(shares[1], len(unseen)),
        tolerance,
        lattice=lattice,
        copies=copies and not lattice,
        too_close=too_close and not lattice,
    )


def _some(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    return rows if len(rows) <= MAX_ROWS else rng.choice(rows, MAX_ROWS, replace=False)


def _median(values: np.ndarray) -> tuple[float, float]:
    """The median, and its standard error from the order statistics one binomial deviation away."""
    n, deviation = len(values), math.sqrt(len(values)) / 2
    ranks = [n / 2 - deviation, n / 2 + deviation]
    low, high = np.sort(values)[np.clip(np.round(ranks).astype(int), 0, n - 1)]
    return float(np.median(values)), float(high - low) / 2


def _share_error(share: float, n: int) -> float:
    """The binomial standard error, of a share that is not taken to be nearer to 0 or 1 than 1/n."""
    p = min(max(share, 1 / (n + 1)), n / (n + 1))
    return math.sqrt(p * (1 - p) / n)
