"""Reverse processes: from noise to points, each as one `lax.scan` over the rows of a schedule.

A sampler is a pair of pure functions: `init(x_T) -> carry` and `step(row, carry, eps, z) -> carry`,
where `row` is one row of the schedule, `eps` the denoiser's output there, `z` standard normal
noise, and the first entry of the carry the points. `sample` runs any of them. Fewer network
evaluations are a shorter schedule: `sample(key, denoise, respace(schedule, 25), shape, SA_SOLVER)`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddpm_jax.diffusion.process import Denoise, predict_x0
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import ConfigError

Carry = tuple[Array, ...]


class Sampler(NamedTuple):
    """How one reverse process starts and steps; see the module's docstring."""

    init: Callable[[Array], Carry]
    step: Callable[[Schedule, Carry, Array, Array], Carry]


def ddpm_step(
    row: Schedule, x_t: Float[Array, "*n d"], eps: Float[Array, "*n d"], z: Float[Array, "*n d"]
) -> Float[Array, "*n d"]:
    """x_{t-1} = (x_t - (1 - α_t) / √(1 - ᾱ_t) ε) / √α_t + σ_t z: Ho et al. 2020, algorithm 2.

    σ_t² is the row's `variances`: β_t unless replaced, and 0 at t = 0.
    """
    mean = (x_t - row.betas / jnp.sqrt(row.one_minus_alpha_bars) * eps) / jnp.sqrt(row.alphas)
    return mean + jnp.sqrt(row.variances) * z


def _ddpm(row: Schedule, carry: Carry, eps: Array, z: Array) -> Carry:
    return (ddpm_step(row, carry[0], eps, z),)


def ddim(eta: float = 0.0) -> Sampler:
    """x_{t-1} = √ᾱ_{t-1} x̂0 + √(1 - ᾱ_{t-1} - η² β̃_t) ε + η √β̃_t z.

    Song et al. 2021 (arXiv 2010.02502), equation (12). η = 0 is the deterministic flow, η = 1
    ancestral sampling with the posterior variance. Raises ConfigError unless 0 <= η <= 1.
    """
    if not 0 <= eta <= 1:
        raise ConfigError(f"DDIM's eta must lie in [0, 1], got {eta}")

    def step(row: Schedule, carry: Carry, eps: Array, z: Array) -> Carry:
        variance = eta**2 * row.posterior_variances
        x0 = predict_x0(row, carry[0], eps)
        direction = jnp.sqrt(jnp.maximum(row.one_minus_alpha_bars_prev - variance, 0)) * eps
        return (jnp.sqrt(row.alpha_bars_prev) * x0 + direction + jnp.sqrt(variance) * z,)

    return Sampler(lambda x_T: (x_T,), step)


def _multistep_init(x_T: Array) -> Carry:
    # No earlier x̂0 yet: a last step of infinite length gives its difference no weight.
    return x_T, jnp.zeros_like(x_T), jnp.asarray(jnp.inf, x_T.dtype)


def _extrapolated_x0(row: Schedule, carry: Carry, eps: Array) -> tuple[Array, Carry]:
    """x̂0 linearly extrapolated, in λ = log(√ᾱ/√(1-ᾱ)), to the middle of the step; the next carry.

    D = x̂0 + h / (2 h_last) (x̂0 - x̂0_last), with h = λ_{t-1} - λ_t the length of the step.
    The last step, to λ = ∞, is of first order.
    """
    x_t, last_x0, last_h = carry
    x0 = predict_x0(row, x_t, eps)
    h = _half_log_snr_step(row)
    weight = jnp.where(jnp.isfinite(h), 0.5 * h / last_h, 0)
    return x0 + weight * (x0 - last_x0), (x0, h.astype(last_h.dtype))


def _half_log_snr_step(row: Schedule) -> Array:
    """h = λ_{t-1} - λ_t, λ = log(√ᾱ/√(1-ᾱ)): infinite in the step to no noise."""
    after = jnp.log(row.alpha_bars_prev) - jnp.log(row.one_minus_alpha_bars_prev)
    before = jnp.log(row.alpha_bars) - jnp.log(row.one_minus_alpha_bars)
    return 0.5 * (after - before)


