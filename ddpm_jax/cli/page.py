"""report.html: what the page about a run shows, gathered from the run and its directory."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ddpm_jax
from ddpm_jax import files, settings
from ddpm_jax.assembly import make_drawer
from ddpm_jax.cli.views import View
from ddpm_jax.config import PRESETS, Config
from ddpm_jax.drawing import BLOCK
from ddpm_jax.figures import report
from ddpm_jax.quality.evaluation import HEADER, Evaluation, cells, reading
from ddpm_jax.runs import directory, log
from ddpm_jax.runs.record import Run
from ddpm_jax.training.steps import Params

Frames = tuple[Sequence[int], Sequence[np.ndarray]]
"""Steps left, and the points [n, D] there."""
FRAMES = 90
BLOCK_FLOATS = 20_000_000
"""Numbers of a block's trajectory, all of its steps; of more steps or columns, smaller blocks."""
FRAMES_FLOATS = 50_000_000
"""Numbers of all frames in memory; of more columns, fewer points."""


def write(
    out: Path,
    run: Run,
    data: np.ndarray,
    samples: np.ndarray,
    frames: Frames,
    table: report.Table,
    warnings: Sequence[str] = (),
) -> None:
    """Write the page from scaled points: data, samples, and frames with so many steps left."""
    rows = log.read_rows(out)
    left, moving = frames
    view = View.of(run)
    page = report.page(
        title=Path(run.config.data).stem or run.config.data,
        subtitle=f"A diffusion model fitted with ddpm_jax {ddpm_jax.__version__}",
        data=view.readable(data),
        samples=view.readable(samples),
        facts=facts(run, rows),
        warnings=warnings,
        frames=[view.readable(points[: report.MOVIE_POINTS]) for points in moving],
        left=left,
        losses=losses(rows),
        floor=rows[0].get("floor") if rows else None,
        table=table,
        names=view.names,
        words=view.levels,
        command=command(run.config),
    )
    files.write_text(out / directory.REPORT, page)


def facts(run: Run, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What was learnt from, and how, in words; the log's rows say how much of it was done."""
    config, noise = run.config, run.config.noise
    done = rows[-1]["epoch"] if rows else run.epochs
    part = f", {done:,} of them done" if done < run.epochs else ""
    schedule = f"{noise.schedule}, {noise.num_steps:,} steps of noise"
    return {
        "Data": config.data,
        "Rows": f"{run.num_points:,} of {run.num_columns} column{'s' * (run.num_columns != 1)}",
        **_held_out(config),
        "Digest of the data": run.digest[:12],
        "Preset": config.preset,
        "Training": f"{run.total_steps:,} steps, {run.epochs:,} epochs of batches of "
        f"{run.batch_size:,}{part}",
        "Schedule": schedule,
        "Seed": str(config.seed),
    }


def _held_out(config: Config) -> dict[str, str]:
    aside = config.training.hold_out
    if not aside:
        return {}
    return {"Held out": aside if isinstance(aside, str) else f"{aside:.0%} of the data"}


def losses(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The curves that the log has: the loss of training, and that on rows held out."""
    curves = {}
    for name, label in (("loss", "training"), ("held_out_loss", "held out")):
        known = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        if known:
            x, y = np.array(known, float).T
            curves[label] = x, y
    return curves


def command(config: Config) -> str:
    """The command that trains the same run again; it names what differs from the preset."""
    words = ["ddpm-jax", "train", "--preset", config.preset, "--data", config.data]
    words += ["--seed", str(config.seed)]
    usual, own = settings.flat(PRESETS[config.preset]), settings.flat(config)
    recorded = settings.flat(config.record)
    for name, value in own.items():
        if name in ("preset", "data", "seed") or name in recorded or value == usual[name]:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{flag}", *map(str, values)]
    return shlex.join(words)


def quality_table(evaluation: Evaluation) -> report.Table:
    """The table of `evaluate`: each metric beside its floor."""
    rows = [(name.replace("_", " "), *numbers) for name, *numbers in map(cells, evaluation.rows)]
    note = " ".join([reading(evaluation.rows).replace("_", " "), *evaluation.notes])
    return report.Table(HEADER, rows, note)


def block_size(run: Run) -> int:
    """Points of a trajectory drawn together: a sampler's, unless all their steps are too many."""
    return int(np.clip(BLOCK_FLOATS // (run.schedule.num_steps * run.drawn), 1, BLOCK))


def trajectory(
    run: Run, params: Params, count: int, devices: Sequence[Any] | None = None
) -> Frames:
    """The reverse process of `count` scaled points at most: steps left, and the points there.

    Most frames lie where little noise is left, where the detail appears. With blocks of a sampler's
    size, the last one has the points which that draws.
    """
    total = run.schedule.num_steps
    left = np.unique(np.round(total * np.linspace(1, 0, FRAMES) ** 2).astype(int))[::-1].tolist()
    count = min(count, max(FRAMES_FLOATS // (len(left) * run.dim), 1))
    watched = tuple(total - n for n in left)
    drawer = make_drawer(run, devices=devices, watched=watched, block=block_size(run))
    return left, list(drawer.frames(params, run.keys()["sample"], count))
