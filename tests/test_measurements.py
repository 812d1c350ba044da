"""What the scripts that measure count and compare, where theory says what must come out."""

import json
import subprocess
import sys
from pathlib import Path

import costs
import numpy as np
import pytest
import workloads
from scipy.stats import ttest_ind

EXPERIMENTS = Path(costs.__file__).parent


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
    # Held, a million points of 32 numbers would be 122 MiB as float32, 244 MiB as float64. A process
    # of the same work varies by some MiB, and twice the blocks in a call by ten.
    assert abs(many - few) < 50
    assert few > 100  # JAX alone takes more: it is sample.py that was measured


def test_operations_are_those_of_the_layers():
    # 2·50·128 + 2·128·128 for the time, then 2·2·128 + 2·2·128·128 + 2·128·2, forward, for each
    # point; twice as many backward, less the gradients of the two inputs.
    forward = 2 * (50 * 128 + 128 * 128 + 2 * 128 + 2 * 128 * 128 + 128 * 2)
    assert workloads.train_flops() == 64 * (3 * forward - 2 * (50 * 128 + 2 * 128))
    assert workloads.sample_flops() == 2 * (2 * 128 + 2 * 128 * 128 + 128 * 2)


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
import common, scaling
common.use_devices(4)
print(json.dumps(scaling.communication()))
"""


@pytest.mark.slow
def test_a_step_communicates_its_gradients_and_nothing_else():
    command = [sys.executable, "-c", COUNT, EXPERIMENTS]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    # One all-reduce of 56,706 gradients and the loss, in float32.
    expected = {"kinds": ["all-reduce"], "operations": 1, "bytes": 4 * (56_706 + 1)}
    assert found == {"2": expected, "4": expected}


def test_differences_of_independent_trainings_are_welchs_t():
    pytest.importorskip("torch")
    import train_both

    a, b = np.random.default_rng(0).normal([[0], [1]], [[1], [3]], (2, 5))
    results = {"PyTorch": [{"loss": x} for x in a], "JAX": [{"loss": x} for x in b]}
    expected = ttest_ind(b, a, equal_var=False).statistic
    assert train_both.differences(results)["loss"] == pytest.approx(expected, rel=1e-12)