def _shrinkage(row: Schedule) -> Array:
    """e^{-h} = √(1-ᾱ_{t-1}) √ᾱ_t / (√ᾱ_{t-1} √(1-ᾱ_t)): zero in the step to no noise."""
    return jnp.sqrt(
        row.one_minus_alpha_bars_prev
        * row.alpha_bars
        / (row.alpha_bars_prev * row.one_minus_alpha_bars)
    )


def _dpmpp(row: Schedule, carry: Carry, eps: Array, z: Array) -> Carry:
    x0, history = _extrapolated_x0(row, carry, eps)
    shrink = _shrinkage(row)
    ratio = jnp.sqrt(row.one_minus_alpha_bars_prev / row.one_minus_alpha_bars)
    return ratio * carry[0] + jnp.sqrt(row.alpha_bars_prev) * (1 - shrink) * x0, *history


def _sde_dpmpp(row: Schedule, carry: Carry, eps: Array, z: Array) -> Carry:
    x0, history = _extrapolated_x0(row, carry, eps)
    shrink = _shrinkage(row)
    fresh = 1 - shrink**2
    ratio = jnp.sqrt(row.one_minus_alpha_bars_prev / row.one_minus_alpha_bars)
    mean = ratio * shrink * carry[0] + jnp.sqrt(row.alpha_bars_prev) * fresh * x0
    return mean + jnp.sqrt(row.one_minus_alpha_bars_prev * fresh) * z, *history


_ENDLESS = 1e30


def sa_solver(tau: float = 0.5) -> Sampler:
    """The three-step Adams predictor of the reverse SDE whose noise is τ times the original's.

    x_{t-1} = √ᾱ_{t-1} (e^{-p h} x_t / √ᾱ_t + ∫₀ʰ p e^{-p (h - u)} D(u) du)
    + √((1 - ᾱ_{t-1}) (1 - e^{-2 τ² h})) z, with p = 1 + τ², h the step in λ = log(√ᾱ/√(1-ᾱ)), and D
    the parabola in λ through the last three x̂0, integrated exactly: third order in the drift. τ = 0
    is the deterministic flow, τ = 1 the original's SDE; a quarter of its variance, the default,
    corrects most of the model's errors, and takes larger steps. Xue et al. 2023 (arXiv 2309.05019),
    SA-Predictor. Raises ConfigError unless τ is finite and at least 0.
    """
    if not 0 <= tau < float("inf"):
        raise ConfigError(f"the SA-Solver's tau must be finite and at least 0, got {tau}")
    p = 1 + tau**2

    def init(x_T: Array) -> Carry:
        # Earlier predictions an endless step ago: no slope, no curvature, and no 0 · ∞.
        long_ago = jnp.asarray(_ENDLESS, x_T.dtype)
        return x_T, jnp.zeros_like(x_T), long_ago, jnp.zeros_like(x_T), long_ago

    def step(row: Schedule, carry: Carry, eps: Array, z: Array) -> Carry:
        x_t, last_x0, last_h, last_slope, older_h = carry
        x0 = predict_x0(row, x_t, eps)
        slope = (x0 - last_x0) / last_h
        curvature = (slope - last_slope) / (last_h + older_h)
        h, shrink = _half_log_snr_step(row), _shrinkage(row)
        fresh = 1 - shrink**p
        # ∫ p e^{-p (h - u)} u^k du for k = 1, 2. The last step, to λ = ∞, is of first order.
        first = jnp.where(jnp.isfinite(h), h - fresh / p, 0)
        second = jnp.where(jnp.isfinite(h), h**2 - 2 * first / p, 0)
        drift = fresh * x0 + first * slope + (second + last_h * first) * curvature
        kept = jnp.sqrt(row.alpha_bars_prev / row.alpha_bars) * shrink**p
        noise = jnp.sqrt(row.one_minus_alpha_bars_prev * (1 - shrink ** (2 * tau**2)))
        x = kept * x_t + jnp.sqrt(row.alpha_bars_prev) * drift + noise * z
        return x, x0, h.astype(last_h.dtype), slope, last_h

    return Sampler(init, step)


DDPM = Sampler(lambda x_T: (x_T,), _ddpm)
"""The ancestral sampler of Ho et al. 2020, algorithm 2; its step is `ddpm_step`."""

DDIM = ddim()
"""The deterministic sampler of Song et al. 2021: first order in the step."""

