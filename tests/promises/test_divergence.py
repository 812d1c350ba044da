"""Numbers that are not finite: skipped, counted, never saved, and in the end an error."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import harness
from ddpm_jax.errors import CheckpointError, InputError
from ddpm_jax.runs import checkpoints
from ddpm_jax.training import steps
from ddpm_jax.training.trainer import Trainer
from harness import arguments, at_chunk, results, rows, run, start

BAD = [np.nan, np.inf, -np.inf]


class Poisoned(harness.Plain):
    """A session some of whose points are not finite, behind the back of the reader.

    Its trainer reads points as it needs them, as it does where they stay on disk.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.added, trainer = np.zeros(self.data.shape, np.float32), self.trainer
        self.trainer = Trainer(
            trainer.task,
            trainer.state,
            lambda rows: self.data[rows] + self.added[rows],
            self.data,
            mesh=trainer.mesh,
            stop=trainer.stop,
            chunk_steps=trainer.chunk_steps,
        )


def poison(session, value, row=slice(None)):
    session.added[row] = value


@pytest.fixture
def begin(tmp_path):
    """A run in `tmp_path`, with points as they were."""

    def begin(**changes):
        made = start(tmp_path / "run", kind=Poisoned, **changes)
        poison(made, 0)
        return made

    return begin


def train_an_epoch(session):
    return next(iter(session.trainer))


@pytest.mark.medium
@pytest.mark.parametrize("value", BAD)
def test_a_bad_point_costs_its_batches_and_nothing_else(begin, value):
    """Point 5 is in one batch of an epoch, or among the four points left over."""
    run = begin()
    poison(run, value, row=5)
    order = run.run.keys()["order"]
    batches = [np.asarray(steps.epoch_order(order, epoch, 64, 10)) for epoch in range(4)]
    expected = [int((rows == 5).any(axis=1).sum()) for rows in batches]
    assert run.train()
    found = rows(run.out)
    assert [row["skipped"] for row in found] == expected
    assert 0 < sum(expected) < 24
    assert all(np.isfinite([row["loss"], row["excess"]]).all() for row in found)
    assert results(run.out)["steps"] == [6, 12, 18, 24]


@pytest.mark.medium
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("batch_size", [10, 30, 64])
def test_five_bad_steps_in_a_row_end_it_across_epochs_too(begin, batch_size, value):
    """Six, two and one steps an epoch."""
    run = begin(batch_size=batch_size, epochs=9, milestones=(9,))
    train_an_epoch(run)
    state = run.trainer.state
    good = harness.digest([state.params, state.opt_state, state.ema])
    poison(run, value)
    with pytest.raises(InputError, match=r"diverged in epoch \d: .* in 5 steps in a row.*smaller"):
        run.train()
    per_epoch = 64 // batch_size
    assert run.trainer.step == per_epoch * (1 + -(-5 // per_epoch))
    step, state, _ = checkpoints.restore(run.out / "checkpoints", run.run.checkpoint_like())
    saved = state["train"]
    assert step == run.trainer.step
    assert harness.digest([saved.params, saved.opt_state, saved.ema]) == good
    # JSON knows no NaN: the loss of an epoch without a good step is null.
    text = (run.out / "metrics.jsonl").read_text() if per_epoch < 5 else ""
    bad = [json.loads(line) for line in text.splitlines()]
    assert len(bad) == -(-5 // per_epoch) - 1
    assert all(row["loss"] is None and row["skipped"] == per_epoch for row in bad)


def test_four_bad_steps_in_a_row_do_not_end_it(begin):
    run = begin(batch_size=30, epochs=9, milestones=(9,))
    for epoch in range(6):
        if epoch % 3 == 0:
            poison(run, 0)
        else:
            poison(run, np.nan)
        train_an_epoch(run)
    assert run.trainer.bad_steps == 4


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_bad_steps_in_a_row_are_counted_on_after_a_resume(begin, bad):
    run = begin(batch_size=30, epochs=9, milestones=(9,))
    for epoch in range(3):
        poison(run, 0)
        if epoch >= 3 - bad:
            poison(run, np.nan)
        train_an_epoch(run)
    run.checkpoint()
    assert run.trainer.bad_steps == 2 * bad
    run.trainer.bad_steps = 0
    run.restore()
    # A checkpoint keeps the losses of one epoch, here of two steps.
    assert run.trainer.bad_steps == min(2 * bad, 2)


@pytest.mark.medium
def test_parameters_that_are_not_finite_are_never_saved(begin):
    run = begin()
    train_an_epoch(run)
    run.checkpoint()
    state = run.trainer.state
    params = jax.tree.map(lambda x: x.at[0].set(jnp.inf), state.params)
    run.trainer.state = state._replace(params=params, step=state.step + 1)
    with pytest.raises(CheckpointError, match="not finite; nothing was saved"):
        run.checkpoint()
    with pytest.raises(InputError, match="diverged"):
        train_an_epoch(run)
    assert checkpoints.steps(run.out / "checkpoints") == [6]


@pytest.mark.slow
def test_a_diverged_run_is_one_line_and_can_be_resumed(tmp_path):
    out = tmp_path / "run"
    make_session = at_chunk(8, partial(poison, value=np.nan), kind=Poisoned)
    done = run(tmp_path / "log", "train", arguments(out), make_session=make_session)
    assert done.status == 2
    assert "Traceback" not in done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "Try a smaller --learning-rate (now 0.004)" in line
    # Fourteen good steps; then chunks of two, to the one with the fifth bad step.
    assert results(out)["steps"] == [6, 12, 18, 20]
    done = run(
        tmp_path / "log", "train", ["--resume", "--out", str(out)], make_session=harness.Plain
    )
    assert done.status == 0, done.err
    assert [row["skipped"] for row in rows(out)] == [0, 0, 4, 2]
