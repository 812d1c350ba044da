"""The strict mode of the tests: shapes checked at every call, no silent rank promotion."""

import collections
import os
import shutil

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jaxtyping
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

jaxtyping.install_import_hook("ddpm_jax", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items):
    """The files that take longest come first: one that began last would be waited for."""
    weights = collections.defaultdict(int)
    for item in items:
        weight = 2 if item.get_closest_marker("slow") else bool(item.get_closest_marker("medium"))
        weights[item.path] = max(weights[item.path], weight)
    items.sort(key=lambda item: -weights[item.path])


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Most of the tests' time is XLA's: what one test compiled, no other one compiles again."""
    # A folder of this process alone: entries are not locked, and may be read half-written. The
    # processes that tests start share another one, where they are: a limit of size makes JAX lock.
    folder = tmp_path_factory.getbasetemp()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "programs of processes")
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**32)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()


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


@pytest.fixture
def x32():
    """Float32, as ever, for what 64-bit arrays must be refused by, even under JAX_ENABLE_X64."""
    with jax.enable_x64(False):
        yield
