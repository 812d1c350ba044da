"""The mixture under the network: its density, its noised scores, and a fitted one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ddpm_jax import gmm
from ddpm_jax.diffusion.process import diffuse
from ddpm_jax.diffusion.schedules import sigmoid
from ddpm_jax.networks import mixture as mixtures


def a_mixture(rng, count=3, dim=2, dtype=jnp.float32):
    """Weights, means and covariances in NumPy, and the mixture of them."""
    weights, means = rng.dirichlet(np.ones(count)), rng.normal(size=(count, dim))
    roots = rng.normal(size=(count, dim, dim)) / 2
    covariances = roots @ roots.transpose(0, 2, 1) + 0.05 * np.eye(dim)
    variances, axes = np.linalg.eigh(covariances)
    arrays = (jnp.asarray(a, dtype) for a in (np.log(weights), means, axes, variances))
    return (weights, means, covariances), mixtures.Mixture(*arrays)


def scipy_density(weights, means, covariances, x):
    parts = [
        w * stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return np.sum(parts, axis=0)


def test_log_prob_is_that_of_scipys_gaussians(rng, x64):
    exact, mixture = a_mixture(rng, dtype=jnp.float64)
    x = rng.normal(size=(7, 2))
    found = mixtures.log_prob(mixture, jnp.asarray(x))
    # Both in float64: a few roundings of logarithms of size 10.
    np.testing.assert_allclose(found, np.log(scipy_density(*exact, x)), rtol=1e-12, atol=1e-12)


@pytest.mark.medium
@pytest.mark.parametrize("t", [0, 300, 700, 999])
def test_denoiser_is_the_gradient_of_the_noised_density(rng, x64, t):
    """ε* = -√(1 - ᾱ) ∇ log p_t, with p_t written out by its means and covariances."""
    (weights, means, covariances), mixture = a_mixture(rng, dtype=jnp.float64)
    schedule = sigmoid(dtype=jnp.float64)
    signal, noise = float(schedule.alpha_bars[t]), float(schedule.one_minus_alpha_bars[t])
    noised = signal * covariances + noise * np.eye(2)

    def log_density(x):
        parts = [
            jnp.log(w) + jax.scipy.stats.multivariate_normal.logpdf(x, np.sqrt(signal) * m, c)
            for w, m, c in zip(weights, means, noised, strict=True)
        ]
        return jax.nn.logsumexp(jnp.stack(parts))

    x = jnp.asarray(rng.normal(size=(5, 2)))
    expected = -np.sqrt(noise) * jax.vmap(jax.grad(log_density))(x)
    found = mixtures.mixture_denoiser(schedule, mixture)(x, jnp.asarray(t))
    # Float64, with squares up to 1e4 in the least noise under the exponential.
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.medium
def test_one_component_is_the_gaussian_closed_form(x64):
    """ε* = √(1 - ᾱ) (x - √ᾱ μ) / (ᾱ s² + 1 - ᾱ), for data N(μ, s²)."""
    schedule = sigmoid(dtype=jnp.float64)
    one = mixtures.Mixture(
        jnp.zeros(1), jnp.full((1, 1), 0.7), jnp.ones((1, 1, 1)), jnp.full((1, 1), 0.09)
    )
    t, x = jnp.arange(0, 1000, 111), jnp.linspace(-2, 2, 10)[:, None]
    signal, noise = schedule.alpha_bars[t][:, None], schedule.one_minus_alpha_bars[t][:, None]
    expected = jnp.sqrt(noise) * (x - jnp.sqrt(signal) * 0.7) / (signal * 0.09 + noise)
    found = mixtures.mixture_denoiser(schedule, one)(x, t)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.medium
def test_times_may_be_shared_by_points(rng):
    """The same for t of shape [], [n] and [groups, 1], as the network takes them."""
    _, mixture = a_mixture(rng)
    denoise = mixtures.mixture_denoiser(sigmoid(), mixture)
    x = jnp.asarray(rng.normal(size=(6, 2)), jnp.float32)
    each = denoise(x, jnp.full((6,), 400))
    grouped = denoise(x.reshape(2, 3, 2), jnp.full((2, 1), 400)).reshape(6, 2)
    # The same sums in float32, which may be compiled in another order.
    np.testing.assert_allclose(denoise(x, jnp.asarray(400)), each, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grouped, each, rtol=1e-5, atol=1e-6)


@pytest.mark.medium
def test_it_is_the_best_denoiser_of_its_own_samples(rng, key):
    """The posterior mean: no multiple of it, and no shift, has a smaller loss."""
    (weights, means, covariances), mixture = a_mixture(rng)
    chosen = rng.choice(3, 20_000, p=weights)
    roots = np.linalg.cholesky(covariances)
    x0 = means[chosen] + np.einsum("nij,nj->ni", roots[chosen], rng.normal(size=(20_000, 2)))
    schedule, t = sigmoid(), jnp.full((20_000,), 450)
    eps = jax.random.normal(key, x0.shape)
    x_t = diffuse(schedule, jnp.asarray(x0, jnp.float32), t, eps)
    found = mixtures.mixture_denoiser(schedule, mixture)(x_t, t)
    best = float(jnp.mean((eps - found) ** 2))
    # A tenth off costs 1 % of E ε̂², five times what 20,000 draws leave in doubt.
    for other in (0.9 * found, 1.1 * found, 0.1 + found):
        assert float(jnp.mean((eps - other) ** 2)) > best


def test_memory_grows_with_components_times_columns_and_not_with_their_square():
    """30 components in 150 columns: a thousand points need no [n, K, d, d], which is 2.7 GB."""
    shapes = (30,), (30, 150), (30, 150, 150), (30, 150)
    mixture = mixtures.Mixture(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
    x, t = jax.ShapeDtypeStruct((1000, 150), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    run = jax.jit(lambda m, x, t: mixtures.mixture_denoiser(sigmoid(), m)(x, t))
    memory = run.lower(mixture, x, t).compile().memory_analysis()
    # [n, K, d] is 18 MB; a handful of them are alive at once.
    assert memory.temp_size_in_bytes < 8 * 4 * 1000 * 30 * 150


def test_a_fitted_mixture_keeps_its_density(rng):
    """By axes and variances, what scikit-learn's weights, means and covariances say."""
    points = np.concatenate([rng.normal(size=(150, 2)), [4, 0] + 0.3 * rng.normal(size=(150, 2))])
    found = gmm.least_bic(points, seed=0)
    expected = np.log(scipy_density(found.weights, found.means, found.covariances, points))
    density = mixtures.log_prob(mixtures.mixture_of(found), jnp.asarray(points, jnp.float32))
    # Squares of up to 20 widths, in float32.
    np.testing.assert_allclose(density, expected, rtol=1e-4, atol=1e-3)


