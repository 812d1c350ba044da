"""What a finished run leaves to look at: figures, animation, samples, the table of quality."""

import functools
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import animation, diffusion, files, metrics, plotting, runs, sampling
from ddpm_jax.errors import ConfigError
from ddpm_jax.schedules import linear, sigmoid

if TYPE_CHECKING:
    from loop import Experiment

OF_DATA = ("data", "schedules", "forward")
FORWARD_STEPS = (0, 5, 10, 50, 100, 250, 500)
FORWARD_POINTS = 20_000
TRAJECTORY_POINTS = 10_000
TRAJECTORY_FLOATS = 50_000_000


def figures_of_data(experiment: "Experiment") -> None:
    """The data, the schedules and the forward process: what is known before training."""
    out, config = experiment.out / "figures", experiment.config
    own = f"sigmoid, k = {config.sigmoid_k:g}" if config.schedule == "sigmoid" else config.schedule
    data = np.asarray(experiment.data)
    plotting.data(out / "data.png", data, title=Path(config.data).stem)

    # The original experiment's two, and the run's own.
    schedules: dict[str, Any] = {}
    for name, make in (("linear", linear), ("sigmoid, k = 10", sigmoid)):
        with suppress(ConfigError):  # in very many steps the linear one leaves float32's range
            schedules[name] = make(config.num_steps)
    schedules[own] = experiment.schedule
    curves = {name: np.asarray(s.alpha_bars) for name, s in schedules.items()}
    plotting.schedules(out / "schedules.png", curves)

    steps = [n for n in FORWARD_STEPS if n < config.num_steps] + [config.num_steps]
    key_x0, key_eps = jax.random.split(experiment.keys["figures"])
    x0 = experiment.data[jax.random.permutation(key_x0, len(data))[:FORWARD_POINTS]]
    eps = jax.random.normal(key_eps, x0.shape)

    def after(schedule: Any, step: int) -> np.ndarray:
        # After n steps of noise the time is n - 1: after none, it is the data itself.
        t = jnp.full(len(x0), step - 1)
        return np.asarray(x0 if step == 0 else diffusion.diffuse(schedule, x0, t, eps))

    rows = {name: [after(s, step) for step in steps] for name, s in schedules.items()}
    plotting.forward(out / "forward.png", rows, steps)


def is_complete(experiment: "Experiment") -> bool:
    """Whether training is over and everything that comes after it is there."""
    trained = experiment.step >= experiment.run.total_steps
    return trained and all((experiment.out / name).exists() for name in runs.REPORT)


def write(experiment: "Experiment") -> None:
    """Draw and measure everything that comes after training; print the table."""
    out, config, run = experiment.out, experiment.config, experiment.run
    if not all((out / "figures" / f"{name}.png").exists() for name in OF_DATA):
        figures_of_data(experiment)
    final = experiment.samples(config.snapshot_points)
    with files.replacing(out / "samples" / "final.npy") as temporary:
        np.save(temporary, run.scaler.invert(final))

    rows = runs.read_rows(out)
    plotting.loss(
        out / "figures" / "loss.png",
        *np.array([(r["epoch"], r["loss"]) for r in rows if r["loss"] is not None]).T,
        floor=experiment.floor,
    )
    data = np.asarray(experiment.data)
    stages = {
        epoch: run.scaler.apply(np.load(out / "samples" / f"epoch_{epoch:04d}.npy"))
        for epoch in config.milestones
    }
    plotting.montage(
        out / "figures" / "montage.png", data, [(f"epoch {e}", x) for e, x in stages.items()]
    )
    reverse(experiment, data)
    summary(experiment, rows, data, stages)


def reverse(experiment: "Experiment", data: np.ndarray) -> None:
    """reverse.gif: from noise to points, slowest where the detail appears."""
    run, schedule = experiment.run, experiment.schedule
    most = TRAJECTORY_FLOATS // (schedule.num_steps * run.dim)
    count = min(TRAJECTORY_POINTS, max(most, 1))

    @functools.partial(jax.jit, static_argnums=2)
    def trajectory(params: Any, key: jax.Array, count: int) -> jax.Array:
        denoise = functools.partial(experiment.apply, params)
        return sampling.sample(key, denoise, schedule, (count, run.dim), trajectory=True)

    path = np.asarray(trajectory(experiment.params(), experiment.keys["sample"], count))
    total = schedule.num_steps
    # Quadratic in the steps left: most frames where little noise is left.
    left = np.unique(np.round(total * np.linspace(1, 0, 90) ** 2).astype(int))[::-1]
    durations = [60] * (len(left) - 1) + [3000]
    animation.reverse_gif(
        experiment.out / "reverse.gif",
        [path[total - n] for n in left],
        [f"steps left: {n}" if n else "result" for n in left],
        plotting.limits(data),
        durations,
    )


def summary(experiment: "Experiment", rows: list, data: np.ndarray, stages: dict) -> None:
    """The original's conclusion with numbers: loss and quality at the milestones."""
    losses = {row["epoch"]: row for row in rows}
    unknown = {"loss": None, "excess": None}
    floor = metrics.quick_floor(data, experiment.config.snapshot_points)
    table = [
        {"epoch": e}
        | {name: losses.get(e, unknown)[name] for name in unknown}
        | metrics.quick(data, samples)
        for e, samples in stages.items()
    ]
    table.append({"epoch": "real points, redrawn", "loss": experiment.floor, "excess": 0.0} | floor)
    names = list(table[0])
    lines = ["".join(f"{name.replace('_', ' '):>22}" for name in names)]
    for row in table:
        lines.append(
            "".join(f"{v:>22.4f}" if isinstance(v, float) else f"{v!s:>22}" for v in row.values())
        )
    text = "\n".join(lines) + "\n"
    files.write_text(experiment.out / "summary.txt", text)
    files.write_text(experiment.out / "summary.json", json.dumps(table, indent=2) + "\n")
    print(text, end="")
