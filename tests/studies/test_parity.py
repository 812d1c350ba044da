"""Equality with the PyTorch reference: stored, live, and that a mistake would have been seen."""

import dataclasses
import importlib
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.diffusion import process, sampling, schedules
from ddpm_jax.networks import denoiser, encodings
from ddpm_jax.training import steps
from golden.case import GOLDEN, Case
from golden.checks import CHECKS, worst_excess

FILES = Path(__file__).parents[1] / "support" / "golden"


def load(dtype):
    with np.load(FILES / f"{dtype}.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def golden():
    return {dtype: load(dtype) for dtype in GOLDEN}


@pytest.mark.medium
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("dtype", GOLDEN)
def test_equals_the_stored_reference(dtype, check, golden):
    assert worst_excess(check, GOLDEN[dtype], golden[dtype]) <= 1


def test_the_stored_files_are_small():
    assert sum(path.stat().st_size for path in FILES.glob("*.npz")) < 300_000


# --- live, where torch is installed ---


@pytest.fixture(scope="module")
def make():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # pytest-xdist already uses every core
    return importlib.import_module("golden.make")


def test_the_stored_files_are_what_the_reference_gives_now(make, golden):
    for dtype, case in GOLDEN.items():
        now = make.outputs(case)
        assert now.keys() == golden[dtype].keys()
        # Another release of PyTorch may sum in another order, and a float32 run of Adam amplify it.
        tolerance = {"float32": 1e-4, "float64": 1e-10}[dtype]
        for name, stored in golden[dtype].items():
            if not name.startswith(("initial", "epoch")):  # or draw otherwise from its own seeds
                atol = tolerance * np.abs(stored).max()
                np.testing.assert_allclose(now[name], stored, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def live(make):
    """The reference's outputs on other inputs, for the network in its full width."""
    wide = {"seed": 1, "width": 128, "batch": 64, "reverse_steps": 200, "paths": 200}
    cases = [Case(dtype, epoch_points=150, **wide) for dtype in GOLDEN]
    return {case.dtype: (case, make.outputs(case)) for case in cases}


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("dtype", GOLDEN)
def test_equals_the_live_reference(dtype, check, live):
    assert worst_excess(check, *live[dtype]) <= 1


# --- mutants: each mistake is put into the library, and some check must see it ---


def sigmoid_schedule(change):
    """A mutant of the sigmoid schedule: `change` takes it and returns the leaves to replace."""

    def mutate(monkeypatch):
        make = schedules.sigmoid

        def mutant(*args, **kwargs):
            schedule = make(*args, **kwargs)
            return dataclasses.replace(schedule, **change(schedule))

        monkeypatch.setattr(schedules, "sigmoid", mutant)

    return mutate


def replaced(module, name, mutant):
    """A mutant in the place of a function; it is given the original first."""

    def mutate(monkeypatch):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: mutant(original, *a, **k))

    return mutate


class AddedAfterReLU(denoiser.Denoiser):
    """x ← e + relu(W x), where it should be relu(e + W x)."""

    @nn.compact
    def __call__(self, x, t):
        h = nn.relu(denoiser.Linear(self.width, name="time_0")(encodings.sinusoid(t, 50, x.dtype)))
        e = denoiser.Linear(self.width, name="time_1")(h)
        e = jnp.expand_dims(e, range(x.ndim - e.ndim))  # one time for all points, in sampling
        for i in range(self.depth):
            x = e + nn.relu(denoiser.Linear(self.width, name=f"hidden_{i}")(x))
        return denoiser.Linear(self.dim, name="out")(x)


def cosines_first(sinusoid, t, width, dtype):
    pairs = sinusoid(t, width, dtype).reshape(*t.shape, -1, 2)
    return pairs[..., ::-1].reshape(*t.shape, width)


def flax_dense(_, features, name):
    return nn.Dense(features, name=name, param_dtype=jnp.asarray(0.0).dtype)


def eps_inside_the_root(_, rate, steps):
    return optax.adam(rate, eps=0.0, eps_root=1e-8)


def no_bias_correction(_, rate, steps):
    return optax.chain(optax.trace(0.9), optax.scale(-rate * 0.1))


def last_batch_kept(order, key, epoch, num_points, batch_size):
    whole = -(-num_points // batch_size) * batch_size
    return order(key, epoch, whole, batch_size) % num_points


def noise_not_rooted(step, row, x_t, eps, z):
    mean = step(row, x_t, eps, jnp.zeros_like(z))
    return mean + row.variances * z


IN_TRAINING = {"loss", "gradient", "Adam", "epoch"}
ALL_OF_THE_NETWORK = {"network", *IN_TRAINING, "trajectory"}

MUTANTS = {
    "t off by one in diffuse": (
        replaced(process, "at", lambda at, values, t: at(values, jnp.maximum(t - 1, 0))),
        {"diffuse", *IN_TRAINING},
    ),
    "t off by one in the embedding": (
        replaced(encodings, "sinusoid", lambda sinusoid, t, *rest: sinusoid(t + 1, *rest)),
        {"sinusoid", *ALL_OF_THE_NETWORK},
    ),
    "t off by one in sampling": (sigmoid_schedule(lambda s: {"t": s.t + 1}), {"trajectory"}),
    "ᾱ off by one": (
        sigmoid_schedule(lambda s: {"alpha_bars": s.alpha_bars_prev}),
        {"schedules", "diffuse", *IN_TRAINING},
    ),
    "posterior variance for β": (
        sigmoid_schedule(lambda s: {"variances": s.posterior_variances}),
        {"trajectory"},
    ),
    "noise at t = 0": (sigmoid_schedule(lambda s: {"variances": s.betas}), {"trajectory"}),
    "σ² for σ": (replaced(sampling, "ddpm_step", noise_not_rooted), {"trajectory"}),
    "embedding after the ReLU": (
        lambda monkeypatch: monkeypatch.setattr(denoiser, "Denoiser", AddedAfterReLU),
        ALL_OF_THE_NETWORK,
    ),
    "sin and cos swapped": (
        replaced(encodings, "sinusoid", cosines_first),
        {"sinusoid", *ALL_OF_THE_NETWORK},
    ),
    "Flax's initialisation": (replaced(denoiser, "Linear", flax_dense), {"initialisation"}),
    "Adam's ε inside the root": (
        replaced(steps, "adam", eps_inside_the_root),
        {"Adam", "epoch"},
    ),
    "momentum for Adam": (replaced(steps, "adam", no_bias_correction), {"Adam", "epoch"}),
    "last batch kept": (replaced(steps, "epoch_order", last_batch_kept), {"epoch"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_each_mistake_is_caught(name, golden, monkeypatch):
    mutate, catching = MUTANTS[name]
    mutate(monkeypatch)
    caught = {c for c in CHECKS if worst_excess(c, GOLDEN["float64"], golden["float64"]) > 1}
    assert caught == catching
