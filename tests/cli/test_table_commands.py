"""A table end to end by commands: header, order, words and decimals come back; gaps are filled."""

import csv
import re
import shutil

import numpy as np
import polars as pl
import pytest

import harness
from harness import command

ROWS = [
    [str(rng_word), f"{length:.1f}", f"{price:.2f}", str(count)]
    for rng_word, length, price, count in zip(
        np.random.default_rng(0).choice(["elm", "oak", "old oak"], 90),
        np.random.default_rng(1).normal(5, 1, 90),
        np.random.default_rng(2).normal(100, 3, 90),
        np.random.default_rng(3).poisson(4, 90),
        strict=True,
    )
]
HEADER = ["tree", "length [m]", "price", "count"]
TINY = [
    "--width",
    "8",
    "--depth",
    "1",
    "--num-steps",
    "20",
    "--tables",
    "--base",
    "none",
    "--epochs",
    "2",
    "--passes",
    "2",
    "--batch-size",
    "16",
    "--milestones",
    "1",
    "--snapshot-every",
    "1",
    "--checkpoint-every",
    "1",
    "--snapshot-points",
    "100",
    "--snapshot-steps",
    "5",
    "--hold-out",
    "0",
]


def write(path, rows, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([HEADER, *rows])
    return path


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    data = write(folder / "trees.csv", ROWS)
    argv = ["--data", data, "--out", folder / "run", "--condition", "tree", *TINY]
    done = command(folder, "train", *argv)
    assert done.status == 0, done.err
    return folder, done.out


@pytest.fixture
def run_dir(trained):
    return trained[0] / "run"


def test_what_was_understood_is_said_before_training(trained, tmp_path):
    said = trained[1]
    assert "90 rows" in said
    assert "tree: 3 words (elm, oak, old oak)" in said
    assert "length [m]: numbers in steps of 0.1" in said
    assert "count: whole numbers" in said
    argv = ["--data", trained[0] / "trees.csv", "--out", tmp_path / "run", *TINY]
    more = "--columns", "length [m]", "count"
    done = command(tmp_path, "train", *argv, *more, make_session=harness.Plain)
    assert done.status == 0, done.err
    assert "count: whole numbers" in done.out
    assert "words" not in done.out


def test_a_csv_file_has_the_header_the_order_the_words_and_the_decimals(run_dir, tmp_path):
    out = tmp_path / "more.csv"
    done = command(tmp_path, "sample", run_dir, "--num-samples", 40, "--out", out)
    assert done.status == 0, done.err
    header, *rows = read(out)
    assert header == HEADER
    assert len(rows) == 40
    assert {row[0] for row in rows} <= {"elm", "oak", "old oak"}
    patterns = [r"[a-z ]+", r"-?\d+\.\d", r"-?\d+\.\d\d", r"-?\d+"]
    for row in rows:
        for cell, pattern in zip(row, patterns, strict=True):
            assert re.fullmatch(pattern, cell), row


def test_one_kind_only(run_dir, tmp_path):
    for name in ("some.csv", "some.parquet", "some.npy"):
        argv = [run_dir, "--num-samples", 12, "--given", "tree=old oak", "--out", tmp_path / name]
        done = command(tmp_path, "sample", *argv)
        assert done.status == 0, done.err
    csv_file = pl.read_csv(tmp_path / "some.csv")
    parquet = pl.read_parquet(tmp_path / "some.parquet")
    records = np.load(tmp_path / "some.npy")
    assert csv_file.equals(parquet)
    assert parquet["tree"].to_list() == records["tree"].tolist() == ["old oak"] * 12
    assert parquet["count"].dtype == pl.Int64
    np.testing.assert_array_equal(parquet["price"], records["price"])


@pytest.mark.parametrize(
    ("given", "out", "said"),
    [
        ("tree=ash", "x.csv", r"'ash' was never seen; seen were 'elm', 'oak', 'old oak'"),
        ("bush=elm", "x.csv", r"'bush' is no condition of this model; those are tree"),
        ("tree", "x.csv", "COLUMN=VALUE"),
        ("tree=elm", "shards", r"holds numbers only.*\.csv or \.parquet"),
    ],
)
def test_what_cannot_be_drawn_is_told(run_dir, tmp_path, given, out, said):
    argv = [run_dir, "--num-samples", 3, "--given", given, "--out", tmp_path / out]
    done = command(tmp_path, "sample", *argv)
    assert done.status == 2
    assert re.search(said, done.err, re.DOTALL)
    assert "Traceback" not in done.err


def test_gaps_are_filled_and_the_rest_stays(run_dir, tmp_path):
    rows = [list(row) for row in ROWS[:6]]
    rows[1][1] = rows[4][3] = ""
    data = write(tmp_path / "gaps.csv", rows)
    argv = [run_dir, "--data", data, "--out", tmp_path / "whole.csv"]
    done = command(tmp_path, "impute", *argv)
    assert done.status == 0, done.err
    header, *whole = read(tmp_path / "whole.csv")
    assert header == HEADER
    for old, new in zip(rows, whole, strict=True):
        for before, after in zip(old, new, strict=True):
            assert after == before if before else re.fullmatch(r"-?\d+(\.\d)?", after)
    assert command(tmp_path, "impute", *argv, "--draws", 2).status == 0
    draws = [(tmp_path / f"whole_{i}.csv").read_text() for i in (1, 2)]
    assert draws[0] != draws[1]
    assert draws[0] == (tmp_path / "whole.csv").read_text()


def test_a_run_whose_table_changed_by_one_cell_says_so(trained, tmp_path):
    moved = shutil.copytree(trained[0] / "run", tmp_path / "run")
    config = (moved / "config.json").read_text()
    changed = write(tmp_path / "trees.csv", [[*ROWS[0][:-1], "77"], *ROWS[1:]])
    (moved / "config.json").write_text(
        config.replace(str(trained[0] / "trees.csv"), str(changed)), encoding="utf-8"
    )
    done = command(tmp_path, "evaluate", moved)
    assert done.status == 2
    assert "is not what it was when the run was trained" in done.err


def test_evaluate_measures_what_sample_writes(run_dir, tmp_path):
    argv = [run_dir, "--num-samples", 1000, "--steps", 5, "--overwrite"]
    done = command(tmp_path, "evaluate", *argv)
    assert done.status == 0, done.err
    assert "energy_distance" in done.out


@pytest.mark.medium
def test_few_values_are_written_with_all_of_their_digits(tmp_path):
    values = [repr(x) for x in np.log([1.0, 2, 5, 10]).tolist()]
    chosen = np.random.default_rng(0).choice(values, 90)
    rows = [[*row[:1], x, *row[2:]] for row, x in zip(ROWS, chosen, strict=True)]
    data = write(tmp_path / "doses.csv", rows)
    argv = ["--data", data, "--out", tmp_path / "run", *TINY]
    done = command(tmp_path, "train", *argv, make_session=harness.Plain)
    assert done.status == 0, done.err
    assert "training steps" not in done.out  # the number of epochs was given
    assert "length [m]: numbers, 4 different ones, 0 to 2.30259" in done.out
    argv = [tmp_path / "run", "--num-samples", 40, "--out", tmp_path / "more.csv"]
    done = command(tmp_path, "sample", *argv)
    assert done.status == 0, done.err
    drawn = {row[1] for row in read(tmp_path / "more.csv")[1:]}
    assert {float(x) for x in drawn} <= {float(x) for x in values}
    assert len(drawn) > 1
