"""The number of steps for few rows, by folds that each row is held out of once."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.schedules import sigmoid
from ddpm_jax.training import crossvalidation

SCHEDULE = sigmoid(50, k=6.0)


def folds(steps=200, **changes):
    """ε̂ = w x: for rows N(0, s²) the best w, over all times, lies between 0 and 1."""
    settings = {
        "schedule": SCHEDULE,
        "apply": lambda params, x, t: params["w"] * x,
        "init": lambda key, rows: {"w": jnp.zeros(())},
        "batch_size": 16,
        "learning_rate": 0.1,
        "steps": steps,
    }
    return crossvalidation.Folds(**settings | changes)


@pytest.mark.medium
def test_losses_start_at_one_and_fall_to_what_the_best_slope_leaves(rng):
    """ε̂ = 0 costs E ε² = 1; with s = 1, w = E √(1 - ᾱ) is best and leaves 1 - w²."""
    losses = crossvalidation.cross_validate(folds(), rng.normal(size=(300, 1)), seed=0)
    slope = float(jnp.mean(jnp.sqrt(SCHEDULE.one_minus_alpha_bars)))
    assert len(losses) == 3
    # 300 rows, seven draws each, of a mean of squares: 1 ± √(2 / 2100) = 0.03, four of them.
    assert losses[0] == pytest.approx(1, abs=0.12)
    assert losses[-1] == pytest.approx(1 - slope**2, abs=0.12)


@pytest.mark.medium
def test_every_row_is_held_out_once_and_a_fold_never_sees_its_own(rng, monkeypatch):
    rows, fitted, checked = rng.normal(size=(41, 2)), [], []
    draw = crossvalidation.validation.draw_validation

    def spy(key, held_out, *arguments):
        checked.append(np.asarray(held_out))
        return draw(key, held_out, *arguments)

    def init(key, rows):
        fitted.append(rows)
        return {"w": jnp.zeros(())}

    monkeypatch.setattr(crossvalidation.validation, "draw_validation", spy)
    first = crossvalidation.cross_validate(folds(100, init=init), rows, seed=3)
    assert len(checked) == crossvalidation.FOLDS
    together = np.concatenate(checked)
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(np.float32(rows), axis=0))
    for own, others in zip(checked, fitted, strict=True):
        assert len(own) + len(others) == 41
        assert not set(own[:, 0].tolist()) & set(np.float32(others[:, 0]).tolist())
    assert first == crossvalidation.cross_validate(folds(100), rows, seed=3)


@pytest.mark.medium
def test_a_fold_that_gets_worse_ends_early(rng):
    """From the best slope on a rate of 1 only shakes: patience ends it long before 5000 steps."""
    start = functools.partial(lambda key, rows: {"w": jnp.asarray(0.7)})
    losses = crossvalidation.cross_validate(
        folds(5000, init=start, learning_rate=1.0), rng.normal(size=(60, 1)), seed=0
    )
    assert len(losses) < 5000 // crossvalidation.CHECK


def test_the_steps_are_those_of_the_least_loss():
    assert crossvalidation.steps_of_least([0.5, 0.3, 0.2, 0.25]) == 2 * crossvalidation.CHECK
    assert crossvalidation.steps_of_least([0.1, 0.2]) == 0