DPMPP = Sampler(_multistep_init, _dpmpp)
"""DPM-Solver++(2M), second order: Lu et al. 2022 (arXiv 2211.01095), algorithm 2."""

SDE_DPMPP = Sampler(_multistep_init, _sde_dpmpp)
"""SDE-DPM-Solver++(2M), its stochastic twin: Lu et al. 2022, equation (18)."""

SA_SOLVER = sa_solver()
"""The stochastic Adams solver: in 25 evaluations as good as the ancestral sampler in 1000."""

SAMPLERS = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "dpmpp": DPMPP,
    "sde-dpmpp": SDE_DPMPP,
    "sa-solver": SA_SOLVER,
}


def sample(
    key: Key[Array, ""],
    denoise: Denoise,
    schedule: Schedule,
    start: tuple[int, ...] | Float[Array, "*n d"],
    sampler: Sampler = DDPM,
    *,
    noises: Float[Array, "T *n d"] | None = None,
    trajectory: bool = False,
) -> Array:
    """Points from noise: one scan over the schedule's rows, from t = T-1 down to no noise.

    `start` is the shape [..., d] of an x_T to draw, or x_T itself. The noise of the step at time t
    is drawn from `fold_in(key, t)`, x_T from `fold_in(key, T)`; `noises` [T, ..., d], row by row of
    the schedule, replaces them. Returns x [..., d], or with `trajectory` every x from x_T to the
    result, [T + 1, ..., d]; without it, memory does not grow with T. Works under jit, vmap and
    grad. Raises ConfigError for `noises` of another shape.
    """
    dtype = schedule.betas.dtype
    if isinstance(start, tuple):
        start = jax.random.normal(jax.random.fold_in(key, schedule.t[-1] + 1), start, dtype)
    if noises is not None and noises.shape != (schedule.num_steps, *start.shape):
        raise ConfigError(
            f"noises must have shape {(schedule.num_steps, *start.shape)}, one x a row of the "
            f"schedule, got {noises.shape}"
        )

    def step(carry: Carry, inputs: tuple[Schedule, Array | None]) -> tuple[Carry, Array | None]:
        row, z = inputs
        if z is None:
            z = jax.random.normal(jax.random.fold_in(key, row.t), start.shape, dtype)
        # A network of other precision than the schedule's must not change that of the points.
        eps = denoise(carry[0], row.t).astype(start.dtype)
        carry = sampler.step(row, carry, eps, z)
        return carry, carry[0] if trajectory else None

    (x, *_), path = jax.lax.scan(step, sampler.init(start), (schedule, noises), reverse=True)
    # A reverse scan stacks its outputs in the order of its inputs: the result comes first.
    return x if path is None else jnp.concatenate([path, start[None]])[::-1]


def sample_blocks(
    key: Key[Array, ""],
    denoise: Denoise,
    schedule: Schedule,
    blocks: Int[Array, "b"],
    shape: tuple[int, int],
    sampler: Sampler = DDPM,
    together: int = 1,
    watched: Sequence[int] = (),
) -> Array:
    """Blocks of `shape` = (n, d) points, `together` at a time, block i with `fold_in(key, i)`.

    On a CPU a block that fits the cache is sampled faster than everything at once; a GPU has room
    for many. A block's points depend on its number alone: neither on how many blocks there are nor
    on the device that draws it, where their number is a multiple of `together`. Returns [b, n, d]
    or, with F numbers of steps to be `watched`, the points after each, [b, F, n, d].
    """

    def draw(block: Array) -> Array:
        key_block = jax.random.fold_in(key, block)
        return watch(key_block, denoise, schedule, shape, sampler, watched)

    return jax.lax.map(draw, blocks, batch_size=together if together > 1 else None)


def watch(
    key: Key[Array, ""],
    denoise: Denoise,
    schedule: Schedule,
    shape: tuple[int, int],
    sampler: Sampler = DDPM,
    watched: Sequence[int] = (),
) -> Array:
    """What `sample` draws, [n, d]; or, of F numbers of steps, the points after each, [F, n, d]."""
    if not watched:
        return sample(key, denoise, schedule, shape, sampler)
    path = sample(key, denoise, schedule, shape, sampler, trajectory=True)
    return path[jnp.array(watched)]
