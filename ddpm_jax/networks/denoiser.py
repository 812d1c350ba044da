"""The denoising networks, as Flax (Linen) modules: pure `init` and `apply`, a plain dict of params.

`Denoiser` with its default fields is the original experiment's network, PyTorch's default
initialisation included.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from ddpm_jax.networks import encodings
from ddpm_jax.networks.conditioning import ConditionEmbedding
from ddpm_jax.networks.encodings import Tables


class Linear(nn.Module):
    """x W + b with PyTorch's default initialisation: W and b uniform in ±1/√fan_in."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        """x W + b for `x` [..., fan_in]: [..., features]."""
        bound = x.shape[-1] ** -0.5

        def uniform(key, shape):
            return jax.random.uniform(key, shape, x.dtype, -bound, bound)

        kernel = self.param("kernel", uniform, (x.shape[-1], self.features))
        bias = self.param("bias", uniform, (self.features,))
        # With one axis of points XLA makes plain products, forward and backward; with two it first
        # transposes an operand of the gradient's, which takes three times as long on a CPU.
        points = x.reshape(-1, x.shape[-1]) if x.ndim > 2 else x
        output = points @ kernel + jnp.expand_dims(bias, range(points.ndim - 1))
        return output.reshape(*x.shape[:-1], self.features)


class Denoiser(nn.Module):
    """ε̂(x_t, t) for points in `dim` dimensions: an MLP, the time embedding added in every layer.

    h = relu(W₁ sinusoid(t)) and e = W₂ h, then x ← relu(e + W x) `depth` times, then a linear layer
    to `dim`. `tables` are the resolutions of learned tables (see `Tables`; by default none), which
    let the first layer resolve fine detail. Each of their features is multiplied by a gate σ(W h),
    since detail finer than the noise of time t says nothing.

    With `conditions` c > 0, an embedding of c more numbers is added to e, any of them NaN where not
    known: see `ConditionEmbedding`. With `missing`, coordinates of x may be NaN: the first layer
    sees 0 in their place, and beside x which ones are there, since 0 alone would be a value like
    any other. ε̂ means nothing where x is missing.

    With `num_times` T > 0, sinusoids of whole t in 0..T-1 are looked up: as they would be computed,
    in a fraction of the time. Other whole t are then taken for the nearest of these.
    """

    dim: int = 2
    width: int = 128
    depth: int = 3
    time_width: int = 50
    num_times: int = 0
    tables: tuple[int, ...] = ()
    table_features: int = 4
    extent: float = 1.1
    conditions: int = 0
    missing: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*n d"],
        t: Shaped[Array, "*b"],
        given: Float[Array, "*n c"] | None = None,
        nodes: Float[Array, "*n k f"] | None = None,
    ) -> Float[Array, "*n d"]:
        """ε̂ for `x` [..., d] at times `t` [...]; a scalar `t` is embedded once for all points.

        `given` [..., c] has a row of conditions for each point; without it none is known. `nodes`
        are the rows `around(x)` of the tables, where they have been looked up already.
        """

        def for_points(values: Array) -> Array:
            return jnp.expand_dims(values, range(x.ndim - 1 - t.ndim))

        h = nn.relu(Linear(self.width, name="time_0")(self._sinusoid(t, x.dtype)))
        e = for_points(Linear(self.width, name="time_1")(h))
        if self.conditions:
            if given is None:
                given = jnp.full((*(1,) * (x.ndim - 1), self.conditions), jnp.nan, x.dtype)
            e = e + ConditionEmbedding(self.width, name="conditions")(given)
        there = ~jnp.isnan(x) if self.missing else None
        x = self._filled(x)
        if self.tables:
            tables = Tables(self.tables, self.table_features, self.extent, name="tables")
            detail = tables(x, nodes)
            gate = nn.sigmoid(Linear(detail.shape[-1], name="gate")(h))
            x = jnp.concatenate([x, for_points(gate) * detail], axis=-1)
        if there is not None:
            x = jnp.concatenate([x, there.astype(x.dtype)], axis=-1)
        for i in range(self.depth):
            x = nn.relu(e + Linear(self.width, name=f"hidden_{i}")(x))
        return Linear(self.dim, name="out")(x)

    def around(self, x: Float[Array, "*n d"]) -> Int[Array, "*n k"]:
        """The rows of params["tables"]["nodes"] that ε̂ looks up at `x`, whatever the time."""
        tables = Tables(self.tables, self.table_features, self.extent, parent=None)
        return tables.around(self._filled(x))[0]

    def _filled(self, x: Array) -> Array:
        return jnp.where(jnp.isnan(x), 0, x) if self.missing else x

    def _sinusoid(self, t: Array, dtype: np.dtype) -> Array:
        if not self.num_times or not jnp.issubdtype(t.dtype, jnp.integer):
            return encodings.sinusoid(t, self.time_width, dtype)
        table = jnp.asarray(encodings.sinusoids(self.num_times, self.time_width, dtype))
        return table.at[t].get(mode="clip", wrap_negative_indices=False)
