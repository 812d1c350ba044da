"""What holds for every metric: symmetry, errors, the table of them all beside their floors."""

import math
import subprocess
import sys
from dataclasses import FrozenInstanceError

import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from exact import exactly

from ddpm_jax.errors import InputError
from ddpm_jax.evaluation import Measurement, evaluate, format_table
from ddpm_jax.metrics import (
    classifier_two_sample,
    energy_distance,
    far_fraction,
    isolated_fraction,
    mmd_rbf,
    quick,
    quick_floor,
    sliced_wasserstein,
    total_variation,
    uncovered_fraction,
    wasserstein2,
)

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
        (lambda: wasserstein2(np.zeros((20_001, 2)), GOOD), "20,001 and 4 points"),
        (lambda: sliced_wasserstein(GOOD, GOOD, num_projections=0), "num_projections"),
        (lambda: mmd_rbf(GOOD, GOOD, []), "bandwidths"),
        (lambda: mmd_rbf(GOOD, GOOD, [1.0, -1.0]), "bandwidths"),
        (lambda: total_variation(GOOD, GOOD, bins=0), "bins"),
        (lambda: total_variation(GOOD, GOOD, extent=np.array([[0.0, 1.0]])), "2 pairs"),
        (lambda: total_variation(GOOD, GOOD, extent=np.ones((2, 2))), "low < high"),
        (lambda: far_fraction(GOOD, GOOD, -1.0), "radius"),
        (lambda: uncovered_fraction(GOOD, GOOD, math.nan), "radius"),
        (lambda: isolated_fraction(GOOD, -1.0), "radius"),
        (lambda: evaluate(GOOD, GOOD, repeats=1), "repeats"),
        (lambda: evaluate(GOOD, GOOD, size=1), "size"),
        (lambda: evaluate(GOOD[:3], GOOD), "half_the_data"),
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


@pytest.fixture(scope="module")
def evaluated():
    rng = np.random.default_rng(1)
    real = rng.normal(size=(3000, 2))
    fakes = rng.choice(real, 1000), rng.normal([1, 0], 1, size=(1000, 2))
    return [{m.name: m for m in evaluate(real, f, repeats=4, size=80)} for f in fakes]


@pytest.mark.slow
def test_evaluate_gives_every_metric_at_its_size(evaluated):
    names = {metric.__name__ for metric in METRICS}
    subsets = {"wasserstein2": 80, "energy_distance": 80, "mmd_rbf": 80}
    subsets["classifier_two_sample"] = 400
    for measurements in evaluated:
        assert {m.name: m.size for m in measurements.values()} == dict.fromkeys(
            names, 1000
        ) | subsets
        assert all(m.spread > 0 for m in measurements.values() if m.name in subsets)
        assert all(m.spread is None for m in measurements.values() if m.name not in subsets)
        assert [m.name for m in measurements.values() if m.floor_spread is None] == ["far_fraction"]


@pytest.mark.slow
def test_evaluate_puts_a_redraw_at_the_floor_and_a_shift_above_it(evaluated):
    redraw, shifted = evaluated
    for name, m in redraw.items():
        assert shifted[name].value > m.floor + 2 * (m.floor_spread or 0), name
        if name not in ("classifier_two_sample", "far_fraction", "uncovered_fraction"):
            # A value and four floors of one law: a t statistic of three degrees; five spreads.
            assert abs(m.value - m.floor) <= 5 * m.floor_spread, name
    # A redraw repeats points of the data, which the classifier has seen under the other label.
    assert redraw["classifier_two_sample"].value < redraw["classifier_two_sample"].floor
    # And lies on the data, by construction: it says nothing of what a real point would score.
    assert redraw["far_fraction"].value == 0 < redraw["far_fraction"].floor
    # Four draws of 800 labels, 0.5/√3200 = 0.009; eight of them, as labels share points and folds.
    assert redraw["classifier_two_sample"].floor == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("n", [400, 3000], ids=["fewer samples than half", "more than half"])
def test_fresh_points_of_the_data_s_law_score_the_floors_of_the_shares(rng, n):
    real, fresh = rng.normal(size=(1000, 2)), rng.normal(size=(n, 2))
    found = {m.name: m for m in evaluate(real, fresh, repeats=4, size=10)}
    far, uncovered = found["far_fraction"], found["uncovered_fraction"]
    assert (far.size, uncovered.size) == (n, min(n, 500))
    # Shares of at least 400 points: 0.5/√400 = 0.025 each; neighbours share their fate, hence six.
    assert far.value == pytest.approx(far.floor, abs=0.15)
    assert uncovered.value == pytest.approx(uncovered.floor, abs=0.15)
    assert far.floor > 0.3 < uncovered.floor  # far from what a redraw would score


def test_evaluate_repeats_for_a_seed_and_varies_over_seeds(rng):
    real, fake = rng.normal(size=(60, 1)), rng.normal(size=(30, 1))
    one, same, other = (evaluate(real, fake, seed=s, repeats=2, size=10) for s in (0, 0, 1))
    assert [repr(m) for m in one] == [repr(m) for m in same] != [repr(m) for m in other]
    assert quick_floor(real, 20, 0) == quick_floor(real, 20, 0) != quick_floor(real, 20, 1)


def test_quick_is_its_two_metrics(rng):
    x, y = rng.normal(size=(300, 2)), rng.normal(size=(200, 2)) ** 2
    values = quick(x, y)
    assert values["total_variation"] == total_variation(x, y)
    # Equally spaced angles: the trapezoid rule of a smooth periodic function, 64 nodes or 256.
    assert values["sliced_wasserstein"] == pytest.approx(sliced_wasserstein(x, y), rel=1e-3)
    more = quick(x, y, projections=256)
    assert more["sliced_wasserstein"] == sliced_wasserstein(x, y) != values["sliced_wasserstein"]


def test_measurement_and_table():
    far = Measurement("far_fraction", 0.25, None, 0.0, None, 20_000)
    w2 = Measurement("wasserstein2", 0.084, 0.003, 0.056, 0.002, 2000)
    assert math.isnan(far.ratio)
    assert w2.ratio == exactly(1.5)
    with pytest.raises(FrozenInstanceError):
        w2.__setattr__("value", 0.0)
    header, first, second, note = format_table([far, w2]).split("\n")
    assert " ".join(first.split()) == "far_fraction 0.25 0 nan 20,000"
    assert " ".join(second.split()) == "wasserstein2 0.084 ± 0.003 0.056 ± 0.002 1.50 2,000"
    assert len(header) == len(first) == len(second)
    assert "Lower is better" in note


def test_optimal_transport_brings_no_other_array_library():
    program = """
import sys, numpy as np
from ddpm_jax.metrics import wasserstein2
assert not {"ot", "sklearn"} & sys.modules.keys()
wasserstein2(np.zeros((2, 2)), np.ones((2, 2)))
import ot
assert not (ot.backend.torch or ot.backend.jax or ot.backend.tf or ot.backend.cp)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
