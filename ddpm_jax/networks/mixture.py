"""A Gaussian mixture, its noised densities in closed form, and the denoiser that follows.

Under a network it is the part of the answer that needs no training: noise, being Gaussian itself,
keeps a mixture a mixture, so that its score is known at every time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddpm_jax.diffusion.process import Denoise, at
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.gmm import COUNTS, Gaussians, least_bic, with_conditions


class Mixture(NamedTuple):
    """p(x) = Σ_k w_k N(x; m_k, U_k diag(s_k) U_kᵀ): covariances by their axes, which noise keeps.

    `axes[k]` has the unit axes of component k as its columns, `variances[k]` the variances s_k
    along them. Where there are conditions c, `told` has a, b and q of log p(c | k) = Σ_j a_jk +
    b_jk c_j + q_jk c_j², and w_k p(c | k) takes the place of w_k: `gmm.with_conditions`.
    """

    log_weights: Float[Array, "K"]
    means: Float[Array, "K d"]
    axes: Float[Array, "K d d"]
    variances: Float[Array, "K d"]
    told: Float[Array, "3 c K"] | None = None


def log_prob(mixture: Mixture, x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """log p(x), in nats, for `x` [..., d]."""
    one, none = jnp.ones((1,) * x.ndim, x.dtype), jnp.zeros((1,) * x.ndim, x.dtype)
    return jax.nn.logsumexp(_components(mixture, one, none, x)[0], axis=-1)


def mixture_denoiser(
    schedule: Schedule, mixture: Mixture, given: Float[Array, "*n c"] | None = None
) -> Denoise:
    """The ideal denoiser of a mixture: ε*(x, t) = -√(1 - ᾱ_t) ∇ log p_t(x), `t` of any batch shape.

    p_t has means √ᾱ_t m_k and covariances U_k diag(ᾱ_t s_k + 1 - ᾱ_t) U_kᵀ: with r_k the posterior
    probability of component k, ε* = √(1 - ᾱ_t) Σ_k r_k U_k diag(ᾱ_t s_k + 1 - ᾱ_t)⁻¹ U_kᵀ
    (x - √ᾱ_t m_k). Memory: K d numbers a point. With `given`, a row of conditions a point, it is
    that of p(x | c); an entry that is NaN tells nothing.
    A coordinate of x that is NaN is taken to be where the mixture's mean is: not the marginal law
    of the others, but one that a network can correct, and cheap.
    """
    mean = jnp.exp(mixture.log_weights) @ mixture.means

    def denoise(x: Float[Array, "*n d"], t: Int[Array, "*b"]) -> Float[Array, "*n d"]:
        signal, noise = (
            jnp.expand_dims(at(rows, t), range(x.ndim - 1 - t.ndim))
            for rows in (schedule.alpha_bars, schedule.one_minus_alpha_bars)
        )
        x = jnp.where(jnp.isnan(x), jnp.sqrt(signal) * jnp.expand_dims(mean, range(x.ndim - 1)), x)
        logits, pulls = _components(mixture, signal, noise, x)
        if given is not None and mixture.told is not None:
            logits = logits + _log_told(mixture.told, given)
        weighted = jax.nn.softmax(logits, axis=-1)[..., None] * pulls
        eps = jnp.einsum("...ke,kde->...d", weighted, mixture.axes, precision="highest")
        return jnp.sqrt(noise) * eps

    return denoise


def _components(
    mixture: Mixture,
    signal: Float[Array, "*#n 1"],
    noise: Float[Array, "*#n 1"],
    x: Float[Array, "*n d"],
) -> tuple[Float[Array, "*n K"], Float[Array, "*n K d"]]:
    """log w_k N(x; √ᾱ m_k, ...) of each component, and diag(...)⁻¹ U_kᵀ (x - √ᾱ m_k)."""
    axes, means = mixture.axes, mixture.means
    rotated = jnp.einsum("kd,kde->ke", means, axes, precision="highest")
    x = jnp.einsum("...d,kde->...ke", x, axes, precision="highest")
    lead = tuple(range(x.ndim - 2))
    offsets = x - jnp.sqrt(signal)[..., None] * jnp.expand_dims(rotated, lead)
    # Of the shape of the times, not of the points: few logarithms where points share a time.
    variances = signal[..., None] * jnp.expand_dims(mixture.variances, lead) + noise[..., None]
    pulls = offsets * (1 / variances)
    volumes = jnp.sum(jnp.log(2 * jnp.pi * variances), axis=-1)
    squares = jnp.sum(offsets * pulls, axis=-1)
    return jnp.expand_dims(mixture.log_weights, lead) - 0.5 * (squares + volumes), pulls


def _log_told(told: Float[Array, "3 c K"], given: Float[Array, "*n c"]) -> Float[Array, "*n K"]:
    """log p(c | k) of each component, of the entries that are known."""
    known = ~jnp.isnan(given)
    c = jnp.where(known, given, 0)
    powers = jnp.stack([known.astype(c.dtype), c, c**2])
    return jnp.einsum("p...c,pck->...k", powers, told, precision="highest")


def mixture_of(gaussians: Gaussians, told: Float[np.ndarray, "3 c K"] | None = None) -> Mixture:
    """The mixture that `gmm` has found, by the axes of its covariances, in float32."""
    variances, axes = np.linalg.eigh(gaussians.covariances)
    # Rounding leaves eigenvalues of a singular covariance a little below 0.
    arrays = np.log(gaussians.weights), gaussians.means, axes, np.maximum(variances, 0)
    if told is not None:
        arrays = (*arrays, told)
    return Mixture(*(jnp.asarray(a, jnp.float32) for a in arrays))


def fit_base(
    kind: str | None,
    rows: Float[np.ndarray, "n d"],
    seed: int,
    count: int | None = None,
    conditions: Sequence[int] = (),
) -> Mixture | None:
    """What lies under a network: "none", a "gaussian" or a "mixture", fitted to scaled rows.

    `count` fixes how many components, and `conditions` are the widths of those that the last
    columns hold; equal arguments give equal bits.
    """
    if kind == "none" or kind is None:
        return None
    counts = (count,) if count else (1,) if kind == "gaussian" else COUNTS
    rows = np.asarray(rows, np.float64)
    if conditions:
        drawn = rows.shape[1] - sum(conditions)
        return mixture_of(
            *with_conditions(rows[:, :drawn], rows[:, drawn:], conditions, seed, counts)
        )
    return mixture_of(least_bic(rows, seed, counts))
