"""Several seeds at once, for train.py --seeds: one program, and quality with its spread."""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from common import BLOCK, draw_points
from loop import MAX_BAD_STEPS, bad_in_a_row, chunk_steps
from tqdm import tqdm

from ddpm_jax import checkpoints, ensembles, files, metrics, parallel, runs, sampling
from ddpm_jax.errors import ConfigError, InputError
from ddpm_jax.runs import Run

if TYPE_CHECKING:
    from train import Args


def train(args: "Args", points: np.ndarray, devices: list) -> int:
    """Train seeds seed, seed + 1, ... and leave a run directory of each, and a table."""
    seeds = range(args.config.seed, args.config.seed + (args.seeds or 1))
    if args.resume or args.processes.distributed or args.train_devices is not None:
        raise ConfigError("--seeds goes with none of --resume, --distributed and --train-devices")
    base = Run.of(args.config, points)
    members = ensembles.grid(base, seeds)
    stem = f"{Path(base.config.data).stem}-{base.config.preset}-seeds"
    out = args.out or Path("runs") / stem
    with runs.locked(out):
        folders = [out / f"seed-{seed}" for seed in seeds]
        old = [path for path in out.glob("*") if path.name[0] != "."]
        if old and not args.overwrite:
            raise InputError(f"{out} holds {old[0].name}: pass --overwrite, or another --out")
        for path in out.glob("seed-*"):
            runs.clear(path)
        print(f"{len(points):,} points in {base.dim} dimensions, {len(seeds)} seeds -> {out}/")
        states, losses = fit(members, points, devices)
        for folder, run, state, loss in zip(folders, members, states, losses, strict=True):
            run.save(folder)
            kept = np.nan_to_num(loss, nan=-1.0)  # as the script for one seed does
            checkpoints.save(
                folder / "checkpoints", int(state.step), {"train": state, "losses": kept}
            )
        write_table(out, folders, members, states, points, devices)
    print(f"everything is in {out}/; every seed's folder is a run to sample from")
    return 0


def fit(members: list[Run], points: np.ndarray, devices: list) -> tuple[list, np.ndarray]:
    """The members' final states, and the losses [M, S] of the last epoch."""
    base, mesh = members[0], ensembles.member_mesh(len(members), devices)
    data = parallel.replicate(mesh, base.scaler.apply(points))
    states = jax.device_put(ensembles.init_states(members), parallel.sharding(mesh, "data"))
    step = ensembles.make_trainer(members, mesh)
    chunk = chunk_steps(base.config.batch_size * len(members), base.dim)
    bad, losses = np.zeros(len(members), int), []
    with tqdm(total=base.config.epochs, unit="epoch", dynamic_ncols=True) as bar:
        for epoch in range(base.config.epochs):
            rows, losses = ensembles.epoch_orders(members, epoch), []
            for start in range(0, base.steps_per_epoch, chunk):
                states, part = step(states, data, rows[:, start : start + chunk])
                losses.append(np.asarray(part))
                bad, diverged = bad_in_a_row(bad, losses[-1])
                if diverged is not None:
                    raise InputError(
                        f"seed {members[diverged].config.seed} diverged in epoch {epoch + 1}: its "
                        f"loss or gradient was not finite in {MAX_BAD_STEPS} steps in a row. Try a "
                        "smaller --learning-rate"
                    )
            bar.set_postfix_str(f"loss {np.nanmean(np.concatenate(losses, axis=1)):.4f}")
            bar.update()
    return ensembles.unstack(states), np.concatenate(losses, axis=1)


def write_table(
    out: Path, folders: list, members: list[Run], states: list, points: np.ndarray, devices: list
) -> None:
    """Draw from every member; summary.txt and summary.json: each one's quality, and the spread."""
    base, data = members[0], members[0].scaler.apply(points)
    count = base.config.snapshot_points
    draw = sampling.make_block_sampler(
        base.apply(), base.config.make_schedule(), (BLOCK, base.dim), devices=devices
    )
    table = {}
    for folder, run, state in zip(folders, members, states, strict=True):
        params = jax.tree.map(jnp.asarray, runs.sampling_params(state))
        samples = draw_points(draw, params, run.keys()["sample"], count)
        with files.replacing(folder / "samples" / "final.npy") as temporary:
            np.save(temporary, run.scaler.invert(samples))
        table[folder.name] = metrics.quick(data, samples)
    names = list(table[folders[0].name])
    columns = {name: [row[name] for row in table.values()] for name in names}
    table["mean"] = {name: fmean(column) for name, column in columns.items()}
    if len(members) > 1:
        table["standard deviation"] = {name: stdev(column) for name, column in columns.items()}
    table["real points, redrawn"] = metrics.quick_floor(data, count)
    head = " " * 22 + "".join(f"{name.replace('_', ' '):>22}" for name in names)
    lines = [f"{k:<22}" + "".join(f"{v:>22.4f}" for v in row.values()) for k, row in table.items()]
    text = "\n".join([head, *lines]) + "\n"
    files.write_text(out / "summary.txt", text)
    files.write_text(out / "summary.json", json.dumps(table, indent=2) + "\n")
    print(text, end="")
