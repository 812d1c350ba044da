"""Many devices, many processes: the same model, to rounding; the same samples, to the bit."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import harness
from ddpm_jax.cli.processes import Processes
from ddpm_jax.errors import ConfigError
from ddpm_jax.parallel import even_share
from ddpm_jax.runs import checkpoints
from ddpm_jax.runs.record import Run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RUN = [
    *("--epochs", 4, "--batch-size", 64, "--snapshot-points", 500, "--num-steps", 30),
    *("--width", 16, "--depth", 1, "--tables", 8, "--learning-rate", 1e-4, "--base", "none"),
]
"""Twenty steps of a small network.

At a small rate, since Adam moves a weight whose gradient is all rounding by as much as any other.
"""

ON_MESHES = """
import sys

import jax
import numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from ddpm_jax import parallel
from ddpm_jax.config import Config
from ddpm_jax.diffusion import process
from ddpm_jax.assembly import make_trainer
from ddpm_jax.runs.record import Run

points = np.random.default_rng(0).uniform(-1, 1, (320, 2))
config = Config().replace(
    epochs=4, batch_size=64, width=32, tables=(16,), learning_rate=1e-4, base="none"
)
run = Run.of(config, points)
states = []
for count in (1, 2, 4):
    mesh = parallel.training_mesh(64, 4, count)
    trainer = make_trainer(run, points, mesh=mesh)
    assert len(list(trainer)) == 4
    assert len(trainer.state.params["out"]["bias"].devices()) == count
    states.append(trainer.state)
reference = jax.tree.leaves_with_path(states[0].params)


def loss(params, x0, t, eps):
    return process.denoising_loss(
        run.schedule, lambda x, t: run.apply()(params, x, t), x0, t, eps
    )


# Adam is blind to a factor of the gradients, as of a sum in place of a mean.
params = parallel.local(states[0].params)
batch = (points[:64], np.arange(64), np.random.default_rng(1).normal(size=(64, 2)))
batch = [a.astype(np.int32 if a.ndim == 1 else np.float32) for a in batch]
gradients = []
for count in (1, 2, 4):
    mesh = parallel.training_mesh(64, 4, count)
    shared = parallel.sharding(mesh, "data")
    on_mesh = [jax.device_put(a, shared) for a in batch]
    gradient = jax.jit(jax.value_and_grad(loss), out_shardings=parallel.sharding(mesh))
    gradients.append(jax.tree.map(np.asarray, gradient(parallel.replicate(mesh, params), *on_mesh)))
for value, tree in gradients[1:]:
    assert abs(value - gradients[0][0]) < 1e-6 * value
    for a, b in zip(jax.tree.leaves(gradients[0][1]), jax.tree.leaves(tree)):
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(a)
for state in states[1:]:
    assert int(state.step) == 20
    for (path, a), b in zip(reference, jax.tree.leaves(state.params)):
        a, b = np.asarray(a), np.asarray(b)
        error = np.linalg.norm(a - b) / np.linalg.norm(a)
        print(path, error)
        assert error < 1e-5, (path, error)
"""


@pytest.mark.slow
def test_devices_that_share_the_batches_train_the_same_model():
    # Float32 sums of 64 terms in another order differ by about 1e-7 relative; twenty steps of Adam,
    # which divides by the gradient's size, let that grow; at the original rate of 1e-4, tenfold.
    command = [sys.executable, "-c", ON_MESHES, EXPERIMENTS]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def start(folder: Path, count: int, script: str, *arguments: object) -> list[harness.Process]:
    """The script in `count` processes that find each other on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(word) for word in arguments]
    if count > 1:
        words += ["--distributed", "--coordinator", f"127.0.0.1:{port}"]
        words += ["--num-processes", str(count), "--process-id"]
    return [
        harness.Process(folder / f"said-{i}", script, [*words, str(i)] if count > 1 else words)
        for i in range(count)
    ]


def finish(processes: list[harness.Process], status: int = 0) -> list[str]:
    """What they have said, when all have ended with `status`."""
    ended = [process.wait() for process in processes]
    assert [done.status for done in ended] == [status] * len(processes), ended
    return [done.out + done.err for done in ended]


