"""Training as pure functions: a step, a scan of steps, and the randomness that belongs to each.

Everything random is derived from the base key and a number, so that a run can be cut anywhere and
goes on to the same bits: the order of epoch e from `fold_in(key_order, e)`, times and noise of step
n from `fold_in(key_noise, n)`, whatever the chunks in which the steps are run.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ddpm_jax.diffusion import denoising_loss
from ddpm_jax.errors import ConfigError
from ddpm_jax.schedules import Schedule

Params = PyTree[Array]
Apply = Callable[[Params, Array, Array], Any]


class TrainState(NamedTuple):
    """All that training changes: restoring it restores the run."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    ema: Any  # None where no average is kept


class Batches(NamedTuple):
    """What a run of S steps consumes, one row a step: points, times and noise.

    Shapes are [S, B, d], [S, B] and [S, B, d]; where g points share a time, [S, B/g, g, d],
    [S, B/g, 1] and [S, B/g, g, d], so that the network embeds each time once.
    """

    x0: Float[Array, "S *b d"]
    t: Int[Array, "S *#b"]
    eps: Float[Array, "S *b d"]


def init_state(
    params: Params, optimizer: optax.GradientTransformation, ema: bool = False
) -> TrainState:
    """The state before the first step; the average starts at the parameters themselves."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
    )


def adam(
    learning_rate: float | Float[Array, ""], total_steps: int = 1, decay: str = "constant"
) -> optax.GradientTransformation:
    """Adam as PyTorch defines it, at a constant rate or, over `total_steps`, half a "cosine" to 0.

    Kingma & Ba 2015 (arXiv 1412.6980), β = (0.9, 0.999), ε = 1e-8 outside the root.
    """
    rates = {
        "constant": learning_rate,
        "cosine": optax.cosine_decay_schedule(learning_rate, total_steps),
    }
    if decay not in rates:
        raise ConfigError(f"unknown learning-rate decay {decay!r}: choose from {', '.join(rates)}")
    return optax.adam(rates[decay])


def train_step(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    state: TrainState,
    batch: Batches,
    *,
    ema_decay: float | None = None,
    guard: bool = False,
) -> tuple[TrainState, Float[Array, ""]]:
    """One step of gradient descent on the denoising loss: Ho et al. 2020, algorithm 1.

    `batch` is one row of `Batches`. The average keeps a share min(decay, (1 + n) / (10 + n)) of
    itself in step n, so that it forgets the initial parameters quickly. With `guard`, a step whose
    loss or gradient is not finite changes nothing but the step number, and its loss is NaN; that
    costs a tenth of the time, so `make_trainer` asks for it only where it is needed.
    """

    def loss_fn(params: Params) -> Array:
        return denoising_loss(schedule, lambda x, t: apply(params, x, t), *batch)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema_decay is not None:
        n = state.step.astype(loss.dtype)
        decay = jnp.minimum(ema_decay, (1 + n) / (10 + n))
        ema = optax.incremental_update(params, ema, 1 - decay)
    new = TrainState(state.step, params, opt_state, ema)
    if guard:
        finite = jnp.isfinite(loss + optax.tree.norm(grads, squared=True))
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        loss = jnp.where(finite, loss, jnp.nan)
    return new._replace(step=state.step + 1), loss


def train_steps(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    state: TrainState,
    batches: Batches,
    *,
    ema_decay: float | None = None,
    guard: bool = False,
) -> tuple[TrainState, Float[Array, "S"]]:
    """As many steps as `batches` has rows, in one scan; their losses [S]."""

    def step(state: TrainState, batch: Batches) -> tuple[TrainState, Array]:
        return train_step(
            apply, optimizer, schedule, state, batch, ema_decay=ema_decay, guard=guard
        )

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
    key: Key[Array, ""], epoch: int | Int[Array, ""], num_points: int, batch_size: int
) -> Int[Array, "S {batch_size}"]:
    """Rows of the data for each batch: shuffled without replacement, and what is over dropped."""
    order = shuffled(jax.random.fold_in(key, epoch), num_points)
    num_batches = num_points // batch_size
    return order[: num_batches * batch_size].reshape(num_batches, batch_size)


def draw_batches(
    key: Key[Array, ""],
    x0: Float[Array, "S B d"],
    first_step: Int[Array, ""],
    num_times: int,
    *,
    stratified: bool = False,
    points_per_time: int = 1,
) -> Batches:
    """The batches of steps first_step, first_step + 1, ...: times in 0..num_times-1, and noise.

    Times are uniform and independent; `stratified` ones are one from each of as many equal parts of
    the range, which takes the luck of the draw out of the loss (Kingma et al. 2021,
    arXiv 2107.00630, appendix I.1, where one draw serves all parts). `points_per_time` consecutive
    points, a divisor of B, share one.
    """
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

    t, eps = jax.vmap(draw)(first_step + jnp.arange(num_steps))
    if points_per_time == 1:
        return Batches(x0, t, eps)
    shape = (num_steps, count, points_per_time, x0.shape[-1])
    return Batches(x0.reshape(shape), t[..., None], eps.reshape(shape))


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
    ema_decay: float | None = None,
    guard: bool = False,
) -> tuple[TrainState, Float[Array, "S"]]:
    """A step over each batch of points, in order.

    Jit it with `apply`, `optimizer` and the settings bound, or let `make_trainer` do it; `guard`
    is that of `train_step`. Drawing the noise of all steps before the scan keeps its body to the
    network and the update.
    """

    def draw() -> Batches:
        return draw_batches(
            key,
            x0,
            state.step,
            schedule.num_steps,
            stratified=stratified,
            points_per_time=points_per_time,
        )

    # XLA inlines a scan of one step, and would fuse the noise into it, which rounds differently.
    # Nothing is fused across a condition, not even one that always holds.
    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(draw))
    batches = jax.lax.cond(state.step >= 0, draw, lambda: nothing)
    return train_steps(apply, optimizer, schedule, state, batches, ema_decay=ema_decay, guard=guard)


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
    """A compiled `train(*arguments) -> (state, losses)` that skips steps that are not finite.

    `run(*arguments, guard=...)` is `train_points` or `train_epoch` with the settings bound; the
    loss of a skipped step is NaN. Where a loss or the state is not finite in the end, the whole is
    run again, guarded: a second program, which is not compiled before it is needed.
    `shardings` are those of `jax.jit`, for the arguments and for all results alike.
    """

    def attempt(*arguments: Any, guard: bool) -> tuple[TrainState, Array, Array]:
        state, losses = run(*arguments, guard=guard)
        return state, losses, all_finite((state, losses))

    plain = jax.jit(partial(attempt, guard=False), **shardings)
    guarded = jax.jit(partial(attempt, guard=True), **shardings)

    def train(*arguments: Any) -> tuple[TrainState, Array]:
        state, losses, finite = plain(*arguments)
        if not finite:
            state, losses, _ = guarded(*arguments)
        return state, losses

    return train
