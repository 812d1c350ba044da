"""The mathematics of diffusion: forward process, training loss, posterior, ideal denoiser.

Equation numbers (1)-(5) are those at the top of `schedules.py`; papers are named where they are
used. Points are rows: `x0` and `x_t` have shape [..., d]; a time `t` has their batch shape [...],
or is a scalar shared by all of them. A denoiser is any function `denoise(x_t, t) -> eps`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddpm_jax.diffusion.schedules import Schedule

Denoise = Callable[[Array, Array], Any]


def at(values: Float[Array, "T"], t: Int[Array, "*n"]) -> Float[Array, "*n 1"]:
    """`values[t]` with a last axis of one, ready to multiply points."""
    return values[t][..., None]


def diffuse(
    schedule: Schedule, x0: Float[Array, "*n d"], t: Int[Array, "*#n"], eps: Float[Array, "*n d"]
) -> Float[Array, "*n d"]:
    """x_t = √ᾱ_t x0 + √(1 - ᾱ_t) ε: data after t + 1 steps of noise, by the closed form (4)."""
    signal = jnp.sqrt(at(schedule.alpha_bars, t))
    noise = jnp.sqrt(at(schedule.one_minus_alpha_bars, t))
    return signal * x0 + noise * eps


def predict_x0(
    row: Schedule, x_t: Float[Array, "*n d"], eps: Float[Array, "*n d"]
) -> Float[Array, "*n d"]:
    """x̂0 = (x_t - √(1 - ᾱ_t) ε) / √ᾱ_t: equation (4) solved for x0, at one row of a schedule."""
    return (x_t - jnp.sqrt(row.one_minus_alpha_bars) * eps) / jnp.sqrt(row.alpha_bars)


def posterior_mean(
    row: Schedule, x0: Float[Array, "*n d"], x_t: Float[Array, "*n d"]
) -> Float[Array, "*n d"]:
    """μ̃ of q(x_{t-1} | x_t, x0), at one row: Ho et al. 2020, equation (7).

    μ̃ = √ᾱ_{t-1} β_t / (1 - ᾱ_t) x0 + √α_t (1 - ᾱ_{t-1}) / (1 - ᾱ_t) x_t. The variance is
    `Schedule.posterior_variances`.
    """
    to_x0 = jnp.sqrt(row.alpha_bars_prev) * row.betas / row.one_minus_alpha_bars
    to_x_t = jnp.sqrt(row.alphas) * row.one_minus_alpha_bars_prev / row.one_minus_alpha_bars
    return to_x0 * x0 + to_x_t * x_t


def optimal_variances(
    key: Key[Array, ""], denoise: Denoise, schedule: Schedule, x0: Float[Array, "n d"]
) -> Float[Array, "T"]:
    """The variances σ_t² [T] that bring the ancestral sampler's steps closest to the true reverse.

    σ_t² = β̃_t + β_t² / (α_t (1 - ᾱ_t)) E|ε - ε̂(x_t, t)|² / d, and 0 in the first row, with the
    expectation over the points `x0` and one draw of noise for each. For the ideal denoiser it is
    1 - E|ε̂|² / d, as in Bao et al. 2022 (arXiv 2201.06503), theorem 1 with λ² = β̃; the residual
    allows for the model's error (Bao et al., arXiv 2206.07309). To sample with them:
    `dataclasses.replace(schedule, variances=...)`.
    """

    def residual(row: Schedule) -> Array:
        eps = jax.random.normal(jax.random.fold_in(key, row.t), x0.shape, x0.dtype)
        x_t = jnp.sqrt(row.alpha_bars) * x0 + jnp.sqrt(row.one_minus_alpha_bars) * eps
        return jnp.mean((eps - denoise(x_t, row.t)) ** 2)

    weights = schedule.betas**2 / (schedule.alphas * schedule.one_minus_alpha_bars)
    best = schedule.posterior_variances + weights * jax.lax.map(residual, schedule)
    return jnp.where(schedule.variances > 0, best, 0)


def denoising_loss(
    schedule: Schedule,
    denoise: Denoise,
    x0: Float[Array, "*n d"],
    t: Int[Array, "*#n"],
    eps: Float[Array, "*n d"],
    *,
    missing: bool = False,
) -> Float[Array, ""]:
    """Mean of (ε - ε̂(x_t, t))² over points and coordinates: Ho et al. 2020, equation (14).

    With `missing`, coordinates of x0 may be NaN, those of x_t then are, and the mean is over the
    others; the denoiser must be one that takes such points, as a `Denoiser` with `missing` does.
    """
    errors = eps - denoise(diffuse(schedule, x0, t, eps), t)
    if not missing:
        return jnp.mean(errors**2)
    there = ~jnp.isnan(x0)
    # Before the square: the gradient of a NaN's square is NaN even where it has no weight.
    return jnp.sum(jnp.where(there, errors, 0) ** 2) / jnp.maximum(jnp.sum(there), 1)


def ideal_posterior(
    schedule: Schedule, data: Float[Array, "m d"], x_t: Float[Array, "n d"], t: Int[Array, "n"]
) -> tuple[Float[Array, "n d"], Float[Array, "n"]]:
    """Mean [n, d] and total variance [n] of x0 given x_t, when x0 is one of the rows of `data`.

    p(x0 = y_i | x_t) ∝ exp(-|x_t - √ᾱ_t y_i|² / (2 (1 - ᾱ_t))), by Bayes' rule from (3); the
    variance is summed over coordinates. Costs n·m kernel evaluations and as much memory.
    """
    snr = at(schedule.snr, t)
    scaled = x_t / jnp.sqrt(at(schedule.alpha_bars, t))
    # Offsets from x_t/√ᾱ_t shrink with the noise, so no digits cancel; but where that lies far from
    # the data, as in much noise, they would, and are taken from the data's edge instead.
    center = jnp.clip(scaled, data.min(axis=0)[None], data.max(axis=0)[None])
    offsets = data[None, :, :] - center[:, None, :]
    squares = jnp.sum(offsets**2, axis=-1)
    tilts = jnp.einsum("md,nd->nm", data, snr * (scaled - center), precision="highest")
    weights = jax.nn.softmax(tilts - 0.5 * snr * squares, axis=-1)
    mean = jnp.einsum("nm,nmd->nd", weights, offsets, precision="highest")
    variance = jnp.sum(weights * squares, axis=-1) - jnp.sum(mean**2, axis=-1)
    return center + mean, jnp.maximum(variance, 0)


def ideal_denoiser(schedule: Schedule, data: Float[Array, "m d"]) -> Denoise:
    """The denoiser no network can beat on `data`: ε* = (x_t - √ᾱ_t E[x0 | x_t]) / √(1 - ᾱ_t).

    The minimiser of the denoising loss over all functions, where the data distribution is the rows
    of `data` with equal weights.
    """

    def denoise(x_t: Float[Array, "n d"], t: Int[Array, "*n"]) -> Float[Array, "n d"]:
        t = jnp.broadcast_to(t, x_t.shape[:1])
        x0, _ = ideal_posterior(schedule, data, x_t, t)
        signal, noise = at(schedule.alpha_bars, t), at(schedule.one_minus_alpha_bars, t)
        return (x_t - jnp.sqrt(signal) * x0) / jnp.sqrt(noise)

    return denoise


def ideal_loss(
    key: Array, schedule: Schedule, data: Float[Array, "m d"], rounds: int = 16, block: int = 50
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The denoising loss of the ideal denoiser, uniform over t, and the estimate's standard error.

    E|ε - ε*|² = snr_t E[Var(x0 | x_t)]: only x_t is drawn, on average `rounds` times for every t;
    the error it leaves is in closed form, so nothing is lost to the noise of ε. Per coordinate, as
    the loss is. A time is drawn as often as the best linear denoiser's loss there is large, which
    bounds the ideal one's: mean over coordinates of snr_t s² / (1 + snr_t s²), s² their variances.
    """
    num_steps, (rows, dim) = schedule.num_steps, data.shape
    signal = schedule.snr[:, None] * jnp.var(data, axis=0)[None]
    # More than 0, as constant data would have it everywhere.
    share = jnp.mean(signal / (1 + signal), axis=1) + 1e-6
    share = share / jnp.sum(share)
    blocks = -(-num_steps * rounds // block)
    key_t, key = jax.random.split(key)
    places = (jnp.arange(blocks * block) + jax.random.uniform(key_t)) / (blocks * block)
    t = jnp.searchsorted(jnp.cumsum(share), places).clip(max=num_steps - 1).reshape(-1, block)

    def block_errors(inputs):
        index, t = inputs
        key_x0, key_eps = jax.random.split(jax.random.fold_in(key, index))
        x0 = data[jax.random.randint(key_x0, (block,), 0, rows)]
        x_t = diffuse(schedule, x0, t, jax.random.normal(key_eps, x0.shape, x0.dtype))
        _, variance = ideal_posterior(schedule, data, x_t, t)
        return schedule.snr[t] * variance / dim / (num_steps * share[t])

    errors = jax.lax.map(block_errors, (jnp.arange(blocks), t)).reshape(-1)
    # Systematic draws: their spread is that of neighbours, which have almost the same time.
    apart = errors[1:] - errors[:-1]
    return jnp.mean(errors), jnp.sqrt(jnp.mean(apart**2) / (2 * errors.size))
