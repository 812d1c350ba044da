"""The training loop as something to iterate: a row of figures comes out for every epoch.

    for row in Trainer(task, state, data):
        print(row["epoch"], row["loss"])

Whoever iterates shows progress, draws and saves; the loop itself prints and writes nothing. It
works in chunks of steps, each one compiled program; between two of them it can be stopped, and
what `checkpoint` returned then goes on to the same bits.
"""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, Num

from ddpm_jax import parallel
from ddpm_jax.config import Training
from ddpm_jax.diffusion.process import ideal_loss
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import InputError
from ddpm_jax.training import sparse, steps, validation
from ddpm_jax.training.steps import Apply, Params, TrainState
from ddpm_jax.training.validation import Best, Validation

MAX_BAD_STEPS = 5
"""As many steps in a row may be skipped, their loss or gradient not being finite."""
CHUNK_VALUES = 2**21
"""Numbers of data that the steps of one chunk consume."""
IDEAL_VALUES = 2**19
"""Of more data than this many numbers, as many make the ideal denoiser."""

MEMORISER_PAIRS = 2**26
"""Of more pairs of a training row and a held-out one, as many make the memoriser's mark."""

Row = dict[str, Any]
Read = Callable[[Int[np.ndarray, "*b"]], Num[np.ndarray, "*b d"]]


class DivergedError(InputError):
    """Too many steps in a row were not finite; the parameters are those before them."""


