"""Does the table of quality tell copies from fresh rows? Training rows handed back, beside both."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ddpm_jax
from ddpm_jax.figures import plotting
from ddpm_jax.points.toys import toy
from ddpm_jax.quality import metrics
from ddpm_jax.quality.copying import copying
from ddpm_jax.quality.evaluation import Evaluation, evaluate
from studies.quality.fit import Over, Row, Study, say
from studies.quality.held_out import synthetic

Law = Callable[[np.random.Generator, int], np.ndarray]


def _moons(rng: np.random.Generator, n: int) -> np.ndarray:
    return toy("moons", int(rng.integers(2**31)), n=n)


def _factors(rng: np.random.Generator, n: int) -> np.ndarray:
    # The mixing is part of the law: the same for all rows of all splits.
    mixing = np.random.default_rng(0).normal(size=(5, 20))
    return rng.normal(size=(n, 5)) @ mixing + 0.3 * rng.normal(size=(n, 20))


LAWS: dict[str, tuple[Law, int]] = {
    "moons, 2000 rows": (_moons, 2000),
    "moons, 300 rows": (_moons, 300),
    "synthetic, 8-D, 2000 rows": (synthetic, 2000),
    "factors, 20-D, 2000 rows": (_factors, 2000),
}
"""From which rows can be drawn afresh, and how many there are to train on and hold out."""


@dataclass(frozen=True)
class Copies(Study):
    """Training rows handed back beside fresh rows, by every metric of the table of quality."""

    laws: tuple[str, ...] = tuple(LAWS)
    """Which of them."""
    splits: int = 5
    """Draws of rows, each with its own held-out tenth."""

    def figures(self) -> list[Path]:
        """Samples of a run that copies beside those of one that does not."""
        return [self.images / "copies.png"]

    def __call__(self) -> list[Row]:
        """One row a metric."""
        draw_both(self.figures()[0])
        return [row for name in self.laws for row in copy_test(name, self.splits)]


BY_HEART = {"tables": (32, 64, 128, 256), "width": 64, "base": "none", "sigmoid_k": 12.0}
"""What learns 300 rows by heart in 5000 steps: the recipe of a drawing."""


def draw_both(path: Path, count: int = 300) -> None:
    """Moons by heart, by the default, and afresh; each with how near its points are to the rows."""
    rows, fresh = np.split(toy("moons", 0, n=2 * count), 2)
    by_heart = ddpm_jax.fit(rows, steps=5000, progress=False, **BY_HEART)
    default = ddpm_jax.fit(rows, progress=False)
    stages = {
        "learnt by heart": by_heart.sample(count, seed=1),
        "the default": default.sample(count, seed=1),
        "fresh points": fresh,
    }
    found = {title: copying(points, rows, fresh) for title, points in stages.items()}
    nearest = {title: of.distance / of.unseen_distance for title, of in found.items()}
    entitled = [(f"{t}: nearest {nearest[t]:.2f}", points) for t, points in stages.items()]
    plotting.montage(path, rows, entitled)


def copy_test(name: str, splits: int, without: tuple[str, ...] = ()) -> list[Row]:
    """Training rows handed back and fresh rows of the law, by every metric beside its floor.

    "fresh - copies" is the mean difference over the splits, in units of their spread over the hands
    of one evaluation: a metric that prefers copies would have it well above 1.
    """
    law, count = LAWS[name]
    found: dict[str, list[Evaluation]] = {"copies": [], "fresh": []}
    before: dict[str, list[float]] = {"real": [], "copies": [], "fresh": []}
    for seed in range(splits):
        rng = np.random.default_rng(seed)
        rows, fresh = law(rng, count), law(rng, count)
        scale = rows.std(axis=0)
        rows, fresh = rows / scale, fresh / scale
        held_out, train = np.split(rng.permutation(rows), [count // 10])
        copies = rng.choice(train, count)
        for kind, drawn in {"copies": copies, "fresh": fresh}.items():
            found[kind].append(
                evaluate(drawn, held_out, train, seed=seed, rivals=False, without=without)
            )
            before[kind].append(metrics.total_variation(rows, rng.permutation(drawn)))
        before["real"].append(metrics.total_variation(rows, rng.choice(rows, count)))
        say(name, seed)
    table: list[Row] = [_line(name, row.name, found) for row in found["fresh"][0].rows]
    table.append(
        {"data": name, "metric": "total_variation of all rows, trained on or not"}
        | {kind: Over(values) for kind, values in before.items()}
        | {"fresh - copies": _in_spreads(before["fresh"], before["copies"])}
    )
    flagged = {kind: f"{sum(e.copies for e in es)} of {splits}" for kind, es in found.items()}
    return [*table, {"data": name, "metric": "said to be copies", **flagged}]


def _line(data: str, metric: str, found: dict[str, list[Evaluation]]) -> Row:
    measured = {kind: [e[metric] for e in es] for kind, es in found.items()}
    row: Row = {"data": data, "metric": metric}
    row["real"] = Over([m.floor for m in measured["fresh"]])
    row |= {kind: Over([m.value for m in ms]) for kind, ms in measured.items()}
    if metric not in ("nearest_training_row", "copies"):
        spreads = [m.spread or 0.0 for ms in measured.values() for m in ms]
        values = ([m.value for m in measured[kind]] for kind in ("fresh", "copies"))
        row["fresh - copies"] = _in_spreads(*values, spread=math.sqrt(np.mean(np.square(spreads))))
    return row


def _in_spreads(fresh: list[float], copies: list[float], spread: float | None = None) -> float:
    gaps = np.subtract(fresh, copies)
    return float(gaps.mean() / (gaps.std(ddof=1) if spread is None else spread or 1.0))
