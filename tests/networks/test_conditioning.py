"""Conditions and missing coordinates in the network: what they change, and what they must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.networks.denoiser import Denoiser

PLAIN = {"dim": 3, "width": 16, "depth": 2}


def build(key, noise=0.0, **settings):
    """A network and its parameters, moved away from their start by `noise`."""
    model = Denoiser(**PLAIN, **settings)
    params = model.init(key, jnp.zeros((1, 3)), jnp.zeros((1,), jnp.int32))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)  # which compiles nothing, of as many shapes as there are leaves
    moved = [a + noise * jnp.asarray(rng.standard_normal(a.shape), a.dtype) for a in leaves]
    return model.apply, jax.tree.unflatten(tree, moved)


@pytest.fixture
def points(key):
    """Points, their times, and conditions of which some are unknown."""
    x = jax.random.normal(key, (6, 3))
    given = jnp.array([[1.0, 0.5], [np.nan, 0.5], [1.0, np.nan], [np.nan] * 2, [0.0, 0.0], [2, 3]])
    return x, jnp.arange(6) * 100, given


@pytest.mark.medium
def test_an_untrained_condition_says_nothing(key, points):
    x, t, given = points
    (plain, before), (conditional, params) = build(key), build(key, conditions=2)
    shared = {name: leaf for name, leaf in params["params"].items() if name != "conditions"}
    jax.tree.map(np.testing.assert_array_equal, {"params": shared}, before)
    np.testing.assert_array_equal(conditional(params, x, t, given), plain(before, x, t))


def test_each_row_hears_its_own_condition_only(key, points):
    x, t, given = points
    apply, params = build(key, 0.5, conditions=2)
    eps = apply(params, x, t, given)
    assert jnp.isfinite(eps).all()
    other = apply(params, x, t, given.at[2, 0].set(-1.0))
    changed = jnp.any(eps != other, axis=-1)
    np.testing.assert_array_equal(changed, np.arange(6) == 2)


def test_unknown_is_a_state_of_its_own(key, points):
    x, t, _ = points
    apply, params = build(key, 0.5, conditions=2)
    unknown = apply(params, x, t, jnp.full((6, 2), jnp.nan))
    # One embedding for all rows or one for each: the same sums, in another order at most.
    np.testing.assert_allclose(apply(params, x, t), unknown, rtol=1e-5, atol=1e-5)
    assert jnp.all(jnp.any(unknown != apply(params, x, t, jnp.zeros((6, 2))), axis=-1))


def test_points_that_share_a_time_have_their_own_conditions(key, points):
    x, t, given = points
    apply, params = build(key, 0.5, conditions=2)
    shared = apply(params, x.reshape(2, 3, 3), t[:2, None], given.reshape(2, 3, 2))
    alone = apply(params, x, jnp.repeat(t[:2], 3), given)
    # The same sums, in another order at most.
    np.testing.assert_allclose(shared.reshape(6, 3), alone, rtol=1e-5, atol=1e-5)


def test_a_missing_coordinate_is_no_zero(key, points):
    x, t, _ = points
    apply, params = build(key, 0.5, missing=True)
    gone = apply(params, x.at[:, 1].set(jnp.nan), t)
    assert jnp.isfinite(gone).all()
    assert jnp.all(jnp.any(gone != apply(params, x.at[:, 1].set(0.0), t), axis=-1))
