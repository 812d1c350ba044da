"""Train a configuration on an array, sample from the result, print a table: for quality.py."""

import dataclasses
import json
import math
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax import files
from ddpm_jax.config import Config
from ddpm_jax.diffusion.sampling import SA_SOLVER, Sampler
from ddpm_jax.diffusion.schedules import respace
from ddpm_jax.drawing import Drawer
from ddpm_jax.errors import ConfigError
from ddpm_jax.model import train_run
from ddpm_jax.planning import plan
from ddpm_jax.quality import metrics
from ddpm_jax.runs.record import Run

Row = dict[str, Any]
FEW = 25
"""Network evaluations a point, unless a study is about them."""
IMAGES = Path(__file__).resolve().parents[3] / "docs" / "images"


@dataclass(frozen=True)
class Study:
    """What every study takes."""

    json: Path | None = None
    """Write the table to this file, too."""
    images: Path = IMAGES
    """Where figures go."""
    overwrite: bool = False
    """Replace the JSON file and the figures where they exist."""

    def __post_init__(self) -> None:
        for name in ("seeds", "sets", "workers"):
            if getattr(self, name, 1) < 1:
                raise ConfigError(f"--{name} must be at least 1")

    def figures(self) -> list[Path]:
        """The figures that the study will draw."""
        return []

    def tables(self, rows: list[Row]) -> list[list[Row]]:
        """The rows as they are printed: one table, or some."""
        return [rows]


@dataclass(frozen=True)
class Fit:
    """A trained model: what it is of, its parameters, and how long training took, compiled."""

    run: Run
    params: Any
    seconds: float

    def sample(
        self,
        n: int,
        seed: int = 0,
        steps: int = FEW,
        sampler: Sampler = SA_SOLVER,
        schedule: Any = None,
    ) -> np.ndarray:
        """Samples [n, D] in the data's own units."""
        drawer = Drawer(
            self.run.apply(),
            schedule or respace(self.run.schedule, steps),
            self.run.dim,
            sampler,
            devices=jax.local_devices()[:1],
        )
        return self.run.scaler.invert(drawer.points(self.params, jax.random.key(seed), n))


def fit(config: Config, points: np.ndarray, num_steps: int = 0) -> Fit:
    """Train `config` on points [N, D], for about `num_steps` steps where the number is given."""
    run = plan(config, points, num_steps or None)
    model = train_run(run, points, progress=False)
    seconds = [row["seconds"] for row in model.history]
    # The first epoch compiles; where there are others, it is counted as long as they are.
    usual = sum(seconds[1:]) / len(seconds[1:]) if len(seconds) > 1 else seconds[0]
    return Fit(run, model.params, usual * len(seconds))


def quick(real: np.ndarray, fake: np.ndarray, projections: int = 64) -> Row:
    """Total variation, sliced W2, and the share of samples off the data."""
    values = metrics.quick(real, fake, projections=projections)
    return {
        "TV": values["total_variation"],
        "SW": values["sliced_wasserstein"],
        "off": metrics.far_fraction(real, fake),
    }


@dataclass(frozen=True)
class Over:
    """A number over seeds, or over sets of samples; printed as mean ± standard deviation."""

    values: list[float]
    centre: Callable[[Any], Any] = np.mean

    def __float__(self) -> float:
        return float(self.centre(self.values))

    def __mul__(self, factor: float) -> "Over":
        return Over([value * factor for value in self.values], self.centre)

    def __str__(self) -> str:
        if len(set(self.values)) == 1:
            return f"{float(self):.4g}"
        spread = np.std(self.values, ddof=1)
        digits = max(0, 1 - math.floor(math.log10(spread)))
        return f"{float(self):.{digits}f} ± {spread:.{digits}f}"


def over(rows: Sequence[Row], centre: Callable[[Any], Any] = np.mean) -> Row:
    """Each number's values over the rows."""
    return {name: Over([float(row[name]) for row in rows], centre) for name in rows[0]}


def floor(real: np.ndarray, n: int, draws: int) -> Row:
    """`quick` of n real points, redrawn; "off" of every real point, left out in turn."""
    redrawn = [np.random.default_rng(seed).choice(real, n) for seed in range(draws)]
    return over([quick(real, x) for x in redrawn]) | {"off": metrics.isolated_fraction(real)}


def in_processes(function: Callable, tasks: Sequence[tuple], workers: int) -> list:
    """What `function` returns for the arguments of each task, so many of them at once."""
    if workers == 1:
        return [function(*task) for task in tasks]
    # Started anew: a process in which JAX runs must not be forked.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(function, *zip(*tasks, strict=True)))


def over_seeds(
    function: Callable, cases: Sequence[tuple], seeds: int, workers: int
) -> list[list[Any]]:
    """Of each case what `function(*case, seed)` returns, one for each seed."""
    tasks = [(*case, seed) for case in cases for seed in range(seeds)]
    found = in_processes(function, tasks, workers)
    return [found[i : i + seeds] for i in range(0, len(found), seeds)]


def say(*words: object) -> None:
    """Tell how far a study is, beside its table, not in it."""
    print(*words, file=sys.stderr, flush=True)


def write_json(path: Path, study: Study, rows: Sequence[Row]) -> None:
    """The rows, with the value of each seed or set, beside the settings they were measured with."""
    settings = dataclasses.asdict(study)
    for name in ("json", "images", "overwrite"):
        del settings[name]
    record = {"study": type(study).__name__.lower(), "settings": settings, "rows": rows}
    files.write_text(path, json.dumps(record, indent=2, default=_plain) + "\n")
    say(f"written: {path}")


def markdown(rows: Sequence[Row]) -> str:
    """A table of Markdown, with a column for every name of any row."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: Any) -> Any:
    return value.values if isinstance(value, Over) else str(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
