"""Gaussian data N(μ, s²): their ideal denoiser, which is linear in x, and the schedule for it."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import schedules

MU, S2 = 0.7, 0.09
T = 1000
ALPHA_BARS = 1 / (1 + np.exp(20 * np.arange(T) / T - 10))  # the sigmoid schedule, k = 10


def make_schedule(num_steps, process="", dtype=jnp.float32):
    """The sigmoid schedule, k = 10, in `num_steps` of its 1000 steps, with the process's σ²."""
    schedule = schedules.respace(schedules.sigmoid(T, dtype=dtype), num_steps, "time")
    if process == "ddpm, posterior":
        return dataclasses.replace(schedule, variances=schedule.posterior_variances)
    if process == "ddpm, 0.3 beta":
        return dataclasses.replace(schedule, variances=0.3 * schedule.variances)
    return schedule


def denoise(x, t):
    """ε* = √(1 - ᾱ) (x - √ᾱ μ) / (ᾱ s² + 1 - ᾱ), for data N(μ, s²)."""
    slope = np.sqrt(1 - ALPHA_BARS) / (ALPHA_BARS * S2 + 1 - ALPHA_BARS)
    shift = np.sqrt(ALPHA_BARS) * MU
    return jnp.asarray(slope, x.dtype)[t] * (x - jnp.asarray(shift, x.dtype)[t])


def marginal(alpha_bar):
    """Mean and variance of x_t: equation (3) of `schedules`."""
    return np.sqrt(alpha_bar) * MU, alpha_bar * S2 + 1 - alpha_bar
