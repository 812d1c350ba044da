"""The command that judges a run's samples, or any other program's, and a run's last words."""

import json

import numpy as np
import pytest

from ddpm_jax.model import Model
from harness import command

pytestmark = pytest.mark.slow  # it trains a network, if a tiny one, and compiles its samplers

TINY = ["--hold-out", "0", "--epochs", "2", "--num-steps", "20"]
TINY += ["--snapshot-points", "200", "--snapshot-steps", "5"]


def train(folder, *arguments):
    done = command(folder, "train", *arguments, *TINY)
    assert done.status == 0, done.err
    return done.out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run too short to have learned anything, on two columns and a constant one."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(5, 2, size=(900, 2)), np.full(900, 3.0)])
    for name, part in {
        "train": rows[:600],
        "other": rows[600:],
        "shifted": rows[600:] + 40,
    }.items():
        np.savetxt(folder / f"{name}.csv", part, delimiter=",")
    data = ["--data", str(folder / "train.csv"), "--out", str(folder / "run")]
    train(folder, *data)
    return folder


def test_a_run_that_has_not_learned_does_not_end_with_done(run, tmp_path):
    out = ["--data", run / "train.csv", "--out", tmp_path / "again", *TINY]
    lost = ["--epochs", "1", "--learning-rate", "1e-9", "--base", "none"]
    done = command(tmp_path, "train", *out, *lost)
    assert done.status == 0, done.err
    last = done.out.rstrip().split("\n")[-1]
    assert last.startswith("trained, but THE SAMPLES ARE FAR FROM THE DATA")
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert summary["final"]["far"]
    assert "far from the data" in (tmp_path / "again" / "summary.txt").read_text()
    assert [row["epoch"] for row in summary["milestones"]] == [1, "real points, redrawn"]


def judged(run, folder, *arguments):
    table = folder / "q.json"
    done = command(folder, "evaluate", run / "run", "--json", table, "--overwrite", *arguments)
    assert done.status == 0, done.err
    return json.loads(table.read_text()), done.out


def refused(run, folder, *arguments):
    done = command(folder, "evaluate", run / "run", "--overwrite", *arguments)
    assert done.status == 2
    return done.err


def test_points_of_another_program_are_judged_by_rows_that_no_model_has_seen(run, tmp_path):
    other, training = run / "other.csv", run / "train.csv"
    fresh, said = judged(run, tmp_path, "--samples", other)
    assert "300 samples, judged by the data" in said
    assert "No rows were held out" in said
    assert not fresh["copies"]
    copied, said = judged(run, tmp_path, "--samples", training, "--held-out", other)
    assert copied["copies"]
    assert "WARNING: The model copies: 100% of the samples" in said
    assert [c["name"].split(" (")[0] for c in copied["contenders"]] == [
        "model",
        "Gaussian mixture",
        "kernel density",
    ]
    assert copied["contenders"][0]["log_prob"] is None  # of what has no model
    shifted, said = judged(run, tmp_path, "--samples", run / "shifted.csv")
    assert shifted["far"]
    assert "constant in column 3, the samples are not" in said


def test_the_density_of_held_out_rows_stands_beside_the_rivals(rng, tmp_path):
    rows = rng.normal(5, 2, size=(300, 2))
    np.save(tmp_path / "a.npy", rows[:200])
    np.save(tmp_path / "b.npy", rows[200:])
    data = ["--data", str(tmp_path / "a.npy"), "--out", str(tmp_path / "run")]
    train(tmp_path, *data)
    arguments = "--held-out", tmp_path / "b.npy", "--num-samples", 1000, "--steps", 5
    found, _ = judged(tmp_path, tmp_path, *arguments)
    model = Model.load(tmp_path / "run")
    # The change of variables to the scaled coordinates, in which the table is; the schedule has
    # fewer steps than the flow may take, so that both take the same, in float32.
    expected = model.log_prob(rows[200:]).mean() + np.log(model.run.scaler.scale).sum()
    assert found["contenders"][0]["log_prob"][0] == pytest.approx(expected, abs=1e-4)


def test_points_of_other_columns_are_refused(run, tmp_path):
    np.save(tmp_path / "two.npy", np.zeros((5, 2)))
    for flag in ("--samples", "--held-out"):
        said = refused(run, tmp_path, flag, tmp_path / "two.npy")
        assert "two.npy: a table of 2 columns, where 3 columns are expected" in said


def test_data_that_were_moved_are_found_where_they_are_said_to_be(run, tmp_path):
    moved = (run / "train.csv").rename(run / "moved.csv")
    try:
        lost = refused(run, tmp_path, "--samples", run / "other.csv")
        assert "train.csv" in lost
        assert "is not there; if it has moved, --data says where" in lost
        here, _ = judged(run, tmp_path, "--samples", run / "other.csv", "--data", moved)
        assert here["samples"] == 300
        said = refused(run, tmp_path, "--samples", moved, "--data", run / "other.csv")
        assert "other.csv is not what it was" in said
    finally:
        moved.rename(run / "train.csv")