def assert_same_model(directory: Path, reference: Path) -> None:
    """Equal losses, parameters and final samples, to rounding."""
    rows, expected = (
        [json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()]
        for d in (directory, reference)
    )
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    # See above for 1e-5.
    np.testing.assert_allclose(
        [row["loss"] for row in rows], [row["loss"] for row in expected], rtol=1e-5
    )
    params = [Run.load(d).load_params(d)[1] for d in (directory, reference)]
    for a, b in zip(*map(jax.tree.leaves, params), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)
    # Thirty steps of the reverse process magnify a difference of the network tenfold at most here.
    a, b = (np.load(d / "samples" / "final.npy") for d in (directory, reference))
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "points.npy"
    np.save(path, np.random.default_rng(0).uniform(-1, 1, (320, 2)))
    return path


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    finish(start(out.parent, 1, "train", "--data", data, "--out", out, *RUN))
    return out


@pytest.mark.slow
def test_two_processes_train_the_same_model(data, alone, tmp_path):
    out = tmp_path / "run"
    said = finish(start(tmp_path, 2, "train", "--data", data, "--out", out, *RUN))
    assert "everything is in" in said[0]
    assert "points" not in said[1]
    assert_same_model(out, alone)


@pytest.mark.slow
@pytest.mark.extra
def test_four_processes_train_the_same_model_on_a_directory_of_shards(data, alone, tmp_path):
    points, shards, out = np.load(data), tmp_path / "shards", tmp_path / "run"
    shards.mkdir()
    for i, part in enumerate(np.split(points, [17, 200])):
        np.save(shards / f"part-{i}.npy", part)
    finish(start(tmp_path, 4, "train", "--data", shards, "--out", out, *RUN))
    assert_same_model(out, alone)


@pytest.mark.slow
def test_a_signal_to_one_of_four_stops_all_and_two_go_on(data, alone, tmp_path):
    out = tmp_path / "run"
    processes = start(tmp_path, 4, "train", "--data", data, "--out", out, *RUN)
    while not (out / "metrics.jsonl").exists():
        assert processes[0].process.is_alive(), processes[0].wait()
        time.sleep(0.02)
    processes[2].process.terminate()
    said = finish(processes, 128 + signal.SIGTERM)
    step = checkpoints.steps(out / "checkpoints")[-1]
    assert 5 <= step < 20
    assert "stopped, and saved" in said[0]
    finish(start(tmp_path, 2, "train", "--data", data, "--out", out, "--resume", *RUN))
    assert_same_model(out, alone)


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(data, alone, tmp_path):
    first, second = [
        process.wait()
        for process in start(tmp_path, 2, "train", "--data", data, "--out", alone, *RUN)
    ]
    assert first.status == 2
    assert second.status != 0
    assert "error:" in first.err
    assert "--overwrite" in first.err


@pytest.mark.slow
def test_two_processes_draw_the_points_of_one(alone, tmp_path):
    many = ("--num-samples", 1_003_000, "--sampler", "sde-dpmpp", "--steps", 2)
    finish(start(tmp_path, 2, "sample", alone, "--out", tmp_path / "many", *many))
    finish(start(tmp_path, 1, "sample", alone, "--out", tmp_path / "one.npy", *many))
    shards = [np.load(path) for path in sorted((tmp_path / "many").glob("*.npy"))]
    assert [len(shard) for shard in shards] == [1_000_000, 3_000]
    np.testing.assert_array_equal(np.concatenate(shards), np.load(tmp_path / "one.npy"))


@pytest.mark.parametrize(
    ("items", "most", "share"), [(6, 4, 3), (5, 8, 5), (7, 4, 1), (64, 8, 8), (0, 0, 1), (3, 1, 1)]
)
def test_an_even_share_is_the_greatest(items, most, share):
    assert even_share(items, most) == share


@pytest.mark.parametrize(
    "settings",
    [
        {"coordinator": "localhost:1"},
        {"distributed": True, "num_processes": 2},
        {"distributed": True, "coordinator": "a:1", "num_processes": 2, "process_id": 2},
    ],
)
def test_incomplete_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=r"--process-id"):
        Processes(**settings)
