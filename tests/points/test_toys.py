"""The toy distributions, against their definitions, scikit-learn and exact moments."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import cKDTree
from sklearn.datasets import make_moons, make_swiss_roll

from ddpm_jax.errors import ConfigError
from ddpm_jax.points import toys
from ddpm_jax.points.readers import load_points
from ddpm_jax.points.toys import TOYS, toy

N = 20_000
ALPHA = 1e-4
"""Chance that a test of a distribution fails for a right one; seeds are fixed, so it never may."""


class Noiseless(np.random.Generator):
    """Draws the same as `np.random.default_rng`, until the first normal number: those are 0."""

    def standard_normal(self, size):
        return np.zeros(size)


def noiseless(name: str, seed: int, n: int) -> np.ndarray:
    return TOYS[name](Noiseless(np.random.PCG64(seed)), n)


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_seeded(name):
    x = toy(name, 0, n=1001)
    assert x.shape == (1001, 2)
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x, toy(name, 0, n=1001))
    assert not np.isin(x, toy(name, 1, n=1001)).any()
    # In random order: each half has the mean of the whole, within 5 standard errors.
    assert (np.abs(x[:500].mean(0) - x[500:].mean(0)) < 5 * x.std(0) * (2 / 500) ** 0.5).all()


def test_toy_errors():
    with pytest.raises(ConfigError, match=r"'moon': use one of dino, moons, 8gaussians"):
        toy("moon", 0)
    for seed, n in [(0, 1), (-1, 10)]:
        with pytest.raises(ConfigError, match="at least"):
            toy("moons", seed, n=n)


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("dino", [4 * 0.15 / 54, 4 * 0.15 / 48]),
        ("moons", 2 * 0.05),
        ("8gaussians", 1),
        ("swissroll", 1 / 5),
        ("spirals", 0.1),
    ],
)
def test_toy_noise(name, std):
    noise = (toy(name, 0, n=N) - noiseless(name, 0, N)) / std
    assert stats.kstest(noise.ravel(), "norm").pvalue > ALPHA


def test_dino_is_the_datasaurus():
    outline = load_points(Path(toys.__file__).with_name("dino.csv")).to_numpy()
    # N, means, standard deviations and correlation: Matejka and Fitzmaurice, CHI 2017, figure 1.
    assert outline.shape == (142, 2)
    np.testing.assert_allclose(outline.mean(0), [54.26, 47.83], atol=0.0051)  # two decimals
    np.testing.assert_allclose(outline.std(0, ddof=1), [16.77, 26.94], atol=0.0051)
    np.testing.assert_allclose(np.corrcoef(outline.T)[0, 1], -0.06, atol=0.0051)
    distance, row = cKDTree(4 * (outline / [54, 48] - 1)).query(noiseless("dino", 0, N))
    assert distance.max() < 1e-12  # float64, values up to 4
    assert stats.chisquare(np.bincount(row, minlength=142)).pvalue > ALPHA


def test_moons_lie_on_sklearns_half_circles():
    n = 1001
    expected = 2 * make_moons(n, shuffle=False)[0] - [1, 0]
    distance, row = cKDTree(expected).query(noiseless("moons", 0, n))
    assert distance.max() < 1e-12  # float64, values up to 3
    assert len(np.unique(np.delete(row, 0))) >= n - 2  # each once, bar the end that both share


def test_8gaussians_take_turns_on_a_ring_of_radius_5():
    turn = np.exp(2j * np.pi * np.arange(8) / 8)
    modes = 5 * np.stack([turn.real, turn.imag], axis=1)
    distance, mode = cKDTree(modes).query(noiseless("8gaussians", 0, 803))
    assert distance.max() < 1e-12  # float64, values up to 5
    np.testing.assert_array_equal(np.bincount(mode), [101] * 3 + [100] * 5)  # 803 = 8 × 100 + 3
    w = toy("8gaussians", 0, n=N) @ [1, 1j]
    # E (m + z)^k = m^k for a circular complex normal z; averaged over the modes, 0 unless 8 | k.
    for k in range(1, 9):
        error = 5 * np.std(w**k) / N**0.5  # five standard errors
        assert abs(np.mean(w**k) - (5**8 if k == 8 else 0)) < error


def test_checkerboard_fills_one_colour_evenly():
    x = toy("checkerboard", 0, n=N) / 2
    cell = np.floor(x).astype(int)
    assert (cell.sum(axis=1) % 2 == 0).all()
    assert cell.min() >= -2
    assert cell.max() <= 1
    counts = np.unique(cell, axis=0, return_counts=True)[1]
    assert len(counts) == 8
    assert stats.chisquare(counts).pvalue > ALPHA
    assert stats.kstest((x - cell).ravel(), "uniform").pvalue > ALPHA


def ffjord_spirals(n):
    rng = np.random.RandomState(0)
    r = np.sqrt(rng.rand(n // 2)) * 540 * 2 * np.pi / 360
    arm = -r * np.exp(-1j * r) + 0.5 * rng.rand(n // 2) + 0.5j * rng.rand(n // 2)
    w = np.concatenate([arm, -arm]) / 3
    return np.stack([w.real, w.imag], axis=1) + 0.1 * rng.randn(n, 2)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("moons", lambda n: 2 * make_moons(n, noise=0.05, random_state=0)[0] - [1, 0]),
        ("swissroll", lambda n: make_swiss_roll(n, noise=1, random_state=0)[0][:, [0, 2]] / 5),
        ("spirals", ffjord_spirals),
    ],
)
def test_toy_has_the_reference_distribution(name, reference):
    x, y = toy(name, 1, n=N), reference(N)
    for direction in ([1, 0], [0, 1], [1, 1], [1, -1]):
        assert stats.ks_2samp(x @ direction, y @ direction).pvalue > ALPHA
    assert stats.ks_2samp(*np.linalg.norm([x, y], axis=-1)).pvalue > ALPHA


def test_spirals_are_as_thick_as_ffjords():
    w = 3 * noiseless("spirals", 0, 1000) @ [1, 1j]
    r = np.linspace(0, 3 * np.pi, 4000)
    u = np.stack([w, -w])[..., None] + r * np.exp(-1j * r)  # for either arm and any r
    slack = 0.012  # half a step of r, 1.2e-3, times the speed √(1 + r²) ≤ 9.5
    inside = np.minimum(u.real, u.imag) >= -slack
    size = np.where(inside, np.maximum(u.real, u.imag), np.inf).min(axis=(0, 2))
    assert 0.45 < size.max() < 0.5 + slack  # [0, size]² holds u, at best
