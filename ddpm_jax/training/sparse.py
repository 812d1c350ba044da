"""Adam for learned tables of which a step touches a few rows: the others wait until they are next.

A batch looks up some thousand of a hundred thousand rows; the gradient of the rest is zero. Dense
Adam passes over all of them in every step nevertheless, as its moments decay and, while they do,
move the parameters. Both are geometric, so here a row is brought up to date when it is next looked
up: after k idle steps m has become β₁ᵏ m, v β₂ᵏ v, and the row has moved by

    η m̂ / (√v̂ + ε) · (r + r² + ... + rᵏ),   r = β₁ / √β₂,

which is what k steps of dense Adam with a gradient of zero do, for ε ≪ √v̂ and a step size η and
bias corrections (those of now) that hardly change while the moments decay, in some ten steps. The
moments are not left as they were in between, as in PyTorch's SparseAdam or in Müller et al. 2022
(arXiv 2201.05989, section 4): that learns the rarely touched rows more slowly.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

B1, B2, EPS = 0.9, 0.999, 1e-8
"""As `steps.adam` has them."""

AVERAGED_ALWAYS, AVERAGED_EVERY = 1000, 50
"""The average takes the table of each of the first steps, and of every 50th one afterwards."""


class Table(NamedTuple):
    """Which rows of params["tables"]["nodes"] a batch touches, and how fast they learn."""

    around: Callable[[Float[Array, "*n d"]], Int[Array, "*n k"]]
    """`around(x)` are the rows that the network looks up at points `x`. The network is then called
    as `apply(params, x, t, nodes=...)`, with the rows [..., k, f] themselves."""
    rate: Callable[[Int[Array, ""]], Any]
    """The step size η of step n."""
    everywhere: jax.sharding.Sharding | None = None
    """Where a batch is shared out over devices: on all of them. Each then takes the gradients of
    all touched rows, in the batch's order, so that their tables stay equal to the bit."""


class Nodes(NamedTuple):
    """A table [R, f] in training: Adam's m and v are as they were after `steps` [R] steps."""

    table: Float[Array, "R f"]
    m: Float[Array, "R f"]
    v: Float[Array, "R f"]
    steps: Int[Array, "R"]
    ema: Float[Array, "R f"] | None


class Touched(NamedTuple):
    """The K rows that a step touches, one for each look-up: a row may be among them many times."""

    rows: Int[Array, "*n k"]
    values: Float[Array, "K f"]
    m: Float[Array, "K f"]
    v: Float[Array, "K f"]
    stored: tuple[Array, ...]
    """The rows, their m, v and steps, as they were before they were brought up to date."""

    def shaped(self, values: Float[Array, "K f"]) -> Float[Array, "*n k f"]:
        """The values as the network takes them."""
        return values.reshape(*self.rows.shape, -1)


