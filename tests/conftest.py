"""The strict mode of the tests: shapes checked at every call, no silent rank promotion."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jaxtyping
import pytest

jaxtyping.install_import_hook("ddpm_jax", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    """A typed key, the same in every test: what must hold, holds for this one too."""
    return jax.random.key(0)
