"""Training as pure functions: a step, a scan of steps, and the randomness that belongs to each.

Everything random is derived from the base key and a number, so that a run can be cut anywhere and
goes on to the same bits: the order of epoch e from `fold_in(key_order, e)`, times and noise of step
n from `fold_in(key_noise, n)`, whatever the chunks in which the steps are run.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ddpm_jax.diffusion.process import denoising_loss, diffuse
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import ConfigError
from ddpm_jax.training import sparse
from ddpm_jax.training.conditions import drop_conditions

Params = PyTree[Array]
Apply = Callable[..., Any]
"""`apply(params, x, t)`, or `apply(params, x, t, given)` where there are conditions."""
FAST_TO_COMPILE = {"xla_backend_optimization_level": 1}
"""For a program that runs once: most of the compiler's passes would cost more than they gain."""


class TrainState(NamedTuple):
    """All that training changes: restoring it restores the run."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    ema: Any  # None where no average is kept


class Batches(NamedTuple):
    """What a run of S steps consumes, one row a step: points, times, noise and conditions, if any.

    Shapes are [S, B, d], [S, B], [S, B, d] and [S, B, c]; where g points share a time,
    [S, B/g, g, d], [S, B/g, 1], and so on, so that the network embeds each time once.
    """

    x0: Float[Array, "S *b d"]
    t: Int[Array, "S *#b"]
    eps: Float[Array, "S *b d"]
    given: Float[Array, "S *b c"] | None = None


def init_state(
    params: Params, optimizer: optax.GradientTransformation, ema: bool = False, table: bool = False
) -> TrainState:
    """The state before the first step; the average starts at the parameters themselves.

    With `table`, it is the state of steps that are given a table to train row by row.
    """
    nodes, rest = sparse.split(params) if table else (None, params)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=rest,
        opt_state=optimizer.init(rest),
        ema=jax.tree.map(jnp.copy, rest) if ema else None,
    )
    return state if nodes is None else sparse.join(state, sparse.init(nodes, ema))


def sampling_params(state: TrainState) -> Params:
    """The averaged parameters, where an average is kept."""
    return state.params if state.ema is None else state.ema


def adam(
    learning_rate: float | Float[Array, ""], total_steps: int = 1, decay: str = "constant"
) -> optax.GradientTransformation:
    """Adam as PyTorch defines it, at a constant rate or, over `total_steps`, half a "cosine" to 0.

    Kingma & Ba 2015 (arXiv 1412.6980), β = (0.9, 0.999), ε = 1e-8 outside the root.
    """
    # A constant step size is passed as it is, as optax then keeps no count for it.
    constant = decay == "constant"
    return optax.adam(learning_rate if constant else rate(learning_rate, total_steps, decay))


def rate(
    learning_rate: float | Float[Array, ""], total_steps: int = 1, decay: str = "constant"
) -> optax.Schedule:
    """The step size of step n: always the same or, over `total_steps`, half a "cosine" to 0."""
    rates = {
        "constant": lambda n: learning_rate,
        "cosine": optax.cosine_decay_schedule(learning_rate, total_steps),  # pyright: ignore
    }
    if decay not in rates:
        raise ConfigError(f"unknown learning-rate decay {decay!r}: choose from {', '.join(rates)}")
    return rates[decay]


def train_step(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    state: TrainState,
    batch: Batches,
    *,
    table: sparse.Table | None = None,
    ema_decay: float | None = None,
    missing: bool = False,
) -> tuple[TrainState, Float[Array, ""]]:
    """One step of gradient descent on the denoising loss: Ho et al. 2020, algorithm 1.

    `batch` is one row of `Batches`. A `table` is trained row by row, as `sparse` says, the other
    parameters by the optimizer. The average keeps a share min(decay, (1 + n) / (10 + n)) of
    itself in step n, so that it forgets the initial parameters quickly. `missing` is that of
    `denoising_loss`.
    """
    *noised, given = batch
    conditions = () if given is None else (given,)
    n, old, nodes, touched, values = state.step, state, None, None, None
    if table is not None:
        old, nodes = sparse.split_state(state)
        touched = sparse.gather(table, nodes, diffuse(schedule, *noised), n)
        values = touched.values

    def loss_fn(params: Params, values: Any) -> Array:
        looked_up = {} if touched is None else {"nodes": touched.shaped(values)}

        def denoise(x: Array, t: Array) -> Array:
            return apply(params, x, t, *conditions, **looked_up)

        return denoising_loss(schedule, denoise, *noised, missing=missing)

    loss, (grads, value_grads) = jax.value_and_grad(loss_fn, (0, 1))(old.params, values)
    updates, opt_state = optimizer.update(grads, old.opt_state, old.params)
    params = optax.apply_updates(old.params, updates)
    ema, decay = old.ema, None
    if ema_decay is not None:
        count = n.astype(jax.tree.leaves(params)[0].dtype)
        decay = jnp.minimum(ema_decay, (1 + count) / (10 + count))
        ema = optax.incremental_update(params, ema, 1 - decay)
    new = TrainState(n, params, opt_state, ema)
    if table is not None and nodes is not None and touched is not None:
        nodes = sparse.update(table, nodes, touched, value_grads, n, decay)
        new = sparse.join(new, nodes)
    return new._replace(step=n + 1), loss


def train_steps(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    state: TrainState,
    batches: Batches,
    **settings: Any,
) -> tuple[TrainState, Float[Array, "S"]]:
    """As many steps as `batches` has rows, in one scan; their losses [S].

    The settings are those of `train_step`.
    """

    def step(state: TrainState, batch: Batches) -> tuple[TrainState, Array]:
        return train_step(apply, optimizer, schedule, state, batch, **settings)

    return jax.lax.scan(step, state, batches)


def shuffled(key: Key[Array, ""], n: int) -> Int[Array, "{n}"]:
    """The numbers 0..n-1 in random order, all orders being equally likely.

    As `jax.random.permutation`, in a third of the time on a CPU, where sorting one array of whole
    numbers is ten times faster than sorting it along with another: a random key and the place it
    belongs to share 32 bits, in as many passes as it takes to make equal keys rarer than 1/n.
    """
    place_bits = (n - 1).bit_length()
    key_bits = 32 - place_bits
    if key_bits < 8:
        return jax.random.permutation(key, n)
    places = jnp.arange(n, dtype=jnp.uint32)
    order = places
    for bits in jax.random.bits(key, (-(-3 * place_bits // key_bits), n), jnp.uint32):
        # Among equal keys the order of the last pass remains, as in a radix sort.
        packed = jnp.sort(bits << place_bits | places)
        order = order[packed & (2**place_bits - 1)]
    return order.astype(jnp.int32)


def epoch_order(
    key: Key[Array, ""],
    epoch: int | Int[Array, ""],
    num_points: int,
    batch_size: int,
    passes: int = 1,
) -> Int[Array, "S {batch_size}"]:
    """Rows of the data for each batch: shuffled without replacement, and what is over dropped.

    An epoch of several `passes` is as many epochs of one, one after the other.
    """
    num_batches = num_points // batch_size

    def one_pass(number: int | Array) -> Array:
        order = shuffled(jax.random.fold_in(key, number), num_points)
        return order[: num_batches * batch_size].reshape(num_batches, batch_size)

    if passes == 1:
        return one_pass(epoch)
    return jax.vmap(one_pass)(epoch * passes + jnp.arange(passes)).reshape(-1, batch_size)


def draw_batches(
    key: Key[Array, ""],
    x0: Float[Array, "S B d"],
    first_step: Int[Array, ""],
    num_times: int,
    *,
    stratified: bool = False,
    points_per_time: int = 1,
    conditions: Sequence[int] = (),
) -> Batches:
    """The batches of steps first_step, first_step + 1, ...: times in 0..num_times-1, and noise.

    Times are uniform and independent; `stratified` ones are one from each of as many equal parts of
    the range, which takes the luck of the draw out of the loss (Kingma et al. 2021,
    arXiv 2107.00630, appendix I.1, where one draw serves all parts). `points_per_time` consecutive
    points, a divisor of B, share one.

    The last columns of `x0` are conditions, as many for each as `conditions` says; some of them are
    dropped in every step: `drop_conditions`. Times and noise are the same with and without.
    """
    widths, dim = tuple(conditions), x0.shape[-1] - sum(conditions)
    given = x0[..., dim:] if widths else None
    x0 = x0[..., :dim] if widths else x0
    num_steps, batch_size, _ = x0.shape
    count = batch_size // points_per_time
    first, rest = np.divmod(np.arange(count) * num_times, count)

    def draw(step: Array) -> tuple[Array, Array]:
        key_t, key_eps = jax.random.split(jax.random.fold_in(key, step))
        t = jax.random.randint(key_t, (count,), 0, num_times)
        if stratified:
            # ⌊(i T + t) / count⌋ in whole numbers: rounded, some would fall into the next part.
            t = (t + rest) // count + first
        return t, jax.random.normal(key_eps, x0.shape[1:], x0.dtype)

    def drop(step: Array, given: Array) -> Array:
        # Folding in 0 and 1 gives the two keys that `split` does.
        return drop_conditions(jax.random.fold_in(jax.random.fold_in(key, step), 2), given, widths)

    steps = first_step + jnp.arange(num_steps)
    t, eps = jax.vmap(draw)(steps)
    if given is not None:
        given = jax.vmap(drop)(steps, given)
    if points_per_time == 1:
        return Batches(x0, t, eps, given)

    def sharing(values: Array) -> Array:
        return values.reshape(num_steps, count, points_per_time, values.shape[-1])

    x0, eps, given = jax.tree.map(sharing, (x0, eps, given))
    return Batches(x0, t[..., None], eps, given)


def train_points(
    key: Key[Array, ""],
    apply: Apply,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    state: TrainState,
    x0: Float[Array, "S B d"],
    *,
    stratified: bool = False,
    points_per_time: int = 1,
    conditions: Sequence[int] = (),
    **settings: Any,
) -> tuple[TrainState, Float[Array, "S"]]:
    """A step over each batch of points, in order.

    Jit it with `apply`, `optimizer` and the settings bound, or let `make_trainer` do it; those that
    are named here are `draw_batches`', the others `train_step`'s. Drawing the noise of all steps
    before the scan keeps its body to the network and the update.
    """

    def draw() -> Batches:
        return draw_batches(
            key,
            x0,
            state.step,
            schedule.num_steps,
            stratified=stratified,
            points_per_time=points_per_time,
            conditions=conditions,
        )

    # XLA inlines a scan of one step, and would fuse the noise into it, which rounds differently:
    # a run in chunks of one step would end with other bits. Nothing is fused across a condition,
    # not even one that always holds.
    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(draw))
    batches = jax.lax.cond(state.step >= 0, draw, lambda: nothing)
    return train_steps(apply, optimizer, schedule, state, batches, **settings)


def train_epoch(
    key: Key[Array, ""],
    apply: Apply,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    state: TrainState,
    data: Float[Array, "n d"],
    rows: Int[Array, "S B"],
    **settings: Any,
) -> tuple[TrainState, Float[Array, "S"]]:
    """Steps over the given `rows` of the data: an epoch, or any consecutive part of `epoch_order`.

    The settings and the rest are those of `train_points`.
    """
    return train_points(key, apply, optimizer, schedule, state, data[rows], **settings)


def all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Whether every number in every leaf is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def make_trainer(
    run: Callable[..., tuple[TrainState, Array]], **shardings: Any
) -> Callable[..., tuple[TrainState, Array]]:
    """A compiled `train(state, ..., batches) -> (state, losses)` that skips steps not finite.

    `run` is `train_points` or `train_epoch` with the settings bound; the last argument has a row
    for each step. Where a loss or the state is not finite in the end, the steps are run again one
    by one, and one that is not finite changes nothing but the step number: its loss is NaN. Looking
    in every step would cost a tenth of the time, and might round differently.
    `shardings` are those of `jax.jit`, for the arguments and for all results alike.
    """

    def checked(*arguments: Any) -> tuple[TrainState, Array, Array]:
        state, losses = run(*arguments)
        return state, losses, all_finite((state, losses))

    compiled = jax.jit(checked, **shardings)

    def train(state: TrainState, *arguments: Any) -> tuple[TrainState, Array]:
        new, losses, finite = compiled(state, *arguments)
        if finite:
            return new, losses
        *others, batches = arguments
        kept = []
        for i in range(len(batches)):
            new, loss, finite = compiled(state, *others, batches[i : i + 1])
            state = new if finite else state._replace(step=state.step + 1)
            kept.append(np.asarray(loss) if finite else np.full(1, np.nan, loss.dtype))
        return state, jnp.asarray(np.concatenate(kept))

    return train
