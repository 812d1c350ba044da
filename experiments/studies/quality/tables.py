"""Samples of tables against rows that were held out, beside rivals: the study `tables`."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from studies.quality.fit import Over, Row, Study, say
from studies.quality.table_scores import measure

HELD_OUT = 0.2
DRAWS = 3
"""As many samples as training rows, so often; what is told is the mean."""


@dataclass(frozen=True)
class Tables(Study):
    """Public tables, 80 % to train on: this project, a copula, a mixture and ForestDiffusion."""

    only: tuple[str, ...] = ()
    """Which tables; by default all six."""
    seeds: int = 2
    """Seeds of the split, of training and of sampling."""
    rivals: tuple[str, ...] = ()
    """Which rivals; by default all three."""

    def __call__(self) -> list[Row]:
        """Train and measure each on each table, for every seed."""
        # Only here: what they need is an extra of the package.
        from studies.quality import public_tables

        return [
            row
            for name in self.only or public_tables.PUBLIC
            for row in compare(name, self.seeds, self.rivals or tuple(public_tables.RIVALS))
        ]


def compare(name: str, seeds: int, rivals: tuple[str, ...]) -> list[Row]:
    """A row for each method on one table."""
    from studies.quality import public_tables

    public = public_tables.PUBLIC[name]
    table = public.load()
    methods = {
        "training rows": public_tables.training_rows,
        "ddpm_jax": public_tables.diffusion,
        **{rival: public_tables.RIVALS[rival] for rival in rivals},
    }
    found: dict[str, list[Row]] = {method: [] for method in methods}
    for seed in range(seeds):
        train, held_out = split(table, seed)
        for method, draw in methods.items():
            began = time.perf_counter()
            drawn = draw(train, DRAWS * len(train), seed)[list(table)]
            seconds = time.perf_counter() - began
            means = mean_scores(train, held_out, drawn, public.target, seed)
            found[method].append(means | {"seconds": seconds})
            say(name, method, seed, *found[method][-1].values())
    return [
        {"table": name, "method": method}
        | {key: Over([row[key] for row in rows]) for key in rows[0]}
        for method, rows in found.items()
    ]


def split(table: Any, seed: int) -> tuple[Any, Any]:
    """The rows of a table to train on, and those held out."""
    order = np.random.default_rng(seed).permutation(len(table))
    cut = int(HELD_OUT * len(table))
    train, held_out = (
        table.iloc[part].reset_index(drop=True) for part in (order[cut:], order[:cut])
    )
    return train, held_out


def mean_scores(train: Any, held_out: Any, drawn: Any, target: str, seed: int) -> dict[str, float]:
    """The mean scores of `DRAWS` sets of samples, which are drawn together."""
    each = [
        measure(train, held_out, drawn.iloc[i::DRAWS].reset_index(drop=True), target, seed)
        for i in range(DRAWS)
    ]
    return {key: float(np.mean([one[key] for one in each])) for key in each[0]}
