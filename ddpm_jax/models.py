"""The denoising networks, as Flax (Linen) modules: pure `init` and `apply`, a plain dict of params.

`Denoiser` with its default fields is the original experiment's network, PyTorch's default
initialisation included.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

MAX_PERIOD = 10_000.0


def sinusoid(t: Shaped[Array, "*n"], width: int, dtype=jnp.float32) -> Float[Array, "*n {width}"]:
    """Entry 2i is sin(w_i t), entry 2i + 1 is cos(w_i t), w_i = 10000^(-2i / width).

    Vaswani et al. 2017 (arXiv 1706.03762), section 3.5. Frequencies are rounded once from float64.
    """
    frequencies = jnp.asarray(MAX_PERIOD ** (-np.arange(0, width, 2) / width), dtype)
    angles = t.astype(dtype)[..., None] * jnp.expand_dims(frequencies, range(t.ndim))
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*t.shape, width)


@functools.cache
def _sinusoids(num_times: int, width: int, dtype: np.dtype) -> np.ndarray:
    """`sinusoid` of 0..num_times-1, made once: a table, not a computation of every step."""
    with jax.ensure_compile_time_eval():
        return np.asarray(sinusoid(jnp.arange(num_times), width, dtype))


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
        return x @ kernel + jnp.expand_dims(bias, range(x.ndim - 1))


class Tables(nn.Module):
    """Learned features of a point, looked up in tables of several resolutions and interpolated.

    In the plane a table is a grid of R x R nodes over [-extent, extent]², interpolated bilinearly;
    in any other dimension each coordinate has a table of R nodes of its own. Beyond the extent the
    edge's features hold. Müller et al. 2022 (arXiv 2201.05989), without the hashing.
    """

    resolutions: tuple[int, ...]
    features: int
    extent: float

    @nn.compact
    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n f"]:
        """The features of `x`, [..., groups · resolutions · features]."""
        groups = x[..., None, :] if x.shape[-1] == 2 else x[..., None]
        count, dims = groups.shape[-2:]
        unit = (jnp.clip(groups / self.extent, -1, 1) + 1) / 2
        found = []
        for nodes in self.resolutions:
            shape = (count * nodes**dims, self.features)
            table = self.param(f"table_{nodes}", nn.initializers.normal(0.01), shape, x.dtype)
            first = jnp.arange(count) * nodes**dims
            found.append(_interpolate(table, unit * (nodes - 1), nodes, first))
        return jnp.concatenate(found, axis=-1).reshape(*x.shape[:-1], -1)


def _interpolate(
    table: Float[Array, "rows f"], u: Float[Array, "*n g k"], nodes: int, first: Int[Array, "g"]
) -> Float[Array, "*n g f"]:
    """Multilinear interpolation at `u` in 0..nodes-1, in tables that start at rows `first`."""
    low = jnp.clip(jnp.floor(u), 0, nodes - 2)
    weight, low = u - low, low.astype(jnp.int32)
    total = jnp.zeros((*u.shape[:-1], table.shape[1]), table.dtype)
    for corner in itertools.product((0, 1), repeat=u.shape[-1]):
        row = jnp.expand_dims(first, range(u.ndim - 2))
        share = jnp.ones(u.shape[:-1], u.dtype)
        for axis, side in enumerate(corner):
            row = row + (low[..., axis] + side) * nodes**axis
            share = share * (weight[..., axis] if side else 1 - weight[..., axis])
        total = total + share[..., None] * table[row]
    return total


class Denoiser(nn.Module):
    """ε̂(x_t, t) for points in `dim` dimensions: an MLP, the time embedding added in every layer.

    h = relu(W₁ sinusoid(t)) and e = W₂ h, then x ← relu(e + W x) `depth` times, then a linear layer
    to `dim`. Two encodings, off by default, let the first layer resolve fine detail:

    - `fourier_features` F > 0: sin and cos of F random projections of x, x · b with
      b ~ N(0, (2π fourier_scale)² I), trained with the rest (Tancik et al. 2020, arXiv 2006.10739);
    - `tables`: resolutions of learned tables, see `Tables`.

    Each of their features is multiplied by a gate σ(W h), since detail finer than the noise of time
    t says nothing.

    With `num_times` T > 0, sinusoids of whole t in 0..T-1 are looked up: as they would be computed,
    in a fraction of the time. Other whole t are then taken for the nearest of these.
    """

    dim: int = 2
    width: int = 128
    depth: int = 3
    time_width: int = 50
    num_times: int = 0
    fourier_features: int = 0
    fourier_scale: float = 1.0
    tables: tuple[int, ...] = ()
    table_features: int = 4
    extent: float = 1.1

    @nn.compact
    def __call__(self, x: Float[Array, "*n d"], t: Shaped[Array, "*b"]) -> Float[Array, "*n d"]:
        """ε̂ for `x` [..., d] at times `t` [...]; a scalar `t` is embedded once for all points."""

        def for_points(values: Array) -> Array:
            return jnp.expand_dims(values, range(x.ndim - 1 - t.ndim))

        h = nn.relu(Linear(self.width, name="time_0")(self._sinusoid(t, x.dtype)))
        e = for_points(Linear(self.width, name="time_1")(h))
        detail = []
        if self.fourier_features:
            detail.append(self._fourier(x))
        if self.tables:
            detail.append(Tables(self.tables, self.table_features, self.extent, name="tables")(x))
        if detail:
            detail = jnp.concatenate(detail, axis=-1)
            gate = nn.sigmoid(Linear(detail.shape[-1], name="gate")(h))
            x = jnp.concatenate([x, for_points(gate) * detail], axis=-1)
        for i in range(self.depth):
            x = nn.relu(e + Linear(self.width, name=f"hidden_{i}")(x))
        return Linear(self.dim, name="out")(x)

    def _sinusoid(self, t: Array, dtype: np.dtype) -> Array:
        if not self.num_times or not jnp.issubdtype(t.dtype, jnp.integer):
            return sinusoid(t, self.time_width, dtype)
        table = jnp.asarray(_sinusoids(self.num_times, self.time_width, dtype))
        return table.at[t].get(mode="clip", wrap_negative_indices=False)

    def _fourier(self, x: Float[Array, "*n d"]) -> Float[Array, "*n f"]:
        def normal(key: Array, shape: tuple[int, ...]) -> Array:
            return 2 * jnp.pi * self.fourier_scale * jax.random.normal(key, shape, x.dtype)

        phases = x @ self.param("fourier", normal, (self.dim, self.fourier_features))
        return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1)
