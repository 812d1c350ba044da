"""Fit a diffusion model to points and draw from it: the front door.

    model = fit("points.csv", seed=0)
    new = model.sample(1000, seed=1)

`fit` is the command `ddpm-jax train` without its directory: the same settings and seed give the
same bits. Everything that it puts together can be used on its own.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from ddpm_jax import interop, numerics
from ddpm_jax.assembly import (
    conditions_of,
    make_drawer,
    make_trainer,
    progress_bar,
    with_cells,
)
from ddpm_jax.config import PRESETS, Config
from ddpm_jax.diffusion import density
from ddpm_jax.diffusion.schedules import respace
from ddpm_jax.drawing import Drawer, Imputer
from ddpm_jax.errors import CheckpointError, ConfigError, DataError
from ddpm_jax.judging import judge, measured
from ddpm_jax.numerics import seed_key
from ddpm_jax.planning import plan
from ddpm_jax.points.dataset import Dataset, table_of
from ddpm_jax.points.tables import Table, is_missing
from ddpm_jax.quality.evaluation import Evaluation
from ddpm_jax.runs import log
from ddpm_jax.runs.record import Run
from ddpm_jax.training import recipe
from ddpm_jax.training.steps import Params
from ddpm_jax.training.trainer import Row

ROWS = "(rows)"
"""What the setting hold_out is where the rows themselves are given."""
DENSITY_BLOCK = 2000
"""Points whose density is computed together: a bound on memory."""
FLOW_STEPS = 100
"""Steps of the flow that gives the density of held-out rows to `evaluate`."""


@numerics.fixed()
def fit(
    data: Any,
    *,
    seed: int = 0,
    preset: str = "fast",
    steps: int | None = None,
    progress: bool = True,
    callback: Callable[[Row], Any] | None = None,
    **settings: Any,
) -> "Model":
    """Fit a diffusion model to points [N, D]: an array, a DataFrame, or the name of a file.

    Args:
        data: N points of D numbers (N of one number as [N]), a DataFrame of any library, whose
            columns may be words, dates, ..., a path, or the name of a data set that ships:
            "bicycle", "moons", ...
        seed: everything random follows from it.
        preset: "fast", or "reference", the original experiment.
        steps: training steps, about; rounded up to whole epochs.
        progress: show a bar.
        callback: called with the row of figures of every epoch; training stops where it returns a
            true value.
        hold_out: rows held out, on which training is checked: a share of the data, the name of a
            file of others, or those rows.
        condition: names of columns that the model is told when it draws the others.
        **settings: any setting of `Config` and its sections, by name: `fit(data, width=128)`.

    Raises:
        DataError: for data that cannot be read or are not finite.
        ConfigError: for a setting that is unknown or out of range; it names the parameter.
        DivergedError: where training meets too many steps that are not finite.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}: use one of {', '.join(PRESETS)}")
    others = settings.get("hold_out")
    if others is None or isinstance(others, float | int | str):
        others = None
    else:
        settings["hold_out"] = ROWS
    config = PRESETS[preset].replace(seed=seed, **settings)
    dataset = Dataset.of(data, config.reading, config.condition, others)
    config = config.replace(data=dataset.name)
    recipe.warn_of_shape(*dataset.points.shape)
    run = plan(config, dataset, steps)
    return train_run(run, dataset, progress=progress, callback=callback)


