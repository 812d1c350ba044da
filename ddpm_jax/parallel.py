"""One program on many devices and in many processes: JAX's own engine, and what it has to be told.

Every process runs the same script. Their devices form one mesh of a single axis, "data": batches
are shared out over it, everything else is on every device, and `jax.jit` derives the communication
from these shardings: one all-reduce of the gradients a step. One device makes a mesh, too.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ddpm_jax.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """How the processes of one job find each other."""

    distributed: bool = False
    """Run as one of several processes, all with the same command. Slurm, Open MPI, Kubernetes and
    TPU pods are recognised; elsewhere pass the three settings below."""
    coordinator: str | None = None
    """HOST:PORT of process 0, for --distributed."""
    num_processes: int | None = None
    """How many processes there are, for --distributed."""
    process_id: int | None = None
    """Which of them this is, from 0, for --distributed."""

    def __post_init__(self) -> None:
        given = [v is not None for v in (self.coordinator, self.num_processes, self.process_id)]
        if any(given) and not (all(given) and self.distributed):
            raise ConfigError(
                "--coordinator, --num-processes and --process-id go together, with --distributed"
            )
        n, i = self.num_processes, self.process_id
        if n is not None and i is not None and not 0 <= i < n:
            raise ConfigError(f"--process-id must lie in 0..{n - 1}, got {i}")

    def join(self) -> None:
        """Connect to the other processes; to be called before JAX is first used.

        Raises ConfigError where there is no cluster to recognise or nobody answers.
        """
        if not self.distributed:
            return
        try:
            jax.distributed.initialize(self.coordinator, self.num_processes, self.process_id)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--distributed: {error}; where the cluster is not recognised, pass --coordinator "
                "HOST:PORT, --num-processes N and --process-id I to each process"
            ) from error


def is_first() -> bool:
    """Whether this is the process that prints, draws and writes."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process. All must ask, each the same number of times."""
    return bool(gather(np.array(flag)).any())


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, stacked."""
    if jax.process_count() == 1:
        return array[None]
    return multihost_utils.process_allgather(array)


def from_first(array: np.ndarray) -> np.ndarray:
    """The array of the first process, in all."""
    return gather(array)[0]


def leave(status: int) -> int:
    """The exit status; where there are other processes, exit with it at once.

    They cannot go on without this one, and a regular exit would wait for them.
    """
    if jax.process_count() > 1:
        os._exit(status)
    return status


def make_mesh(devices: Sequence[Any]) -> Mesh:
    """The mesh of the given devices, of all processes in the same order, with the axis "data"."""
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