def split(params: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
    """The table [R, f], and the parameters without it."""
    rest = {name: value for name, value in params.items() if name != "tables"}
    return params["tables"]["nodes"], rest


def init(table: Float[Array, "R f"], ema: bool) -> Nodes:
    """The table before the first step, with an average or without."""
    zeros = jnp.zeros_like(table)
    steps = jnp.zeros(len(table), jnp.int32)
    return Nodes(table, zeros, jnp.copy(zeros), steps, jnp.copy(table) if ema else None)


def join(state: Any, nodes: Nodes) -> Any:
    """The state of training with the table in its parameters, and its moments in `opt_state`."""
    moments = nodes._replace(table=None, ema=None)
    params = state.params | {"tables": {"nodes": nodes.table}}
    ema = None if nodes.ema is None else state.ema | {"tables": {"nodes": nodes.ema}}
    return state._replace(params=params, opt_state=(state.opt_state, moments), ema=ema)


def split_state(state: Any) -> tuple[Any, Nodes]:
    """The state of training without the table, and the table: `join` taken back."""
    table, params = split(state.params)
    mean, ema = (None, None) if state.ema is None else split(state.ema)
    opt_state, moments = state.opt_state
    nodes = moments._replace(table=table, ema=mean)
    return state._replace(params=params, opt_state=opt_state, ema=ema), nodes


def gather(table: Table, nodes: Nodes, x: Float[Array, "*n d"], step: Int[Array, ""]) -> Touched:
    """The rows that points `x` touch before step n, brought up to date: the module's formula."""
    rows = _on_every_device(table, table.around(x))
    places = rows.reshape(-1)
    stored = tuple(_take(array, places) for array in nodes[:4])
    value, m, v, steps = stored
    idle = (step - steps).astype(value.dtype)[:, None]
    ratio = B1 / B2**0.5
    moved = ratio / (1 - ratio) * -jnp.expm1(idle * math.log(ratio)) * _direction(m, v, step)
    return Touched(
        rows,
        value - table.rate(step) * moved,
        m * jnp.exp(idle * math.log(B1)),
        v * jnp.exp(idle * math.log(B2)),
        stored,
    )


def update(
    table: Table,
    nodes: Nodes,
    touched: Touched,
    gradients: Float[Array, "K f"],
    step: Int[Array, ""],
    ema_decay: Float[Array, ""] | None = None,
) -> Nodes:
    """The table after step n of Adam.

    A row that was looked up several times has the sum of its gradients, in their order.
    """
    places = touched.rows.reshape(-1)
    gradients = _on_every_device(table, gradients)
    # The touched rows of m serve to add up, so that no array of the table's size is made. They are
    # set to 0 · m, and `steps` to a maximum that is always the second: seeing that what is written
    # depends on what was read, XLA reads first and writes in place, where it would copy the whole.
    sums = _add(_put(nodes.m, places, 0 * touched.stored[1]), places, gradients)
    gradients = _take(sums, places)
    m = B1 * touched.m + (1 - B1) * gradients
    v = B2 * touched.v + (1 - B2) * gradients**2
    value = touched.values - table.rate(step) * _direction(m, v, step + 1)
    steps = jnp.maximum(touched.stored[3], step + 1)
    after = _put(nodes.table, places, value)
    return Nodes(
        after,
        _put(sums, places, m),
        _put(nodes.v, places, v),
        _put(nodes.steps, places, steps),
        nodes.ema if ema_decay is None else _average(nodes.ema, after, step, ema_decay),
    )


def _average(mean: Array | None, table: Array, step: Array, decay: Array) -> Float[Array, "R f"]:
    # A pass over the whole table: made in few steps, and then for all those since the last.
    always = step < AVERAGED_ALWAYS
    due = always | ((step + 1) % AVERAGED_EVERY == 0)
    share = 1 - jnp.where(always, decay, decay**AVERAGED_EVERY)
    return jax.lax.cond(
        due, lambda a, b: optax.incremental_update(b, a, share), lambda a, _: a, mean, table
    )


def _direction(m: Array, v: Array, steps: Array) -> Array:
    """m̂ / (√v̂ + ε) after so many steps, and 0 before the first: Kingma & Ba 2015, algorithm 1."""
    count = jnp.maximum(steps, 1).astype(m.dtype)
    return (m / (1 - B1**count)) / (jnp.sqrt(v / (1 - B2**count)) + EPS)


def _on_every_device(table: Table, array: Array) -> Array:
    if table.everywhere is None:
        return array
    return jax.lax.with_sharding_constraint(array, table.everywhere)


# Rows lie in the table by construction: nothing is checked, and no row counts from the end.


def _take(array: Array, rows: Array) -> Array:
    return array.at[rows].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _put(array: Array, rows: Array, values: Array) -> Array:
    return array.at[rows].set(values, mode="promise_in_bounds", wrap_negative_indices=False)


def _add(array: Array, rows: Array, values: Array) -> Array:
    return array.at[rows].add(values, mode="promise_in_bounds", wrap_negative_indices=False)
