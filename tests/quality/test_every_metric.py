"""What holds for every metric: symmetry, errors, the settings that fit a number of points."""

import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import scipy

from ddpm_jax.errors import InputError
from ddpm_jax.quality.metrics import (
    bins_for,
    classifier_two_sample,
    energy_distance,
    far_fraction,
    isolated_fraction,
    mmd_rbf,
    neighbour_radius,
    quick,
    quick_floor,
    sliced_wasserstein,
    total_variation,
    uncovered_fraction,
    wasserstein2,
)
from exact import exactly

SYMMETRIC = [wasserstein2, sliced_wasserstein, energy_distance]
SHARES = [total_variation, far_fraction, uncovered_fraction]
METRICS = [*SYMMETRIC, *SHARES, mmd_rbf, classifier_two_sample]


@pytest.mark.parametrize("metric", SYMMETRIC)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_distances_are_symmetric_and_vanish_between_equal_sets(rng, metric, dim):
    x, y = rng.normal(size=(40, dim)), rng.normal(size=(25, dim))
    assert metric(x, y) == exactly(metric(y, x))
    assert metric(x, y) > 0.01  # a draw that close has no chance
    # A difference of sums of order 1, in float64; the square root halves the digits.
    assert metric(x, rng.permutation(x)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("metric", [*METRICS, quick])
def test_metrics_take_any_array_and_repeat(rng, metric):
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 2))
    x, y = x.astype(np.float32), y.astype(np.float32)
    assert metric(x, y) == metric(jnp.asarray(x), np.asfortranarray(y, dtype=np.float64))


GOOD = np.zeros((4, 2)) + np.arange(4)[:, None]


@pytest.mark.parametrize("metric", [*METRICS, quick])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((1, 2)), r"shape \(1, 2\)"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        (np.zeros((3, 3)), "as many columns"),
        (np.array([[0, 0], [np.nan, 0]]), "row 1"),
        (np.array([[-np.inf, 0], [0, 0]]), "row 0"),
        (np.array([[0, 0], [0, 1e200]]), "row 1"),
        (np.array([["a", "b"], ["c", "d"]]), "real numbers"),
        (np.array([[0, 0], [0]], dtype=object), "real numbers"),
    ],
)
def test_bad_points_are_named(metric, bad, message):
    with pytest.raises(InputError, match=message):
        metric(GOOD, bad)
    with pytest.raises(InputError, match=message):
        metric(bad, GOOD)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wasserstein2(np.zeros((10_001, 2)), GOOD), "10,001 and 4 points.* equally many"),
        (lambda: wasserstein2(np.zeros((150, 2)), np.zeros((101, 2))), "15,150"),  # 150 x 101
        (lambda: sliced_wasserstein(GOOD, GOOD, num_projections=0), "num_projections"),
        (lambda: mmd_rbf(GOOD, GOOD, []), "bandwidths"),
        (lambda: mmd_rbf(GOOD, GOOD, [1.0, -1.0]), "bandwidths"),
        (lambda: total_variation(GOOD, GOOD, bins=0), "bins"),
        (lambda: total_variation(GOOD, GOOD, extent=np.array([[0.0, 1.0]])), "2 pairs"),
        (lambda: total_variation(GOOD, GOOD, extent=np.ones((2, 2))), "low < high"),
        (lambda: far_fraction(GOOD, GOOD, -1.0), "radius"),
        (lambda: uncovered_fraction(GOOD, GOOD, math.nan), "radius"),
        (lambda: isolated_fraction(GOOD, -1.0), "radius"),
        (lambda: quick_floor(GOOD, 1), "n must"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def mean_total_variation_of_redraws(shares, n):
    """½ Σ E|Binomial(n, p)/n − p|, De Moivre's mean absolute deviation, 2 m (1 − p) P(X = m)."""
    m = np.floor(n * shares) + 1
    return np.sum(m * (1 - shares) * scipy.stats.binom.pmf(m, n, shares)) / n


def test_floor_of_total_variation_is_de_moivres(rng):
    real, n = rng.normal(size=(5000, 2)), 1000
    low, high = real.min(axis=0), real.max(axis=0)
    cells = np.floor((real - low + 0.05 * (high - low)) / (1.1 * (high - low)) * 100)
    _, counts = np.unique(cells, axis=0, return_counts=True)
    expected = mean_total_variation_of_redraws(counts / 5000, n)
    floors = [quick_floor(real, n, seed)["total_variation"] for seed in range(20)]
    # One redrawn point moves the distance by at most 1/n, so (Efron-Stein) its deviation is below
    # √(1/n) / √2 = 0.023; four of those over √20.
    assert np.mean(floors) == pytest.approx(expected, abs=0.02)


def test_quick_is_its_two_metrics(rng):
    x, y = rng.normal(size=(300, 2)), rng.normal(size=(200, 2)) ** 2
    values = quick(x, y)
    assert values["total_variation"] == total_variation(x, y)
    # Equally spaced angles: the trapezoid rule of a smooth periodic function, 64 nodes or 256.
    assert values["sliced_wasserstein"] == pytest.approx(sliced_wasserstein(x, y), rel=1e-3)
    more = quick(x, y, projections=256)
    assert more["sliced_wasserstein"] == sliced_wasserstein(x, y) != values["sliced_wasserstein"]


def test_a_quick_floor_repeats_for_a_seed_and_varies_over_seeds(rng):
    real = rng.normal(size=(60, 1))
    assert quick_floor(real, 20, 0) == quick_floor(real, 20, 0) != quick_floor(real, 20, 1)


def test_a_tenth_of_points_is_farther_than_the_radius_from_the_others(rng):
    real = rng.normal(size=(500, 3))
    share = isolated_fraction(real, neighbour_radius(real))
    assert share == pytest.approx(0.1, abs=1 / 500)  # the quantile lies between two of 500


@pytest.mark.parametrize(("n", "dim", "bins"), [(200, 2, 10), (200, 1, 100), (8, 5, 2), (1, 1, 2)])
def test_cells_hold_two_points_each_where_they_can(n, dim, bins):
    assert bins_for(n, dim) == bins


def test_bins_keep_the_floor_of_total_variation(rng):
    for n in (200, 5000):
        x, y = rng.uniform(size=(2, n, 2))
        found = total_variation(x, y, bins_for(n, 2), np.array([[0.0, 1.0]] * 2))
        # A difference of two Poisson counts of mean 2 (Skellam), absolute, over 2 · 2: 0.38 or so;
        # the sum of n/2 such has a relative deviation of some 1/√n.
        k = np.arange(1, 30)
        expected = 2 * np.sum(k * scipy.stats.skellam.pmf(k, 2, 2)) / 4
        assert found == pytest.approx(expected, rel=4 / math.sqrt(n))


def test_importing_the_metrics_brings_neither_scikit_learn_nor_another_array_library():
    program = """
import sys
import ddpm_jax.quality.metrics
assert not {"sklearn", "torch", "ot"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
