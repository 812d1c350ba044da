"""The run directory: config.json there and back, the lock, and rows that survive a crash."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import polars as pl
import pytest

from ddpm_jax.config import PRESETS, Config
from ddpm_jax.errors import ConfigError, InputError
from ddpm_jax.runs.directory import locked, own_files
from ddpm_jax.runs.log import append_row, keep_rows, read_rows
from ddpm_jax.runs.record import Run

pytestmark = pytest.mark.usefixtures("types_unchecked")
RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-1, 1, (300, 2))
RUN = Run.of(Config(data="points.csv"), POINTS)


def values_of(run, directory):
    run.save(directory)
    return json.loads((directory / "config.json").read_text())


# --- config.json ---


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize(
    "points",
    [POINTS, 7 + 3 * RNG.normal(size=(300, 5)), np.full((300, 1), 5.0), 1e20 * POINTS],
    ids=["square", "5-D", "constant", "huge"],
)
def test_a_run_survives_config_json(tmp_path, preset, points):
    run = Run.of(PRESETS[preset], points)
    run.save(tmp_path)
    assert Run.load(tmp_path) == run
    assert Run.load(str(tmp_path)) == run


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("format", value) for value in (0, 1, 3, None)],
        *[("dim", value) for value in (0, 2.0, True, None)],
        *[("num_points", value) for value in (1, 300.0, None)],
        *[("digest", value) for value in ("", 7, None)],
        *[("extent", value) for value in (0, -1, float("nan"), float("inf"), "1", None)],
        *[("scaler", value) for value in ([], {}, None)],
        *[("scale", value) for value in ([1.0], [-1.0, 1.0], ["1", 1], [True, 1], None)],
        *[("shift", value) for value in ([0.0] * 3, [float("nan"), 0], [None, 0], [10**400, 0])],
        *[("config", value) for value in (None, [], {"sed": 1})],
        *[("width", value) for value in (0, "128")],
    ],
)
def test_what_is_missing_or_wrong_is_refused_by_name(tmp_path, name, value):
    values = values_of(RUN, tmp_path)
    places = dict.fromkeys(("scale", "shift"), values["scaler"])
    places["width"] = values["config"]["network"]
    places.get(name, values)[name] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"config\.json.*" + name.replace("config", "sett|sed")):
        Run.load(tmp_path)


WORDS = pl.DataFrame({"x": POINTS[:, 0], "kind": np.where(POINTS[:, 1] > 0, "a", "b")})


@pytest.mark.parametrize(
    "row",
    [2, [2], [0, [0.5]], [None, [0.5]], [2, 0.5], [2, []], [2, [None]], [2, ["a"]], [2, [0.5], 1]],
)
def test_conditions_that_no_data_have_are_refused(tmp_path, row):
    run = Run.of(Config().replace(base="none", condition=("kind",)), WORDS)
    values = values_of(run, tmp_path)
    assert Run.load(tmp_path) == run
    values["pool"][0] = row
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"config\.json: field 'pool' is missing or wrong"):
        Run.load(tmp_path)


def test_a_batch_larger_than_the_data_is_refused_in_config_json(tmp_path):
    values = values_of(RUN, tmp_path)
    values["config"]["training"]["batch_size"] = 301
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="batch"):
        Run.load(tmp_path)


def test_defaults_left_open_in_config_json_are_filled_in(tmp_path):
    values = values_of(RUN, tmp_path)
    for name in ("epochs", "batch_size", "passes"):
        values["config"]["training"][name] = None
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert Run.load(tmp_path).total_steps == RUN.total_steps


@pytest.mark.parametrize("directory", ["nowhere", "config.json"])
def test_what_is_no_run_is_refused(tmp_path, directory):
    (tmp_path / "config.json").touch()
    with pytest.raises(ConfigError, match=r"config\.json"):
        Run.load(tmp_path / directory)


# --- what a run is of ---


def test_the_same_run_may_be_resumed(tmp_path):
    RUN.refuse_other(Run.of(Config(data="points.csv"), POINTS.copy()), tmp_path)


def test_another_run_is_refused_with_the_differences(tmp_path):
    other = Run.of(Config(data="points.csv", seed=7).replace(width=32), 0.9 * POINTS)
    with pytest.raises(ConfigError, match="another run") as caught:
        RUN.refuse_other(other, tmp_path)
    message = str(caught.value)
    assert "seed: 0 in the run, 7 now" in message
    assert f"width: {RUN.config.network.width} in the run, 32 now" in message
    assert RUN.digest[:12] in message
    assert other.digest[:12] in message
    assert "learning_rate" not in message


def test_steps_of_the_original_experiment():
    run = dataclasses.replace(
        RUN, config=PRESETS["reference"].for_points(50_468), num_points=50_468
    )
    assert run.steps_per_epoch == 788
    assert run.total_steps == 788_000


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_state_is_the_presets(preset, key):
    run = Run.of(PRESETS[preset], POINTS)
    state = jax.eval_shape(run.init_state, key)
    assert (state.ema is None) == (preset == "reference")
    if preset == "reference":
        assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 56_706


# --- its files ---

OWN = [
    *["config.json", "metrics.jsonl", "summary.txt", "summary.json", "reverse.gif", "report.html"],
    *["samples/epoch_0001.png", "samples/epoch_0001.npy", "samples/epoch_12345.png"],
    *["samples/final.npy", "figures/data.png", "figures/loss.png", "checkpoints/0/x"],
    *["checkpoints/788000/x", ".tmp-17-config.json", "samples/.tmp-9-final.npy"],
]
OTHERS = [
    *["notes.txt", "config.json.bak", "my/config.json", "data.csv", "samples/mine.png"],
    *["samples/epoch_1.png", "samples/epoch_0001.png.bak", "figures/mine.png"],
    *["checkpoints/best/x", "checkpoints/01/x", "checkpoints-old/5/x", ".tmp-x-config.json"],
]


def test_the_files_of_others_are_not_the_runs_own(tmp_path):
    for name in OWN + OTHERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    own = [path.relative_to(tmp_path).as_posix() for path in own_files(tmp_path)]
    assert own[0] == "config.json"
    assert sorted(own) == sorted(name.removesuffix("/x") for name in OWN)


def test_an_empty_or_missing_directory_holds_nothing_of_a_run(tmp_path):
    assert own_files(tmp_path) == own_files(tmp_path / "nowhere") == []


# --- the lock ---

HOLD = """
import pathlib, sys, time
from ddpm_jax.runs.directory import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_excludes_another_process_until_that_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(InputError, match="in use"), locked(tmp_path / "run"):
                pass
        finally:
            holder.kill()
    with locked(tmp_path / "run"):
        pass


