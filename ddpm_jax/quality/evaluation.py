"""The table of samples against rows that the model has not seen: every metric beside its floor.

A floor is what as many other real rows score against the same rows. So nothing is won by handing
the training rows back: copies and fresh rows of the true law both score the floor, and what tells
them apart is how near they lie to the training rows.
"""

import dataclasses
import functools
import math
import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ddpm_jax.errors import InputError
from ddpm_jax.quality import metrics
from ddpm_jax.quality.copying import MAX_ROWS as MAX_LOOKED_UP
from ddpm_jax.quality.copying import Copying, copying
from ddpm_jax.quality.gower import Gower
from ddpm_jax.quality.hands import Hands, Measurement
from ddpm_jax.quality.rivals import fit_rivals

Rows = Float[np.ndarray, "_ _"]
Spread = tuple[float, float | None]
"""A number, and the spread or the standard error of it, None of a single draw."""

FAR_RATIO = 3.0
"""Samples whose energy distance is above so many floors are far from the data."""
TOLD_APART = 0.9
"""So are samples that a classifier tells from real rows in more than this share of cases."""
FEW = 30
"""Of fewer held-out rows the table is rough, and says so."""
HEADER = ("metric", "samples", "real rows", "ratio", "points")
BEST_ELSEWHERE = {
    "classifier_two_sample": "classifier_two_sample is best at 0.5, chance",
    "nearest_training_row": (
        "nearest_training_row is best at ratio 1: nearer is copied, farther is blurred"
    ),
}
"""The metrics of which lower is not better, and what is."""
DENSITY_VALUES = 4000
"""Numbers in the held-out rows whose densities are compared: 2000 rows of the plane."""


@dataclass(frozen=True)
class Contender:
    """A model, or a rival, by the measures that decide; each with its spread, None if unknown.

    `log_prob` is the mean over held-out rows, in nats, its spread the standard error.
    """

    name: str
    energy_distance: Spread | None
    classifier_two_sample: Spread | None
    nearest_training_row: float | None
    log_prob: Spread | None


