"""Members of an ensemble are the runs that their seeds and learning rates make alone."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import ensemble
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import load_run_data

from ddpm_jax import ensembles, training
from ddpm_jax.config import Config
from ddpm_jax.errors import ConfigError, InputError
from ddpm_jax.runs import Run

CONFIG = Config(epochs=2, batch_size=16, width=16, depth=2, tables=(8,), points_per_time=4)


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).uniform(-1, 1, (100, 2))


@pytest.fixture(scope="module")
def base(points):
    return Run.of(CONFIG, points)


def train_alone(run: Run, data: jax.Array) -> tuple[training.TrainState, np.ndarray]:
    """The run's epochs, one after another, as the training script does them."""
    keys, c, schedule = run.keys(), run.config, run.config.make_schedule()
    apply, optimizer = run.apply(), run.optimizer()
    settings = {"stratified": c.stratified, "points_per_time": c.points_per_time}

    @jax.jit
    def train(state: training.TrainState, rows: jax.Array):
        return training.train_epoch(
            *(keys["noise"], apply, optimizer, schedule, state, data, rows),
            **settings,
            ema_decay=c.ema_decay,
        )

    state, losses = run.init_state(keys["init"]), []
    for epoch in range(c.epochs):
        rows = training.epoch_order(keys["order"], epoch, run.num_points, c.batch_size)
        state, part = train(state, rows)
        losses.append(part)
    return state, np.concatenate(losses)


@pytest.mark.slow
@pytest.mark.parametrize("tables", [(), (8,)])
def test_each_member_is_the_run_trained_alone(base, points, tables):
    base = dataclasses.replace(base, config=dataclasses.replace(base.config, tables=tables))
    runs = [ensembles.grid(base, [seed], [rate])[0] for seed, rate in ((3, 1e-3), (4, 1e-2))]
    data = jnp.asarray(base.scaler.apply(points))
    states = ensembles.init_states(runs)
    train = ensembles.make_trainer(runs, ensembles.member_mesh(len(runs), jax.devices()))
    losses = []
    for epoch in range(2):
        states, part = train(states, data, ensembles.epoch_orders(runs, epoch))
        losses.append(part)
    members = ensembles.unstack(states)
    for run, member, found in zip(runs, members, np.concatenate(losses, axis=1), strict=True):
        state, expected = train_alone(run, data)
        assert int(member.step) == int(state.step) == 12
        # The batched products sum in another order: 1e-7 relative, which twelve steps of Adam with
        # up to ten times the usual rate let grow.
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        leaves = zip(jax.tree.leaves(member), jax.tree.leaves(state), strict=True)
        for a, b in leaves:
            assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)


ON_DEVICES = """
import sys

import jax
import numpy as np
jax.config.update("jax_num_cpu_devices", 4)
sys.path.insert(0, sys.argv[1])
import ensemble
from ddpm_jax import ensembles
from ddpm_jax.config import Config
from ddpm_jax.runs import Run

points = np.random.default_rng(0).uniform(-1, 1, (100, 2))
for tables in ((), (8,)):
    config = Config(epochs=2, batch_size=16, width=16, tables=tables, learning_rate=1e-4)
    members = ensembles.grid(Run.of(config, points), range(6))
    found = []
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = ensembles.member_mesh(len(members), devices)
        assert mesh.size == (3 if len(devices) == 4 else 1)
        found.append(ensemble.fit(members, points, devices))
    (alone, losses), (shared, others) = found
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(shared), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a)
    assert len(set(losses[:, -1].tolist())) == 6
"""


@pytest.mark.slow
def test_devices_that_share_the_members_train_the_same():
    # One device batches six members in a product and another two: sums in another order, as above.
    command = [sys.executable, "-c", ON_DEVICES, Path(__file__).parents[1] / "experiments"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_member_that_diverges_halts_all_and_is_named(base, points):
    runs = ensembles.grid(base, [3, 4])
    runs[1] = dataclasses.replace(
        runs[1], config=dataclasses.replace(runs[1].config, learning_rate=1.0)
    )
    huge = points * 1e30  # whose squares are not finite in float32
    with pytest.raises(InputError, match=r"seed 3 diverged in epoch 1: .*--learning-rate"):
        ensemble.fit(runs, huge, jax.devices()[:1])


def test_grid_has_every_pair(base):
    runs = ensembles.grid(base, seeds=range(3), learning_rates=(1e-3, 2e-3))
    pairs = [(run.config.learning_rate, run.config.seed) for run in runs]
    assert pairs == [(rate, seed) for rate in (1e-3, 2e-3) for seed in range(3)]
    assert {run.config.learning_rate for run in ensembles.grid(base, [0])} == {CONFIG.learning_rate}


def test_members_of_other_networks_are_refused(base):
    other = dataclasses.replace(base, config=dataclasses.replace(base.config, width=8))
    with pytest.raises(ConfigError, match="width: 16 in one member, 8 now"):
        ensembles.init_states([base, other])


@pytest.mark.slow
def test_the_script_leaves_runs_and_a_table_with_the_spread(tmp_path):
    script = Path(__file__).parents[1] / "experiments" / "train.py"
    out = tmp_path / "many"
    words = ["--data", "dino", "--out", out, "--seeds", 3, "--seed", 5]
    words += ["--epochs", 2, "--num-steps", 25, "--width", 8, "--tables", 4, "--batch-size", 10]
    words += ["--snapshot-points", 200]
    subprocess.run([sys.executable, script, *map(str, words)], check=True, capture_output=True)
    table = json.loads((out / "summary.json").read_text())
    values = [table[f"seed-{seed}"]["sliced_wasserstein"] for seed in (5, 6, 7)]
    # Text keeps every digit of a float64; the sums differ in order at most.
    assert table["mean"]["sliced_wasserstein"] == pytest.approx(np.mean(values), rel=1e-12)
    spread = table["standard deviation"]["sliced_wasserstein"]
    assert spread == pytest.approx(np.std(values, ddof=1), rel=1e-9)
    for seed in (5, 6, 7):
        run = Run.load(out / f"seed-{seed}")
        assert load_run_data(run).shape == (run.num_points, run.dim)  # the data it was trained on
        assert run.config.seed == seed
        assert run.load_params(out / f"seed-{seed}")[0] == run.total_steps
