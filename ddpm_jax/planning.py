"""From settings and points to a run whose every setting is known, the number of steps included."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from ddpm_jax import numerics
from ddpm_jax.config import LEAST_STEPS, Config
from ddpm_jax.errors import ConfigError
from ddpm_jax.points import sources
from ddpm_jax.points.dataset import Dataset
from ddpm_jax.runs.record import Run
from ddpm_jax.training import crossvalidation, recipe
from ddpm_jax.training.steps import Params

LEAST_ROWS = 20
"""Of fewer rows no fold tells anything: the model is what lies under the network."""


@numerics.fixed()
def plan(config: Config, data: Any, steps: int | None = None) -> Run:
    """The run of `config` on the data, of about `steps` training steps where they are given.

    Where the number is left to us, rows are few and none is held out, cross-validation finds it,
    which takes as long as three short trainings. Raises ConfigError as `Run.of`, and for steps
    below 1 or beside epochs.
    """
    data = Dataset.of(data, config.reading, config.condition)
    if steps is not None:
        return Run.of(_of_steps(config, len(data), steps), data)
    run = Run.of(config, data)
    if not is_left_to_us(config, run):
        return run
    found = cross_validated_steps(run, data) if run.num_points >= LEAST_ROWS else 0
    if found == 0:
        return Run.of(run.config.replace(epochs=1, passes=1, **_LEFT), data)
    return Run.of(run.config.replace(epochs=-(-found // run.steps_per_epoch), **_LEFT), data)


def is_left_to_us(config: Config, run: Run) -> bool:
    """Whether the number of steps is to be found, of rows so few that none is held out."""
    few = run.num_points < recipe.FEW and not run.config.training.hold_out
    return config.training.epochs is None and few


def reason(run: Run) -> str:
    """Why a run whose steps were left to us has as many, in a few words."""
    if run.num_points < LEAST_ROWS:
        return "as so few rows carry no more than what lies under the network"
    return "by cross-validation"


_LEFT = dict.fromkeys(("patience", "snapshot_every", "checkpoint_every", "milestones"))
"""Settings that depend on the number of epochs, to be filled in anew."""


def cross_validated_steps(run: Run, data: Dataset) -> int:
    """The number of steps of least held-out loss in three folds; see `crossvalidation`."""
    rows = run.scaler.apply(sources.shown(run.split(data)[0])).astype(np.float64)
    chosen, init = run.config.training, jax.jit(run.init_params)

    def first_params(key: Key[Array, ""], rows: np.ndarray) -> Params:
        return init(key, run.base(rows))

    assert chosen.learning_rate is not None, "for_points has filled it in"
    folds = crossvalidation.Folds(
        run.schedule,
        run.apply(),
        first_params,
        min(run.batch_size, len(rows) - -(-len(rows) // crossvalidation.FOLDS)),
        chosen.learning_rate,
        run.total_steps,
        run.widths,
        run.has_gaps,
    )
    losses = crossvalidation.cross_validate(folds, rows, run.config.seed)
    return crossvalidation.steps_of_least(losses)


def _of_steps(config: Config, num_rows: int, steps: int) -> Config:
    if steps < 1 or config.training.epochs is not None:
        raise ConfigError(f"steps = {steps}: give a number of at least 1, or epochs instead")
    hold_out = config.held_out(num_rows)
    num_points = num_rows if isinstance(hold_out, str) else num_rows - round(hold_out * num_rows)
    per_pass = max(num_points // (config.training.batch_size or min(256, num_points)), 1)
    # Few rows: many passes an epoch, so that there are some twenty epochs and not thousands.
    passes = config.training.passes or -(-min(LEAST_STEPS, -(-steps // 20)) // per_pass)
    return config.replace(epochs=-(-steps // (passes * per_pass)), passes=passes)
