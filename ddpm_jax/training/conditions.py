"""Conditions lost at random in training, so that one model learns p(x) beside p(x | given)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

DROP_ALL = 0.1
"""Probability that a row loses all its conditions."""
DROP_EACH = 0.1
"""Probability that it loses one of several, each for itself, where it has not lost all."""


def drop_conditions(
    key: Key[Array, ""],
    given: Float[Array, "*n c"],
    widths: Sequence[int],
    drop_all: float = DROP_ALL,
    drop_each: float = DROP_EACH,
) -> Float[Array, "*n c"]:
    """`given` with conditions made unknown (NaN) at random, each row for itself.

    A row loses all of them with probability `drop_all`, as in Ho & Salimans 2022 (arXiv
    2207.12598), algorithm 1; else, where there are several, each with probability `drop_each`, so
    that any of them may be given alone. `widths` are the numbers of columns of each condition: a
    condition is known whole or not at all.
    """
    key_all, key_each = jax.random.split(key)
    rows = given.shape[:-1]
    dropped = jax.random.bernoulli(key_all, drop_all, (*rows, 1))
    if len(widths) > 1:
        each = jax.random.bernoulli(key_each, drop_each, (*rows, len(widths)))
        dropped = dropped | each[..., np.repeat(np.arange(len(widths)), widths)]
    return jnp.where(dropped, jnp.nan, given)
