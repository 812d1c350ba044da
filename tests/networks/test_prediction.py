"""From a network's eps, x0 or v to the noise, alone and over a mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.process import denoising_loss, diffuse
from ddpm_jax.diffusion.schedules import sigmoid
from ddpm_jax.networks import prediction
from ddpm_jax.networks.denoiser import Denoiser
from ddpm_jax.networks.mixture import Mixture, mixture_denoiser

SCHEDULE = sigmoid(50, k=6.0)


@pytest.fixture
def batch(rng, key):
    """x0, t, ε and x_t, two groups of three points that share a time."""
    x0 = jnp.asarray(rng.normal(size=(2, 3, 2)), jnp.float32)
    t, eps = jnp.array([[3], [40]]), jax.random.normal(key, (2, 3, 2))
    return x0, t, eps, diffuse(SCHEDULE, x0, t, eps)


def gaussian():
    return Mixture(jnp.zeros(1), jnp.ones((1, 2)), jnp.eye(2)[None], jnp.full((1, 2), 0.3))


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_a_network_that_is_right_gives_the_noise(batch, kind):
    """Told the true ε, x0 or v = √ᾱ ε - √(1 - ᾱ) x0, the wrapper gives back ε."""
    x0, t, eps, x_t = batch
    signal = jnp.sqrt(SCHEDULE.alpha_bars[t])[..., None]
    noise = jnp.sqrt(SCHEDULE.one_minus_alpha_bars[t])[..., None]
    truth = {"eps": eps, "x0": x0, "v": signal * eps - noise * x0}[kind]
    apply = prediction.predicting(lambda params, x, t: truth, SCHEDULE, kind)
    # x0 is divided by noise of 0.06 at t = 3: sixteen roundings of float32.
    np.testing.assert_allclose(apply({}, x_t, t), eps, rtol=1e-4, atol=1e-5)


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_over_a_mixture_a_network_of_zeros_is_the_mixture(batch, key, kind):
    _, t, _, x_t = batch
    network = Denoiser(dim=2, width=8, depth=1)
    params = network.init(key, jnp.zeros((1, 2)), jnp.zeros((1,), jnp.int32))["params"]
    params = prediction.with_base(params, gaussian())
    apply = prediction.predicting(
        lambda params, x, t: network.apply({"params": params}, x, t), SCHEDULE, kind
    )
    expected = mixture_denoiser(SCHEDULE, gaussian())(x_t, t)
    np.testing.assert_allclose(apply(params, x_t, t), expected, rtol=1e-6)


@pytest.mark.medium
def test_the_mixture_is_not_trained_and_the_network_is(batch, key):
    _, t, eps, x_t = batch
    network = Denoiser(dim=2, width=8, depth=1)
    params = network.init(key, jnp.zeros((1, 2)), jnp.zeros((1,), jnp.int32))["params"]
    params = prediction.with_base(params, gaussian())
    apply = prediction.predicting(
        lambda params, x, t: network.apply({"params": params}, x, t), SCHEDULE
    )
    grads = jax.grad(lambda p: jnp.mean((apply(p, x_t, t) - eps) ** 2))(params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(grads[prediction.BASE]))
    assert grads["out"]["kernel"].any()


def test_without_a_mixture_eps_is_the_networks_output_to_the_bit(batch):
    """So that runs of version 0.1 keep every bit."""
    _, t, eps, x_t = batch
    apply = prediction.predicting(lambda params, x, t: eps, SCHEDULE)
    np.testing.assert_array_equal(apply({}, x_t, t), eps)


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("base", [None, gaussian()])
def test_missing_cells_leave_loss_and_gradient_finite(batch, key, kind, base):
    x0, t, eps, _ = batch
    x0 = x0.at[0, 1, 0].set(jnp.nan).at[1, 2].set(jnp.nan)
    network = Denoiser(dim=2, width=8, depth=1, missing=True)
    params = network.init(key, jnp.zeros((1, 2)), jnp.zeros((1,), jnp.int32))["params"]
    params = prediction.with_base(params, base)
    apply = prediction.predicting(
        lambda p, x, t: network.apply({"params": p}, x, t), SCHEDULE, kind
    )

    def loss(params):
        denoise = lambda x, t: apply(params, x, t)  # noqa: E731
        return denoising_loss(SCHEDULE, denoise, x0, t, eps, missing=True)

    value, gradient = jax.value_and_grad(loss)(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.medium
def test_network_and_mixture_are_told_the_same(batch):
    """A component at -1 for words a, at 1 for b: each with its own the mixture is one Gaussian."""
    _, t, _, x_t = batch
    means = jnp.array([[-1.0, -1.0], [1.0, 1.0]])
    parts = jnp.log(jnp.full(2, 0.5)), means, jnp.stack([jnp.eye(2)] * 2), jnp.full((2, 2), 0.3)
    # log p(c | k) = ±30 c with c = ±1/2: beyond rounding, a's weight or b's is all.
    told = jnp.zeros((3, 1, 2)).at[1, 0].set(jnp.array([-60.0, 60.0]))
    params = {"base": Mixture(*parts, told)._asdict()}
    apply = prediction.predicting(lambda params, x, t, given: 0 * x + given, SCHEDULE)
    given = jnp.full((2, 3, 1), 0.5)
    alone = Mixture(jnp.zeros(1), means[1:], parts[2][1:], parts[3][1:])
    expected = mixture_denoiser(SCHEDULE, alone)(x_t, t) + 0.5
    np.testing.assert_allclose(apply(params, x_t, t, given), expected, rtol=1e-5, atol=1e-5)
