"""What the scripts that measure count and compare, where theory says what must come out."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import t as student

from ddpm_jax import interop
from studies import workloads
from studies.speed import benchmark, costs

EXPERIMENTS = Path(costs.__file__).parents[2]


@pytest.fixture(scope="module")
def torch():
    """On one thread, as pytest-xdist already uses every core."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).uniform(-1, 1, (4000, 2))


@pytest.mark.slow
def test_working_memory_does_not_grow_with_the_steps():
    found = costs.memory()
    assert found["steps"] == [10, 100, 1000]
    assert found["bytes a sample"][0] > 2 * 4
    assert len(set(found["bytes a sample"])) == 1


@pytest.mark.slow
def test_samples_stream_in_the_memory_of_a_python_process():
    points = np.random.default_rng(0).uniform(-1, 1, (1000, 32))
    found = costs.streaming(points, [10_000, 1_000_000], steps=2)
    few, many = found["peak MiB"]
    # Held, a million points of 32 numbers would be 122 MiB as float32, 244 MiB as float64. The
    # same work varies by some MiB from process to process; twice the blocks in a call make twenty.
    assert abs(many - few) < 50
    assert few > 100  # JAX alone takes more: it is sample.py that was measured


def test_operations_are_those_of_the_layers():
    # 2·50·128 + 2·128·128 for the time, then 2·2·128 + 2·2·128·128 + 2·128·2, forward, for each
    # point; twice as many backward, less the gradients of the two inputs.
    forward = 2 * (50 * 128 + 128 * 128 + 2 * 128 + 2 * 128 * 128 + 128 * 2)
    assert workloads.train_flops() == 64 * (3 * forward - 2 * (50 * 128 + 2 * 128))
    assert workloads.sample_flops() == 2 * (2 * 128 + 2 * 128 * 128 + 128 * 2)


@pytest.mark.medium
@pytest.mark.parametrize("shuffled", [True, False])
def test_the_training_workload_trains(points, shuffled):
    work = workloads.ours_train(points, 20, 100, shuffled=shuffled)
    losses = [work() for _ in range(10)]
    assert losses[0].shape == (20,)
    # At first about the variance of the noise, 1.
    assert np.mean(losses[-1]) < 0.8 < np.mean(losses[0][:5])


COUNT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from ddpm_jax.parallel import use_devices
from studies.speed import scaling
use_devices(4)
print(json.dumps(scaling.communication()))
"""


@pytest.mark.slow
def test_a_step_communicates_its_gradients_and_nothing_else():
    command = [sys.executable, "-c", COUNT, EXPERIMENTS]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    # One all-reduce of 56,706 gradients and the loss, in float32.
    expected = {"order": [], "chunk": [f"all-reduce, {4 * (56_706 + 1)} bytes"]}
    assert found == {"2": expected, "4": expected}


MAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from ddpm_jax.cli.signals import run_main
from studies import workloads
from studies.speed import benchmark, costs
import numpy as np
workloads.HAS_TORCH, benchmark.SAMPLES = False, 1000
benchmark.load_points = lambda *_: np.random.default_rng(0).uniform(-1, 1, (640, 2))
costs.streaming = costs.memory = lambda *_: {}
curve = {"size": [1, 10], "seconds": [0.1, 1.0], "least": [0.1, 1.0], "greatest": [0.1, 1.0]}
costs.growth = lambda *_: {"samples": curve}
sys.argv = ["benchmark.py", "--quick", "--devices", "1", "--json", sys.argv[2]]
run_main(benchmark.main)
"""


