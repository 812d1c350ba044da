"""What a network is told besides the point and the time: numbers and words, any of them unknown.

A condition is a row of numbers as points are: a number standardised, a word one-hot, NaN where it
is not known.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class ConditionEmbedding(nn.Module):
    """e = W₂ relu(W₁ [c, u] + b₁) + b₂: an embedding of conditions, to be added to the time's.

    u is 1 where an entry of c is unknown (NaN), and the entry then 0: what W₁ has for u is what the
    network has learned to think where it is not told. W₂ starts at zero, so that an untrained
    condition says nothing.
    """

    width: int

    @nn.compact
    def __call__(self, given: Float[Array, "*n c"]) -> Float[Array, "*n w"]:
        """The embedding of conditions `given` [..., c], NaN where unknown: [..., width]."""
        unknown = jnp.isnan(given)
        told = jnp.concatenate([jnp.where(unknown, 0, given), unknown.astype(given.dtype)], axis=-1)
        h = nn.relu(nn.Dense(self.width, name="in")(told))
        return nn.Dense(self.width, kernel_init=nn.initializers.zeros_init(), name="out")(h)