def test_what_lies_under_a_network_is_what_was_asked_for(rng):
    rows = np.concatenate([rng.normal(size=(100, 2)), rng.normal([20, 0], 1, (100, 2))])
    assert mixtures.fit_base("none", rows, seed=0) is None
    assert mixtures.fit_base(None, rows, seed=0) is None
    for kind, count, components in (("gaussian", None, 1), ("mixture", None, 2), ("mixture", 3, 3)):
        assert mixtures.fit_base(kind, rows, 0, count).log_weights.shape == (components,)


ODD = {
    "two equal rows": lambda rng: np.ones((2, 3)),
    "two rows of many columns": lambda rng: rng.normal(size=(2, 40)),
    "duplicates": lambda rng: np.repeat(rng.normal(size=(3, 2)), 50, axis=0),
    "a constant column": lambda rng: np.c_[rng.normal(size=(60, 2)), np.zeros(60)],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_give_finite_noise(rng, name):
    """At the least noise and at the data themselves, where a component without width would not."""
    points = ODD[name](rng)
    mixture = mixtures.mixture_of(gmm.least_bic(points, seed=0))
    denoise = mixtures.mixture_denoiser(sigmoid(), mixture)
    eps = denoise(jnp.asarray(points, jnp.float32), jnp.asarray(0))
    assert bool(jnp.isfinite(eps).all())


@pytest.mark.medium
@pytest.mark.parametrize("t", [0, 500, 999])
def test_a_told_mixture_is_that_of_the_conditional_law(rng, x64, t):
    """A word of three levels and a number: weights w_k p(word | k) N(number; m_k, v_k)."""
    _, mixture = a_mixture(rng, dtype=jnp.float64)
    schedule, shares = sigmoid(dtype=jnp.float64), rng.dirichlet(np.ones(3), 3)
    means, variances = rng.normal(size=3), rng.uniform(0.1, 1, 3)
    logs = np.log(shares.T)
    number = -0.5 * (means**2 / variances + np.log(variances)), means / variances, -0.5 / variances
    told = [
        np.stack([*word, part])
        for word, part in zip((logs / 2, logs, 0 * logs), number, strict=True)
    ]
    x, c = jnp.asarray(rng.normal(size=(4, 2))), rng.normal(size=4)
    levels = np.array([0, 1, 2, 0])
    given = np.concatenate([np.eye(3)[levels] - 0.5, c[:, None]], axis=1)
    given[3, :3] = np.nan  # The last row knows its number only.
    found = mixtures.mixture_denoiser(
        schedule, mixture._replace(told=jnp.asarray(told)), jnp.asarray(given)
    )(x, jnp.asarray(t))
    for i in range(4):
        log_weights = mixture.log_weights + stats.norm(means, np.sqrt(variances)).logpdf(c[i])
        if i < 3:
            log_weights = log_weights + np.log(shares[:, levels[i]])
        alone = mixtures.mixture_denoiser(schedule, mixture._replace(log_weights=log_weights))
        # Float64; a common factor of the weights is no matter.
        np.testing.assert_allclose(
            found[i], alone(x[i : i + 1], jnp.asarray(t))[0], rtol=1e-8, atol=1e-8
        )
