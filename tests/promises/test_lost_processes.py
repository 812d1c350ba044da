"""Of several processes: one that does something else, and one that is gone."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.cli.lifeline import LOST
from ddpm_jax.runs import checkpoints

TRAIN = Path(__file__).parents[2] / "experiments" / "train.py"
SMALL = {
    "--batch-size": 10,
    "--epochs": 400,
    "--num-steps": 20,
    "--width": 8,
    "--depth": 1,
    "--snapshot-points": 100,
    "--snapshot-steps": 5,
    "--snapshot-every": 400,
    "--checkpoint-every": 20,
    "--milestones": 400,
}


def start(out, *own):
    """The training run, a process for each of the settings that are its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for number, settings in enumerate(own):
        coordinator = {"--coordinator": f"127.0.0.1:{port}", "--num-processes": len(own)}
        words = [sys.executable, TRAIN, "--out", out, "--distributed", "--process-id", number]
        for pair in (SMALL | coordinator | settings).items():
            words += pair
        pipe = subprocess.PIPE
        processes.append(
            subprocess.Popen([*map(str, words), "--tables"], stdout=pipe, stderr=pipe, text=True)
        )
    return processes


def errors(processes, status):
    """The one error that each has ended with."""
    found = []
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == status, said
        assert "Traceback" not in said
        found += [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(found) == len(processes)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two files that differ in one value."""
    folder = tmp_path_factory.mktemp("data")
    points = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    np.savetxt(folder / "a.txt", points)
    points[7, 1] += 1e-9
    np.savetxt(folder / "b.txt", points)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"--learning-rate": 1e-4}, r"run.config.training.learning_rate: 0.0001 there, 0.004 in"),
        ({"--data": "b.txt"}, "run.digest: "),
    ],
)
def test_a_process_that_does_something_else_is_named_before_the_first_step(
    data, tmp_path, other, what
):
    here, there = tmp_path / "a", tmp_path / "b"  # one name on two machines, as it were
    for folder, source in ((here, "a.txt"), (there, other.get("--data", "a.txt"))):
        folder.mkdir()
        shutil.copy(data / source, folder / "points.txt")
    words = {name: value for name, value in other.items() if name != "--data"}
    processes = []
    own = {"--data": here / "points.txt"}, {"--data": there / "points.txt"} | words
    processes = start(tmp_path / "run", *own)
    lines = errors(processes, 2)
    assert len(set(lines)) == 1
    assert "process 1 differs from process 0 in run." in lines[0]
    assert what in lines[0] or "run.config.data" in lines[0]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_other_says_so_and_all_go_on_later(data, tmp_path, victim):
    out, own = tmp_path / "run", {"--data": data / "a.txt"}
    processes = start(out, own, own)
    while len(checkpoints.steps(out / "checkpoints")) < 2:
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.02)
    processes[victim].send_signal(signal.SIGKILL)
    began = time.monotonic()
    (line,) = errors([processes[1 - victim]], LOST)
    assert time.monotonic() - began < 30  # JAX alone takes a minute, or aborts
    assert f"process {victim} is gone" in line
    assert "--resume" in line
    processes[victim].communicate()
    assert len(checkpoints.steps(out / "checkpoints")) >= 2
