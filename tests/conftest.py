"""The strict mode of the tests: shapes checked at every call, no silent rank promotion."""

import os
import shutil

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jaxtyping
import numpy as np
import pytest

jaxtyping.install_import_hook("ddpm_jax", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    """A typed key, the same in every test: what must hold, holds for this one too."""
    return jax.random.key(0)


@pytest.fixture
def rng():
    """NumPy's numbers, the same in every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Checkpoints of steps 1 and 2, not to be changed."""
    from checkpoint_states import save_two

    return save_two(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def run(saved, tmp_path):
    """A directory with checkpoints of steps 1 and 2."""
    return shutil.copytree(saved, tmp_path / "run")


@pytest.fixture(scope="module")
def types_unchecked():
    """As users run it: else the tests' strict mode refuses a wrong type before Config can."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def x64():
    """Float64, for comparisons with exact numbers."""
    with jax.enable_x64(True):
        yield
