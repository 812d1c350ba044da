"""What a finished run leaves to look at: figures, animation, samples, the table of quality."""

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from tqdm import tqdm

from ddpm_jax import files
from ddpm_jax.cli import page
from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.schedules import linear, sigmoid
from ddpm_jax.drawing import BLOCK
from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.figures import animation, plotting
from ddpm_jax.judging import judge
from ddpm_jax.quality import metrics
from ddpm_jax.quality.evaluation import Evaluation
from ddpm_jax.runs import directory, log

if TYPE_CHECKING:
    from ddpm_jax.cli.session import Session

OF_DATA = ("data", "schedules", "forward")
FORWARD_STEPS = (0, 5, 10, 50, 100, 250, 500)
FORWARD_POINTS = 20_000
TRAJECTORY_POINTS = 10_000
SLOW, SIZE = ("wasserstein2", "mmd_rbf", "classifier_two_sample"), 1000
"""Left to `evaluate`, as are more rows and rivals: a report should not be waited for."""


def figures_of_data(session: "Session") -> None:
    """The data, the schedules and the forward process: what could be drawn before training."""
    out, config = session.out / directory.FIGURES, session.run.config.noise
    data = session.view(session.data)
    own = f"sigmoid, k = {config.sigmoid_k:g}" if config.schedule == "sigmoid" else config.schedule
    names = session.view.axes
    title = Path(session.run.config.data).stem
    session.draw(plotting.data, out / "data.png", data, title, names)

    # The original session's two, and the run's own.
    schedules: dict[str, Any] = {}
    for name, make in (("linear", linear), ("sigmoid, k = 10", sigmoid)):
        with suppress(ConfigError):  # in very many steps the linear one leaves float32's range
            schedules[name] = make(config.num_steps)
    schedules[own] = session.run.schedule
    curves = {name: np.asarray(s.alpha_bars) for name, s in schedules.items()}
    session.draw(plotting.schedules, out / "schedules.png", curves)

    steps = [n for n in FORWARD_STEPS if n < config.num_steps] + [config.num_steps]
    # Op by op, and with JAX's numbers, a picture's points would compile for a second.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(session.run.keys()["figures"])))
    x0 = rng.permutation(data)[:FORWARD_POINTS].astype(np.float32)
    eps = rng.standard_normal(x0.shape, np.float32)
    diffuse = jax.jit(process.diffuse)

    def after(schedule: Any, step: int) -> np.ndarray:
        # After n steps of noise the time is n - 1: after none, it is the data itself.
        t = np.full(len(x0), step - 1, np.int32)
        return x0 if step == 0 else np.asarray(diffuse(schedule, x0, t, eps))

    rows = {name: [after(s, step) for step in steps] for name, s in schedules.items()}
    session.draw(plotting.forward, out / "forward.png", rows, steps, names)


def is_complete(session: "Session") -> bool:
    """Whether training is over and everything that comes after it is there."""
    there = all((session.out / name).exists() for name in directory.RESULTS)
    return session.trainer.finished and there


def write(session: "Session") -> Evaluation:
    """Draw and measure everything that comes after training; print and return the table."""
    with tqdm(total=5, unit="part", dynamic_ncols=True, leave=False) as bar:

        def begins(part: str) -> None:
            bar.set_description_str(part)  # of many columns it may take long
            bar.update()

        quality = _write(session, begins)
    print((session.out / directory.SUMMARY).read_text(encoding="utf-8"), end="")
    return quality


