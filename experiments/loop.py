"""The training loop of one run: epochs in chunks, rows of metrics, pictures and checkpoints."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import BLOCK, SHOWN_VALUES, Interrupt, draw_points, in_memory
from tqdm import tqdm

from ddpm_jax import checkpoints, diffusion, files, parallel, runs, sampling, schedules, training
from ddpm_jax.errors import CheckpointError, InputError
from ddpm_jax.mapped import MappedPoints, Points
from ddpm_jax.runs import Run

MAX_BAD_STEPS = 5
MAX_CHUNK_POINTS = 2**20
"""In the plane; in more dimensions as many numbers."""


def chunk_steps(batch_size: int, dim: int) -> int:
    """Steps of a chunk: as many as its noise has room for, and not one."""
    return max(MAX_CHUNK_POINTS * 2 // max(dim, 2) // batch_size, 2)


def bad_in_a_row(before: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Each member's bad steps in a row [M], after `before` [M] and losses [M, S].

    And the member, if any, for which they are too many; the count ends there.
    """
    for bad in np.isnan(losses).T:
        before = np.where(bad, before + 1, 0)
        if before.max() >= MAX_BAD_STEPS:
            return before, int(before.argmax())
    return before, None


class Experiment:
    """One run: its data and compiled functions, and the state that training carries forward."""

    def __init__(
        self, run: Run, out: Path, points: Points, devices: list, mesh: jax.sharding.Mesh
    ) -> None:
        self.run, self.out, self.config, self.mesh = run, out, run.config, mesh
        self.on_disk = points if isinstance(points, MappedPoints) else None
        shown = in_memory(points, max(SHOWN_VALUES // run.dim, 2))
        self.shared_data = parallel.replicate(mesh, run.scaler.apply(shown))
        self.data = parallel.local(self.shared_data)
        self.steps_per_epoch = run.steps_per_epoch
        self.keys = run.keys()
        self.schedule = run.config.make_schedule()
        self.apply = run.apply()
        self.draw = sampling.make_block_sampler(
            self.apply, self.schedule, (BLOCK, run.dim), devices=devices
        )
        self.draw_snapshot = self.draw
        if run.config.snapshot_steps:
            few = schedules.respace(self.schedule, run.config.snapshot_steps)
            self.draw_snapshot = sampling.make_block_sampler(
                self.apply, few, (BLOCK, run.dim), sampling.SA_SOLVER, devices
            )
        self.floor: float | None = None
        self.seconds: dict[str, float] = {}
        self.bad_steps = 0

        optimizer = run.optimizer()
        # Jitted, as op by op it compiles for seconds; it runs once, so that most passes would
        # cost more than they gain. The bits are the same.
        fast_to_compile = {"xla_backend_optimization_level": 1}
        init_state = jax.jit(run.init_state, compiler_options=fast_to_compile)
        initial = init_state(self.keys["init"])
        self.state = parallel.replicate(mesh, initial)
        self.losses = np.zeros(self.steps_per_epoch, np.float32)
        everywhere = parallel.sharding(mesh)
        shared = parallel.sharding(mesh, None, "data")

        def order(epoch: jax.Array) -> jax.Array:
            key, batch_size = self.keys["order"], run.config.batch_size
            return training.epoch_order(key, epoch, run.num_points, batch_size)

        self.order = jax.jit(
            order,
            in_shardings=everywhere,
            out_shardings=shared if self.on_disk is None else everywhere,
        )

        train_points = functools.partial(
            training.train_points,
            self.keys["noise"],
            self.apply,
            optimizer,
            self.schedule,
            stratified=run.config.stratified,
            points_per_time=run.config.points_per_time,
            ema_decay=run.config.ema_decay or None,
        )
        self.train_points = training.make_trainer(
            train_points, in_shardings=(everywhere, shared), out_shardings=everywhere
        )
        self.train_chunk = training.make_trainer(
            lambda state, data, rows, guard: train_points(state, data[rows], guard=guard),
            in_shardings=(everywhere, everywhere, shared),
            out_shardings=everywhere,
        )

    @property
    def step(self) -> int:
        """Training steps done."""
        return int(self.state.step)

    def params(self) -> training.Params:
        """The parameters to sample from, on one device of this process."""
        return parallel.local(runs.sampling_params(self.state))

    def samples(self, count: int, draw: Any = None) -> np.ndarray:
        """Scaled samples [count, D]: always from the same x_T and noise, so that epochs compare."""
        return draw_points(draw or self.draw, self.params(), self.keys["sample"], count)

    def checkpoint(self) -> None:
        """Save all that training goes on from."""
        # No loss is negative: -1 stands for the NaN of a skipped step, which no checkpoint takes.
        state = {"train": self.state, "losses": np.nan_to_num(self.losses, nan=-1.0)}
        if (rows := self.out / "metrics.jsonl").exists():
            files.sync(rows)  # first, so that no checkpoint is ahead of its rows
        checkpoints.save(self.out / "checkpoints", self.step, state)

    def restore(self) -> None:
        """Go back to the newest whole checkpoint, if there is one, and cut the metrics to it."""
        if checkpoints.steps(self.out / "checkpoints"):
            like = {"train": parallel.local(self.state), "losses": self.losses}
            _, state, _ = checkpoints.restore(self.out / "checkpoints", like)
            self.state = parallel.replicate(self.mesh, state["train"])
            losses = np.array(state["losses"])
            self.losses = np.where(losses < 0, np.nan, losses).astype(np.float32)
            done = self.losses[: self.step % self.steps_per_epoch or self.steps_per_epoch]
            good = np.flatnonzero(~np.isnan(done))
            self.bad_steps = len(done) - 1 - int(good[-1]) if good.size else len(done)
        if parallel.is_first():
            rows = runs.keep_rows(self.out, self.step // self.steps_per_epoch)
            self.floor = rows[0].get("floor") if rows else None

    def train(self, interrupt: Interrupt) -> bool:
        """Train to the end; False if a signal stopped it, with everything saved."""
        epochs = self.config.epochs
        first = self.step // self.steps_per_epoch
        hidden = not parallel.is_first()
        with tqdm(
            total=epochs, initial=first, unit="epoch", dynamic_ncols=True, disable=hidden
        ) as bar:
            for epoch in range(first, epochs):
                began = time.perf_counter()
                with self.timed("training"):
                    whole = self.train_one_epoch(epoch, interrupt)
                if not whole:
                    self.checkpoint()
                    return False
                if parallel.is_first():
                    row = self.record(epoch + 1, time.perf_counter() - began)
                    loss, floor = row["loss"] or np.nan, row["floor"]
                    bar.set_postfix_str(f"loss {loss:.4f}, ideal {floor:.4f}")
                    bar.update()
                    if self.due(epoch + 1, self.config.snapshot_every):
                        with self.timed("pictures"):
                            self.snapshot(epoch + 1)
                if self.due(epoch + 1, self.config.checkpoint_every):
                    with self.timed("checkpoints"):
                        self.checkpoint()
        return True

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the block's seconds to those of a part of the run."""
        began = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began

    def due(self, epoch: int, every: int) -> bool:
        """Whether it is time for what happens every so many epochs."""
        return epoch in (1, self.config.epochs, *self.config.milestones) or epoch % every == 0

    def chunks(self, begin: int) -> Iterator[tuple[int, int]]:
        """Bounds of the chunks from step `begin` of an epoch to its end.

        None has one step, unless the epoch has: XLA unrolls such a loop, and rounds differently.
        """
        size = chunk_steps(self.config.batch_size, self.run.dim)
        bounds = [*range(begin, self.steps_per_epoch, size), self.steps_per_epoch]
        if len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
            del bounds[-2]
        return pairwise(bounds)

    def train_one_epoch(self, epoch: int, interrupt: Interrupt) -> bool:
        """Run what is left of the epoch in chunks; False if a signal came before its end."""
        rows = self.order(epoch)
        for start, end in self.chunks(self.step - epoch * self.steps_per_epoch):
            if signum := parallel.greatest(interrupt.signum or 0):
                interrupt.signum = signum
                return False
            self.state, losses = self.train_rows(rows[start:end])
            self.losses[start:end] = losses
            self.halt_if_diverged(np.asarray(losses), epoch)
        return True

    def train_rows(self, rows: jax.Array) -> tuple[training.TrainState, jax.Array]:
        """A step over each batch of rows of the data, wherever they are kept."""
        if self.on_disk is None:
            return self.train_chunk(self.state, self.shared_data, rows)
        points, wanted = self.on_disk, np.asarray(parallel.local(rows))

        def read(part: Any) -> np.ndarray:
            return self.run.scaler.apply(points[wanted[part[:2]]])

        # Read for each of this process's devices its own part of the batches, and no other.
        shape, shared = (*rows.shape, self.run.dim), parallel.sharding(self.mesh, None, "data")
        return self.train_points(self.state, jax.make_array_from_callback(shape, shared, read))

    def halt_if_diverged(self, losses: np.ndarray, epoch: int) -> None:
        """Save, and raise InputError, once a few steps in a row were skipped as not finite."""
        counts, diverged = bad_in_a_row(np.array([self.bad_steps]), losses[None])
        self.bad_steps = int(counts[0])
        if diverged is None:
            return
        with suppress(CheckpointError):  # as parameters may not be finite either
            self.checkpoint()
        raise InputError(
            f"training diverged in epoch {epoch + 1}: the loss or its gradient was not finite "
            f"in {MAX_BAD_STEPS} steps in a row, which were skipped. The checkpoints in "
            f"{self.out} are good. Try a smaller --learning-rate "
            f"(now {self.config.learning_rate:g})"
        )

    def record(self, epoch: int, seconds: float) -> dict[str, Any]:
        """Append the epoch's row to metrics.jsonl; no loss where every step was skipped."""
        if self.floor is None:
            with self.timed("floor"):
                self.floor = self.ideal_loss()
        kept = self.losses[~np.isnan(self.losses)]
        loss = float(kept.mean(dtype=np.float64)) if kept.size else None
        row = {
            "epoch": epoch,
            "step": self.step,
            "loss": loss,
            "floor": self.floor,
            "excess": None if loss is None else loss - self.floor,
            "skipped": len(self.losses) - len(kept),
            "seconds": round(seconds, 4),
        }
        runs.append_row(self.out, row)
        return row

    def ideal_loss(self) -> float:
        """The loss of the ideal denoiser of the data or, where they are many, of some of them."""
        data = self.data[:: -(-self.data.size // SHOWN_VALUES)]
        rounds = int(np.clip(8e8 / (len(data) * self.config.num_steps), 1, 64)) + 1
        ideal = jax.jit(functools.partial(diffusion.ideal_loss, rounds=rounds))
        return float(ideal(self.keys["floor"], self.schedule, data)[0])

    def snapshot(self, epoch: int) -> None:
        """Draw the epoch's samples, and keep them where they will be measured."""
        from ddpm_jax import plotting

        samples = self.samples(self.config.snapshot_points, self.draw_snapshot)
        name = self.out / "samples" / f"epoch_{epoch:04d}.png"
        plotting.snapshot(name, samples, plotting.limits(np.asarray(self.data)), f"epoch {epoch}")
        if epoch in self.config.milestones:
            with files.replacing(name.with_suffix(".npy")) as temporary:
                np.save(temporary, self.run.scaler.invert(samples))
