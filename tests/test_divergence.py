"""Numbers that are not finite: skipped, counted, never saved, and in the end an error."""

import json
from functools import partial

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import Interrupt
from harness import arguments, at_chunk, results, rows, run, start

from ddpm_jax import checkpoints, parallel
from ddpm_jax.errors import CheckpointError, InputError

BAD = [np.nan, np.inf, -np.inf]


def poison(experiment, value, row=slice(None)):
    """Make some of the points not finite, behind the back of the reader that refuses them."""
    data = np.array(experiment.data)
    data[row] = value
    experiment.shared_data = parallel.replicate(experiment.mesh, data)


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """A run in `tmp_path`; what the test does to its data ends with the test."""
    harness.plain(monkeypatch.setattr)

    def begin(**changes):
        made = start(tmp_path / "run", **changes)
        made.floor = made.floor or 0.5
        monkeypatch.setattr(made, "shared_data", made.shared_data)
        return made

    return begin


@pytest.mark.parametrize("value", BAD)
def test_a_bad_point_costs_its_batches_and_nothing_else(begin, value):
    """Point 5 is in one batch of an epoch, or among the four points left over."""
    run = begin()
    poison(run, value, row=5)
    batches = [np.asarray(run.order(epoch)) for epoch in range(4)]
    expected = [int((rows == 5).any(axis=1).sum()) for rows in batches]
    assert run.train(Interrupt())
    found = rows(run.out)
    assert [row["skipped"] for row in found] == expected
    assert 0 < sum(expected) < 24
    assert all(np.isfinite([row["loss"], row["excess"]]).all() for row in found)
    assert results(run.out)["steps"] == [6, 12, 18, 24]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("batch_size", [10, 30, 64])
def test_five_bad_steps_in_a_row_end_it_across_epochs_too(begin, batch_size, value):
    """Six, two and one steps an epoch."""
    run = begin(batch_size=batch_size, epochs=9, milestones=(9,))
    assert run.train_one_epoch(0, Interrupt())
    good = harness.digest([run.state.params, run.state.opt_state, run.state.ema])
    poison(run, value)
    with pytest.raises(InputError, match=r"diverged in epoch \d: .* in 5 steps in a row.*smaller"):
        run.train(Interrupt())
    per_epoch = 64 // batch_size
    assert run.step == per_epoch * (1 + -(-5 // per_epoch))
    step, state, _ = checkpoints.restore(run.out / "checkpoints", like(run))
    saved = state["train"]
    assert step == run.step
    assert harness.digest([saved.params, saved.opt_state, saved.ema]) == good
    # JSON knows no NaN: the loss of an epoch without a good step is null.
    text = (run.out / "metrics.jsonl").read_text() if per_epoch < 5 else ""
    bad = [json.loads(line) for line in text.splitlines()]
    assert len(bad) == -(-5 // per_epoch) - 1
    assert all(row["loss"] is None and row["skipped"] == per_epoch for row in bad)


def like(run):
    return {"train": run.state, "losses": run.losses}


def test_four_bad_steps_in_a_row_do_not_end_it(begin):
    run = begin(batch_size=30, epochs=9, milestones=(9,))
    good = run.shared_data
    for epoch in range(6):
        if epoch % 3 == 0:
            run.shared_data = good
        else:
            poison(run, np.nan)
        assert run.train_one_epoch(epoch, Interrupt())
    assert run.bad_steps == 4


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_bad_steps_in_a_row_are_counted_on_after_a_resume(begin, bad):
    run = begin(batch_size=30, epochs=9, milestones=(9,))
    good = run.shared_data
    for epoch in range(3):
        run.shared_data = good
        if epoch >= 3 - bad:
            poison(run, np.nan)
        assert run.train_one_epoch(epoch, Interrupt())
    run.checkpoint()
    assert run.bad_steps == 2 * bad
    run.bad_steps = 0
    run.restore()
    # A checkpoint keeps the losses of one epoch, here of two steps.
    assert run.bad_steps == min(2 * bad, 2)


def test_parameters_that_are_not_finite_are_never_saved(begin):
    run = begin()
    assert run.train_one_epoch(0, Interrupt())
    run.checkpoint()
    params = jax.tree.map(lambda x: x.at[0].set(jnp.inf), run.state.params)
    run.state = run.state._replace(params=params, step=run.state.step + 1)
    with pytest.raises(CheckpointError, match="not finite; nothing was saved"):
        run.checkpoint()
    with pytest.raises(InputError, match="diverged"):
        run.train_one_epoch(1, Interrupt())
    assert checkpoints.steps(run.out / "checkpoints") == [6]


@pytest.mark.slow
def test_a_diverged_run_is_one_line_and_can_be_resumed(tmp_path):
    out = tmp_path / "run"
    trap = partial(at_chunk, 8, partial(poison, value=np.nan))
    done = run(tmp_path / "log", "train", arguments(out), trap)
    assert done.status == 2
    assert "Traceback" not in done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "Try a smaller --learning-rate (now 0.004)" in line
    # Fourteen good steps; then chunks of two, to the one with the fifth bad step.
    assert results(out)["steps"] == [6, 12, 18, 20]
    done = run(tmp_path / "log", "train", ["--resume", "--out", str(out)], harness.plain)
    assert done.status == 0, done.err
    assert [row["skipped"] for row in rows(out)] == [0, 0, 4, 2]
