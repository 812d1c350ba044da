"""Train a diffusion model on a file of points, with pictures, numbers and checkpoints on the way.

python experiments/train.py                         the shipped bicycle, in about a minute
python experiments/train.py --data points.csv       points of your own
python experiments/train.py --preset reference      the original experiment
"""

import functools
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from common import BLOCK, Interrupt, interruptible, load_data, run_main, use_devices
from tqdm import tqdm

from ddpm_jax import checkpoints, diffusion, files, runs, sampling, schedules, training
from ddpm_jax.config import PRESETS, Config
from ddpm_jax.errors import InputError
from ddpm_jax.runs import Run

MAX_BAD_STEPS = 5
MAX_CHUNK_POINTS = 2**20


@dataclass(frozen=True)
class Args:
    """What to train, where the results go, and on what."""

    config: Annotated[Config, tyro.conf.OmitArgPrefixes]
    out: Path | None = None
    """Run directory; by default runs/DATA-PRESET."""
    resume: bool = False
    """Go on with the run in the directory, to the same bits as if it had never stopped."""
    overwrite: bool = False
    """Delete an earlier run in the directory first."""
    devices: int | None = None
    """How many devices (on a CPU: cores) to use; by default all. Results do not depend on it."""


def parse(argv: list[str]) -> Args:
    """Read the command line; what it leaves out is the preset's, or the run's to resume."""

    def value(flag: str) -> str | None:
        words = [part for word in argv for part in word.split("=", 1)]
        return words[words.index(flag) + 1] if flag in words[:-1] else None

    base = PRESETS.get(value("--preset") or "", PRESETS["fast"])
    out = value("--out")
    if "--resume" in argv and out:
        base = Run.load(out).config
    return tyro.cli(Args, args=argv, description=__doc__, default=Args(config=base))


def prepare(out: Path, run: Run, args: Args) -> None:
    """Make the directory the run's own, or refuse it as it is."""
    exists = (out / "config.json").exists()
    if exists and args.resume:
        Run.load(out).refuse_other(run, out)
    elif exists and not args.overwrite:
        raise InputError(
            f"{out} holds a run: pass --resume to go on with it, --overwrite to replace it, "
            "or another --out"
        )
    elif args.resume:
        raise InputError(f"--resume: there is no run in {out}")
    else:
        for name in ("config.json", "metrics.jsonl", "summary.txt", "summary.json", "reverse.gif"):
            (out / name).unlink(missing_ok=True)
        for name in ("checkpoints", "samples", "figures"):
            shutil.rmtree(out / name, ignore_errors=True)
            (out / name).mkdir()
        run.save(out)


