"""Metrics against closed forms, brute force, independent solvers and theorems."""

import math

import numpy as np
import pytest
import scipy
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel

from ddpm_jax.quality import metrics
from ddpm_jax.quality.metrics import (
    classifier_two_sample,
    energy_distance,
    far_fraction,
    isolated_fraction,
    mmd_rbf,
    sliced_wasserstein,
    total_variation,
    uncovered_fraction,
    wasserstein2,
)
from exact import exactly


def assignment_wasserstein2(x, y):
    """Sets of sizes n and m are sets of size n m with repeats: the plan is then a permutation."""
    cost = cdist(np.repeat(x, len(y), axis=0), np.repeat(y, len(x), axis=0), "sqeuclidean")
    return math.sqrt(cost[linear_sum_assignment(cost)].mean())


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize(("n", "m"), [(12, 12), (9, 6), (4, 7)])
def test_wasserstein2_is_the_best_assignment(rng, n, m, dim):
    x, y = rng.normal(size=(n, dim)), rng.normal(1, 2, size=(m, dim))
    assert wasserstein2(x, y) == exactly(assignment_wasserstein2(x, y))


@pytest.mark.parametrize(
    "scatter",
    [
        lambda rng: rng.normal(size=(60, 3)),
        lambda rng: rng.integers(0, 2, size=(60, 3)).astype(float),  # costs that tie
        lambda rng: rng.standard_cauchy(size=(60, 3)),  # costs of many orders of magnitude
        lambda rng: np.where(rng.uniform(size=(60, 1)) < 0.1, 1e90, rng.normal(size=(60, 3))),
        lambda rng: 1e-160 * rng.normal(size=(60, 3)),  # squares at the least float's edge
        lambda rng: np.zeros((60, 3)),
    ],
)
def test_wasserstein2_is_exact_whatever_its_start(rng, scatter):
    x, y = scatter(rng), scatter(rng)
    cost = cdist(x, y, "sqeuclidean")
    best = math.sqrt(cost[linear_sum_assignment(cost)].mean())
    # Costs are differences of squares: what rounding leaves of the largest is the tolerance.
    assert wasserstein2(x, y) == pytest.approx(best, rel=1e-7, abs=1e-8 * math.sqrt(cost.max()))


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_distances_of_a_shift(rng, dim):
    x, shift = rng.normal(size=(150, dim)), np.arange(1, dim + 1) / 2
    length = np.linalg.norm(shift)
    assert wasserstein2(x, rng.permutation(x) + shift) == exactly(length)
    # E (θ·s)² = ‖s‖²/D over whole orthonormal frames: 240 projections are whole frames at each D.
    sliced = sliced_wasserstein(x, rng.permutation(x) + shift, num_projections=240)
    assert sliced == exactly(length / math.sqrt(dim))


def test_wasserstein_distances_of_gaussians(rng):
    mean, n = np.array([3.0, 1.0]), 1000
    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[0.5, -0.2], [-0.2, 1.5]])
    x = rng.multivariate_normal(np.zeros(2), a, n)
    y = rng.multivariate_normal(mean, b, n)
    root = scipy.linalg.sqrtm(a)
    bures = np.trace(a + b - 2 * scipy.linalg.sqrtm(root @ b @ root))
    # The mean shift dominates; its standard error is about √((2 + 0.5)/1000) = 0.05: three of them.
    assert wasserstein2(x, y) == pytest.approx(math.sqrt(mean @ mean + bures), abs=0.15)

    angles = np.linspace(0, np.pi, 1000, endpoint=False)
    u = np.stack([np.cos(angles), np.sin(angles)])
    deviations = [np.sqrt(np.sum(u * (c @ u), axis=0)) for c in (a, b)]
    sliced = math.sqrt(np.mean((mean @ u) ** 2 + (deviations[0] - deviations[1]) ** 2))
    # The same error over √2, the factor between a shift's two distances.
    assert sliced_wasserstein(x, y) == pytest.approx(sliced, abs=0.1)


def test_sliced_wasserstein_in_the_plane_knows_no_axes(rng):
    x, y = rng.normal(size=(50, 2)), rng.normal(size=(30, 2)) ** 2
    c, s = math.cos(np.pi / 8), math.sin(np.pi / 8)
    turn = np.array([[c, -s], [s, c]])  # maps 8 equally spaced lines to each other
    turned = sliced_wasserstein(x @ turn, y @ turn, num_projections=8)
    assert turned == exactly(sliced_wasserstein(x, y, num_projections=8))


