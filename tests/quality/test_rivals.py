"""The rivals' densities against closed forms, their samples against their densities."""

import numpy as np
import pytest
import scipy
from scipy.stats import multivariate_normal, norm

from ddpm_jax import gmm
from ddpm_jax.errors import InputError
from ddpm_jax.quality.rivals import KernelDensity, Mixture, fit_kernel_density, fit_rivals

GAUSSIANS = gmm.Gaussians(
    np.array([0.25, 0.75]),
    np.array([[0.0, 0.0], [4.0, -2.0]]),
    np.array([[[2.0, 0.5], [0.5, 1.0]], [[0.5, -0.2], [-0.2, 1.5]]]),
    "full",
)


def test_a_mixture_has_the_density_of_its_gaussians(rng):
    rows = rng.normal(0, 3, size=(40, 2))
    parts = zip(GAUSSIANS.weights, GAUSSIANS.means, GAUSSIANS.covariances, strict=True)
    expected = sum(w * multivariate_normal(m, c).pdf(rows) for w, m, c in parts)
    np.testing.assert_allclose(Mixture(GAUSSIANS).log_prob(rows), np.log(expected))


def test_a_mixture_s_samples_have_its_moments():
    w, m, c = GAUSSIANS.weights, GAUSSIANS.means, GAUSSIANS.covariances
    mean = w @ m
    covariance = np.tensordot(w, c, 1) + (m - mean).T @ np.diag(w) @ (m - mean)
    rows = Mixture(GAUSSIANS).sample(40_000, seed=1)
    # Standard errors: of a mean √(4/40,000) = 0.01, of a covariance at most some 0.03; four each.
    np.testing.assert_allclose(rows.mean(axis=0), mean, atol=0.04)
    np.testing.assert_allclose(np.cov(rows.T), covariance, atol=0.12)


def test_a_kernel_density_is_the_mean_of_its_kernels(rng):
    centres, rows = rng.normal(size=(7, 3)), rng.normal(size=(1500, 3))
    kernels = [multivariate_normal(c, 0.3**2 * np.eye(3)).pdf(rows) for c in centres]
    found = KernelDensity(centres, 0.3).log_prob(rows)
    np.testing.assert_allclose(found, np.log(np.mean(kernels, axis=0)))
    # So far away that every kernel underflows: log p is still that of the nearest one.
    far = KernelDensity(centres[:1], 0.3).log_prob(np.full((1, 3), 1000.0))
    square = np.sum((1000 - centres[0]) ** 2) / 0.3**2
    np.testing.assert_allclose(far, -square / 2 - 3 * np.log(0.3 * np.sqrt(2 * np.pi)))


def test_the_width_is_near_the_best_one_for_a_gaussian(rng):
    # What the widest of the best widths could be: Scott's rule is optimal for a Gaussian in squared
    # error, and likelihood prefers somewhat wider kernels; a factor of two either way holds both.
    n, dim = 500, 2
    scott = n ** (-1 / (dim + 4))
    assert scott / 2 < fit_kernel_density(rng.normal(size=(n, dim))).width < 2 * scott


def test_left_out_rows_choose_the_width(rng):
    rows = rng.normal(size=(30, 1))
    found = fit_kernel_density(rows)

    def left_out(width):
        kernels = norm.pdf(rows, rows.T, width)
        np.fill_diagonal(kernels, 0)
        return np.log(kernels.sum(axis=1) / 29).mean()

    best = scipy.optimize.minimize_scalar(lambda u: -left_out(np.exp(u)), (-3.0, -1.0)).x
    # Neighbours of the finer grid are a factor of 1.14 apart: half a step, with room for rounding.
    assert abs(np.log(found.width) - best) < 0.1


def test_rivals_know_their_units(rng):
    rows = rng.normal(size=(400, 2))
    units, shift = np.array([1000.0, 0.01]), np.array([-5.0, 7.0])
    for own, other in zip(fit_rivals(rows), fit_rivals(rows * units + shift), strict=True):
        assert own.name == other.name
        np.testing.assert_allclose(own.sample(50, 3) * units + shift, other.sample(50, 3))
        expected = own.log_prob(rows) - np.log(units).sum()  # the change of variables
        np.testing.assert_allclose(other.log_prob(rows * units + shift), expected)


@pytest.mark.parametrize("index", [0, 1])
def test_rivals_densities_integrate_to_one(rng, index):
    rival = fit_rivals(rng.normal(3, 2, size=(60, 1)))[index]
    grid = np.linspace(-30, 40, 20_001)
    # The trapezoid rule on steps of 0.0035, far finer than any kernel; the tails are nil.
    mass = np.trapezoid(np.exp(rival.log_prob(grid[:, None])), grid)
    assert mass == pytest.approx(1, abs=1e-6)


def test_a_constant_column_is_refused_by_number():
    with pytest.raises(InputError, match="column 1"):
        fit_rivals(np.array([[0.0, 2.0], [1.0, 2.0]]))


def test_two_rows_are_enough():
    for rival in fit_rivals(np.array([[0.0, 1.0], [1.0, 3.0]])):
        assert np.isfinite(rival.sample(5)).all()
        assert np.isfinite(rival.log_prob(rival.sample(5))).all()
