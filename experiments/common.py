"""What the scripts share: devices, the shipped data, errors as one line, signals."""

import contextlib
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import jax
import numpy as np
import tyro

from ddpm_jax import datasets, parallel, sampling
from ddpm_jax.errors import DataError, InputError
from ddpm_jax.mapped import Points
from ddpm_jax.runs import Run

if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[tuple(sampling.SAMPLERS)]

SHIPPED = {"bicycle": Path(__file__).resolve().parent.parent / "data" / "bicycle.txt"}
BLOCK = 1000
"""Points sampled together: as many as fit a core's cache. Part of what a seed means."""
SHOWN_VALUES = 2**19
"""Of data that stay on disk, as many numbers, a quarter of a million points of the plane, are shown
and measured, and make the ideal denoiser."""


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_devices(count: int | None) -> list:
    """Make every core a CPU device, before JAX is first used, and return `count` of the devices.

    By default all. Accelerators, where there are any, come as they are.
    """
    jax.config.update("jax_num_cpu_devices", max(count or cores(), 1))
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        # Its own threshold of one second would leave out most of what compiles here.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    devices = jax.local_devices()
    if count is not None and not 1 <= count <= len(devices):
        raise InputError(f"--devices {count}: this process has {len(devices)}")
    return devices[:count]


def load_data(name: str) -> Points:
    """Points [N, D] of a shipped file, a toy distribution, or a file or directory of the user's.

    The points of a toy distribution are always the same, whatever the seed of the run.
    """
    return datasets.points(str(SHIPPED.get(name, name)), seed=0)


def load_run_data(run: Run) -> np.ndarray:
    """The points, of a directory some, that a run was trained on; DataError if they changed."""
    points = load_data(run.config.data)
    if datasets.digest(points) != run.digest:
        raise DataError(
            f"{run.config.data} is not what it was when the run was trained: restore the file, or "
            "train again"
        )
    return in_memory(points, max(SHOWN_VALUES // run.dim, 2))


def in_memory(points: Points, most: int = sys.maxsize) -> np.ndarray:
    """Points that are in memory as they are; of those on disk, `most` at most."""
    return points if isinstance(points, np.ndarray) else points.some(most)


def draw_points(draw: Callable, params: Any, key: jax.Array, count: int) -> np.ndarray:
    """The first `count` points [count, D] that a block sampler draws with the key."""
    blocks = np.asarray(draw(params, key, 0, -(-count // BLOCK)))
    return blocks.reshape(-1, blocks.shape[-1])[:count]


T = TypeVar("T")


def parse_args(kind: type[T], description: str | None, **options: object) -> T:
    """tyro.cli, except that an InputError of the arguments' own checks comes out as it is."""
    said = io.StringIO()
    # tyro joins the lines of a paragraph, and the examples are a line each.
    description = re.sub(r"(?<!\n)\npython ", "\n\npython ", description or "")
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, description=description, **options)  # pyright: ignore
    except SystemExit as refusal:
        cause: BaseException | None = refusal
        while cause and not isinstance(cause, InputError):
            cause = cause.__context__
        if cause:
            raise cause from None
        sys.stderr.write(said.getvalue())
        raise


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Exit with main's status; 2 after one message on stderr; 130 or 143 after a signal."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    try:
        status = main()
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = parallel.leave(2)
    except Stopped as stopped:
        status = parallel.leave(128 + stopped.signum)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    sys.exit(status)


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def stop(signum: int, frame: object) -> NoReturn:
    """Handle a signal: unwind, so that nothing half-written is left; a second one exits at once."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, lambda signum, frame: os._exit(128 + signum))
    raise Stopped(signum)


class Interrupt:
    """Which signal, if any, has asked the process to stop."""

    signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Only note SIGINT and SIGTERM, for a better moment to stop; a second one exits at once."""
    interrupt = Interrupt()

    def handle(signum: int, frame: object) -> None:
        if interrupt:
            os._exit(128 + signum)
        interrupt.signum = signum

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