def _write(session: "Session", begins: Callable[[str], None]) -> Evaluation:
    """Do all of it, and say of each part that it begins."""
    out, record, run = session.out, session.record, session.run
    begins("the data")
    if not all((out / directory.FIGURES / f"{name}.png").exists() for name in OF_DATA):
        figures_of_data(session)
    begins("samples")
    left, frames = page.trajectory(run, session.trainer.params, TRAJECTORY_POINTS, session.devices)
    # The last frame is a sampler's points, if the blocks are, and there are enough of them.
    final, count = frames[-1], record.snapshot_points
    if page.block_size(run) < BLOCK or len(final) < count:
        final = session.samples(count)
    final = final[:count]
    session.keep(out / directory.FINAL, final)
    # Measured is what is written: constant columns, for one, come back exactly.
    final = session.kept(out / directory.FINAL)
    begins("loss and milestones")
    rows = log.read_rows(out)
    session.draw(
        plotting.loss,
        out / directory.FIGURES / "loss.png",
        page.losses(rows),
        floor=session.trainer.floor,
        memoriser=session.trainer.memoriser,
    )
    view, stages = session.view, {}
    data = view(session.data)
    # The held-out loss may have ended training before the last milestone.
    done = session.trainer.epoch
    for epoch in sorted({done, *(e for e in record.milestones or () if e < done)}):
        try:
            stages[epoch] = session.kept(out / directory.snapshot(epoch, ".npy"))
        except DataError as error:  # they cannot be drawn again: the parameters are gone
            warnings.warn(f"{error} The report goes without epoch {epoch}", stacklevel=2)
    session.draw(
        plotting.montage,
        out / directory.FIGURES / "montage.png",
        data,
        [(f"epoch {e}", view(x)) for e, x in stages.items()],
        view.axes,
    )
    if shares := view.words(session.data, final):
        session.draw(plotting.words, out / directory.WORDS, shares)
    begins("the reverse process")
    reverse(session, data, left, [view(x) for x in frames])
    begins("quality")
    quality = summary(session, rows, stages, final)
    table = page.quality_table(quality)
    page.write(out, run, session.data, final, (left, frames), table, quality.warnings)
    return quality


def reverse(
    session: "Session", data: np.ndarray, left: Sequence[int], frames: Sequence[np.ndarray]
) -> None:
    """reverse.gif: from noise to points, slowest where the detail appears."""
    session.draw(
        animation.reverse_gif,
        session.out / directory.ANIMATION,
        frames,
        [f"steps left: {n}" if n else "result" for n in left],
        plotting.limits(data),
        [60] * (len(left) - 1) + [3000],
    )


def summary(session: "Session", rows: list, stages: dict, final: np.ndarray) -> Evaluation:
    """The original's conclusion with numbers: loss and quality at the milestones, and at the end.

    The milestones' samples [n, D] and the final ones, scaled, are measured by rows held out, where
    there are any. Returns what there is to say of the final samples.
    """
    run, train, held_out = session.run, session.data, session.held_out
    count, losses = session.record.snapshot_points, {row["epoch"]: row for row in rows}
    real = train if held_out is None else held_out
    table: list[dict[str, Any]] = [
        {"epoch": epoch}
        | {name: losses.get(epoch, {}).get(name) for name in ("loss", "excess")}
        | metrics.quick(real, samples)
        for epoch, samples in stages.items()
    ]
    if held_out is None:
        floor = metrics.quick_floor(train, count)
    else:
        floor = metrics.quick(real, np.random.default_rng(0).choice(train, count))
    ideal = session.trainer.floor  # None of a model that is told conditions
    excess = None if ideal is None else 0.0
    known = {"epoch": "real points, redrawn", "loss": ideal, "excess": excess}
    table.append(known | floor)

    end = judge(run, final, held_out, train, rivals=False, without=SLOW, size=SIZE)
    names = list(table[0])
    which = "rows learnt from" if held_out is None else "rows held out"
    lines = [f"on the way, to {which}; last, rows learnt from, drawn again:"]
    lines += ["".join(f"{name.replace('_', ' '):>22}" for name in names)]
    for row in table:
        lines.append(
            "".join(
                f"{v:>22.4f}" if isinstance(v, float) else f"{'-' if v is None else v:>22}"
                for v in row.values()
            )
        )
    text = "\n".join([*lines, "", f"{directory.FINAL}: {len(final):,} samples", str(end)]) + "\n"
    files.write_text(session.out / directory.SUMMARY, text)
    record = {"milestones": table, "final": end.to_json()}
    files.write_text(session.out / directory.SUMMARY_JSON, json.dumps(record, indent=2) + "\n")
    return end
