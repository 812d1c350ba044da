"""Points with conditions, and what is missing of points, in blocks: against known laws."""

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.sampling import sample_blocks
from ddpm_jax.drawing import BLOCK, Drawer, Imputer

SCHEDULE = schedules.sigmoid(1000, k=12.0)
VARIANCE = 0.04


def around(mean, x, t):
    """ε* of N(mean, 0.2²) in each coordinate."""
    signal, noise = SCHEDULE.alpha_bars[t], SCHEDULE.one_minus_alpha_bars[t]
    return jnp.sqrt(noise) * (x - jnp.sqrt(signal) * mean) / (signal * VARIANCE + noise)


class AsGiven:
    """All of the one condition is given: there is nothing to complete."""

    width = 1

    def __call__(self, given, rng):
        assert not np.isnan(given).any()
        return given


def test_each_point_is_drawn_by_its_own_condition(key):
    """The law of a point is N(c, 0.2²), its c given."""
    drawer = Drawer(
        lambda params, x, t, c: around(c, x, t), SCHEDULE, 2, "sa-solver", 20, fill=AsGiven()
    )
    given = np.linspace(-1, 1, BLOCK + 200, dtype=np.float32)[:, None]
    rows = drawer.points({}, key, len(given), given)
    np.testing.assert_array_equal(rows[:, 1:], given)
    x = rows[:, :1]
    z = (x - given) / np.sqrt(VARIANCE)
    # 5 standard errors of 1200 points, 1 / 35, and 2 % for the 20 steps.
    assert abs(z.mean()) < 0.17
    assert abs(z.std() - 1) < 0.13
    assert np.abs(z).max() < 6
    again = drawer.points({}, key, 10, given[:10])
    np.testing.assert_array_equal(again, rows[:10])


def test_blocks_that_are_drawn_together_are_those_drawn_one_after_another(key):
    """To rounding, as a GPU draws them."""

    def denoise(x, t):
        return around(0.5, x, t)

    blocks, schedule = jnp.arange(97, 101), schedules.respace(SCHEDULE, 20)
    one, four = (sample_blocks(key, denoise, schedule, blocks, (50, 2), together=n) for n in (1, 4))
    # 20 steps of float32 about numbers of order 1.
    np.testing.assert_allclose(four, one, rtol=0, atol=1e-5)


def test_what_is_known_stays_and_what_is_not_follows_the_law(key):
    """Of N(1, 0.2²) in two independent coordinates, the one says nothing about the other."""
    imputer = Imputer(lambda params, x, t: around(1.0, x, t), SCHEDULE, 20)
    known = np.full((BLOCK + 300, 2), 0.7, np.float32)
    known[1:, 1] = np.nan
    filled = imputer({}, key, known)
    np.testing.assert_array_equal(filled[:, 0], known[:, 0])
    assert filled[0, 1] == known[0, 1]
    z = (filled[1:, 1] - 1) / np.sqrt(VARIANCE)
    # 5 standard errors of 1300 points, 1 / 36, and 2 % for the 20 steps.
    assert abs(z.mean()) < 0.16
    assert abs(z.std() - 1) < 0.12
    # The blocks have noise of their own, and so have other keys.
    assert len(np.unique(z)) == len(z)
    other = imputer({}, jax.random.fold_in(key, 1), known)
    assert not np.any(other[1:, 1] == filled[1:, 1])


def test_complete_rows_need_no_network(key):
    def never(params, x, t):
        raise AssertionError

    known = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(Imputer(never, SCHEDULE)({}, key, known), known)
