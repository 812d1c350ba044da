"""Rows held out of a run: never trained on, checked every epoch, and the best parameters kept."""

import functools

import jax
import numpy as np
import pytest

from ddpm_jax.assembly import make_trainer
from ddpm_jax.config import Config
from ddpm_jax.errors import ConfigError
from ddpm_jax.planning import is_left_to_us, plan, reason
from ddpm_jax.runs.record import Run
from ddpm_jax.training import validation

SMALL = {
    "width": 8,
    "depth": 1,
    "tables": (),
    "base": "gaussian",
    "num_steps": 30,
    "sigmoid_k": 6.0,
    "batch_size": 32,
    "epochs": 6,
}


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).normal(size=(120, 2))


def run_of(points, **changes):
    return Run.of(Config().replace(**SMALL | {"hold_out": 0.25} | changes), points)


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.medium
def test_nothing_is_fitted_to_rows_held_out(points):
    """Moved a million away, the held-out rows change neither scaler, nor base, nor a step."""
    run = run_of(points)
    train, held_out = run.split(points)
    assert (len(train), len(held_out), run.num_points) == (90, 30, 90)
    moved = points.copy()
    moved[(points[:, None] == held_out[None]).all(axis=2).any(axis=1)] += 1e6
    other = run_of(moved)
    assert (other.scaler, other.extent) == (run.scaler, run.extent)
    first, second = make_trainer(run, points), make_trainer(other, moved)
    next(iter(first)), next(iter(second))
    equal(first.state, second.state)


@pytest.mark.medium
def test_a_run_cut_and_restored_ends_with_the_bits_of_a_whole_one(points):
    """The best parameters, too, and the rows of figures."""
    run = run_of(points)
    whole, cut, resumed = (make_trainer(run, points) for _ in range(3))
    rows = list(whole)
    begun = iter(cut)
    before = [next(begun) for _ in range(3)]
    resumed.restore(jax.tree.map(np.asarray, cut.checkpoint()))
    after = list(resumed)
    equal(whole.checkpoint(), resumed.checkpoint())
    equal(whole.params, resumed.params)
    losses = [row["held_out_loss"] for row in before + after]
    assert losses == [row["held_out_loss"] for row in rows]


def watched(run, trainer):
    """Of every epoch of a training its row, its average, and the held-out rows' losses [C, V]."""
    rows, seen, losses = [], [], []
    for row in trainer:
        rows.append(row)
        seen.append(trainer.state.ema)
        denoise = functools.partial(run.apply(), seen[-1])
        losses.append(validation.held_out_losses(run.schedule, denoise, trainer._drawn))
    return rows, seen, np.asarray(losses, np.float64)


def last_not_worse(losses):
    """The last check no worse than the least by the standard error of the difference: [C, V]."""
    kept, least = 0, 0
    for number, now in enumerate(losses):
        gap = now - losses[least]
        if number == 0 or gap.mean() <= gap.std(ddof=1) / np.sqrt(len(gap)):
            kept = number
        if gap.mean() < 0:
            least = number
    return kept, least


@pytest.mark.medium
def test_the_parameters_of_least_held_out_loss_are_the_ones_to_sample_from(points):
    """To within the standard error, from the losses of each row, found anew."""
    run = run_of(points, learning_rate=0.5, patience=100, epochs=20)
    trainer = make_trainer(run, points)
    _, seen, losses = watched(run, trainer)
    kept, least = last_not_worse(losses)
    equal(trainer.params, seen[kept])
    means = np.mean(losses, axis=1)
    assert least == int(np.argmin(means))
    assert means[kept] < np.median(means)


@pytest.mark.medium
def test_training_ends_when_the_held_out_loss_has_not_fallen_for_the_patience(points):
    learns_by_heart = {"width": 64, "depth": 2, "learning_rate": 0.03, "decay": "constant"}
    run = run_of(points, **learns_by_heart, epochs=500, patience=20)
    trainer = make_trainer(run, points)
    rows, _, losses = watched(run, trainer)
    assert trainer.finished
    assert len(rows) < 500
    # Ten steps and more to wait, in epochs of two: it ended at the first check that far on.
    kept = rows[last_not_worse(losses)[0]]
    assert 20 <= rows[-1]["step"] - kept["step"] < 20 + run.steps_per_epoch
    assert list(trainer) == []


def test_a_file_of_others_can_be_held_out(points, tmp_path):
    np.save(tmp_path / "others.npy", points[:30] + 0.5)
    run = run_of(points, hold_out=str(tmp_path / "others.npy"))
    train, held_out = run.split(points)
    assert run.num_points == len(train) == 120
    np.testing.assert_array_equal(held_out, points[:30] + 0.5)


def test_few_rows_lie_over_their_base_alone_and_steps_are_as_asked():
    rows = np.random.default_rng(0).normal(size=(12, 2))
    small = Config().replace(**SMALL | {"epochs": None, "batch_size": None})
    few = plan(small, rows)
    assert few.total_steps == 1
    assert is_left_to_us(small, few)
    assert "so few rows" in reason(few)
    assert not is_left_to_us(few.config, few)
    # In epochs of a twentieth of the steps.
    run = plan(small, rows, steps=200)
    assert (run.total_steps, run.epochs) == (200, 20)
    with pytest.raises(ConfigError, match="steps"):
        plan(small, rows, steps=0)


@pytest.mark.medium
def test_another_seed_trains_by_the_same_programs(points):
    """Neither keys nor held-out rows are constants in them: a compilation cache has them all."""
    events = []

    def compiled(**changes):
        events.clear()
        list(make_trainer(run_of(points, **changes), points))
        return events.count("/jax/compilation_cache/cache_misses")

    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    try:
        compiled(seed=1)
        assert compiled(seed=2) == 0
        assert compiled(seed=2, width=9) > 0  # which shows that the count counts
    finally:
        jax.monitoring.clear_event_listeners()
