"""Conditions on the side of sampling: a denoiser pushed towards what is given, or away from it.

A condition never reaches a sampler: it is closed over, `lambda x, t: apply(params, x, t, given)`
with one row of `given` for each row of x, and what is sampled is a denoiser as any other.
"""

from jaxtyping import Array, Float, Shaped

from ddpm_jax.diffusion.process import Denoise


def guided(conditional: Denoise, unconditional: Denoise, weight: float = 1.0) -> Denoise:
    """Classifier-free guidance: ε = ε(x_t, t | c) + (w - 1) (ε(x_t, t | c) - ε(x_t, t)).

    Since ε = -√(1 - ᾱ_t) ∇ log p_t, it is the denoiser of p_t(x | c)^w p_t(x)^(1 - w): w = 1 is the
    conditional model and 0 the unconditional one, both exactly and for the price of one; more than
    1 pushes towards what tells c from the rest. Ho & Salimans 2022 (arXiv 2207.12598), equation
    (6), whose weight is w - 1.
    """
    if weight == 1:
        return conditional
    if weight == 0:
        return unconditional

    def denoise(x: Float[Array, "*n d"], t: Shaped[Array, "*b"]) -> Float[Array, "*n d"]:
        given, free = conditional(x, t), unconditional(x, t)
        return given + (weight - 1) * (given - free)

    return denoise
