"""What a network sees beside raw numbers: sinusoids of the time, learned tables of the point."""

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
def sinusoids(num_times: int, width: int, dtype: np.dtype) -> np.ndarray:
    """`sinusoid` of 0..num_times-1, made once: a table, not a computation of every step."""
    with jax.ensure_compile_time_eval():
        return np.asarray(sinusoid(jnp.arange(num_times), width, dtype))


class Tables(nn.Module):
    """Learned features of a point, looked up in tables of several resolutions and interpolated.

    In the plane a table is a grid of R x R nodes over [-extent, extent]², interpolated bilinearly;
    in any other dimension each coordinate has a table of R nodes of its own. Beyond the extent the
    edge's features hold. Müller et al. 2022 (arXiv 2201.05989), without the hashing. The nodes of
    all tables are the rows of one array, "nodes" [rows, features].
    """

    resolutions: tuple[int, ...]
    features: int
    extent: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "*n d"], nodes: Float[Array, "*n k f"] | None = None
    ) -> Float[Array, "*n m"]:
        """The features of `x`, [..., groups · resolutions · features].

        `nodes` are the rows around `x`, in the order of `around`, where they have been looked up.
        """
        rows, shares = self.around(x)
        dim = x.shape[-1]
        if nodes is None:
            shape = (self.num_rows(dim), self.features)
            table = self.param("nodes", nn.initializers.normal(0.01), shape, x.dtype)
            nodes = table.at[rows].get(mode="promise_in_bounds", wrap_negative_indices=False)
        corners = 4 if dim == 2 else 2
        weighted = (shares[..., None] * nodes).reshape(*x.shape[:-1], -1, corners, self.features)
        # A sum written out is a chain of additions, which is faster here than a reduction.
        total = sum(weighted[..., corner, :] for corner in range(corners))
        return jnp.asarray(total).reshape(*x.shape[:-1], -1)

    def num_rows(self, dim: int) -> int:
        """Nodes of all tables together, for points in `dim` dimensions."""
        return sum(nodes**2 if dim == 2 else dim * nodes for nodes in self.resolutions)

    def around(self, x: Float[Array, "*n d"]) -> tuple[Int[Array, "*n k"], Float[Array, "*n k"]]:
        """The rows of the nodes around each point, and the share of each in its features.

        In every table, and for every coordinate that has one of its own, the shares sum to one.
        """
        groups = x[..., None, :] if x.shape[-1] == 2 else x[..., None]
        count, dims = groups.shape[-2:]
        unit = (jnp.clip(groups / self.extent, -1, 1) + 1) / 2
        rows, shares, first = [], [], 0
        for nodes in self.resolutions:
            u = unit * (nodes - 1)
            low = jnp.clip(jnp.floor(u), 0, nodes - 2)
            # Clipped once more as a whole number: what a NaN becomes must be in the table, too.
            weight, low = u - low, jnp.clip(low.astype(jnp.int32), 0, nodes - 2)
            start = jnp.expand_dims(first + jnp.arange(count) * nodes**dims, range(x.ndim - 1))
            for corner in itertools.product((0, 1), repeat=dims):
                row, share = start, jnp.ones(u.shape[:-1], u.dtype)
                for axis, side in enumerate(corner):
                    row = row + (low[..., axis] + side) * nodes**axis
                    share = share * (weight[..., axis] if side else 1 - weight[..., axis])
                rows.append(row)
                shares.append(share)
            first += count * nodes**dims

        def ordered(parts: list[Array]) -> Array:
            """From [table, corner] parts of [..., group] to [..., group · table · corner]."""
            stacked = jnp.stack(parts, axis=-1)
            return stacked.reshape(*x.shape[:-1], -1)

        return ordered(rows), ordered(shares)