def test_the_lock_is_free_after_its_block(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "a" / "b"):
        raise RuntimeError
    with locked(tmp_path / "a" / "b"), pytest.raises(InputError), locked(tmp_path / "a" / "b"):
        pass


# --- rows of metrics ---

ROWS = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3)]


@pytest.fixture
def metrics(tmp_path):
    for row in ROWS:
        append_row(tmp_path, row)
    return tmp_path / "metrics.jsonl"


def test_rows_are_read_as_they_were_appended(metrics):
    assert read_rows(metrics.parent) == ROWS
    assert [json.loads(line) for line in metrics.read_text().splitlines()] == ROWS


def test_without_a_file_there_are_no_rows(tmp_path):
    assert read_rows(tmp_path) == []
    assert keep_rows(tmp_path, 3) == []


def test_a_line_torn_anywhere_is_dropped_and_the_rest_goes_on(metrics):
    content = metrics.read_bytes()
    start = content.rindex(b"{")
    for end in range(start, len(content) - 1):
        metrics.write_bytes(content[:end])
        assert read_rows(metrics.parent) == ROWS[:2]
        assert keep_rows(metrics.parent, 3) == ROWS[:2]
        append_row(metrics.parent, ROWS[2])
        assert metrics.read_bytes() == content


def test_a_last_line_that_lacks_only_its_end_is_kept(metrics):
    content = metrics.read_bytes()
    metrics.write_bytes(content[:-1])
    assert keep_rows(metrics.parent, 3) == ROWS
    assert metrics.read_bytes() == content


@pytest.mark.parametrize("garbage", [b"\x00" * 50, b"\xff\xfe\xfd", b'{"epoch"', b"17\n", b"{}\n"])
def test_garbage_after_a_power_cut_is_dropped(metrics, garbage):
    with open(metrics, "ab") as file:
        file.write(garbage)
    assert read_rows(metrics.parent, last_epoch=3) == ROWS
    assert keep_rows(metrics.parent, 3) == ROWS


@pytest.mark.parametrize("last", [0, 1, 2, 3, 9])
def test_rows_are_cut_back_to_an_epoch(metrics, last):
    assert read_rows(metrics.parent, last) == ROWS[:last]
    assert read_rows(metrics.parent) == ROWS
    assert keep_rows(metrics.parent, last) == ROWS[:last]
    assert read_rows(metrics.parent) == ROWS[:last]


def test_a_row_that_is_not_json_is_refused_and_leaves_the_file_alone(metrics):
    before = metrics.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        append_row(metrics.parent, {"loss": float("nan")})
    assert metrics.read_bytes() == before
