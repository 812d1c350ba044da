"""One program on many devices and in many processes: JAX's own engine, and what it has to be told.

Every process runs the same script. Their devices form one mesh of a single axis, "data": batches
are shared out over it, everything else is on every device, and `jax.jit` derives the communication
from these shardings: one all-reduce of the gradients a step. One device makes a mesh, too.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ddpm_jax.errors import ConfigError, InputError

POINTS_PER_ACCELERATOR = 2048
"""A smaller share of a batch takes less time than the all-reduce it would save it by: the model in
docs/evidence/scaling.md has 10 ns a point against 15 µs."""


THRESHOLD = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
MANY_DEVICES = 64
"""As many devices a CPU makes with however few cores, to try things out."""


def is_first() -> bool:
    """Whether this is the process that prints, draws and writes."""
    return jax.process_index() == 0


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, stacked; each waits here for the others."""
    if jax.process_count() == 1:
        return array[None]
    return multihost_utils.process_allgather(array)


def wait() -> None:
    """Wait for the other processes."""
    gather(np.zeros(1))


def from_first(array: np.ndarray) -> np.ndarray:
    """The array of the first process, in all."""
    return gather(array)[0]


def leave(status: int) -> int:
    """Return the exit status; where there are other processes, exit with it at once.

    They cannot go on without this one, and a regular exit would wait for them.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def greatest(number: int) -> int:
    """The greatest number given by any process."""
    return int(gather(np.array(number)).max())


def training_mesh(batch_size: int, there: int, per_process: int | None = None) -> Mesh:
    """A mesh, with the axis "data", of `per_process` of the first `there` devices of each process.

    By default as many accelerators as share a batch evenly and have `POINTS_PER_ACCELERATOR` each,
    but one CPU device: the all-reduce between cores takes about as long as a step of a small
    network. Raises ConfigError where the devices cannot share a batch evenly, or are not there.
    """
    processes = jax.process_count()
    if per_process is not None:
        count = per_process
    elif jax.default_backend() == "cpu":
        count = 1
    else:
        worthwhile = batch_size // (POINTS_PER_ACCELERATOR * processes)
        count = even_share(batch_size // processes, min(there, worthwhile))
    if not 1 <= count <= there:
        raise ConfigError(
            f"train_devices must be from 1 to {there}, as many as this process may use, got {count}"
        )
    if batch_size % (count * processes):
        raise ConfigError(
            f"a batch of {batch_size} points cannot be shared evenly by {processes} processes with "
            f"{count} devices each: choose another batch_size or train_devices"
        )
    devices = [
        device
        for i in range(processes)
        for device in [d for d in jax.devices() if d.process_index == i][:count]
    ]
    return make_mesh(devices)


def even_share(items: int, most: int) -> int:
    """The greatest number, of 1 to `most`, that divides `items`."""
    return max((n for n in range(1, most + 1) if items % n == 0), default=1)


def make_mesh(devices: Sequence[Any]) -> Mesh:
    """A mesh of the devices with the axis "data"."""
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """`sharding(mesh)`: on every device. `sharding(mesh, None, "data")`: axis 1 shared out."""
    return NamedSharding(mesh, PartitionSpec(*axes))


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """Put arrays, equal in every process, on every device of the mesh, without communication."""

    def put(leaf: Any) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding(mesh), lambda index: host[index])

    return jax.tree.map(put, tree)


def local(tree: PyTree) -> PyTree:
    """Replicated arrays as arrays of this process's first device, to compute with it alone."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def threads() -> int:
    """How many threads share a large product on a CPU: some sum in another order with others."""
    return max(cores(), len(jax.local_devices()))


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_devices(count: int | None) -> list:
    """Make every core a CPU device, before JAX is first used, and return `count` of the devices.

    By default all. Accelerators, where there are any, come as they are.
    """
    most = max(cores(), MANY_DEVICES)
    if count is not None and not 1 <= count <= most:
        raise InputError(
            f"devices must be from 1 to {most}, as many as a CPU makes here, got {count}"
        )
    jax.config.update("jax_num_cpu_devices", count or cores())
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") and THRESHOLD not in os.environ:
        # JAX's own one, a second, would leave out most of what compiles here.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    devices = jax.local_devices()
    if count is not None and not 1 <= count <= len(devices):
        raise InputError(
            f"devices must be from 1 to {len(devices)}, as many as this process has, got {count}"
        )
    return devices[:count]
