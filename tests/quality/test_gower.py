"""Gower's distance by its formula, row by row."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ddpm_jax.errors import InputError
from ddpm_jax.quality.gower import Gower

NUMBERS = np.array([0.0, 2.0, 10.0, 4.0])
WORDS = np.array(["red", "blue", "red", "green"], dtype=object)
COUNTS = np.array([3, 3, 4, 7])
COLUMNS = [NUMBERS, WORDS, COUNTS]


def test_coordinates_give_gowers_distance():
    def gower(a, b):
        numbers = abs(NUMBERS[a] - NUMBERS[b]) / 10 + abs(COUNTS[a] - COUNTS[b]) / 4
        return (numbers + (WORDS[a] != WORDS[b])) / 3

    coordinates = Gower.of(COLUMNS)(COLUMNS)
    expected = [[gower(a, b) for b in range(4)] for a in range(4)]
    np.testing.assert_allclose(cdist(coordinates, coordinates, "cityblock"), expected)


def test_other_rows_are_measured_by_the_same_ranges_and_words():
    known = Gower.of(COLUMNS)
    others = [np.array([20.0, 20.0]), np.array(["pink", "blue"]), np.array([3, 3])]
    distances = cdist(known(others), known(COLUMNS), "cityblock")
    # 20 to 0 is two ranges; pink is none of the words, blue is the second row's.
    np.testing.assert_allclose(distances[:, 0], [(2 + 1 + 0) / 3, (2 + 1 + 0) / 3])
    np.testing.assert_allclose(distances[:, 1], [(1.8 + 1 + 0) / 3, (1.8 + 0 + 0) / 3])


def test_a_constant_column_counts_nothing():
    columns = [np.full(3, 5.0), np.arange(3.0)]
    distances = cdist(*[Gower.of(columns)(columns)] * 2, "cityblock")
    np.testing.assert_allclose(distances[0], [0, 1 / 4, 1 / 2])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (COLUMNS[:2], "2 columns; expected 3"),
        ([WORDS, WORDS, COUNTS], "column 1 has words; expected numbers"),
        ([NUMBERS, NUMBERS, COUNTS], "column 2 has numbers; expected words"),
        ([np.array([1.0, np.nan]), WORDS[:2], COUNTS[:2]], "column 1 is nan in row 2"),
    ],
)
def test_other_columns_are_refused(columns, message):
    with pytest.raises(InputError, match=message):
        Gower.of(COLUMNS)(columns)


def test_the_likeliest_word_of_each_column_is_kept_and_numbers_are_left_alone(rng):
    columns = [np.array(list("abca"), object), rng.normal(size=4), np.array(list("xyxy"), object)]
    gower = Gower.of(columns)
    rows = gower(columns)
    kept = np.ptp(rows, axis=0) > 0  # not the coordinates of words that no row has
    blurred = rows[:, kept] + rng.uniform(-0.02, 0.02, (4, kept.sum()))
    snapped = gower.snap(blurred, kept)
    number = [3]  # after the three words that occur
    np.testing.assert_array_equal(snapped[:, number], blurred[:, number])
    others = [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(snapped[:, others], rows[:, kept][:, others])
