"""The points that a run is of: those that it was trained on, and those held out."""

from pathlib import Path

import numpy as np

from ddpm_jax.errors import DataError
from ddpm_jax.points import readers, sources
from ddpm_jax.points.dataset import Dataset, table_of
from ddpm_jax.points.mapped import Points
from ddpm_jax.points.tables import Table
from ddpm_jax.runs.record import Run


def load_run_data(run: Run) -> np.ndarray:
    """All the points of a run's data, of a directory some; DataError if they changed."""
    return sources.shown(_load(run, run.config.data))


def load_run_split(
    run: Run, data: str | Path | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The points that a run was trained on, of a directory some, and those held out, if any.

    `data` is where they are now, if they were moved. DataError if they changed.
    """
    if data is None and not sources.is_there(run.config.data):
        raise DataError(
            f"{run.config.data}: what the run was trained on is not there; if it has moved, --data "
            "says where it is now."
        )
    points = _load(run, data or run.config.data)
    train, held_out = run.split(Dataset(points, run.config.data, run.digest, run.told))
    return sources.shown(train), held_out


def _load(run: Run, where: str | Path) -> Points:
    found = table_of(where, run.config.reading)
    if readers.digest(found) != run.digest:
        raise DataError(
            f"{where} is not what it was when the run was trained: restore the file, or train again"
        )
    return run.encode(found) if isinstance(found, Table) else found
