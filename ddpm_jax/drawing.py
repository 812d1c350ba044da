"""Points from a trained network, and what is missing of points: in blocks of fixed size.

The points of a block depend on the key and the block's number alone, so that fewer points are the
first of more, on however many devices they are drawn.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float32

from ddpm_jax import parallel
from ddpm_jax.diffusion.guidance import guided
from ddpm_jax.diffusion.imputation import impute
from ddpm_jax.diffusion.sampling import DDPM, SAMPLERS, Sampler, sample_blocks, watch
from ddpm_jax.diffusion.schedules import Schedule, respace
from ddpm_jax.errors import ConfigError, InputError

BLOCK = 1000
"""Points sampled together: as many as fit a core's cache. Part of what a seed means."""
TOGETHER = 20
"""Blocks that an accelerator draws at a time; always as many, as sums over others may round
otherwise. A CPU core draws one after another."""
IMPUTATION_STEPS = 50
"""Steps in which what is missing is drawn: on Gaussians the means are off by 2 % of a spread."""


@runtime_checkable
class Fill(Protocol):
    """Completes rows of conditions [n, width], NaN where nothing is given."""

    width: int

    def __call__(
        self, given: Float32[np.ndarray, "n c"], rng: np.random.Generator
    ) -> Float32[np.ndarray, "n c"]:
        """The rows with what is not given drawn."""
        ...


