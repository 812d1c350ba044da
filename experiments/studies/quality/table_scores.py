"""What samples of a table are worth: close to held-out rows, of use for prediction, no copies."""

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import f1_score, r2_score
from sklearn.model_selection import cross_val_score

from ddpm_jax.quality.gower import Gower
from studies.quality.fit import Row

MOST = 500
"""Rows a side where distances of all pairs, or a matching, are needed."""


def measure(train: Any, held_out: Any, drawn: Any, target: str, seed: int) -> Row:
    """What samples are worth: closeness to held-out rows, use for prediction, and copies."""
    gower = Gower.of(columns(train))
    old, real, fake = (gower(columns(rows)) for rows in (train, held_out, drawn))
    score = "F1" if is_word(train[target]) else "R2"
    return {
        "W1": matched(real[:MOST], fake, seed),
        f"{score} of target": predicted(drawn, held_out, target, seed),
        "told apart": told_apart(real, fake, seed),
        "nearest": nearest(old, fake) / nearest(old, real),
    }


def columns(rows: Any) -> list[np.ndarray]:
    """The columns as arrays of numbers, or of words."""
    return [rows[name].to_numpy(object if is_word(rows[name]) else float) for name in rows.columns]


def is_word(column: Any) -> bool:
    """Whether a column holds words."""
    return column.dtype.kind not in "biuf"


def matched(real: np.ndarray, fake: np.ndarray, seed: int, draws: int = 3) -> float:
    """W1 in Gower's distance between held-out rows and as many samples: exact, mean over draws."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        some = rng.choice(len(fake), len(real), replace=len(fake) < len(real))
        costs = cdist(real, fake[some], "cityblock")
        found.append(costs[linear_sum_assignment(costs)].mean())
    return float(np.mean(found))


def predicted(drawn: Any, held_out: Any, target: str, seed: int) -> float:
    """A forest's F1 (macro) or R² on held-out rows, after training on samples only."""
    import pandas as pd

    both = pd.get_dummies(pd.concat([drawn, held_out]).drop(columns=target), dtype=float)
    known, asked = both.to_numpy()[: len(drawn)], both.to_numpy()[len(drawn) :]
    if is_word(held_out[target]):
        forest = RandomForestClassifier(200, random_state=seed).fit(
            known, drawn[target].astype(str)
        )
        return float(f1_score(held_out[target].astype(str), forest.predict(asked), average="macro"))
    forest = RandomForestRegressor(200, random_state=seed).fit(known, drawn[target])
    return float(r2_score(held_out[target], forest.predict(asked)))


def told_apart(real: np.ndarray, fake: np.ndarray, seed: int) -> float:
    """The share of rows that a forest, cross-validated, assigns to the right side: 0.5 at best."""
    some = np.random.default_rng(seed).choice(len(fake), min(len(real), len(fake)), replace=False)
    rows = np.concatenate([real[: len(some)], fake[some]])
    side = np.repeat([0, 1], len(some))
    forest = RandomForestClassifier(200, random_state=seed, min_samples_leaf=2)
    return float(cross_val_score(forest, rows, side, cv=5).mean())


def nearest(old: np.ndarray, rows: np.ndarray) -> float:
    """The median distance to the closest training row."""
    return float(np.median(cdist(rows[:MOST], old, "cityblock").min(axis=1)))