@numerics.fixed()
def train_run(
    run: Run,
    data: Any,
    *,
    progress: bool = True,
    callback: Callable[[Row], Any] | None = None,
) -> "Model":
    """Train a run on the data that it is of; `progress` and `callback` as in `fit`."""
    trainer = make_trainer(run, data)
    history: list[Row] = []
    with progress_bar(trainer, hidden=not progress) as show:
        for row in trainer:
            history.append(row)
            show(row)
            if callback is not None and callback(row):
                break
    return Model(run, trainer.step, trainer.params, history)


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model: what it was fitted to, and its parameters."""

    run: Run
    step: int
    """Training steps that the parameters have seen."""
    params: Params
    """Those that are sampled from: the average, where one is kept."""
    history: list[Row] = field(default_factory=list)
    """The figures of every epoch: the rows of a run's metrics.jsonl."""
    _drawers: dict[tuple, Drawer] = field(default_factory=dict, repr=False)

    @property
    def config(self) -> Config:
        """Every setting, with those that depend on the data filled in."""
        return self.run.config

    @numerics.fixed()
    def sample(
        self,
        num_samples: int,
        *,
        seed: int = 0,
        sampler: str = "ddpm",
        steps: int | None = None,
        given: Any = None,
        guidance: float = 1.0,
    ) -> Any:
        """Draw new points [num_samples, D], in the data's own units: a DataFrame of a DataFrame.

        `sampler` is one of ddpm, ddim, dpmpp, sde-dpmpp, sa-solver; `steps` are its network
        evaluations a point, by default all of the schedule's. Fewer points are the first of more.

        `given` has a value, or one for each point, for some of the model's conditions: a dict or a
        DataFrame. What is not given is drawn as the data had it. `guidance` above 1 pushes towards
        what tells the given from the rest: see `ddpm_jax.diffusion.guidance`.

        Raises ConfigError for a number, a sampler, steps or a condition that are impossible, and
        DataError for a word that was never seen; it lists those that were.
        """
        if num_samples < 1:
            raise ConfigError(f"num_samples must be at least 1, got {num_samples}")
        drawer = self.drawer(sampler, steps, guidance)
        codes, cells = conditions_of(self.run, given, num_samples)
        scaled = drawer.points(self.params, seed_key(seed), num_samples, codes)
        return with_cells(self.run.table_of(scaled), cells).to_data()

    def drawer(
        self, sampler: str = "ddpm", steps: int | None = None, guidance: float = 1.0
    ) -> Drawer:
        """The sampler made ready for this network, compiled once; it draws scaled points."""
        chosen = (sampler, steps, guidance)
        if chosen not in self._drawers:
            self._drawers[chosen] = make_drawer(self.run, *chosen)
        return self._drawers[chosen]

    @numerics.fixed()
    def impute(self, rows: Any, *, draws: int = 1, seed: int = 0) -> Any:
        """The rows [n, D] with every missing cell drawn, given the rest; a list, of more `draws`.

        Rows are an array, a DataFrame, or a file of them. See `ddpm_jax.diffusion.imputation`: what
        is known stays as it is, to the bit. Raises DataError for rows that are infinite or have
        other columns, and for a condition that is missing; ConfigError for draws below 1.
        """
        if draws < 1:
            raise ConfigError(f"draws must be at least 1, got {draws}")
        rows = self._read(rows)
        table, (known, told) = Table.of(rows), self._scaled(rows)
        if told is not None and np.isnan(told).any():
            without = np.isnan(told).any(axis=1)
            raise DataError(
                f"data, row {int(without.argmax())}: a condition is missing, as in "
                f"{without.sum():,} of {len(told):,} rows, and the model does not draw those. "
                f"Fit one without {', '.join(self.config.condition)} as condition"
            )
        filled = []
        for draw in range(draws):
            key = jax.random.fold_in(seed_key(seed), draw)
            drawn = self._imputer(self.params, key, known, told)
            filled.append(self._filled(table, drawn, told))
        return filled if draws > 1 else filled[0]

    def _filled(self, table: Table, drawn: np.ndarray, told: np.ndarray | None) -> Any:
        """The table with what was drawn in place of missing cells."""
        whole = drawn if told is None else np.concatenate([drawn, told], axis=1)
        new = self.run.table_of(whole)
        if table.names and new.names:
            table = table.keep([table.names.index(name) for name in new.names])
        pairs = zip(table.columns, new.columns, strict=True)
        cells = tuple(np.where(is_missing(old), filled, old) for old, filled in pairs)
        return dataclasses.replace(table, columns=cells).to_data()

    def _read(self, rows: Any) -> Any:
        """Rows that stand in a file, read as the model's own data were; others as they are."""
        return table_of(rows, self.config.reading) if isinstance(rows, str | Path) else rows

    def _scaled(self, rows: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows of the data in the network's coordinates: what is drawn, and what it is told."""
        scaled = self.run.scaler.apply(self.run.encode(rows))
        drawn = self.run.drawn
        return scaled[:, :drawn], scaled[:, drawn:] if self.run.widths else None

    @functools.cached_property
    def _imputer(self) -> Imputer:
        return Imputer(self.run.apply(), self.run.schedule)

    @numerics.fixed()
    def log_prob(self, rows: Any, given: Any = None) -> Float64[np.ndarray, "n"]:
        """The natural logarithm of the density at `rows` [n, D], in the data's own units.

        By the probability-flow ODE, see `ddpm_jax.diffusion.density.log_prob`; constant columns do
        not count. Of a model with conditions it is log p(x | given): by default each row's own;
        else as in `sample`, where `given={}` gives nothing, for log p(x). Raises DataError for rows
        that are not finite, have other columns, or miss a cell.
        """
        table = rows = self._read(rows)
        if given is not None and self.run.told is not None:
            table = self.run.told.beside(rows, given)
        scaled, told = self._scaled(table)
        if given is not None:
            told = conditions_of(self.run, given, len(scaled))[0]
        if np.isnan(scaled).any():
            raise DataError("data: a cell is missing; the density is that of whole rows")
        parts = [scaled] if told is None else [scaled, told]
        varying = np.array([s for s in self.run.scaler.scale[: self.run.drawn] if s > 0])
        change = 0.0 if self.run.told is None else self.run.told.log_det(table)
        found = [
            np.asarray(self._log_prob(*(jnp.asarray(part[start:stop]) for part in parts)))
            for start, stop in pairwise([*range(0, len(scaled), DENSITY_BLOCK), len(scaled)])
        ]
        # log p(x) = log p(z) + log |dz/dx|, and dz/dx = 1 / scale in each column.
        return np.concatenate(found).astype(np.float64) - np.log(varying).sum() + change

    @functools.cached_property
    def _log_prob(self) -> Callable[..., jax.Array]:
        apply, schedule, params = self.run.apply(), self.run.schedule, self.params

        def log_prob(z: jax.Array, *given: jax.Array) -> jax.Array:
            def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
                return apply(params, x, t, *given)

            return density.log_prob(denoise, schedule, z)[0]

        return jax.jit(log_prob)

    def evaluate(
        self,
        held_out: Any,
        *,
        train: Any = None,
        num_samples: int = 20_000,
        seed: int = 0,
    ) -> Evaluation:
        """The table of `num_samples` samples against rows never seen, every metric with its floor.

        With the rows that the model was fitted to, `train`, copies are told, and the simplest
        rivals are fitted and stand beside the model. Distances are in the scaled coordinates.
        Raises DataError as `log_prob`, and InputError for too few rows.
        """
        return self.judge(self.sample(num_samples, seed=seed), held_out, train, seed=seed)

    @numerics.fixed()
    def judge(
        self,
        samples: Any,
        held_out: Any,
        train: Any = None,
        *,
        own: bool = True,
        seed: int = 0,
        **settings: Any,
    ) -> Evaluation:
        """The same of samples that are there already, by this model (`own`) or any other program.

        Of a table with words distances are Gower's. `settings` are those of
        `ddpm_jax.quality.evaluation.evaluate`.
        """
        scaled = [
            None if rows is None else measured(self.run, rows)
            for rows in (samples, held_out, train)
        ]
        log_prob = self.density_of_scaled if own else None
        return judge(self.run, *scaled, log_prob=log_prob, seed=seed, **settings)  # pyright: ignore

    @property
    def density_of_scaled(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """log p(z) of rows in the network's coordinates, in as few steps as tell models apart.

        None of a model with conditions: it would be that of the other columns alone.
        """
        if self.run.widths:
            return None
        denoise = functools.partial(self.run.apply(), self.params)
        schedule = respace(self.run.schedule, min(FLOW_STEPS, self.run.schedule.num_steps))
        log_prob = jax.jit(lambda z: density.log_prob(denoise, schedule, z)[0])
        return lambda z: np.asarray(log_prob(jnp.asarray(z, jnp.float32)), np.float64)

    def save(self, path: str | Path) -> None:
        """Write the model as one safetensors file: parameters, settings, scaler, history."""
        about = {"run": self.run.to_json(), "step": self.step, "history": self.history}
        interop.save_safetensors(path, self.params, about)

    @staticmethod
    @numerics.fixed()
    def load(path: str | Path) -> "Model":
        """Read back what `save` wrote, or the newest checkpoint of a run's directory.

        Raises CheckpointError or ConfigError where the file is damaged, or not of that kind.
        """
        path = Path(path)
        if path.is_dir():
            run = Run.load(path)
            step, params = run.load_params(path)
            return Model(run, step, params, log.read_rows(path))
        params, about = interop.load_safetensors(path)
        if about.keys() != {"run", "step", "history"}:
            raise CheckpointError(f"{path}: parameters, but not those of a model that was saved")
        run, step, history = Run.from_json(about["run"], str(path)), about["step"], about["history"]
        run.check_params(params, path)
        if type(step) is not int or step < 0 or not isinstance(history, list):
            raise CheckpointError(f"{path}: field step or history is wrong; save the model again")
        rows = [log.check_row(row, str(path)) for row in history]
        return Model(run, step, params, rows)
