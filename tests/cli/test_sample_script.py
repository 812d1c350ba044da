"""experiments/sample.py: one file, or shards that survive a kill, damage and other settings."""

import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import harness
from ddpm_jax.cli.sample import Source
from ddpm_jax.config import Config
from ddpm_jax.points import readers
from ddpm_jax.runs import checkpoints
from ddpm_jax.runs.record import Run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHARD_BLOCKS = 10
NUM_SAMPLES = 94_500
"""Nine whole shards of ten blocks, and four blocks and a half."""


def make_run(directory: Path, points: np.ndarray) -> Path:
    """A run directory with the untrained parameters of a small network."""
    small = {"num_steps": 30, "width": 8, "depth": 1, "tables": (), "batch_size": 10}
    config = Config().replace(**small, epochs=1)
    run = Run.of(config, points)
    state = {"train": run.first_state(), "losses": np.zeros(run.steps_per_epoch, np.float32)}
    directory.mkdir()
    run.save(directory)
    checkpoints.save(directory / "checkpoints", 0, state)
    return directory


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    points = np.random.default_rng(0).uniform(-1, 1, (100, 2))
    return make_run(tmp_path_factory.mktemp("run") / "run", points)


class Slow(Source):
    """With a pause between its calls of the sampler."""

    def tables(self, *args):
        for part in super().tables(*args):
            time.sleep(0.2)
            yield part


def arguments_of(run_dir: Path, out: Path, *arguments: object) -> list[str]:
    return list(map(str, (run_dir, "--out", out, "--num-samples", NUM_SAMPLES, *arguments)))


def small(kind: type = Source) -> functools.partial:
    """Small shards, so that there are some."""
    return functools.partial(kind, blocks_per_call=4, shard_blocks=SHARD_BLOCKS)


def sample(run_dir: Path, out: Path, *arguments: object) -> harness.Done:
    argv = arguments_of(run_dir, out, *arguments)
    return harness.run(out.with_suffix(".log"), "sample", argv, make_source=small())


