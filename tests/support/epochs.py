"""What any training promises of an epoch of six steps, cut in every way, and of a bad step."""

import jax
import jax.numpy as jnp
import numpy as np

from harness import assert_same_bits

DATA = np.random.default_rng(1).standard_normal((50, 2), np.float32)
ROWS = np.random.default_rng(2).permutation(50)[:48].reshape(6, 8)


def with_bad_point(bad):
    """The data with one point of the fourth batch replaced."""
    data = DATA.copy()
    data[ROWS[3, 0]] = bad
    return data


def in_chunks(epoch, state, data, rows, sizes):
    """The state and the losses after chunks of so many steps."""
    losses = []
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        state, loss = epoch(state, data, part)
        losses.append(loss)
    return state, jnp.concatenate(losses)


def assert_chunks_change_no_bit(epoch, initial, data):
    """`epoch(state, data, rows)` is a compiled training, `initial()` its first state."""
    whole = epoch(initial(), data, ROWS)
    for sizes in [(3, 3), (1, 3, 1, 1), (1,) * 6]:
        assert_same_bits(whole, in_chunks(epoch, initial(), data, ROWS, sizes))


def assert_data_of_more_precision_leave_the_state_s(epoch, initial):
    """As JAX_ENABLE_X64 makes them; the caller sets it."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(initial())]
    assert jnp.float64 not in dtypes
    state, losses = epoch(initial(), DATA.astype(np.float64), ROWS)
    assert losses.dtype == jnp.float64
    assert [leaf.dtype for leaf in jax.tree.leaves(state)] == dtypes


def assert_a_bad_step_is_skipped(epoch, initial, bad):
    """A step that is not finite changes the step number and nothing else; the states around it."""
    data = with_bad_point(bad)
    before, _ = epoch(initial(), DATA, ROWS[:3])
    skipped, loss = epoch(before, data, ROWS[3:4])
    assert np.isnan(loss).all()
    assert_same_bits(skipped, before._replace(step=before.step + 1))
    after, losses = epoch(initial(), data, ROWS)
    np.testing.assert_array_equal(np.isnan(losses), np.arange(6) == 3)
    return skipped, after
