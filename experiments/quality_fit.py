"""Train a configuration on an array, sample from the result, print a table: for quality.py."""

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import BLOCK, draw_points

from ddpm_jax import files, metrics, sampling, training
from ddpm_jax.config import Config
from ddpm_jax.errors import ConfigError
from ddpm_jax.runs import Run, sampling_params
from ddpm_jax.sampling import SA_SOLVER, Sampler
from ddpm_jax.schedules import respace

Row = dict[str, Any]
FEW = 25
"""Network evaluations a point, unless a study is about them."""
IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"


@dataclass(frozen=True)
class Study:
    """What every study takes."""

    json: Path | None = None
    """Write the table to this file, too."""
    images: Path = IMAGES
    """Where figures go."""
    overwrite: bool = False
    """Replace the JSON file if it exists."""

    def __post_init__(self) -> None:
        if getattr(self, "seeds", 1) < 1:
            raise ConfigError("--seeds must be at least 1")


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
        schedule = schedule or respace(self.run.config.make_schedule(), steps)
        draw = sampling.make_block_sampler(
            self.run.apply(), schedule, (BLOCK, self.run.dim), sampler, jax.local_devices()[:1]
        )
        return self.run.scaler.invert(draw_points(draw, self.params, jax.random.key(seed), n))


def fit(config: Config, points: np.ndarray, steps: int = 0) -> Fit:
    """Train `config` on points [N, D], for about `steps` steps where the number is given."""
    run = Run.of(config, points)
    if steps:
        epochs = -(-steps // run.steps_per_epoch)
        run = Run.of(dataclasses.replace(config, epochs=epochs), points)
    c, optimizer, schedule = run.config, run.optimizer(), run.config.make_schedule()
    data = jnp.asarray(run.scaler.apply(points), "float32")
    keys = run.keys()

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state: training.TrainState, number: jax.Array) -> training.TrainState:
        state, _ = training.train_epoch(
            keys["noise"],
            run.apply(),
            optimizer,
            schedule,
            state,
            data,
            training.epoch_order(keys["order"], number, run.num_points, c.batch_size),
            stratified=c.stratified,
            points_per_time=c.points_per_time,
            ema_decay=c.ema_decay or None,
        )
        return state

    state = run.init_state(keys["init"])
    compiled = epoch.lower(state, jnp.asarray(0)).compile()
    began = time.perf_counter()
    for number in range(c.epochs):
        state = compiled(state, jnp.asarray(number))
    params = jax.block_until_ready(sampling_params(state))
    return Fit(run, params, time.perf_counter() - began)


def quick(real: np.ndarray, fake: np.ndarray) -> Row:
    """Total variation, sliced W2, and the share of samples off the data."""
    values = metrics.quick(real, fake)
    return {
        "TV": values["total_variation"],
        "SW": values["sliced_wasserstein"],
        "off": metrics.far_fraction(real, fake),
    }


def spread(values: Sequence[float]) -> float | None:
    """Their standard deviation; None of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def mean(rows: list[Row]) -> Row:
    """The mean of each number."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def show(title: str, rows: Sequence[Row], json_file: Path | None) -> None:
    """Print the rows as a table, and write them where a file is given."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *text]) for i in range(len(names))]
    print(f"\n{title}")
    for line in [names, *text]:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *others]))
    if json_file:
        files.write_text(json_file, json.dumps({"title": title, "rows": rows}, indent=2) + "\n")
        print(f"written: {json_file}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