def listed(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(run_dir, tmp_path_factory):
    """All points, drawn at once into one file."""
    out = tmp_path_factory.mktemp("whole") / "points.npy"
    result = sample(run_dir, out)
    assert result.status == 0, result.err
    return np.load(out)


@pytest.fixture(scope="module")
def shards(run_dir, tmp_path_factory):
    """The same in shards, on one device."""
    out = tmp_path_factory.mktemp("shards") / "many"
    result = sample(run_dir, out, "--devices", 1)
    assert result.status == 0, result.err
    assert result.out.count("\n") == 1
    return out


@pytest.mark.slow
def test_shards_hold_the_points_of_the_single_file(shards, whole):
    header, *lines = listed(shards)
    assert header["sampler"] == "ddpm"
    assert header["steps"] == 30
    assert [line["rows"] for line in lines] == [10_000] * 9 + [4_500]
    assert sorted(p.name for p in shards.glob("*")) == [
        ".lock",
        "manifest.jsonl",
        *(line["name"] for line in lines),
    ]
    np.testing.assert_array_equal(readers.load_points(shards), whole)


@pytest.mark.slow
def test_a_kill_costs_one_shard_at_most(run_dir, whole, tmp_path):
    out = tmp_path / "many"
    argv = arguments_of(run_dir, out)
    process = harness.Process(tmp_path / "log", "sample", argv, make_source=small(Slow))
    while not (out / "shard_00002.npy").exists():
        assert process.process.is_alive()
        time.sleep(0.05)
    process.kill()
    assert process.wait().status == -signal.SIGKILL
    times = {line["name"]: (out / line["name"]).stat().st_mtime_ns for line in listed(out)[1:]}
    assert 2 <= len(times) < 10
    with open(out / "manifest.jsonl", "a") as file:
        file.write('{"name": "shard_0')  # the kill may as well have torn a line
    result = sample(run_dir, out)
    assert result.status == 0, result.err
    assert "drawing it again" not in result.err
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    assert not list(out.glob(".tmp*"))
    np.testing.assert_array_equal(readers.load_points(out), whole)


def peak_memory(pid: int) -> int:
    """The most bytes that the process has had in memory, files mapped into it included."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return int((status.partition("VmHWM:")[2].split() or [0])[0]) * 1024


@pytest.mark.slow
def test_ten_million_points_in_bounded_memory_go_on_after_a_kill(run_dir, tmp_path):
    out, peaks = tmp_path / "many", []
    words = [sys.executable, EXPERIMENTS / "sample.py", run_dir, "--out", out, "--steps", "2"]
    words += ["--num-samples", "10000000"]
    for killed in (True, False):
        with subprocess.Popen(list(map(str, words)), stderr=subprocess.DEVNULL) as process:
            peaks.append(0)
            while process.poll() is None:
                peaks[-1] = max(peaks[-1], peak_memory(process.pid))
                if killed and (out / "shard_00003.npy").exists():
                    process.kill()
                time.sleep(0.02)
        names = [line["name"] for line in listed(out)[1:]]
        times = {name: (out / name).stat().st_mtime_ns for name in names}
        if killed:
            assert process.returncode == -signal.SIGKILL
            finished = times
    assert process.returncode == 0
    assert 3 <= len(finished) < 10 == len(times)
    assert finished.items() <= times.items()
    print(
        f"10,000,000 points, killed after {len(finished)} of 10 shards, which were kept: "
        f"at most {max(peaks) / 2**20:.0f} MiB"
    )
    assert max(peaks) < 2**30
    assert len(readers.load_points(out)) == 10_000_000


@pytest.mark.slow
def test_a_damaged_shard_is_drawn_again(run_dir, shards, whole):
    victim = shards / "shard_00004.npy"
    content = bytearray(victim.read_bytes())
    content[-3] ^= 1
    victim.write_bytes(content)
    (shards / "shard_00007.npy").unlink()
    result = sample(run_dir, shards)
    assert result.status == 0, result.err
    assert "shard_00004.npy is not what was written: drawing it again" in result.err
    assert "shard_00007.npy is missing: drawing it again" in result.err
    np.testing.assert_array_equal(readers.load_points(shards), whole)


@pytest.mark.slow
def test_other_settings_are_refused_with_the_difference(run_dir, shards):
    before = (shards / "manifest.jsonl").read_text()
    result = sample(run_dir, shards, "--seed", 1, "--steps", 5)
    assert result.status == 2
    assert "seed: 0 there, 1 now" in result.err
    assert "steps: 30 there, 5 now" in result.err
    assert "Traceback" not in result.err
    assert (shards / "manifest.jsonl").read_text() == before


@pytest.mark.slow
def test_files_of_another_origin_are_kept(run_dir, tmp_path):
    (tmp_path / "shard_00000.npy").write_text("mine")
    result = sample(run_dir, tmp_path, "--overwrite")
    assert result.status == 2
    assert "no manifest" in result.err
    assert (tmp_path / "shard_00000.npy").read_text() == "mine"


@pytest.mark.slow
def test_text_keeps_a_small_spread_on_a_big_offset(tmp_path):
    offset, spread = 1e9, 1e-3
    points = offset + spread * np.random.default_rng(0).uniform(-1, 1, (100, 1))
    run_dir = make_run(tmp_path / "run", points)
    for name in ("points.csv", "points.npy"):
        result = sample(run_dir, tmp_path / name, "--num-samples", 1000)
        assert result.status == 0, result.err
    text, binary = (tmp_path / "points.csv").read_text(), np.load(tmp_path / "points.npy")
    first, *rows = text.split()
    assert first == "x0"
    assert binary.std() > spread / 10
    # 17 digits give any float64 back.
    np.testing.assert_array_equal(np.array(rows, float), binary[:, 0])
