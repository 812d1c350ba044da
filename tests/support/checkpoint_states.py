"""States to save, a directory of two of them, and a save that is killed."""

import functools
import os
import signal
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddpm_jax.runs.checkpoints import save
from harness import at_write, before_each_write


class Pair(NamedTuple):
    count: jax.Array
    mask: np.ndarray


def make_state(step):
    """Every kind of node and leaf, a known function of `step`; Adam's moments are not zero."""
    kernel = jnp.arange(6, dtype=jnp.float32).reshape(2, 3) - step
    params = {"dense": {"kernel": kernel, "bias": jnp.ones(3, jnp.float32)}}
    adam = optax.adam(1e-3)
    _, moments = adam.update(params, adam.init(params))
    # The signed zero, the smallest subnormal and the largest float: what a lossy path would lose.
    edges = np.array([-0.0, 1e-45, 3.4028235e38], np.float32)
    half = jnp.full((1, 2), step, jnp.bfloat16)
    return (params, moments, Pair(jnp.int32(step), np.array([True, False])), {"e": [edges, half]})


def save_two(folder: Path) -> Path:
    """Checkpoints of steps 1 and 2."""
    for step in (1, 2):
        save(folder, step, make_state(step), {"epoch": step})
    return folder


def save_killed(folder: Path, number: int) -> None:
    """Save another step 2, in a process that is killed just before its n-th write.

    Of an array of NumPy's, as there is nothing to compile then.
    """
    kill = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
    with before_each_write(folder, at_write(number, kill)):
        save(folder, 2, {"x": np.full(3, -2, np.float32)})
