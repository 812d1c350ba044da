"""From a network's output to the noise ε̂, which samplers and the loss take: eps, x0 or v, or more.

With F the network's output and ε_base what is known without it, ε̂ = ε_base + scale · F:

    eps   F predicts ε          ε_base = 0                scale = 1
    x0    F predicts x0         ε_base = x / √(1 - ᾱ)     scale = -√ᾱ / √(1 - ᾱ)
    v     F predicts v          ε_base = √(1 - ᾱ) x       scale = √ᾱ

with v = √ᾱ ε - √(1 - ᾱ) x0, of Salimans & Ho 2022 (arXiv 2202.00512). Under the network may lie a
mixture's ideal denoiser: then that is ε_base, and F corrects its ε, x0 or v.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddpm_jax.diffusion.process import at
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.networks.mixture import Mixture, mixture_denoiser

Prediction = Literal["eps", "x0", "v"]
Network = Callable[..., Array]
"""`network(params, x_t, t) -> F`; where there are conditions, `network(params, x_t, t, given)`."""

BASE = "base"
"""The entry of the parameters that holds the mixture; it is never trained."""


def predicting(network: Network, schedule: Schedule, prediction: Prediction = "eps") -> Network:
    """The function `apply(params, x_t, t) -> ε̂` of a network that predicts eps, x0 or v.

    Where `params` has an entry "base", a `Mixture` as a dict, the network is a correction of it.
    Conditions, a fourth argument of `apply`, are told to both; `nodes`, as `Denoiser` takes them,
    to the network.
    """

    def apply(
        params: dict[str, Any],
        x: Float[Array, "*n d"],
        t: Int[Array, "*b"],
        given: Float[Array, "*n c"] | None = None,
        **looked_up: Float[Array, "*n k f"],
    ) -> Float[Array, "*n d"]:
        learned = {name: value for name, value in params.items() if name != BASE}
        conditions = () if given is None else (given,)
        output = network(learned, x, t, *conditions, **looked_up)
        signal, noise = (
            jnp.sqrt(jnp.expand_dims(at(rows, t), range(x.ndim - 1 - t.ndim)))
            for rows in (schedule.alpha_bars, schedule.one_minus_alpha_bars)
        )
        known, scale = {
            "eps": lambda: (0.0, 1.0),
            "x0": lambda: (x / noise, -signal / noise),
            "v": lambda: (noise * x, signal),
        }[prediction]()
        if BASE in params:
            mixture = Mixture(**jax.lax.stop_gradient(params[BASE]))
            known = mixture_denoiser(schedule, mixture, given)(x, t)
        elif prediction == "eps":
            return output
        return known + scale * output

    return apply


def with_base(params: dict[str, Any], mixture: Mixture | None) -> dict[str, Any]:
    """The parameters of a network over a mixture: its last layer starts at zero, so as to add none.

    Without a mixture, the parameters as they are.
    """
    if mixture is None:
        return params
    silent = jax.tree.map(jnp.zeros_like, params["out"])
    base = {name: leaf for name, leaf in mixture._asdict().items() if leaf is not None}
    return {**params, "out": silent, BASE: base}