@dataclass(frozen=True)
class Evaluation:
    """Samples against rows that were held out, as `evaluate` finds them; print it to see it.

    `rows` are the metrics, `contenders` the model and its simplest rivals. `warnings` say in plain
    sentences what is wrong with the samples, `notes` how the table is to be read. `copies`: the
    samples repeat training rows. `far`: they are far from the data.
    """

    rows: tuple[Measurement, ...]
    contenders: tuple[Contender, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    copies: bool
    far: bool

    def __getitem__(self, name: str) -> Measurement:
        """The metric of that name; KeyError where it was not measured."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """Everything, of the types that JSON has."""
        values = dataclasses.asdict(self)
        return {"metrics": values.pop("rows"), **values}

    def __str__(self) -> str:
        parts = [format_table(self.rows)] if self.rows else []
        if self.contenders:
            parts.append(format_contenders(self.contenders))
        said = [*self.notes, *(f"WARNING: {warning}" for warning in self.warnings)]
        parts += [textwrap.fill(sentence, 100) for sentence in said]
        return "\n".join(parts)


def evaluate(
    samples: ArrayLike,
    held_out: ArrayLike | None,
    train: ArrayLike | None = None,
    *,
    log_prob: Callable[[Rows], ArrayLike] | None = None,
    gower: Gower | None = None,
    rivals: bool = True,
    without: Collection[str] = (),
    seed: int = 0,
    repeats: int = 5,
    size: int = 2000,
) -> Evaluation:
    """Samples [M, D] against held-out rows [H, D], and as many training rows [N, D] against them.

    Samples and training rows are dealt, without replacement, into hands of one size (`Hands` says
    how `repeats` and `size` bound them). The mean over the hands of samples is a metric's value,
    that over the hands of training rows its floor. Columns that are constant in the real rows are
    left out. Metrics named in `without` are not taken: "classifier_two_sample" is most of the time.

    Without `train`, half of the held-out rows stand in for it in the floors; without `held_out`,
    the two halves are of the training rows: the model has seen them, and the table cannot tell a
    copy from a fresh row, as `notes` then say. All arrays are in the same coordinates, scaled so
    that columns compare. Where there are `train` and `held_out`, rivals are fitted to `train` and
    measured like the model. `log_prob` gives the model's log densities of held-out rows, in nats
    and in these coordinates, to stand beside theirs; it is not asked where columns were left out.
    With `gower` the coordinates are its own, distances are Gower's, and there are no densities.
    Raises: InputError if arrays are not [rows, D] of finite numbers, or both references are None.
    """
    metrics.at_least(1, repeats=repeats)
    metrics.at_least(2, size=size)
    fake, unseen, seen = _checked(samples, held_out, train)
    real = np.concatenate([x for x in (unseen, seen) if x is not None])
    varies = np.ptp(real, axis=0) > 0
    warnings, notes = _constant_columns(fake, real, varies), []
    if not varies.any():
        notes.append("Every column of the data is constant: there is no distance to measure.")
        return Evaluation((), (), tuple(warnings), tuple(notes), False, bool(warnings))
    fake = fake[:, varies]
    unseen, seen = (x if x is None else x[:, varies] for x in (unseen, seen))
    against, others, note = _sides(unseen, seen, np.random.default_rng((seed, 0)))
    notes += note
    if gower is not None:
        notes.append("Distances are Gower's: shares of each column's range, and 1 for other words.")
    norm = 2 if gower is None else 1

    hands = None
    rows: list[Measurement] = []
    if min(len(against), len(others), len(fake)) < 2:
        notes.append(
            f"{len(real)} real and {len(fake)} sampled rows are too few for distances between "
            "sets: these take two samples, two real rows to compare them with, and two others."
        )
    else:
        hands = Hands(
            against,
            others,
            len(fake),
            repeats=repeats,
            size=size,
            seed=seed,
            without=without,
            norm=norm,
        )
        rows += hands.measure(fake)
    near = None
    if seen is not None and len(seen) > (unseen is None):
        near = copying(fake, seen, unseen, seed, norm)
        rows += _copying_rows(near, len(fake))
        copied, told = _copying_sentences(near, unseen is not None)
        warnings, notes = warnings + copied, notes + told
    far = _far_sentences(rows)

    contenders: list[Contender] = []
    if rivals and hands is not None and unseen is not None and seen is not None:
        judged = against[: max(2, DENSITY_VALUES // against.shape[1])]
        density = None
        if log_prob is not None and varies.all():
            density = _mean_error(log_prob(judged), len(judged))
        contenders.append(_contender("model", rows, near, density))
        if gower is None:
            contenders += _contend(hands, seen, unseen, judged, seed)
        else:
            snap = functools.partial(gower.snap, kept=varies)
            contenders += _contend(hands, seen, unseen, None, seed, snap)
    return Evaluation(
        tuple(rows),
        tuple(contenders),
        (*warnings, *far),
        tuple(notes),
        copies=near is not None and (near.copies or near.too_close),
        far=bool(far),
    )


def _checked(
    samples: ArrayLike, held_out: ArrayLike | None, train: ArrayLike | None
) -> tuple[Rows, Rows | None, Rows | None]:
    given = {"samples": samples, "held_out": held_out, "train": train}
    found = {k: v if v is None else metrics.points(k, v, least=1) for k, v in given.items()}
    if held_out is None and train is None:
        raise InputError("held_out and train are both None: pass rows to compare the samples with")
    shapes = {name: x.shape for name, x in found.items() if x is not None}
    if len({shape[1] for shape in shapes.values()}) > 1:
        raise InputError(f"all must have as many columns, got shapes {shapes}")
    fake = found["samples"]
    assert fake is not None
    return fake, found["held_out"], found["train"]


def _constant_columns(fake: Rows, real: Rows, varies: np.ndarray) -> list[str]:
    """What is to be said of columns in which the data are constant and the samples are not."""
    slack = 1e-6 * np.maximum(1, np.abs(real[0]))  # of float32, in which samples are drawn
    strays = np.flatnonzero(~varies & (np.abs(fake - real[0]).max(axis=0) > slack))
    if not strays.size:
        return []
    named = ", ".join(str(i + 1) for i in strays[:10]) + (", ..." if strays.size > 10 else "")
    return [f"The data are constant in column {named}, the samples are not."]


def _sides(
    unseen: Rows | None, seen: Rows | None, rng: np.random.Generator
) -> tuple[Rows, Rows, list[str]]:
    """The rows that samples are compared with, the others that the floor is of, and a note."""
    if unseen is not None and seen is not None:
        rough = f"Only {len(unseen)} rows were held out: a wrong model may pass unseen."
        return rng.permutation(unseen), rng.permutation(seen), [rough] * (len(unseen) < FEW)
    rows = unseen if unseen is not None else seen
    assert rows is not None
    shuffled = rng.permutation(rows)
    halves = shuffled[: len(rows) // 2], shuffled[len(rows) // 2 :]
    if unseen is not None:
        note = (
            "The training rows are not at hand: floors are of half of the held-out rows, and "
            "whether the samples are copies cannot be seen."
        )
    else:
        note = (
            "No rows were held out: the samples are compared with half of the rows that the model "
            "was trained on, so that copies of them would score better than fresh rows."
        )
    return *halves, [note]


def _contend(
    hands: Hands,
    seen: Rows,
    unseen: Rows,
    judged: Rows | None,
    seed: int,
    snap: Callable[[Rows], Rows] | None = None,
) -> list[Contender]:
    """The rivals, drawn from and measured as the model was, by the measures that decide.

    Words, where there are any, are those that `snap` finds; of `judged` the density is taken.
    """
    if not np.all(np.ptp(seen, axis=0) > 0):
        return []  # a column that varies in held-out rows only has no density to fit
    found = []
    for rival in fit_rivals(seen, seed):
        drawn = rival.sample(hands.count * hands.size, seed)
        if snap is not None:
            drawn = snap(drawn)
        near = copying(drawn, seen, unseen, seed, hands.norm)
        density = None if judged is None else _mean_error(rival.log_prob(judged), len(judged))
        rows = hands.measure(drawn, ("energy_distance", "classifier_two_sample"))
        found.append(_contender(rival.name, rows, near, density))
    return found


def _contender(
    name: str, rows: Sequence[Measurement], near: Copying | None, log_prob: Spread | None
) -> Contender:
    found = {row.name: (row.value, row.spread) for row in rows}
    nearest = None
    if near is not None and near.unseen_distance > 0:
        nearest = near.distance / near.unseen_distance
    return Contender(
        name,
        found.get("energy_distance"),
        found.get("classifier_two_sample"),
        nearest,
        log_prob,
    )


def _mean_error(values: ArrayLike, count: int) -> Spread:
    x = np.asarray(values, np.float64)
    if x.shape != (count,):
        raise InputError(f"log_prob gave shape {x.shape}; need one number of each of {count} rows")
    return float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else None


def _copying_rows(near: Copying, size: int) -> list[Measurement]:
    size = min(size, MAX_LOOKED_UP)
    distances = near.distance, near.distance_error, near.unseen_distance, near.unseen_distance_error
    shares = near.share, near.share_error, near.unseen_share, near.unseen_share_error
    return [
        Measurement("nearest_training_row", *distances, size),
        Measurement("copies", *shares, size),
    ]


def _copying_sentences(near: Copying, held_out: bool) -> tuple[list[str], list[str]]:
    """What there is to warn of, and to note."""
    if near.lattice:
        return [], [
            "The rows are distinct points of a lattice: how near samples are to training rows "
            "does not tell whether they are copies."
        ]
    if near.copies:
        unseen = "of held-out rows" if held_out else "of training rows, beside another one,"
        return [
            f"The model copies: {near.share:.0%} of the samples lie on a training row, to within "
            f"{near.tolerance:.2g}; {unseen} {near.unseen_share:.0%} do."
        ], []
    if near.unseen_distance == 0:
        return [], []
    unseen = "a held-out row is" if held_out else "training rows are from each other"
    ratio = f"{near.distance / near.unseen_distance:.2f} times as far"
    if near.too_close:
        return [
            f"The model keeps close to its training rows: a sample is {ratio} from the nearest one "
            f"as {unseen}, at the median."
        ], []
    return [], [
        f"No copies to be seen: a sample is {ratio} from the nearest training row as {unseen}, at "
        "the median."
    ]


def _far_sentences(rows: Sequence[Measurement]) -> list[str]:
    """A sentence for each measure by which the samples are far from real rows."""
    found = {row.name: row for row in rows}
    sentences = []
    energy = found.get("energy_distance")
    if energy is not None:
        slack = 3 * math.hypot(energy.spread or 0, energy.floor_spread or 0)
        if energy.value > FAR_RATIO * energy.floor + slack:
            times = f"{energy.value / energy.floor:.3g} times " if energy.floor else ""
            sentences.append(
                f"The samples are far from the data: their energy distance, {energy.value:.3g}, is "
                f"{times}what real rows score, {energy.floor:.3g}."
            )
    trees = found.get("classifier_two_sample")
    if trees is not None and trees.value > max(TOLD_APART, trees.floor + 0.1):
        sentences.append(
            f"A classifier tells the samples from real rows in {100 * trees.value:.0f} cases of "
            "100; 50 would be chance."
        )
    return sentences


def cells(m: Measurement) -> tuple[str, ...]:
    """A row of the table as text: name, value ± spread, floor ± spread, ratio, points a hand."""
    value, floor = _plus_minus((m.value, m.spread)), _plus_minus((m.floor, m.floor_spread))
    return m.name, value, floor, "-" if math.isnan(m.ratio) else f"{m.ratio:.2f}", f"{m.size:,}"


def reading(rows: Sequence[Measurement]) -> str:
    """How a table of these rows is to be read, in a sentence."""
    names = {row.name for row in rows}
    exceptions = [text for name, text in BEST_ELSEWHERE.items() if name in names]
    return "Lower is better" + (", but " if exceptions else "") + ", and ".join(exceptions) + "."


def format_table(rows: Sequence[Measurement]) -> str:
    """A fixed-width table of `cells`, and how it is to be read."""
    lines = [
        f"{name:<22}{value:>20}{floor:>20}{ratio:>8}{points:>9}"
        for name, value, floor, ratio, points in [HEADER, *map(cells, rows)]
    ]
    return "\n".join([*lines, textwrap.fill(reading(rows), 100)])


def format_contenders(contenders: Sequence[Contender]) -> str:
    """A fixed-width table: the model and its rivals, by the measures that decide."""
    names = "energy distance", "two-sample test", "nearest", "log-likelihood"
    lines = [f"{'beside rivals':<28}" + "".join(f"{name:>20}" for name in names)]
    for c in contenders:
        nearest = "-" if c.nearest_training_row is None else f"{c.nearest_training_row:.2f}"
        cells = [_plus_minus(c.energy_distance), _plus_minus(c.classifier_two_sample), nearest]
        cells.append(_plus_minus(c.log_prob))
        lines.append(f"{c.name:<28}" + "".join(f"{cell:>20}" for cell in cells))
    if any(c.log_prob for c in contenders):
        lines.append("log-likelihood: nats a held-out row, in these coordinates; higher is better.")
    return "\n".join(lines)


def _plus_minus(number: Spread | None) -> str:
    if number is None:
        return "-"
    value, spread = number
    return f"{value:.4g}" if spread is None else f"{value:.4g} ± {spread:.1g}"
