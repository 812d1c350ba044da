"""The settings left to us, from the rows and columns of the data: a rule of a few lines.

    tables      of 8, 16, ..., 256 nodes: in the plane the four finest whose R x R nodes are at most
                1.5 a row and, from 2000 rows to a drawing, ten times as far apart as rows are; of
                one column the four finest with 16 rows a node or more; of up to 32 columns, as many
                as that of 8, 16 and 32; of more columns none
    width       64 for a drawing, else two units a column, from 128 to 1024
    least noise half the distance of a row to its nearest neighbour (the median), from e^-7 to e^-5
    base        nothing under a drawing; below 2000 rows a mixture of Gaussians, else one Gaussian:
                what gave the smaller held-out loss on the sets that the rule was chosen on
    hold_out    a tenth of the rows, but none of fewer than 2000: there cross-validation finds the
                number of steps, and the model learns from every row
    steps       in the plane 1.1 a row, elsewhere 4, from 10,000 to 80,000; fewer the more columns
                beyond 32; cross-validated below 2000 rows, at most 2000
    patience    half of the steps: in the middle of a run, while the step size is large, the
                held-out loss may stand still, and falls again with the step size

A drawing is 20,000 rows in the plane, or more. The rule was chosen on five
data sets and tried on five others: docs/evidence/held_out.md.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Base = Literal["none", "gaussian", "mixture"]

FEW = 2000
"""Of fewer rows none is held out."""
DENSE = 20_000
"""As many rows in the plane make a drawing."""
MANY_COLUMNS = 512
"""Up to here the recipe has been tried."""
_NEIGHBOURS = 5000
"""Rows whose nearest neighbours are looked for."""


@dataclass(frozen=True)
class Rule:
    """What the rule says for data of this shape and spacing."""

    tables: tuple[int, ...]
    width: int
    sigmoid_k: float
    hold_out: float
    steps: int
    learning_rate: float
    base: Base


def rule(num_rows: int, dim: int, spacing: float) -> Rule:
    """The rule for `num_rows` rows of `dim` columns, `spacing` apart: see `nearest`."""
    dense = dim == 2 and num_rows >= DENSE
    k = 10.0 if spacing <= 0 else float(round(min(max(-2 * math.log(spacing / 2), 10), 14)))
    return Rule(
        tables=_tables(num_rows, dim, 0.0 if dense or num_rows < FEW else spacing),
        width=64 if dense else min(max(2 ** math.ceil(math.log2(2 * dim)), 128), 1024),
        sigmoid_k=k,
        hold_out=0.0 if num_rows < FEW else 0.1,
        steps=_steps(num_rows, dim),
        learning_rate=4e-3 if dense else 2e-3,
        base="none" if dense else "mixture" if num_rows < FEW else "gaussian",
    )


def _steps(num_rows: int, dim: int) -> int:
    if num_rows < FEW:
        return 2000
    steps = int(min(max((1.1 if dim == 2 else 4) * num_rows, 10_000), 80_000))
    return max(steps * 32 // max(dim, 32), 1000)


def _tables(num_rows: int, dim: int, spacing: float) -> tuple[int, ...]:
    sizes = [2**power for power in range(3, 9)]
    if dim == 2:
        # Data span 2, and so does a table.
        return tuple(r for r in sizes if r * r <= 1.5 * num_rows and r * 10 * spacing <= 2)[-4:]
    enough = tuple(r for r in sizes if 16 * r <= num_rows)
    return enough[-4:] if dim == 1 else enough[:3] if dim <= 32 else ()


def nearest(rows: Float[np.ndarray, "n d"], seed: int = 0) -> float:
    """The median distance of a row to the nearest other that differs; 0 where all are equal."""
    from scipy.spatial import KDTree  # which not every command needs

    distinct = np.unique(rows, axis=0)
    if len(distinct) < 2:
        return 0.0
    count = min(len(distinct), _NEIGHBOURS)
    some = np.random.default_rng(seed).choice(distinct, count, replace=False)
    return float(np.median(KDTree(distinct).query(some, k=2)[0][:, 1]))


def warn_of_shape(num_rows: int, dim: int) -> None:
    """Warn where rows are too few, or columns too many, for more than a Gaussian to be learned."""
    if num_rows < dim:
        warnings.warn(
            f"{num_rows} rows of {dim} columns: with fewer rows than columns a model can tell "
            "little more than each column's mean and spread; give more rows, or fewer columns",
            stacklevel=3,
        )
    elif dim > MANY_COLUMNS:
        warnings.warn(
            f"{dim} columns: the recipe has been tried with up to {MANY_COLUMNS}; look at "
            "`evaluate` before you trust the samples",
            stacklevel=3,
        )
