"""Noise schedules as precomputed arrays, and the notation that every other module uses.

Time t runs over 0..T-1, t = 0 is the least noisy, and ᾱ_{-1} = 1 (no noise at all). Ho et al. 2020
(arXiv 2006.11239) count 1..T instead: their x_t is our x_{t-1}, and our x_{-1} is the data x_0 that
the code calls `x0`.

    (1)  q(x_t | x_{t-1}) = N(√α_t x_{t-1}, β_t I),   α_t = 1 - β_t            one step of noise
    (2)  ᾱ_t = ∏_{s≤t} α_s                                                      share of signal left
    (3)  q(x_t | x0) = N(√ᾱ_t x0, (1 - ᾱ_t) I)                                  all steps at once
    (4)  x_t = √ᾱ_t x0 + √(1 - ᾱ_t) ε,   ε ~ N(0, I)                            the same, drawn
    (5)  snr_t = ᾱ_t / (1 - ᾱ_t)                                                signal to noise

Schedules are computed on the host in float64, from log ᾱ, so that neither β nor 1 - ᾱ is ever the
difference of two nearly equal numbers; each array is rounded once, to the dtype asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from ddpm_jax.errors import ConfigError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Schedule:
    """The numbers of a diffusion, one row a step; a pytree, so that a scan runs over its rows.

    Every leaf has shape [T]. `t` is the time given to the network: 0..T-1 in a full schedule, a
    subset in one that `respace` has thinned. `variances` are σ_t², what the ancestral sampler adds:
    β_t unless replaced, and 0 in the first row, whose step is to no noise. All others lie in (0, 1)
    before rounding, except the `_prev` pair, which starts at ᾱ_{-1} = 1 and 1 - ᾱ_{-1} = 0.
    """

    t: jax.Array
    betas: jax.Array
    alphas: jax.Array
    alpha_bars: jax.Array
    one_minus_alpha_bars: jax.Array
    alpha_bars_prev: jax.Array
    one_minus_alpha_bars_prev: jax.Array
    variances: jax.Array

    @property
    def num_steps(self) -> int:
        """T, the number of rows."""
        return self.t.shape[0]

    @property
    def snr(self) -> jax.Array:
        """Signal-to-noise ratio ᾱ / (1 - ᾱ), equation (5)."""
        return self.alpha_bars / self.one_minus_alpha_bars

    @property
    def posterior_variances(self) -> jax.Array:
        """β̃_t = β_t (1 - ᾱ_{t-1}) / (1 - ᾱ_t), the variance of q(x_{t-1} | x_t, x0); zero at t = 0.

        Ho et al. 2020, equation (7).
        """
        return self.betas * (self.one_minus_alpha_bars_prev / self.one_minus_alpha_bars)


def linear(
    num_steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 2e-2, dtype=jnp.float32
) -> Schedule:
    """β_t = β_min + t (β_max - β_min) / (T - 1): Ho et al. 2020, section 4.

    Raises ConfigError unless 0 < β_min <= β_max < 1 and T >= 1.
    """
    _check_num_steps(num_steps)
    if not 0 < beta_min <= beta_max < 1:
        raise ConfigError(f"need 0 < beta_min <= beta_max < 1, got {beta_min} and {beta_max}")
    return from_betas(np.linspace(beta_min, beta_max, num_steps), dtype=dtype)


def sigmoid(num_steps: int = 1000, k: float = 10.0, dtype=jnp.float32) -> Schedule:
    """ᾱ_t = σ(k - 2 k t / T): a logistic curve in t, steeper the larger k.

    The schedule of the original experiment, with k = 10; the form is Jabri et al. 2022's
    (arXiv 2212.11972), without their rescaling. Raises ConfigError unless k > 0 and T >= 1, and
    where k is so large that the first β or the last ᾱ underflows in `dtype`.
    """
    _check_num_steps(num_steps)
    if not (np.isfinite(k) and k > 0):
        raise ConfigError(f"the sigmoid schedule needs a finite k > 0, got {k}")
    logits = k * (1 - 2 * np.arange(num_steps) / num_steps)
    return _from_log_alpha_bars(-np.logaddexp(0, -logits), dtype=dtype)


def cosine(
    num_steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999, dtype=jnp.float32
) -> Schedule:
    """ᾱ_t = f((t + 1) / T) / f(0), f(u) = cos²(π/2 (u + s) / (1 + s)), with β_t at most `beta_max`.

    Nichol & Dhariwal 2021 (arXiv 2102.09672), equation (17) and the text below it; s is `offset`.
    Raises ConfigError unless 0 < s < 1, 0 < beta_max < 1 and T >= 1.
    """
    _check_num_steps(num_steps)
    if not (0 < offset < 1 and 0 < beta_max < 1):
        raise ConfigError(
            f"need 0 < offset < 1 and 0 < beta_max < 1, got offset={offset}, beta_max={beta_max}"
        )
    # f(u) ∝ sin²φ with φ = π/2 (1 - u) / (1 + s), and sin²φ - sin²ψ = sin(φ - ψ) sin(φ + ψ).
    step = np.pi / 2 / (1 + offset) / num_steps
    phi = step * np.arange(num_steps, 0, -1)
    betas = np.sin(step) * np.sin(2 * phi - step) / np.sin(phi) ** 2
    return from_betas(np.minimum(betas, beta_max), dtype=dtype)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "sigmoid": sigmoid,
    "cosine": cosine,
}


def from_betas(betas: Float64[np.ndarray, "T"], dtype=jnp.float32, t=None) -> Schedule:
    """The schedule with the given β_t, each in (0, 1); otherwise ConfigError."""
    if betas.size == 0 or not np.all((betas > 0) & (betas < 1)):
        raise ConfigError("every beta must lie in (0, 1), and there must be at least one")
    return _from_log_alpha_bars(np.cumsum(np.log1p(-betas)), dtype=dtype, t=t)


def respace(schedule: Schedule, num_steps: int, spacing: str = "time") -> Schedule:
    """A schedule of `num_steps` of the given one's rows, for samplers that take few, large steps.

    It keeps the last row (the noisiest), never repeats one, and its first row steps to ᾱ = 1, no
    noise. `spacing` says how the rows are spread: evenly in "time", rows ⌈T i / K⌉ - 1, i = 1..K;
    or evenly in "logsnr" (for the sigmoid schedule the same; of the linear one's range a third lies
    below t = 100 of 1000). β is composed over the rows left out: 1 - β = ∏ (1 - β_s).

    All T rows are the schedule itself. Raises ConfigError unless 1 <= num_steps <= T.
    """
    total = schedule.num_steps
    if not 1 <= num_steps <= total:
        raise ConfigError(f"steps must be from 1 to the schedule's {total}, got {num_steps}")
    if num_steps == total:
        return schedule
    betas, alphas = np.asarray(schedule.betas, float), np.asarray(schedule.alphas, float)
    # Of β and α = 1 - β the smaller has kept more digits of both.
    log_alphas = np.where(betas < 0.5, np.log1p(-np.minimum(betas, 0.5)), np.log(alphas))
    log_alpha_bars = np.cumsum(log_alphas)
    if spacing == "time":
        rows = np.ceil(np.arange(1, num_steps + 1) * total / num_steps).astype(int) - 1
    elif spacing == "logsnr":
        log_snr = log_alpha_bars - np.log(-np.expm1(log_alpha_bars))
        targets = np.linspace(log_snr[-1], log_snr[0], num_steps + 1)[:-1][::-1]
        rows = _distinct(np.interp(targets, log_snr[::-1], np.arange(total)[::-1]), total)
    else:
        raise ConfigError(f'spacing must be "time" or "logsnr", got {spacing!r}')
    t = np.asarray(schedule.t)[rows]
    return _from_log_alpha_bars(log_alpha_bars[rows], dtype=schedule.betas.dtype, t=t)


def _distinct(positions: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers nearest to ascending `positions`, no two equal, none above total - 1."""
    count = np.arange(len(positions))
    rows = np.maximum.accumulate(np.round(positions).astype(int) - count) + count
    return np.minimum(rows, total - len(rows) + count)