def test_sliced_wasserstein_in_space_takes_its_directions_from_the_seed(rng):
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(60, 4)) ** 2
    values = [sliced_wasserstein(x, y, num_projections=16, seed=seed) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_energy_distance_in_one_dimension_is_the_square_of_scipys(rng):
    x, y = rng.normal(size=(50, 1)), rng.normal(0.5, 2, size=(70, 1))
    reference = scipy.stats.energy_distance(x[:, 0], y[:, 0])
    assert energy_distance(x, y) == exactly(reference**2)


def test_energy_distance_by_a_double_loop_in_blocks_of_any_size(rng, monkeypatch):
    x, y = rng.normal(size=(13, 3)), rng.normal(size=(8, 3)) + 0.3

    def mean(a, b):
        return sum(math.dist(p, q) for p in a for q in b) / (len(a) * len(b))

    expected = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    for entries in (1, 30, 10**6):
        monkeypatch.setattr(metrics, "_BLOCK_ENTRIES", entries)
        assert energy_distance(x, y) == exactly(expected)


@pytest.mark.parametrize("bandwidths", [[0.7], [0.3, 1.0, 4.0], None])
def test_mmd_from_kernel_matrices(rng, bandwidths):
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(15, 3)) + 0.5
    median = np.median(scipy.spatial.distance.pdist(x))
    widths = bandwidths or [median, median / 4, median / 16]

    def kernel(a, b):
        return np.mean([rbf_kernel(a, b, gamma=1 / (2 * h * h)) for h in widths], axis=0)

    def off_diagonal_mean(k):
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    within = off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y))
    assert mmd_rbf(x, y, bandwidths) == exactly(within - 2 * kernel(x, y).mean())


def test_mmd_measures_by_points_that_differ():
    real, fake = np.array([[0.0], [0.0], [0.0], [4.0]]), np.array([[1.0], [2.0]])
    assert mmd_rbf(real, fake) == mmd_rbf(real, fake, [4.0, 1.0, 0.25])
    assert mmd_rbf(real[:3], fake) == mmd_rbf(real[:3], fake, [1.0, 0.25, 0.0625])


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_mmd_is_unbiased(rng, shift):
    h, dim, draws = 1.5, 2, 400
    x, y = rng.normal(size=(2, draws, 10, dim))
    values = [mmd_rbf(a, b + np.array([shift, 0]), [h]) for a, b in zip(x, y, strict=True)]
    # E k of a Gaussian difference N(s, 2 I) is h^D (h² + 2)^(-D/2) exp(-s² / 2(h² + 2)).
    peak = (h * h / (h * h + 2)) ** (dim / 2)
    expected = 2 * peak * (1 - math.exp(-(shift**2) / (2 * (h * h + 2))))
    # Four standard errors; counting pairs (i, i) would add 2 (1 - peak) / 10 = 0.09, over ten.
    error = float(np.std(values)) / math.sqrt(draws)
    assert np.mean(values) == pytest.approx(expected, abs=4 * error)
    assert 10 * error < 2 * (1 - peak) / 10


def unit(dim):
    return np.tile([0.0, 1.0], (dim, 1))


@pytest.mark.parametrize(
    ("fake", "expected"),
    [
        ([0.2, 0.8], 0.0),
        ([0.2, 0.8, 0.3, 0.6], 0.0),  # in the same cells, twice as many
        ([0.2, 0.3], 0.5),  # half the mass moved
        ([0.2, 7.0], 0.5),  # half of it out of the grid
        ([0.2, 0.8, 0.8, 7.0], 0.25),
        ([-5.0, 7.0], 1.0),
    ],
)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_total_variation_of_two_cells(fake, expected, dim):
    real = np.repeat([[0.1], [0.9]], dim, axis=1)
    fake = np.repeat(np.array(fake)[:, None], dim, axis=1)
    # Every pair of equal columns has the same two occupied cells.
    assert total_variation(real, fake, bins=2, extent=unit(dim)) == exactly(expected)
    assert total_variation(fake, real, bins=2, extent=unit(dim)) == exactly(expected)


def test_total_variation_counts_two_sets_outside_as_together():
    real, fake = np.full((4, 2), 3.0), np.full((6, 2), -3.0)
    assert total_variation(real, fake, extent=unit(2)) == 0


@pytest.mark.parametrize(("changed", "share"), [(2, 2 / 3), (11, 0.0)])
def test_total_variation_is_the_mean_over_pairs_of_ten_columns(changed, share):
    dim = 3 if changed == 2 else 12
    real, fake = np.full((5, dim), 0.25), np.full((5, dim), 0.25)
    fake[:, changed] = 0.75
    assert total_variation(real, fake, bins=2, extent=unit(dim)) == exactly(share)