@dataclass(frozen=True)
class Task:
    """What is trained, and how: everything but the data and the state."""

    apply: Apply
    optimizer: optax.GradientTransformation
    schedule: Schedule
    settings: Training
    keys: dict[str, Key[Array, ""]]
    """For the "order" of the rows, the "noise" of the steps, the ideal loss, "floor", and the times
    and noises of held-out rows, "validation"."""
    num_points: int
    dim: int
    """Numbers of a row, those of its conditions included, which come last."""
    conditions: tuple[int, ...] = ()
    """How many numbers each condition is."""
    missing: bool = False
    """Whether cells may be missing (NaN)."""
    table: sparse.Table | None = None
    """The learned tables, where the network has some."""

    def bound(
        self,
        train: Callable[..., tuple[TrainState, Array]],
        key: Key[Array, ""],
        table: sparse.Table | None,
    ) -> Callable[..., tuple[TrainState, Array]]:
        """`steps.train_points` or `train_epoch` with all of this bound, and the noise's key."""
        return functools.partial(
            train,
            key,
            self.apply,
            self.optimizer,
            self.schedule,
            stratified=self.settings.stratified,
            points_per_time=self.settings.points_per_time,
            ema_decay=self.settings.ema_decay or None,
            conditions=self.conditions,
            missing=self.missing,
            table=table,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the data, once a pass; the rest of a pass's points is dropped."""
        per_pass = self.num_points // self.settings.batch_size  # pyright: ignore[reportOperatorIssue]
        return per_pass * (self.settings.passes or 1)


def as_checkpoint(state: Any, losses: Any, best: Any = None) -> dict[str, Any]:
    """The one place that says what a checkpoint holds; or what it is like, of shapes and dtypes."""
    whole = {"train": state, "losses": losses}
    return whole if best is None else whole | {"best": best}


@dataclass
class Trainer:
    """The state of a training run, and the loop that carries it forward; see the module."""

    task: Task
    state: TrainState
    data: Num[np.ndarray, "n d"] | Read
    """Scaled points, or a function that reads the scaled points of given rows."""
    shown: Num[np.ndarray, "m d"] | None = None
    """Scaled points, without gaps, that make the ideal denoiser; by default data in memory."""
    held_out: Num[np.ndarray, "v d"] | None = None
    """Scaled points that are not trained on: the loop ends when their loss has stalled."""
    mesh: jax.sharding.Mesh = None  # pyright: ignore[reportAssignmentType]
    """The devices that share each batch; by default, one."""
    stop: Callable[[], bool] = lambda: False
    """Asked before every chunk; a true answer ends the loop there, between two steps."""
    chunk_steps: int | None = None
    """Steps of a chunk; by default as many as their noise has room for."""
    floor: float | None = None
    """The loss of the ideal denoiser of the data, once it is known."""
    memoriser: float | None = None
    """What that denoiser scores on held-out rows, once it is known."""
    best: Best | None = field(init=False, default=None)
    """The parameters of least held-out loss, where rows are held out: see `validation`."""
    losses: Float[np.ndarray, "S"] = field(init=False)
    """The losses of the current epoch's steps; NaN where a step was skipped."""
    bad_steps: int = field(init=False, default=0)
    seconds: dict[str, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        task, chosen = self.task, self.task.settings
        mesh = self.mesh = self.mesh or parallel.make_mesh(jax.local_devices()[:1])
        self.losses = np.zeros(task.steps_per_epoch, np.float32)
        self.state = parallel.replicate(mesh, self.state)
        everywhere, shared = parallel.sharding(mesh), parallel.sharding(mesh, None, "data")
        if not callable(self.data):
            self.shown = self.data if self.shown is None else self.shown
            self._everywhere = parallel.replicate(mesh, self.data)

        # Keys and held-out rows are arguments of the programs, not constants in them: programs of
        # another seed are the same, and one that a compilation cache has serves them all.
        # As plain words, which several processes pass alike.
        self._keys = {name: np.asarray(jax.random.key_data(key)) for name, key in task.keys.items()}
        as_key = functools.partial(
            jax.random.wrap_key_data, impl=jax.random.key_impl(task.keys["noise"])
        )

        def order(key: Array, epoch: Array) -> Array:
            return steps.epoch_order(
                as_key(key),
                epoch,
                task.num_points,
                chosen.batch_size,  # pyright: ignore[reportArgumentType]
                chosen.passes or 1,
            )

        self._order = jax.jit(
            order,
            in_shardings=everywhere,
            out_shardings=everywhere if callable(self.data) else shared,
        )
        table = task.table
        if table is not None and mesh.size > 1:
            table = table._replace(everywhere=everywhere)

        def train(state: TrainState, key: Array, x0: Array) -> tuple[TrainState, Array]:
            return task.bound(steps.train_points, as_key(key), table)(state, x0)

        if callable(self.data):
            self._train = steps.make_trainer(
                train, in_shardings=(everywhere, everywhere, shared), out_shardings=everywhere
            )
        else:
            self._train = steps.make_trainer(
                lambda state, key, data, rows: train(state, key, data[rows]),
                in_shardings=(everywhere, everywhere, everywhere, shared),
                out_shardings=everywhere,
            )
        if self.held_out is not None:
            rows = jax.numpy.asarray(self.held_out)
            draw = functools.partial(
                validation.draw_validation,
                num_times=task.schedule.num_steps,
                conditions=sum(task.conditions),
            )
            # Op by op it would be a dozen programs to compile.
            run_once = jax.jit(draw, compiler_options=steps.FAST_TO_COMPILE)
            self._drawn = run_once(task.keys["validation"], rows)

            def check(
                drawn: Validation, best: Best, params: Params, step: Array
            ) -> tuple[Best, Array, Array]:
                denoise = functools.partial(task.apply, params)
                losses = validation.held_out_losses(
                    task.schedule, denoise, drawn, missing=task.missing
                )
                loss, error = validation.mean_and_error(losses)
                return validation.better_of(best, losses, step, params), loss, error

            self._check = jax.jit(check)
            best = validation.start(parallel.local(steps.sampling_params(self.state)))
            # Committed to its device, as each check returns it: else the second would compile anew.
            self.best = jax.device_put(best, mesh.local_devices[0])

    @property
    def step(self) -> int:
        """Training steps done."""
        return int(self.state.step)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.task.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or the held-out loss has stalled."""
        return self.epoch >= (self.task.settings.epochs or 0) or self._stalled

    @property
    def params(self) -> Params:
        """The parameters to sample from, on one device of this process.

        Those of least held-out loss, where rows are held out.
        """
        if self.best is not None and int(self.best.step) > 0:
            return self.best.params
        return parallel.local(steps.sampling_params(self.state))

    def __iter__(self) -> Iterator[Row]:
        """A row for each epoch that is left; it ends early where `stop` says so.

        Raises DivergedError once too many steps in a row were not finite.
        """
        ideal = None
        # Of a model that is told conditions the ideal denoiser would be another one.
        unknown = self.floor is None and not self.task.conditions
        if unknown and parallel.is_first() and not self.finished:
            ideal = self._ideal_loss()
        for epoch in range(self.epoch, self.task.settings.epochs or 0):
            if self._stalled:
                return
            began = time.perf_counter()
            if not self._train_epoch(epoch):
                return
            taken = time.perf_counter() - began
            self.seconds["training"] = self.seconds.get("training", 0.0) + taken
            checked = self._validate()
            if ideal is not None:
                began = time.perf_counter()
                self.floor, ideal = float(ideal), None
                self.seconds["floor"] = time.perf_counter() - began
            if parallel.is_first():
                yield self._row(epoch + 1, taken) | checked
            else:
                yield {"epoch": epoch + 1, "step": self.step}

    def checkpoint(self) -> dict[str, Any]:
        """All that training goes on from, as a pytree of finite arrays."""
        # No loss is negative: -1 stands for the NaN of a skipped step.
        return as_checkpoint(self.state, np.nan_to_num(self.losses, nan=-1.0), self.best)

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Go back to what `checkpoint` once returned."""
        self.state = parallel.replicate(self.mesh, checkpoint["train"])
        if self.best is not None:
            self.best = checkpoint["best"]
        losses = np.array(checkpoint["losses"])
        self.losses = np.where(losses < 0, np.nan, losses).astype(np.float32)
        whole = self.task.steps_per_epoch
        good = np.flatnonzero(~np.isnan(done := self.losses[: self.step % whole or whole]))
        self.bad_steps = len(done) - 1 - int(good[-1]) if good.size else len(done)

    @property
    def _stalled(self) -> bool:
        patience = self.task.settings.patience
        return (
            self.best is not None
            and patience is not None
            and (validation.has_stalled(self.best, self.step, patience))
        )

    def _validate(self) -> Row:
        """Check the held-out rows, keep the parameters if they are the best, and tell the loss."""
        if self.best is None or self.held_out is None:
            return {}
        began = time.perf_counter()
        params = parallel.local(steps.sampling_params(self.state))
        step = jax.numpy.asarray(self.step)
        self.best, loss, error = self._check(self._drawn, self.best, params, step)
        if self.memoriser is None and not self.task.conditions and not self.task.missing:
            self.memoriser = self._memorisers_loss()
        taken = time.perf_counter() - began
        self.seconds["validation"] = self.seconds.get("validation", 0.0) + taken
        figures = {"held_out_loss": float(loss), "held_out_error": float(error)}
        # JSON has no NaN; a network that diverges may have nothing else.
        known = {name: x if np.isfinite(x) else None for name, x in figures.items()}
        return known | {"memoriser": self.memoriser}

    def _memorisers_loss(self) -> float:
        """Of some of the rows and of the triples, where all would take long."""
        data = jax.numpy.asarray(self.shown)
        data = data[:: -(-data.size // IDEAL_VALUES)]
        count = max(MEMORISER_PAIRS // len(data), 1)
        x0, t, eps, given = self._drawn
        some = Validation(x0[:count], t[:1, :count], eps[:1, :count], given)
        mark = jax.jit(functools.partial(validation.memorisers_loss, self.task.schedule))
        return float(mark(data, some))

    def _train_epoch(self, epoch: int) -> bool:
        """Run what is left of the epoch in chunks; False if it was stopped before its end."""
        rows = self._order(self._keys["order"], epoch)
        for start, end in self._chunks(self.step - epoch * self.task.steps_per_epoch):
            if self.stop():
                return False
            self.state, losses = self._train_rows(rows[start:end])
            self.losses[start:end] = losses
            self._halt_if_diverged(np.asarray(losses), epoch)
        return True

    def _chunks(self, begin: int) -> Iterator[tuple[int, int]]:
        """Bounds of the chunks from step `begin` of an epoch to its end; which, changes no bit."""
        values = (self.task.settings.batch_size or 1) * max(self.task.dim, 2)
        size = self.chunk_steps or max(CHUNK_VALUES // values, 1)
        return pairwise([*range(begin, self.task.steps_per_epoch, size), self.task.steps_per_epoch])

    def _train_rows(self, rows: Array) -> tuple[TrainState, Array]:
        """A step over each batch of rows of the data, wherever they are kept."""
        if not callable(self.data):
            return self._train(self.state, self._keys["noise"], self._everywhere, rows)
        wanted, read_rows = np.asarray(parallel.local(rows)), self.data

        def read(part: Any) -> np.ndarray:
            return read_rows(wanted[part[:2]])

        # Read for each of this process's devices its own part of the batches, and no other.
        shape = (*rows.shape, self.task.dim)
        shared = parallel.sharding(self.mesh, None, "data")
        x0 = jax.make_array_from_callback(shape, shared, read)
        return self._train(self.state, self._keys["noise"], x0)

    def _halt_if_diverged(self, losses: np.ndarray, epoch: int) -> None:
        for bad in np.isnan(losses):
            self.bad_steps = self.bad_steps + 1 if bad else 0
            if self.bad_steps >= MAX_BAD_STEPS:
                raise DivergedError(
                    f"training diverged in epoch {epoch + 1}: the loss or its gradient was not "
                    f"finite in {MAX_BAD_STEPS} steps in a row, which were skipped. Try a smaller "
                    f"learning_rate (now {self.task.settings.learning_rate:g})"
                )

    def _row(self, epoch: int, seconds: float) -> Row:
        """The epoch's figures; no loss where every step was skipped."""
        kept = self.losses[~np.isnan(self.losses)]
        loss = float(kept.mean(dtype=np.float64)) if kept.size else None
        return {
            "epoch": epoch,
            "step": self.step,
            "loss": loss,
            "floor": self.floor,
            "excess": None if loss is None or self.floor is None else loss - self.floor,
            "skipped": len(self.losses) - len(kept),
            "seconds": round(seconds, 4),
        }

    def _ideal_loss(self) -> Array:
        """The loss of the ideal denoiser of the data or, where they are many, of some of them.

        It is not waited for: this process's last device finds it out while the first one's program
        is compiled.
        """
        assert self.shown is not None
        data = self.shown[:: -(-self.shown.size // IDEAL_VALUES)]
        rounds = int(np.clip(4e8 / (len(data) * self.task.schedule.num_steps), 1, 64)) + 1
        ideal = jax.jit(functools.partial(ideal_loss, rounds=rounds))
        given = self.task.keys["floor"], self.task.schedule, data
        return ideal(*jax.device_put(given, jax.local_devices()[-1]))[0]