@pytest.mark.slow
def test_the_benchmark_without_torch(tmp_path):
    command = [sys.executable, "-c", MAIN, EXPERIMENTS, tmp_path / "speed.json"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert "PyTorch" not in done.stdout
    found = json.loads((tmp_path / "speed.json").read_text())
    assert (found["machine"]["devices"], found["machine"]["threads of each side"]) == (1, 1)
    train, sample = found["speed"].values()
    for rows, seconds, flops in (
        (train, 1e-6, workloads.train_flops()),
        (sample, 1, workloads.sample_flops() * 1000 * 1000),
    ):
        assert [row["name"] for row in rows] == ["ours", "bound"]
        for row in rows:
            assert 0 < row["least"] <= row["median"] <= row["greatest"]
            assert row["gflops"] == pytest.approx(flops / (row["median"] * seconds) / 1e9)
            assert row["times ours"] == pytest.approx(row["median"] / rows[0]["median"])
    assert all(row["least"] <= row["seconds"] <= row["greatest"] for row in found["few steps"])
    assert (tmp_path / "speed.png").exists()


def test_the_time_of_pytorchs_1000_epochs_says_what_it_is():
    speed = {"train step, batch 64 (µs)": [{"name": "PyTorch as written", "median": 1000.0}]}
    row = {"steps": 1000, "seconds": 2.0, "compilation": 3.0}
    found = {"wanted": {"TV": 0.3}, "fast preset": [row], "reached": True}
    # 1000 epochs of 10 batches of 64, a millisecond each, are 10 s.
    last = benchmark.format_quality(found, speed, 650).splitlines()[-1]
    assert "10 s, extrapolated from its steps: 5 times that" in last
    assert "compilation, 3.0 s, not counted" in last


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is:DeprecationWarning")
def test_what_is_timed_is_checked_to_be_the_same(torch, monkeypatch):
    from studies import agreement
    from studies import pytorch_reference as reference

    versions = workloads.torch_versions("cpu")
    assert set(agreement.check()) == {
        f"{what}, {name}" for what in ("train step", "sampling") for name in versions
    }
    eager = {"PyTorch as written": versions["PyTorch as written"]}
    monkeypatch.setattr(workloads, "torch_versions", lambda where: eager)
    for part, what in {"loss_fn": "train step", "ancestral_update": "sampling"}.items():
        exact = getattr(reference, part)
        with monkeypatch.context() as patch:
            # Off by a thousandth, which is far more than rounding.
            patch.setattr(reference, part, lambda *args, exact=exact: 1.001 * exact(*args))
            with pytest.raises(RuntimeError, match=f"{what}, PyTorch as written differs"):
                agreement.check()


@pytest.mark.slow
def test_both_sides_are_the_same_in_float64(torch, points, monkeypatch):
    from studies.parity import compare_pytorch, train_both

    monkeypatch.setattr(compare_pytorch, "SAMPLES", 100)
    monkeypatch.setattr(compare_pytorch, "CASES", 2)
    trained = interop.to_torch(train_both.trained_params(points, 0, 1)[0])
    rows = compare_pytorch.parity("float64", trained)
    # Some 1e5 roundings of 1e-16, which add up like a random walk or, at worst, one by one.
    assert all(row.limit <= 1e-10 for row in rows)
    assert [row.name for row in rows if not row.holds] == []
    names = " ".join(row.name for row in rows)
    for name in ("betas", "diffuse", "network", "loss", "out.bias", "100 Adam", "1000-step"):
        assert name in names
    near = np.array([1, 1, 1 + 1e-9])
    assert not compare_pytorch.row("near", "float64", near, np.ones(3), "path").holds


@pytest.mark.slow
def test_float32_parts_by_more_than_rounding_only_where_a_relu_does(torch):
    from studies.parity import adam_steps
    from studies.side_by_side import Case

    with jax.default_matmul_precision("highest"):
        for seed in range(4):
            for after in adam_steps.run(Case("float32", seed), (1, 10, 100)):
                assert after.relative <= 1e-4 or after.parted > 0
                assert after.torch_relative <= 1e-4 or after.torch_parted > 0


@pytest.mark.medium
def test_a_relu_that_parted_is_counted(torch):
    from studies.parity import adam_steps
    from studies.side_by_side import Case

    case = Case("float32")
    case.params["hidden_1"]["bias"] += 1e-3
    assert adam_steps.run(case, (1,))[0].parted > 0
    assert adam_steps.run(Case("float32"), (1,))[0].parted < 5


def test_differences_of_independent_trainings_are_welchs(torch):
    from studies.parity import train_both

    a, b = np.random.default_rng(0).normal([[0], [1]], [[1], [3]], (2, 5))
    results = {"PyTorch": [{"loss": x} for x in a], "JAX": [{"loss": x} for x in b]}
    found = train_both.differences(results)["loss"]
    variances = np.var([a, b], axis=1, ddof=1)
    assert found.spreads == pytest.approx((b.mean() - a.mean()) / np.sqrt(variances.mean()))
    # Welch 1947: t = Δ / √(s₁²/n + s₂²/n), (n - 1)(s₁² + s₂²)² / (s₁⁴ + s₂⁴) degrees of freedom.
    freedom = 4 * variances.sum() ** 2 / (variances**2).sum()
    statistic = abs(b.mean() - a.mean()) / np.sqrt(variances.sum() / 5)
    assert found.p == pytest.approx(2 * student.sf(statistic, freedom))


def test_a_difference_is_off_beyond_the_spread_and_beyond_chance(torch):
    from studies.parity.train_both import Difference

    assert Difference(-0.9, 1e-6).verdict == "ok"
    assert Difference(-1.1, 0.05).verdict == "chance"
    assert Difference(1.1, 0.001).verdict == "OFF"


@pytest.mark.slow
def test_final_loss_of_silence(torch, points):
    from studies.parity import train_both

    silent = jax.tree.map(np.zeros_like, workloads.network()[1])
    # The mean of 2²¹ squares of normal numbers: 1 within √(2 / 2²¹) = 0.001; five times that.
    found = train_both.final_loss(silent, np.asarray(points, np.float32))
    assert float(found) == pytest.approx(1, abs=0.005)