class Experiment:
    """One run: its data and compiled functions, and the state that training carries forward."""

    def __init__(self, run: Run, out: Path, points: np.ndarray, devices: list) -> None:
        self.run, self.out, self.config = run, out, run.config
        self.data = jnp.asarray(run.scaler.apply(points))
        self.steps_per_epoch = run.steps_per_epoch
        key = jax.random.key(run.config.seed)
        names = ("init", "order", "noise", "sample", "floor", "figures")
        self.keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        self.schedule = run.config.make_schedule()
        self.apply = run.apply()
        self.draw = sampling.make_block_sampler(
            self.apply, self.schedule, (BLOCK, run.dim), devices=devices
        )
        self.draw_snapshot = self.draw
        if run.config.snapshot_steps:
            few = schedules.respace(self.schedule, run.config.snapshot_steps)
            self.draw_snapshot = sampling.make_block_sampler(
                self.apply, few, (BLOCK, run.dim), sampling.SDE_DPMPP, devices
            )
        self.floor: float | None = None

        optimizer = run.optimizer()
        self.state = run.init_state(self.keys["init"])
        self.losses = np.zeros(self.steps_per_epoch, np.float32)
        self.order = jax.jit(
            functools.partial(
                training.epoch_order, num_points=run.num_points, batch_size=run.config.batch_size
            )
        )

        def train_chunk(state: training.TrainState, data: jax.Array, rows: jax.Array) -> Any:
            return training.train_epoch(
                self.keys["noise"],
                self.apply,
                optimizer,
                self.schedule,
                state,
                data,
                rows,
                stratified=run.config.stratified,
                points_per_time=run.config.points_per_time,
                ema_decay=run.config.ema_decay or None,
            )

        self.train_chunk = jax.jit(train_chunk)

    @property
    def step(self) -> int:
        return int(self.state.step)

    def samples(self, count: int) -> np.ndarray:
        """Scaled samples [count, D]: always from the same x_T and noise, so that epochs compare."""
        blocks = self.draw(
            runs.sampling_params(self.state), self.keys["sample"], 0, -(-count // BLOCK)
        )
        return np.asarray(blocks).reshape(-1, self.run.dim)[:count]

    def checkpoint(self) -> None:
        # No loss is negative: -1 stands for the NaN of a skipped step, which no checkpoint takes.
        state = {"train": self.state, "losses": np.nan_to_num(self.losses, nan=-1.0)}
        checkpoints.save(self.out / "checkpoints", self.step, state)

    def restore(self) -> None:
        """Go back to the newest whole checkpoint, if there is one, and cut the metrics to it."""
        if checkpoints.steps(self.out / "checkpoints"):
            like = {"train": self.state, "losses": self.losses}
            _, state, _ = checkpoints.restore(self.out / "checkpoints", like)
            self.state, losses = state["train"], np.array(state["losses"])
            self.losses = np.where(losses < 0, np.nan, losses).astype(np.float32)
        rows = runs.keep_rows(self.out, self.step // self.steps_per_epoch)
        self.floor = rows[0]["floor"] if rows else None

    def train(self, interrupt: Interrupt) -> bool:
        """Train to the end; False if a signal stopped it, with everything saved."""
        epochs = self.config.epochs
        first = self.step // self.steps_per_epoch
        with tqdm(total=epochs, initial=first, unit="epoch", dynamic_ncols=True) as bar:
            for epoch in range(first, epochs):
                began = time.perf_counter()
                if not self.train_one_epoch(epoch, interrupt):
                    self.checkpoint()
                    return False
                row = self.record(epoch + 1, time.perf_counter() - began)
                bar.set_postfix_str(f"loss {row['loss']:.4f}, ideal {row['floor']:.4f}")
                bar.update()
                if self.due(epoch + 1, self.config.snapshot_every):
                    self.snapshot(epoch + 1)
                if self.due(epoch + 1, self.config.checkpoint_every):
                    self.checkpoint()
        return True

    def due(self, epoch: int, every: int) -> bool:
        return epoch in (1, self.config.epochs, *self.config.milestones) or epoch % every == 0

    def train_one_epoch(self, epoch: int, interrupt: Interrupt) -> bool:
        """Run what is left of the epoch in chunks; False if a signal came before its end."""
        rows = self.order(self.keys["order"], epoch)
        chunk = max(MAX_CHUNK_POINTS // self.config.batch_size, 1)
        begin = self.step - epoch * self.steps_per_epoch
        for start in range(begin, self.steps_per_epoch, chunk):
            if interrupt:
                return False
            part = rows[start : start + chunk]
            self.state, losses = self.train_chunk(self.state, self.data, part)
            self.losses[start : start + len(losses)] = losses
            self.halt_if_diverged(self.losses[: start + len(losses)], epoch)
        return True

    def halt_if_diverged(self, losses: np.ndarray, epoch: int) -> None:
        """Raise InputError once the last few steps were all skipped for not being finite."""
        if len(losses) >= MAX_BAD_STEPS and np.isnan(losses[-MAX_BAD_STEPS:]).all():
            raise InputError(
                f"training diverged in epoch {epoch + 1}: loss or gradient was not finite in "
                f"{np.isnan(losses).sum()} steps, the last {MAX_BAD_STEPS} among them, and they "
                f"were skipped. The checkpoints in {self.out} are good. Try a smaller "
                f"--learning-rate (now {self.config.learning_rate:g})"
            )

    def record(self, epoch: int, seconds: float) -> dict[str, Any]:
        """Append the epoch's row to metrics.jsonl."""
        if self.floor is None:
            rounds = int(np.clip(8e8 / (self.run.num_points * self.config.num_steps), 1, 64)) + 1
            ideal = jax.jit(functools.partial(diffusion.ideal_loss, rounds=rounds))
            self.floor = float(ideal(self.keys["floor"], self.schedule, self.data)[0])
        loss = float(np.nanmean(self.losses, dtype=np.float64))
        row = {
            "epoch": epoch,
            "step": self.step,
            "loss": loss,
            "floor": self.floor,
            "excess": loss - self.floor,
            "skipped": int(np.isnan(self.losses).sum()),
            "seconds": round(seconds, 4),
        }
        runs.append_row(self.out, row)
        return row

    def snapshot(self, epoch: int) -> None:
        """Draw the epoch's samples, and keep them where they will be measured."""
        from ddpm_jax import plotting

        samples = self.samples(self.config.snapshot_points, self.draw_snapshot)
        name = self.out / "samples" / f"epoch_{epoch:04d}.png"
        plotting.snapshot(name, samples, plotting.limits(np.asarray(self.data)), f"epoch {epoch}")
        if epoch in self.config.milestones:
            with files.replacing(name.with_suffix(".npy")) as temporary:
                np.save(temporary, self.run.scaler.invert(samples))


def main() -> int:
    """Train, then draw and measure the result; 130 or 143 after a signal."""
    began = time.perf_counter()
    args = parse(sys.argv[1:])
    devices = use_devices(args.devices)
    points = load_data(args.config.data, args.config.seed)
    run = Run.of(args.config, points)
    out = args.out or Path("runs") / f"{Path(run.config.data).stem}-{run.config.preset}"
    with runs.locked(out), interruptible() as interrupt:
        prepare(out, run, args)
        print(f"{len(points):,} points in {run.dim} dimensions -> {out}/")
        experiment = Experiment(run, out, points, devices)
        if args.resume:
            experiment.restore()
        if not experiment.train(interrupt):
            print(f"stopped at step {experiment.step}, saved; to go on, add --resume --out {out}")
            return 128 + (interrupt.signum or 0)
        import report

        report.write(experiment)
    print(f"done in {time.perf_counter() - began:.0f} s: everything is in {out}/")
    return 0


if __name__ == "__main__":
    run_main(main)
