"""Held-out loss: fixed draws, the closed forms it must meet, and the rule that stops training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.process import ideal_denoiser, ideal_loss
from ddpm_jax.diffusion.schedules import sigmoid
from ddpm_jax.networks.mixture import Mixture, mixture_denoiser
from ddpm_jax.training import validation as validations

T = 100
SCHEDULE = sigmoid(T, k=6.0)


def rows_of(rng, n, d=2):
    return jnp.asarray(rng.normal(size=(n, d)), jnp.float32)


@pytest.mark.medium
@pytest.mark.parametrize(("n", "size"), [(7, 50), (64, 256), (300, 100)])
def test_times_are_evenly_spread_over_all_and_over_each_row(rng, key, n, size):
    drawn = validations.draw_validation(key, rows_of(rng, n), T, size)
    repeats, count = drawn.t.shape
    assert count == min(n, size)
    assert repeats == max(size // n, 1)
    # Of the M = R V middles of equal parts of [0, T], each time is hit M/T times, give or take one.
    hits = np.bincount(np.asarray(drawn.t).ravel(), minlength=T)
    assert hits.max() - hits.min() <= 1
    assert np.ptp(np.asarray(drawn.t) * repeats // T - np.arange(repeats)[:, None]) == 0


def test_the_same_key_draws_the_same_and_another_does_not(rng, key):
    rows = rows_of(rng, 20)
    first, again = (validations.draw_validation(key, rows, T) for _ in range(2))
    other = validations.draw_validation(jax.random.key(1), rows, T)
    np.testing.assert_array_equal(first.eps, again.eps)
    np.testing.assert_array_equal(first.t, again.t)
    assert not np.array_equal(first.eps, other.eps)


@pytest.mark.medium
def test_a_denoiser_that_says_nothing_scores_the_noise(rng, key):
    """ε̂ = 0 costs mean ε² of each row's own draws, exactly."""
    drawn = validations.draw_validation(key, rows_of(rng, 30), T)
    found = validations.held_out_losses(SCHEDULE, lambda x, t: jnp.zeros_like(x), drawn)
    expected = np.mean(np.asarray(drawn.eps, np.float64) ** 2, axis=(0, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # sums of a few hundred in float32


@pytest.mark.medium
def test_standard_error_is_that_of_independent_rows(rng, key):
    """Rows are the draws: the spread of their losses over √V."""
    drawn = validations.draw_validation(key, rows_of(rng, 50), T, size=400)
    losses = np.asarray(
        validations.held_out_losses(SCHEDULE, lambda x, t: jnp.zeros_like(x), drawn), np.float64
    )
    mean, error = validations.held_out_loss(SCHEDULE, lambda x, t: jnp.zeros_like(x), drawn)
    assert float(mean) == pytest.approx(losses.mean(), rel=1e-5)
    assert float(error) == pytest.approx(losses.std(ddof=1) / np.sqrt(50), rel=1e-4)


@pytest.mark.medium
def test_the_mean_is_the_expectation_over_t_and_noise(rng, key):
    """For N(0, I) data the ideal ε̂ = √(1 - ᾱ) x costs 1 - (1 - ᾱ) = ᾱ at each time."""
    one = Mixture(jnp.zeros(1), jnp.zeros((1, 2)), jnp.eye(2)[None], jnp.ones((1, 2)))
    drawn = validations.draw_validation(key, rows_of(rng, 2000), T, 20_000)
    mean, error = validations.held_out_loss(SCHEDULE, mixture_denoiser(SCHEDULE, one), drawn)
    assert abs(float(mean) - float(jnp.mean(SCHEDULE.alpha_bars))) < 4 * float(error)
    assert float(error) < 0.02


@pytest.mark.medium
def test_the_memoriser_is_ideal_on_its_own_rows_and_bad_on_others(rng, key):
    train, held_out = rows_of(rng, 40), rows_of(rng, 40)
    own = validations.draw_validation(key, train, T)
    direct = validations.held_out_loss(SCHEDULE, ideal_denoiser(SCHEDULE, train), own)[0]
    mark = validations.memorisers_loss(SCHEDULE, train, own)
    assert float(mark) == pytest.approx(float(direct), rel=1e-4)  # other blocks, float32
    exact, error = ideal_loss(key, SCHEDULE, train, rounds=100)
    # On its own rows it is the floor that every run's row has; draws leave 2 % in doubt.
    assert float(mark) == pytest.approx(float(exact), abs=0.02 + 4 * float(error))
    others = validations.draw_validation(key, held_out, T)
    assert float(validations.memorisers_loss(SCHEDULE, train, others)) > 1.5 * float(mark)


def kept_of(losses_of_checks):
    """Step and mark of what is kept of checks at steps 10, 20, ..., one row's loss a column."""
    best = validations.start({"w": jnp.zeros(2)})
    for number, losses in enumerate(losses_of_checks, start=1):
        params = {"w": jnp.full(2, 10.0 * number)}
        best = validations.better_of(
            best, jnp.asarray(losses, jnp.float32), jnp.asarray(10 * number), params
        )
    np.testing.assert_array_equal(best.params["w"], [float(best.step)] * 2)
    return best


def test_the_best_is_kept_and_stalling_is_told():
    nothing = float("nan")
    best = kept_of([[0.5, 0.7], [0.2, 0.4], [0.2, nothing], [0.4, 0.6]])
    # Each row is worse by 0.2 in the last check: that is no chance; and NaN is not less.
    assert int(best.step) == 20
    np.testing.assert_allclose(best.losses[:3], [0.2, 0.4, 0])
    assert not validations.has_stalled(best, 50, patience=40)
    assert validations.has_stalled(best, 60, patience=40)


def test_of_checks_that_rows_cannot_tell_apart_the_last_is_kept():
    """Differences -0.1, 0.1, 0.3 have mean 0.1 and standard error 0.2/√3 = 0.115; +0.1 mean 0.2."""
    least, later, worse = [1.0, 1.0, 1.0], [0.9, 1.1, 1.3], [1.0, 1.2, 1.4]
    assert int(kept_of([least, later]).step) == 20
    assert int(kept_of([least, worse]).step) == 10
    # Always of the least, not of the last that was kept: many small steps do not add up.
    best = kept_of([least, later, worse])
    assert int(best.step) == 20
    np.testing.assert_allclose(best.losses[:3], least)


def test_of_a_single_row_only_the_least_is_kept():
    assert int(kept_of([[0.5], [0.3], [0.3], [0.31]]).step) == 20
