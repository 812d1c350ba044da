"""A training run in its directory: the loop's rows become a bar, a log, pictures, checkpoints."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import files, parallel, settings
from ddpm_jax.assembly import make_drawer, make_trainer, progress_bar
from ddpm_jax.cli.signals import Interrupt
from ddpm_jax.cli.views import View
from ddpm_jax.drawing import Drawer
from ddpm_jax.errors import CheckpointError
from ddpm_jax.judging import completed
from ddpm_jax.points import readers
from ddpm_jax.runs import checkpoints, directory, log
from ddpm_jax.runs.record import Run
from ddpm_jax.training.trainer import DivergedError


class Session:
    """One run: its trainer, its samplers, and the directory that all of it is written to."""

    def __init__(
        self,
        run: Run,
        out: Path,
        data: Any,
        devices: list,
        mesh: object,
        interrupt: Interrupt | None = None,
        chunk_steps: int | None = None,
    ) -> None:
        self.run, self.out, self.record = run, out, run.config.record
        self.devices = devices
        self.interrupt = interrupt or Interrupt()
        self.trainer = make_trainer(
            run, data, mesh=mesh, stop=self._asked_to_stop, chunk_steps=chunk_steps
        )
        assert self.trainer.shown is not None, "make_trainer passes it"
        self.data, held_out = self.trainer.shown, run.split(data)[1]
        self.held_out = None if held_out is None else completed(run, held_out)
        self.view = View.of(run)
        self.drawer = make_drawer(run, devices=devices)
        self.snapshot_drawer = self.drawer
        if self.record.snapshot_steps != "all":
            steps = self.record.snapshot_steps
            self.snapshot_drawer = make_drawer(run, "sa-solver", steps, devices=devices)
        self.seconds = self.trainer.seconds

    def samples(self, count: int, drawer: Drawer | None = None) -> np.ndarray:
        """Scaled samples [count, D]: always from the same x_T and noise, so that epochs compare."""
        drawer = drawer or self.drawer
        return drawer.points(self.trainer.params, self.run.keys()["sample"], count)

    def checkpoint(self) -> None:
        """Save all that training goes on from."""
        if (rows := self.out / directory.METRICS).exists():
            files.sync(rows)  # first, so that no checkpoint is ahead of its rows
        folder = self.out / directory.CHECKPOINTS
        state = self.trainer.checkpoint()
        checkpoints.save(folder, self.trainer.step, state, self.run.metadata())

    def restore(self) -> None:
        """Go back to the newest whole checkpoint, if there is one, and cut the metrics to it."""
        trainer, folder = self.trainer, self.out / directory.CHECKPOINTS
        if checkpoints.steps(folder):
            like = trainer.checkpoint()
            like["train"] = parallel.local(like["train"])
            _, state, metadata = checkpoints.restore(folder, like)
            self.run.check_metadata(metadata, folder)
            old, new = metadata.get("versions", {}), self.run.metadata()["versions"]
            if not isinstance(old, dict):
                raise CheckpointError(f"{folder}: its metadata are not those of a run's checkpoint")
            if lines := settings.differences(old, new, "when it was saved") if old else []:
                warnings.warn(f"the last bits may be others: {'; '.join(lines)}", stacklevel=2)
            trainer.restore(state)
        if parallel.is_first():
            rows = log.keep_rows(self.out, trainer.epoch)
            trainer.floor = rows[0].get("floor") if rows else None
            trainer.memoriser = rows[0].get("memoriser") if rows else None

    def train(self) -> bool:
        """Train to the end; False if a signal stopped it, with everything saved."""
        first = parallel.is_first()
        try:
            with progress_bar(self.trainer, hidden=not first) as show:
                for row in self.trainer:
                    if first:
                        log.append_row(self.out, row)
                        show(row)
                        if self.due(row["epoch"], self.record.snapshot_every):
                            with self.timed("pictures"):
                                self.snapshot(row["epoch"])
                    if self.due(row["epoch"], self.record.checkpoint_every):
                        with self.timed("checkpoints"):
                            self.checkpoint()
        except DivergedError as error:
            with suppress(CheckpointError):  # as parameters may not be finite either
                self.checkpoint()
            raise DivergedError(f"{error}. The checkpoints in {self.out} are good") from None
        if not self.trainer.finished:
            self.checkpoint()
        return self.trainer.finished

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the block's seconds to those of a part of the run."""
        began = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began

    def due(self, epoch: int, every: int | None) -> bool:
        """Whether it is time for what happens every so many epochs."""
        always = (1, self.run.epochs, *(self.record.milestones or ()))
        last = self.trainer.finished
        return last or epoch in always or (every is not None and epoch % every == 0)

    def snapshot(self, epoch: int) -> None:
        """Draw the epoch's samples, and keep them where they will be measured."""
        from ddpm_jax.figures import plotting

        samples = self.samples(self.record.snapshot_points, self.snapshot_drawer)
        picture = self.out / directory.snapshot(epoch)
        frame, title = plotting.limits(self.view(self.data)), f"epoch {epoch}"
        self.draw(plotting.snapshot, picture, self.view(samples), frame, title, self.view.axes)
        if epoch in (self.record.milestones or ()) or self.trainer.finished:
            self.keep(self.out / directory.snapshot(epoch, ".npy"), samples)

    def keep(self, path: Path, samples: np.ndarray) -> None:
        """Write scaled samples as the data are: numbers, words, dates."""
        with files.replacing(path) as temporary:
            np.save(temporary, self.run.table_of(samples).to_npy())

    def kept(self, path: Path) -> np.ndarray:
        """Read back what `keep` wrote."""
        return self.run.scaler.apply(self.run.encode(readers.read(path)[0]))

    def draw(self, figure: Callable[..., None], path: Path, *args: Any, **options: Any) -> None:
        """Make one picture of the run; all of them come through here."""
        figure(path, *args, **options)

    def _asked_to_stop(self) -> bool:
        """Whether a signal has come, to whichever process: they stop together."""
        if signum := parallel.greatest(self.interrupt.signum or 0):
            self.interrupt.signum = signum
        return bool(self.interrupt)
