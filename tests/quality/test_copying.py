"""Copies and fresh rows, told apart by their distances to the training rows."""

import math

import numpy as np
import pytest

from ddpm_jax.quality.copying import TOLERANCE, copying
from exact import exactly

LAWS = {
    "gaussian": lambda rng, n: rng.normal(size=(n, 2)),
    "one column": lambda rng, n: rng.exponential(size=(n, 1)),
    "wide": lambda rng, n: rng.normal(size=(n, 20)),
    "two scales": lambda rng, n: rng.normal(size=(n, 2)) * np.where(rng.random((n, 1)) < 0.5, 1, 9),
    "whole numbers": lambda rng, n: rng.poisson(3, size=(n, 2)).astype(float),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("n", "held"), [(40, 8), (300, 60), (300, None)])
def test_copies_are_seen_and_fresh_rows_are_not_taken_for_copies(rng, law, n, held):
    flagged = {"fresh": 0, "copies": 0}
    for _ in range(20):
        train, fresh = LAWS[law](rng, n), LAWS[law](rng, 500)
        held_out = held and LAWS[law](rng, held)
        for name, rows in {"fresh": fresh, "copies": rng.choice(train, 500)}.items():
            found = copying(rows, train, held_out)
            flagged[name] += found.copies or found.too_close
    # Whole numbers repeat by themselves: to a model that repeats them, too, nothing can be said.
    assert flagged["copies"] >= (0 if law == "whole numbers" else 20)
    assert flagged["fresh"] == 0


def test_rows_that_are_nearer_than_they_should_be_are_too_close(rng):
    train, held_out = rng.normal(size=(2, 400, 2))
    # About half as far from their rows as others are (in the plane, 1.18 deviations at the median).
    noise = np.median(np.linalg.norm(train[:, None] - held_out, axis=-1).min(axis=0)) / 2 / 1.18
    found = copying(train + noise * rng.normal(size=train.shape), train, held_out)
    assert found.too_close
    assert not found.copies


def test_distances_and_shares_are_what_they_are_called():
    train = np.array([[0.0], [10.0], [20.0]])
    held_out, samples = np.array([[1.0], [12.0], [24.0]]), np.array([[0.1], [10.3], [25.0], [20.0]])
    found = copying(samples, train, held_out)
    assert found.distance == exactly((0.1 + 0.3) / 2)  # of 0, 0.1, 0.3 and 5
    assert found.unseen_distance == 2
    assert found.tolerance == exactly(2 * TOLERANCE)
    assert (found.share, found.unseen_share) == (0.5, 0)
    # Of no copies in three the error is that of one in four.
    assert found.unseen_share_error == exactly(math.sqrt(1 / 4 * 3 / 4 / 3))


def test_without_held_out_rows_each_training_row_is_measured_by_the_others():
    train = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert copying(train, train).unseen_distance == 1.5  # of 1, 1, 2 and 4
    assert copying(train, train).distance == 0


def test_the_error_of_a_median_is_that_of_repeated_draws(rng):
    train = np.zeros((1, 1))
    medians, errors = [], []
    for _ in range(300):
        found = copying(rng.normal(size=(200, 1)), train, np.ones((1, 1)))
        medians.append(found.distance)
        errors.append(found.distance_error)
    # A deviation of 300 draws is known to 1/√600 = 4 %, and the estimate is rough: a quarter.
    assert np.mean(errors) == pytest.approx(np.std(medians), rel=0.25)


def test_distinct_points_of_a_lattice_tell_nothing(rng):
    lattice = np.stack(np.meshgrid(np.arange(40.0), np.arange(40.0)), -1).reshape(-1, 2)
    rows = rng.permutation(lattice)
    train, held_out = rows[:1400], rows[1400:]
    samples = rng.choice(lattice, 500)  # fresh, and nine in ten of them training rows
    found = copying(samples, train, held_out)
    assert found.lattice
    assert not found.copies
    assert not found.too_close
    assert copying(samples, train).lattice