@pytest.mark.parametrize(("place", "expected"), [(1.09, 0.0), (1.11, 1.0), (-1.11, 1.0)])
def test_total_variation_widens_the_data_box_by_a_twentieth_a_side(place, expected):
    real = np.array([[-1.0, 4.0], [1.0, 4.0]])  # the second column, constant, gets +-0.5
    assert total_variation(real, np.array([[place, 4.4]] * 2), bins=1) == expected
    assert total_variation(real, np.array([[place, 4.6]] * 2), bins=1) == 1


@pytest.mark.parametrize("radius", [None, 0.0, 0.05, 0.3])
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_far_and_uncovered_fractions_by_brute_force(rng, radius, dim):
    real, fake = rng.uniform(-1, 1, size=(90, dim)), rng.uniform(-1, 1, size=(40, dim))
    fake[:10] = real[:10] + 0.004 / dim
    fake[10] = real[10]
    real[:2, 0] = -1, 1  # hence the default radius, 0.01
    distances = cdist(fake, real)
    limit = 0.01 if radius is None else radius
    assert far_fraction(real, fake, radius) == np.mean(distances.min(axis=1) > limit)
    assert uncovered_fraction(real, fake, radius) == np.mean(distances.min(axis=0) > limit)


@pytest.mark.parametrize("radius", [None, 0.0, 0.3])
def test_isolated_fraction_leaves_each_point_out(rng, radius):
    real = rng.uniform(-1, 1, size=(60, 2))
    real[:4] = [[-1, 0], [1, 0], [0.5, 0.5], [0.5, 0.5]]  # the default radius is 0.01; and a pair
    rest = [far_fraction(np.delete(real, i, 0), real[[i, i]], radius or 0.01) for i in range(60)]
    if radius == 0:
        assert isolated_fraction(real, radius) == 58 / 60
    else:
        assert isolated_fraction(real, radius) == exactly(np.mean(rest))


@pytest.mark.medium
@pytest.mark.parametrize("dim", [2, 10])
def test_classifier_neither_guesses_nor_beats_the_best_one(rng, dim):
    n = 1500
    x = rng.normal(size=(3, n, dim))
    shift = np.full(dim, 1.5 / math.sqrt(dim))
    best = scipy.stats.norm.cdf(1.5 / 2)  # of two unit Gaussians 1.5 apart
    # Four binomial standard errors of 2 n labels; twice that at 0.5, as folds share their points.
    error = 4 * math.sqrt(0.25 / (2 * n))
    assert classifier_two_sample(x[0], x[1]) == pytest.approx(0.5, abs=2 * error)
    # Finite data cost trees a few per cent of accuracy, never gain any.
    assert best - 0.06 < classifier_two_sample(x[0], x[2] + shift) < best + error
    assert classifier_two_sample(x[0], x[1] + 20) == pytest.approx(1, abs=0.001)


def test_classifier_sees_fine_detail(rng):
    square = rng.uniform(size=(6000, 2))
    stripes = rng.uniform(size=(6000, 2))
    stripes[:, 0] = (rng.integers(0, 20, 6000) + stripes[:, 0] / 2) / 20
    # The best rule, "in a stripe or not", is right for all of one set and half of the other.
    # Trees of 6,000 points blur the edges, a few per cent; above, four binomial errors.
    assert 0.7 < classifier_two_sample(stripes, square) < 0.75 + 0.02


def test_classifier_thins_the_larger_set_at_random(rng):
    many, few = np.sort(rng.normal(size=(3000, 1)), axis=0), rng.normal(size=(500, 1))
    # Always answering "many" would score 6/7, and the first 500 of the sorted points lie apart.
    # Eight binomial standard errors of 1,000 labels, which share points and folds.
    assert classifier_two_sample(many, few) == pytest.approx(0.5, abs=0.13)
    assert classifier_two_sample(few, many) == pytest.approx(0.5, abs=0.13)


def test_distances_may_be_sums_over_columns(rng):
    x, y = rng.normal(size=(12, 3)), rng.normal(1, 2, size=(12, 3))
    apart = np.abs(x[:, None] - y[None]).sum(axis=2)
    within = [np.abs(a[:, None] - a[None]).sum(axis=2).mean() for a in (x, y)]
    assert energy_distance(x, y, norm=1) == exactly(2 * apart.mean() - sum(within))
    assigned = apart[linear_sum_assignment(apart**2)]
    assert wasserstein2(x, y, norm=1) == exactly(math.sqrt((assigned**2).mean()))
    assert far_fraction(x, y, 1.5, norm=1) == np.mean(apart.min(axis=0) > 1.5)
    assert uncovered_fraction(x, y, 1.5, norm=1) == np.mean(apart.min(axis=1) > 1.5)
