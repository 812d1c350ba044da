"""What the bits depend on beside data and configuration: seeds, and how JAX is set.

The environment may set JAX otherwise (JAX_ENABLE_X64, JAX_DEFAULT_PRNG_IMPL, ...). Who fits a
model or draws from it does so under `fixed()`, a program of its own after `fix()`: the bits are
then those of 32-bit numbers and of threefry, whatever the environment says. What cannot be fixed,
`versions()` tells, and whoever goes on with earlier work compares.
"""

import contextlib
import operator
from collections.abc import Iterator
from typing import Any, SupportsIndex

import jax
import jaxlib
import numpy as np
from jaxtyping import Array, Key

from ddpm_jax.errors import ConfigError

PRNG = "threefry2x32"
"""The random numbers of every seed; JAX_DEFAULT_PRNG_IMPL does not matter."""

SEEDS = range(2**32)
"""What `jax.random.key` takes as it is: it takes others modulo 2^32, without a word."""

_FIXED = {
    "jax_enable_x64": (jax.enable_x64, False),
    "jax_default_prng_impl": (jax.default_prng_impl, PRNG),
    "jax_threefry_partitionable": (jax.threefry_partitionable, True),
    "jax_default_matmul_precision": (jax.default_matmul_precision, None),
    "jax_disable_jit": (jax.disable_jit, False),
}


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """Compute as the bits want it, in this thread, whatever JAX is set to elsewhere.

    Around arrays that the caller brings, too: 64-bit ones then enter as 32-bit ones.
    """
    with contextlib.ExitStack() as stack:
        for setting, value in _FIXED.values():
            stack.enter_context(setting(value))
        yield


def fix() -> None:
    """The same for the whole process, for good: for programs, not for libraries."""
    for name, (_, value) in _FIXED.items():
        jax.config.update(name, value)


def checked_seed(seed: SupportsIndex, name: str = "seed") -> int:
    """The seed as it is; ConfigError unless it is an integer in 0..2^32-1.

    Two seeds never mean the same numbers, and each has the same meaning everywhere.
    """
    try:
        number = -1 if isinstance(seed, bool | np.bool) else operator.index(seed)
    except TypeError:
        number = -1
    if number not in SEEDS:
        raise ConfigError(f"{name} must be an integer from 0 to 2^32 - 1, got {seed!r}")
    return number


def seed_key(seed: SupportsIndex, name: str = "seed") -> Key[Array, ""]:
    """The key of a seed; ConfigError as `checked_seed`."""
    return jax.random.key(checked_seed(seed, name), impl=PRNG)


def versions() -> dict[str, Any]:
    """What the last bits depend on and no program can set: versions, and the kind of device."""
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "backend": jax.default_backend(),
    }
