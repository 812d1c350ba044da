"""Conditions of a table: which columns they are, what is given, and what is drawn instead."""

import numpy as np
import pytest

from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.points.columns import Columns
from ddpm_jax.points.conditions import Conditions, Filling
from ddpm_jax.points.tables import Table

KINDS = np.array(["a", "b", "c", "a"] * 10, object)
SIZES = np.array(["small", "large", "large", "small"] * 10, object)
LENGTHS = np.arange(40) / 10


@pytest.fixture
def table():
    return Table((KINDS, LENGTHS, SIZES), ("kind", "length", "size"))


@pytest.fixture
def conditions(table):
    return Conditions.named(Columns.fit(table), ["kind", "size"])


def test_conditions_stand_last_and_come_back_in_their_place(table, conditions):
    codes = conditions.encode(table)
    # A length; three words take three numbers, two words one.
    assert conditions.dim == 1
    assert conditions.widths == (3, 1)
    assert codes.shape == (40, 5)
    back = conditions.decode(codes[:, :1], codes[:, 1:])
    assert back.names == table.names
    for found, column in zip(back.columns, table.columns, strict=True):
        np.testing.assert_array_equal(found, column)


def test_a_value_for_all_rows_or_one_for_each(table, conditions):
    codes = conditions.encode(table)
    same, _ = conditions.given({"kind": "b", "size": "large"}, 2)
    np.testing.assert_array_equal(same, codes[[1, 1], 1:])
    each, cells = conditions.given({"size": ["small", "large"], "kind": ["a", "c"]}, 2)
    np.testing.assert_array_equal(each, codes[[0, 2], 1:])
    np.testing.assert_array_equal(cells[0], ["a", "c"])
    part, _ = conditions.given({"size": "small"}, 1)
    np.testing.assert_array_equal(np.isnan(part), [[True, True, True, False]])


def test_what_cannot_be_given_is_told(conditions):
    with pytest.raises(
        DataError, match=r"given, kind: 'd' was never seen; seen were 'a', 'b', 'c'"
    ):
        conditions.given({"kind": "d"}, 3)
    with pytest.raises(ConfigError, match=r"'length' is no condition .* kind, size"):
        conditions.given({"length": 1.0}, 3)
    with pytest.raises(ConfigError, match="2 values of 'kind' for 3 rows"):
        conditions.given({"kind": ["a", "b"]}, 3)


def test_what_cannot_be_a_condition_is_told(table):
    columns = Columns.fit(table)
    with pytest.raises(ConfigError, match="no column 'colour'; there are kind, length, size"):
        Conditions.named(columns, ["colour"])
    with pytest.raises(ConfigError, match="leave one"):
        Conditions.named(columns, ["kind", "length", "size"])


def test_what_is_not_given_is_drawn_as_it_was_seen(table, conditions, rng):
    """All b are large, and of the four rows of every round two are a."""
    pool = conditions.pool(conditions.encode(table))
    assert sorted(count for count, _ in pool) == [10, 10, 20]
    codes, _ = conditions.given({"kind": "b"}, 50)
    filled = conditions.decode(np.zeros((50, 1)), Filling(pool)(codes, rng))
    assert set(filled.columns[0]) == {"b"}
    assert set(filled.columns[2]) == {"large"}
    codes, _ = conditions.given(None, 4000)
    drawn = conditions.decode(np.zeros((4000, 1)), Filling(pool)(codes, rng))
    # 5 standard errors of 4000 draws.
    assert abs(np.mean(drawn.columns[0] == "a") - 0.5) < 5 * 0.5 / np.sqrt(4000)
    # Only rows that were seen: never a large a.
    assert not np.any((drawn.columns[0] == "a") & (drawn.columns[2] == "large"))


def test_a_number_that_no_row_had_is_taken_as_given(table, rng):
    conditions = Conditions.named(Columns.fit(table), ["length", "size"])
    pool = conditions.pool(conditions.encode(table))
    codes, _ = conditions.given({"length": 1.234}, 5)
    filled = Filling(pool)(codes, rng)
    np.testing.assert_array_equal(filled[:, 0], codes[:, 0])
    assert not np.isnan(filled).any()
