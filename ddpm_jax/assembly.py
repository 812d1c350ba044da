"""A run put together: its training loop, its sampler, what it is told, and a bar to watch."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32
from tqdm.auto import tqdm

from ddpm_jax import parallel
from ddpm_jax.drawing import Drawer
from ddpm_jax.errors import ConfigError
from ddpm_jax.judging import completed
from ddpm_jax.points import sources
from ddpm_jax.points.conditions import Filling
from ddpm_jax.points.mapped import MappedPoints
from ddpm_jax.points.scaler import Scaler
from ddpm_jax.points.tables import Table
from ddpm_jax.runs.record import Run
from ddpm_jax.training.trainer import Row, Trainer


def make_trainer(run: Run, data: Any, **options: Any) -> Trainer:
    """The training loop of a run on its data, in its first state; `options` as `Trainer` has."""
    train, held_out = run.split(data)
    scaled = run.scaler.apply(sources.shown(train))
    shown = completed(run, sources.shown(train))
    if isinstance(train, MappedPoints):
        rows = lambda rows: run.scaler.apply(train[rows])  # noqa: E731
    else:
        rows = scaled
    options.setdefault("mesh", parallel.training_mesh(run.batch_size, len(jax.local_devices())))
    if held_out is not None:
        options["held_out"] = run.scaler.apply(held_out)
    return Trainer(run.task(), run.first_state(run.base(scaled)), rows, shown, **options)


def make_drawer(
    run: Run,
    sampler: str = "ddpm",
    steps: int | None = None,
    guidance: float = 1.0,
    devices: Sequence[Any] | None = None,
    **options: Any,
) -> Drawer:
    """The sampler of a run's network: it draws scaled points, each with its conditions, if any.

    `options` as `Drawer` has them.
    """
    if guidance != 1 and not run.widths:
        raise ConfigError("guidance is towards what is given, and this model has no conditions")
    fill = Filling(run.pool) if run.widths else None
    chosen = sampler, steps, devices, fill, guidance
    return Drawer(run.apply(), run.schedule, run.dim, *chosen, **options)


def conditions_of(
    run: Run, given: Any, count: int
) -> tuple[Float32[np.ndarray, "{count} c"] | None, dict[int, np.ndarray]]:
    """What is given to each of `count` points: scaled, as the network takes it, and the cells."""
    if run.told is None or not run.widths:
        if given is None or (isinstance(given, Mapping) and not given):
            return None, {}
        raise ConfigError("given: this model has no conditions; fit it with condition=[...]")
    codes, cells = run.told.given(given, count)
    tail = slice(run.drawn, None)
    return Scaler(run.scaler.shift[tail], run.scaler.scale[tail]).apply(codes), cells


def with_cells(table: Table, cells: Mapping[int, np.ndarray]) -> Table:
    """The table with the given cells as they were given, and not as they were coded."""
    if not cells:
        return table
    kept = tuple(cells.get(i, column) for i, column in enumerate(table.columns))
    return dataclasses.replace(table, columns=kept)


@contextlib.contextmanager
def progress_bar(trainer: Trainer, *, hidden: bool = False) -> Iterator[Callable[[Row], None]]:
    """A bar over the epochs of a trainer, in a terminal or a notebook; call it with each row."""
    epochs = trainer.task.settings.epochs
    with tqdm(
        total=epochs, initial=trainer.epoch, unit="epoch", dynamic_ncols=True, disable=hidden
    ) as bar:

        def show(row: Row) -> None:
            loss = np.nan if row["loss"] is None else row["loss"]
            held_out = f", held out {row['held_out_loss']:.4f}" if row.get("held_out_loss") else ""
            ideal = f", ideal {row['floor']:.4f}" if row["floor"] is not None else ""
            bar.set_postfix_str(f"loss {loss:.4f}{ideal}{held_out}")
            bar.update()

        yield show