def _from_log_alpha_bars(log_alpha_bars: np.ndarray, dtype, t=None) -> Schedule:
    previous = np.concatenate([[0.0], log_alpha_bars[:-1]])
    betas = -np.expm1(log_alpha_bars - previous)
    leaves = {
        "betas": betas,
        "alphas": np.exp(log_alpha_bars - previous),
        "alpha_bars": np.exp(log_alpha_bars),
        "one_minus_alpha_bars": -np.expm1(log_alpha_bars),
        "alpha_bars_prev": np.exp(previous),
        "one_minus_alpha_bars_prev": -np.expm1(previous),
        "variances": np.where(previous < 0, betas, 0),
    }
    leaves = {name: leaf.astype(dtype) for name, leaf in leaves.items()}
    for name in ("betas", "alphas", "alpha_bars", "one_minus_alpha_bars"):
        bad = ~(leaves[name] >= jnp.finfo(dtype).tiny)
        if bad.any():
            raise ConfigError(
                f"the schedule's {name} underflow in {np.dtype(dtype).name} at t = {bad.argmax()}: "
                "bring k, the betas or the number of steps nearer to their defaults"
            )
    t = np.arange(len(log_alpha_bars)) if t is None else t
    return Schedule(
        t=jnp.asarray(t, jnp.int32), **{name: jnp.asarray(v) for name, v in leaves.items()}
    )


def _check_num_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ConfigError(f"the number of diffusion steps must be at least 1, got {num_steps}")
