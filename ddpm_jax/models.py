"""The denoising networks, as Flax (Linen) modules: pure `init` and `apply`, parameters a plain dict.

`Denoiser` with its default fields is the original experiment's network, PyTorch's default
initialisation included.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

MAX_PERIOD = 10_000.0


def sinusoid(t: Shaped[Array, "*n"], width: int, dtype=jnp.float32) -> Float[Array, "*n {width}"]:
    """Entry 2i is sin(w_i t), entry 2i + 1 is cos(w_i t), w_i = 10000^(-2i / width).

    Vaswani et al. 2017 (arXiv 1706.03762), section 3.5. Frequencies are rounded once from float64.
    """
    frequencies = jnp.asarray(MAX_PERIOD ** (-np.arange(0, width, 2) / width), dtype)
    angles = t.astype(dtype)[..., None] * jnp.expand_dims(frequencies, range(t.ndim))
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*t.shape, width)


class Linear(nn.Module):
    """x W + b with PyTorch's default initialisation: W and b uniform in ±1/√fan_in."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        bound = x.shape[-1] ** -0.5

        def uniform(key, shape):
            return jax.random.uniform(key, shape, x.dtype, -bound, bound)

        kernel = self.param("kernel", uniform, (x.shape[-1], self.features))
        bias = self.param("bias", uniform, (self.features,))
        return x @ kernel + jnp.expand_dims(bias, range(x.ndim - 1))


class Denoiser(nn.Module):
    """ε̂(x_t, t) for points in `dim` dimensions: an MLP with the time embedding added in every layer.

    e = W₂ relu(W₁ sinusoid(t)), then x ← relu(e + W x) `depth` times, then a linear layer to `dim`.
    With `fourier_features` F > 0 the first layer also sees sin and cos of F random projections of x,
    x · b with b ~ N(0, (2π fourier_scale)² I), which lets it resolve fine detail (Tancik et al.
    2020, arXiv 2006.10739); the projections are parameters and are trained with the rest.
    """

    dim: int = 2
    width: int = 128
    depth: int = 3
    time_width: int = 50
    fourier_features: int = 0
    fourier_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "*n d"], t: Shaped[Array, "*b"]) -> Float[Array, "*n d"]:
        """ε̂ for `x` [..., d] at times `t` [...]; a scalar `t` is embedded once for all points."""
        e = Linear(self.width, name="time_0")(sinusoid(t, self.time_width, x.dtype))
        e = Linear(self.width, name="time_1")(nn.relu(e))
        e = jnp.expand_dims(e, range(x.ndim - 1 - t.ndim))
        if self.fourier_features:
            x = jnp.concatenate([x, self._fourier(x)], axis=-1)
        for i in range(self.depth):
            x = nn.relu(e + Linear(self.width, name=f"hidden_{i}")(x))
        return Linear(self.dim, name="out")(x)

    def _fourier(self, x: Float[Array, "*n d"]) -> Float[Array, "*n f"]:
        def normal(key, shape):
            return 2 * jnp.pi * self.fourier_scale * jax.random.normal(key, shape, x.dtype)

        phases = x @ self.param("fourier", normal, (self.dim, self.fourier_features))
        return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1)
