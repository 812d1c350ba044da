"""How likely points are under a trained model: exactly, by its flow, and by the variational bound.

Densities are natural logarithms, in the (scaled) coordinates the model was trained in; for the
data's own, subtract Σ log scale of the scaler's columns.
"""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Key

from ddpm_jax.diffusion.process import Denoise, posterior_mean, predict_x0
from ddpm_jax.diffusion.schedules import Schedule


def log_prob(
    denoise: Denoise, schedule: Schedule, x: Float[Array, "n d"]
) -> tuple[Float[Array, "n"], Float[Array, "n d"]]:
    """log p(x) [n] by the probability-flow ODE, and the x_T [n, d] each point comes from.

    In y = x_t / √ᾱ_t and s = √(1 - ᾱ_t) / √ᾱ_t the flow is dy/ds = ε(x_t, t), and along it
    d log p / ds = -tr(∂ε/∂y): Song et al. 2021 (arXiv 2011.13456), equations (13) and (39). The
    trace is exact, at the price of d forward derivatives. Heun's method steps over the schedule's
    own rows, from the first, so p is the density of data with that row's noise √(1 - ᾱ_0) on it.
    """
    eye = jnp.eye(x.shape[-1], dtype=x.dtype)

    def slope(row: Schedule, y: Array) -> tuple[Array, Array]:
        """dy/ds and tr(∂ε/∂y)."""
        root = jnp.sqrt(row.alpha_bars)

        def eps(y: Array) -> Array:
            return denoise(root * y, row.t)

        value, derivative = jax.linearize(eps, y)
        columns = jax.lax.map(lambda e: derivative(jnp.broadcast_to(e, y.shape)), eye)
        return value, jnp.sum(columns * eye[:, None, :], axis=(0, 2))

    def step(carry: tuple[Array, Array], rows: tuple[Schedule, Schedule]) -> tuple:
        y, change = carry
        row, following = rows
        ds = _noise_ratio(following) - _noise_ratio(row)
        eps, trace = slope(row, y)
        next_eps, next_trace = slope(following, y + ds * eps)
        y = y + 0.5 * ds * (eps + next_eps)
        return (y, change + 0.5 * ds * (trace + next_trace)), None

    first = jax.tree.map(lambda leaf: leaf[0], schedule)
    rows = jax.tree.map(lambda leaf: leaf[:-1], schedule)
    following = jax.tree.map(lambda leaf: leaf[1:], schedule)
    start = (x / jnp.sqrt(first.alpha_bars), jnp.zeros(len(x), x.dtype))
    (y, change), _ = jax.lax.scan(step, start, (rows, following))
    root = jnp.sqrt(schedule.alpha_bars[-1])
    x_T = root * y
    # From p(y_T) to p(x_T), and from p(y_0) to p(x_0): one factor √ᾱ a coordinate.
    scales = x.shape[-1] * (jnp.log(root) - 0.5 * jnp.log(first.alpha_bars))
    return jnp.sum(norm.logpdf(x_T), axis=-1) + change + scales, x_T


def _noise_ratio(row: Schedule) -> Array:
    return jnp.sqrt(row.one_minus_alpha_bars / row.alpha_bars)


def variational_bound(
    key: Key[Array, ""], denoise: Denoise, schedule: Schedule, x0: Float[Array, "n d"]
) -> Float[Array, "n"]:
    """An upper bound on -log p(x0) in nats a dimension, one draw of the noise at every time.

    L_T + Σ_t L_t with a Gaussian last step of variance β_0: Ho et al. 2020, equation (5), where the
    reverse variances are the posterior's β̃_t, so that each L_t is |μ̃ - μ_θ|² / (2 β̃_t).
    """

    def term(total: Array, row: Schedule) -> tuple[Array, None]:
        eps = jax.random.normal(jax.random.fold_in(key, row.t), x0.shape, x0.dtype)
        x_t = jnp.sqrt(row.alpha_bars) * x0 + jnp.sqrt(row.one_minus_alpha_bars) * eps
        x0_hat = predict_x0(row, x_t, denoise(x_t, row.t))
        last = row.one_minus_alpha_bars_prev == 0
        variance = jnp.where(last, row.betas, row.posterior_variances)
        squares = (posterior_mean(row, x0, x_t) - posterior_mean(row, x0_hat, x_t)) ** 2
        # At t = 0 the posterior mean is x0 itself, and the term -log N(x0; μ_θ, β_0).
        constant = jnp.where(last, 0.5 * jnp.log(2 * jnp.pi * row.betas), 0)
        return total + constant + jnp.mean(squares, axis=-1) / (2 * variance), None

    total, _ = jax.lax.scan(term, jnp.zeros(len(x0), x0.dtype), schedule)
    signal, noise = schedule.alpha_bars[-1], schedule.one_minus_alpha_bars[-1]
    prior = 0.5 * (noise + signal * jnp.mean(x0**2, axis=-1) - 1 - jnp.log(noise))
    return total + prior
