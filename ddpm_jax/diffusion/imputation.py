"""What is missing in a row, drawn given what is there: a denoiser that knows some coordinates.

Known coordinates are held by their noised values, as in RePaint (Lugmayr et al. 2022,
arXiv 2201.09865); but instead of noising and denoising every step many times until the others
agree with them, the prediction of x0 is conditioned on them, which on Gaussians is exact.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddpm_jax.diffusion.process import Denoise
from ddpm_jax.diffusion.sampling import SA_SOLVER, Sampler, sample
from ddpm_jax.diffusion.schedules import Schedule

FLOOR = 1e-4
"""Least variance of x0 given x_t in any direction, as a share of the greatest: keeps the gain of
columns that follow from each other, or that the network knows for sure, finite."""


def knowing(denoise: Denoise, schedule: Schedule, known: Float[Array, "n d"]) -> Denoise:
    """The denoiser of x0 given x_t and the coordinates of x0 that `known` [n, d] has, else NaN.

    With x̂0 = E[x0 | x_t] and C = Cov[x0 | x_t] = (1 - ᾱ_t) / √ᾱ_t ∂x̂0/∂x_t, exactly (Tweedie's
    formula, of second order), and x0 given x_t taken for Gaussian, the mean given the known
    coordinates y = x0[k] as well is x̂0 + C[:, k] C[k, k]⁻¹ (y - x̂0[k]): y itself where known, so
    that samplers hold it, noised, at every level. Boys et al. 2023 (arXiv 2310.06721), equation
    (10), without their noise on y.

    Exact where the data are Gaussian. `schedule` has all T rows. Costs d derivatives of the
    denoiser and a d x d eigenvalue problem for each row.
    """
    held = ~jnp.isnan(known)
    eye = jnp.eye(known.shape[-1], dtype=known.dtype)[None]
    both = held[:, :, None] & held[:, None, :]

    def conditioned(x: Float[Array, "n d"], t: Int[Array, ""]) -> Float[Array, "n d"]:
        signal = jnp.sqrt(schedule.alpha_bars[t])
        noise = jnp.sqrt(schedule.one_minus_alpha_bars[t])

        def predict(x: Array) -> Array:
            return (x - noise * denoise(x, t)) / signal

        x0, derivative = jax.linearize(predict, x)
        columns = jax.lax.map(lambda e: derivative(jnp.broadcast_to(e, x.shape)), eye[0])
        covariance = noise**2 / signal * columns.transpose(1, 2, 0)
        # A network's Jacobian need be neither symmetric nor positive, as a covariance is.
        variances, axes = jnp.linalg.eigh(covariance, symmetrize_input=True)
        variances = jnp.maximum(variances, FLOOR * variances[:, -1:])
        covariance = jnp.einsum("nik,nk,njk->nij", axes, variances, axes, precision="highest")
        surprise = jnp.where(held, known - x0, 0)
        gain = jnp.linalg.solve(jnp.where(both, covariance, eye), surprise[..., None])
        shift = jnp.einsum("nij,njk->nik", covariance, gain, precision="highest")[..., 0]
        x0 = jnp.where(held, known, x0 + shift)
        return (x - signal * x0) / noise

    return conditioned


def impute(
    key: Key[Array, ""],
    denoise: Denoise,
    schedule: Schedule,
    known: Float[Array, "n d"],
    steps: Schedule | None = None,
    sampler: Sampler = SA_SOLVER,
) -> Float[Array, "n d"]:
    """One draw of the rows of `known` [n, d] with every NaN filled in, the rest as it was.

    Samples `knowing(denoise, schedule, known)` over the rows of `steps`, by default those of
    `schedule`; other draws are other keys.
    """
    completed = knowing(denoise, schedule, known)
    x = sample(key, completed, steps or schedule, known.shape, sampler)
    return jnp.where(jnp.isnan(known), x, known)
