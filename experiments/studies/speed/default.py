"""What the default recipe costs: a training step, its tables row by row or whole, and the command.

python experiments/benchmark.py prints both; `--against FOLDER` times the command of another
checkout beside this one's, in turn.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.config import PRESETS
from ddpm_jax.runs.record import Run
from ddpm_jax.training import steps
from studies.workloads import Timing, Workload, alternate

HERE = Path(__file__).resolve().parents[2]


def training(data: np.ndarray, by_rows: bool) -> tuple[Workload, int]:
    """An epoch of the default recipe, its tables by rows or by dense Adam; and its steps."""
    run = Run.of(PRESETS["fast"], data)
    task = run.task()
    points = jnp.asarray(run.scaler.apply(data), jnp.float32)
    rows = steps.epoch_order(task.keys["order"], 0, task.num_points, run.batch_size)
    table = task.table if by_rows else None
    train = steps.make_trainer(task.bound(steps.train_epoch, task.keys["noise"], table))
    params = run.first_state().params
    state = steps.init_state(params, task.optimizer, ema=task.settings.ema_decay > 0, table=by_rows)
    box = [state]

    def work() -> Any:
        box[0], losses = train(box[0], points, rows)
        return jax.block_until_ready(losses)

    return work, len(rows)


def step(data: np.ndarray, rounds: int = 5) -> dict[str, Timing]:
    """Microseconds of a step, by how the tables are trained."""
    made = {
        name: training(data, by_rows)
        for name, by_rows in (("touched rows", True), ("whole tables", False))
    }
    timings = alternate({name: work for name, (work, _) in made.items()}, rounds)
    return {
        name: Timing(*(seconds / made[name][1] * 1e6 for seconds in timing))
        for name, timing in timings.items()
    }


def command(
    folders: dict[str, Path], arguments: tuple[str, ...] = (), rounds: int = 1
) -> dict[str, dict[str, Timing]]:
    """Seconds of `python experiments/train.py`, whole and by parts, of each checkout in turn.

    The parts are those of the command's last line; "rest" is what starting and stopping takes.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    for _ in range(rounds):
        for name, folder in folders.items():
            with tempfile.TemporaryDirectory() as out:
                script = [sys.executable, str(folder / "experiments" / "train.py")]
                began = time.perf_counter()
                done = subprocess.run(
                    [*script, "--out", f"{out}/run", *arguments],
                    cwd=folder,
                    # Its own library, whichever of the checkouts is the installed one.
                    env={**os.environ, "PYTHONPATH": str(folder)},
                    capture_output=True,
                    check=True,
                    text=True,
                )
                whole = time.perf_counter() - began
            line = re.findall(r"\d s \((.*?)\)", done.stdout)[-1]
            parts = {k: float(s) for k, s in (part.rsplit(" ", 1) for part in line.split(", "))}
            rest = whole - sum(parts.values())
            found[name].append({"whole": whole, **parts, "rest": rest})
    return {
        name: {
            part: Timing(statistics.median(values), min(values), max(values))
            for part, values in ((p, [run[p] for run in runs]) for p in runs[0])
        }
        for name, runs in found.items()
    }


def table(title: str, found: dict[str, dict[str, Timing]], digits: str = ".1f") -> str:
    """A line for each name: the median and the range of each part."""
    lines = [title]
    for name, parts in found.items():
        cells = (
            f"{part} {t.median:{digits}} ({t.least:{digits}} - {t.greatest:{digits}})"
            for part, t in parts.items()
        )
        lines.append(f"  {name:<16}" + ", ".join(cells))
    return "\n".join(lines)