class Drawer:
    """A sampler made ready for one network: give it parameters and a key, and it draws points."""

    def __init__(
        self,
        apply: Callable[..., Array],
        schedule: Schedule,
        dim: int,
        sampler: str | Sampler = DDPM,
        steps: int | None = None,
        devices: Sequence[Any] | None = None,
        fill: Fill | None = None,
        guidance: float = 1.0,
        watched: Sequence[int] = (),
        block: int = BLOCK,
    ) -> None:
        """`steps` are network evaluations a point, by default all of the schedule's.

        Of a network that is told conditions, `fill` completes those that are not given, `dim` is
        the number of columns with them, and `guidance` the weight of `guidance.guided`. `frames`
        needs the numbers of steps to be `watched`. Another size of `block` gives other points.

        Raises ConfigError for an unknown sampler, and for more steps than the schedule has.
        """
        if isinstance(sampler, str):
            if sampler not in SAMPLERS:
                raise ConfigError(f"unknown sampler {sampler!r}: use one of {', '.join(SAMPLERS)}")
            sampler = SAMPLERS[sampler]
        self.fill = fill
        self.schedule = schedule if steps is None else respace(schedule, steps)
        width = 0 if fill is None else fill.width
        self.drawn, self.width = dim - width, width
        told = apply if fill is None else _guided(apply, guidance)
        self.block, shape = block, (block, self.drawn)
        self._blocks = make_block_sampler(told, self.schedule, shape, sampler, devices, watched)

    @property
    def evaluations(self) -> int:
        """Network evaluations a point."""
        return self.schedule.num_steps

    def points(
        self,
        params: Any,
        key: Array,
        count: int,
        given: Float32[np.ndarray, "{count} c"] | None = None,
    ) -> Float32[np.ndarray, "{count} d"]:
        """The first `count` points, in the network's coordinates; InputError as `checked`.

        Where the network is told conditions, `given` has a row of them for each point, NaN where
        nothing is given, and each point ends with its own.
        """
        number = -(-count // self.block)
        return checked(self.blocks(params, key, 0, number, given)[:count])

    def blocks(
        self,
        params: Any,
        key: Array,
        first: int,
        count: int,
        given: Float32[np.ndarray, "n c"] | None = None,
    ) -> Float32[np.ndarray, "_ d"]:
        """The points of `count` blocks from the `first` on; `given` is of these points."""
        return self._drawn(params, key, first, count, given).reshape(-1, self.drawn + self.width)

    def frames(self, params: Any, key: Array, count: int) -> Float32[np.ndarray, "f {count} d"]:
        """The first `count` points after each number of steps that is watched."""
        drawn = self._drawn(params, key, 0, -(-count // self.block), None).swapaxes(0, 1)
        return drawn.reshape(len(drawn), -1, self.drawn + self.width)[:, :count]

    def _drawn(
        self, params: Any, key: Array, first: int, count: int, given: np.ndarray | None
    ) -> np.ndarray:
        """Blocks of points, [count, n, d], or [count, F, n, d] where steps are watched."""
        if self.fill is None:
            return np.asarray(self._blocks(params, key, first, count))
        if given is None:
            given = np.full((1, self.width), np.nan, np.float32)
        told = np.pad(given, ((0, count * self.block - len(given)), (0, 0)), mode="edge")
        told = told.reshape(count, self.block, self.width)
        seeds = np.asarray(jax.random.key_data(key)).tolist()
        told = np.stack(
            [
                self.fill(block, np.random.default_rng([*seeds, first + i]))
                for i, block in enumerate(told)
            ]
        )
        drawn = np.asarray(self._blocks(params, key, first, count, told))
        if drawn.ndim > told.ndim:
            told = np.broadcast_to(told[:, None], (*drawn.shape[:-1], self.width))
        return np.concatenate([drawn, told], axis=-1)


def _guided(apply: Callable[..., Array], weight: float) -> Callable[..., Array]:
    """`apply` with guidance of this weight towards what is given."""

    def guided_apply(params: Any, x: Array, t: Array, given: Array) -> Array:
        denoise = guided(
            lambda x, t: apply(params, x, t, given), lambda x, t: apply(params, x, t), weight
        )
        return denoise(x, t)

    return guided_apply


def checked(points: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """The points; InputError unless all are finite, as those of bad parameters may not be."""
    bad = int(np.sum(~np.isfinite(points).all(axis=1)))
    if bad:
        raise InputError(
            f"{bad:,} of {len(points):,} samples are not finite: the network is not trained well "
            "enough to draw from; train again, with a smaller learning_rate"
        )
    return points


class Imputer:
    """Draws what is missing of points, given what is there: see `diffusion.imputation`."""

    def __init__(
        self, apply: Callable[..., Array], schedule: Schedule, steps: int = IMPUTATION_STEPS
    ) -> None:
        """`steps` are network evaluations a point, each with its derivatives."""
        self.schedule = schedule
        rows = respace(schedule, min(steps, schedule.num_steps))

        def fill(params: Any, key: Array, known: Array, *given: Array) -> Array:
            def denoise(x: Array, t: Array) -> Array:
                return apply(params, x, t, *given)

            return impute(key, denoise, schedule, known, rows)

        self._fill = jax.jit(fill)

    def __call__(
        self,
        params: Any,
        key: Array,
        known: Float32[np.ndarray, "n d"],
        given: Float32[np.ndarray, "n c"] | None = None,
    ) -> Float32[np.ndarray, "n d"]:
        """`known`, each NaN replaced by a draw; `given` and InputError as in `Drawer.points`."""
        filled = known.copy()
        todo = np.flatnonzero(np.isnan(known).any(axis=1))
        # Few sizes, so that few programs are compiled.
        size = min(BLOCK, 1 << max(len(todo) - 1, 0).bit_length())
        for number, start in enumerate(range(0, len(todo), size)):
            rows = todo[start : start + size]
            whole = np.pad(rows, (0, size - len(rows)), mode="edge")
            told = () if given is None else (given[whole],)
            drawn = self._fill(params, jax.random.fold_in(key, number), known[whole], *told)
            filled[rows] = np.asarray(drawn)[: len(rows)]
        return checked(filled)


def make_block_sampler(
    apply: Callable[..., Array],
    schedule: Schedule,
    shape: tuple[int, int],
    sampler: Sampler = DDPM,
    devices: Sequence[Any] | None = None,
    watched: Sequence[int] = (),
) -> Callable[..., Array]:
    """A compiled `draw(params, key, first, count, given=None) -> [count, n, d]`: blocks first, ...

    Shares the blocks out over `devices` (by default all local ones), without communication: see
    `sample_blocks`, also for what is `watched`. `given` [count, n, c] has a row of conditions for
    each point. It compiles once for each count.
    """
    devices = list(devices or jax.local_devices())
    together = 1 if devices[0].platform == "cpu" else TOGETHER
    mesh = parallel.make_mesh(devices)
    everywhere, shared_out = PartitionSpec(), PartitionSpec("data")

    def draw_blocks(params: Any, key: Array, blocks: Array, given: Array | None) -> Array:
        def denoise(x: Array, t: Array) -> Array:
            return apply(params, x, t)

        if given is None:
            return sample_blocks(key, denoise, schedule, blocks, shape, sampler, together, watched)

        def draw_told(block: tuple[Array, Array]) -> Array:
            number, told = block

            def denoise(x: Array, t: Array) -> Array:
                return apply(params, x, t, told)

            key_block = jax.random.fold_in(key, number)
            return watch(key_block, denoise, schedule, shape, sampler, watched)

        return jax.lax.map(
            draw_told, (blocks, given), batch_size=together if together > 1 else None
        )

    replicated = parallel.sharding(mesh)
    compiled = jax.jit(
        jax.shard_map(
            draw_blocks,
            mesh=mesh,
            in_specs=(everywhere, everywhere, shared_out, shared_out),
            out_specs=shared_out,
            check_vma=False,
        )
    )

    def draw(
        params: Any, key: Array, first: int, count: int, given: np.ndarray | None = None
    ) -> Array:
        least = len(devices) * together
        padded = -(-count // least) * least
        if given is not None:
            given = np.pad(given, ((0, padded - count), (0, 0), (0, 0)), mode="edge")
        # Arrays bound to one device, such as restored parameters, are refused by the others.
        params, key = jax.device_put((params, key), replicated)
        return compiled(params, key, np.arange(first, first + padded), given)[:count]

    return draw
