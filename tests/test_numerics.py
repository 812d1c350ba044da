"""Seeds have one meaning, and JAX's settings none, for what a seed draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import numerics
from ddpm_jax.errors import ConfigError
from ddpm_jax.numerics import checked_seed, fixed, seed_key

# The seeds that JAX takes modulo 2^32, or cannot take; and what is no integer.
OUTSIDE = [-1, -(2**31), 2**32, 2**32 + 7, 2**63, 10**400, 1.0, "1", None, True, np.bool_(1)]


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, np.int64(7), np.uint8(3), np.array(5)])
def test_a_seed_is_taken_as_it_is(seed):
    assert checked_seed(seed) == int(seed)
    # Threefry's key is the seed in two words, high and low.
    np.testing.assert_array_equal(jax.random.key_data(seed_key(seed)), [0, int(seed)])


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("seed", OUTSIDE, ids=lambda seed: str(seed)[:20])
def test_others_are_refused_by_name(seed):
    for make in (checked_seed, seed_key):
        with pytest.raises(ConfigError, match=r"^--seed must be an integer from 0 to 2\^32 - 1"):
            make(seed, "--seed")


def drawn():
    """Of everything that the settings have a part in."""
    key = seed_key(7)
    x = jax.random.normal(key, (8, 8))
    y = jax.random.normal(jax.random.split(jax.random.key(3))[0], (1001,))
    z = jax.jit(lambda x: jnp.sin(x) @ x * 1.1 + 0.1)(x)
    return [np.asarray(a) for a in (x, y, z)]


ELSEWHERE = {
    "jax_enable_x64": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_default_matmul_precision": "bfloat16",
    "jax_disable_jit": True,
}


AS_SHIPPED = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_default_matmul_precision": None,
    "jax_disable_jit": False,
}


@pytest.fixture
def as_shipped():
    """JAX's own settings, whatever the environment says; afterwards those that were."""
    before = {name: getattr(jax.config, name) for name in AS_SHIPPED}
    for name, value in AS_SHIPPED.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("name", ELSEWHERE)
def test_jax_set_otherwise_changes_nothing_under_fixed(name):
    """Each of the settings that are fixed; all in one would hide one that is not."""
    assert set(ELSEWHERE) == set(numerics._FIXED)
    expected = drawn()
    jax.config.update(name, ELSEWHERE[name])
    with fixed():
        found = drawn()
    assert getattr(jax.config, name) == ELSEWHERE[name]
    numerics.fix()
    for a, b, c in zip(found, expected, drawn(), strict=True):
        assert a.dtype == b.dtype == c.dtype == np.float32
        assert a.tobytes() == b.tobytes() == c.tobytes()


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.medium
def test_a_setting_elsewhere_does_change_something():
    """Else the test above could not fail."""
    expected = drawn()
    for name in ("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable"):
        before = getattr(jax.config, name)
        jax.config.update(name, ELSEWHERE[name])
        try:
            found = drawn()
        finally:
            jax.config.update(name, before)
        assert any(a.tobytes() != b.tobytes() for a, b in zip(found, expected, strict=True)), name
