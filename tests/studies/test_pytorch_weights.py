"""Weights as files, from PyTorch to a run and from a trained run to PyTorch: the same network."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import harness
from ddpm_jax.interop import from_torch, to_torch
from ddpm_jax.runs.record import Run

torch = pytest.importorskip("torch")
safetensors_torch = importlib.import_module("safetensors.torch")
reference = importlib.import_module("studies.pytorch_reference")

X = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
T = np.arange(200) % 20  # the times of the tiny run


def assert_same_network(params, apply, model):
    with torch.no_grad():
        theirs = model(torch.from_numpy(X), torch.from_numpy(T)).numpy()
    # Sums of some hundred terms, each with float32's rounding of 6e-8, in six layers.
    ours = apply(params, jnp.asarray(X), jnp.asarray(T))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of train.py with the original's layers, which is what the reference can be."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    settings = harness.arguments(out, width=16, depth=3, time_width=50, epochs=1, milestones=(1,))
    done = harness.run(out.with_suffix(".log"), "train", settings)
    assert done.status == 0, done.err
    return out


@pytest.mark.slow
def test_a_run_leaves_for_pytorch(trained, tmp_path):
    run = Run.load(trained)
    _, params = run.load_params(trained)
    safetensors.numpy.save_file(to_torch(params), tmp_path / "weights.safetensors")
    model = reference.Denoiser(width=16)
    before = model.out.weight.clone()
    model.load_state_dict(safetensors_torch.load_file(tmp_path / "weights.safetensors"))
    assert not torch.equal(model.out.weight, before)
    assert_same_network(params, run.apply(), model)


@pytest.mark.slow
def test_pytorchs_weights_come_to_a_run(trained, tmp_path):
    torch.manual_seed(1)
    model = reference.Denoiser(width=16)
    safetensors_torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    params = from_torch(safetensors.numpy.load_file(tmp_path / "weights.safetensors"))
    run = Run.load(trained)
    assert jax.tree.structure(params) == jax.tree.structure(run.load_params(trained)[1])
    assert_same_network(params, run.apply(), model)
