"""Tables: what comes in goes out again, in any library, with names, order and dtypes."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from polars.testing import assert_frame_equal

from ddpm_jax.errors import DataError
from ddpm_jax.points.tables import Table

DAYS = [dt.date(2024, 1, 1), None, dt.date(2024, 2, 29)]


def of_pandas():
    days = pd.to_datetime(["2024-01-01", "2024-06-01", "2024-01-03"])
    return pd.DataFrame(
        {
            "float32": np.float32([0.1, 2, np.nan]),
            "int8": np.int8([-1, 0, 3]),
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "words": ["x", None, "y"],
            "objects": np.array(["q", None, "r"], object),
            "strings": pd.array(["a", "b", None], "string"),
            "ordered": pd.Categorical(["u", "v", "u"], ["v", "u"], ordered=True),
            "bool": [True, False, True],
            "boolean": pd.array([True, None, False], dtype="boolean"),
            "time": pd.to_datetime(["2024-01-01 12:34:56.789", None, "2024-01-03 00:00:00.5"]),
            "zone": days.tz_localize("Europe/Berlin"),
        }
    )


def of_polars():
    zone = pl.Datetime("ms", "Europe/Berlin")
    return pl.DataFrame(
        {
            "float": [0.1, 2.0, None],
            "int": [1, None, 3],
            "uint8": pl.Series([1, 2, 3], dtype=pl.UInt8),
            "decimal": pl.Series(["1.25", "2.50", None]).cast(pl.Decimal(10, 2)),
            "words": ["x", None, "y"],
            "categories": pl.Series(["a", "b", "a"], dtype=pl.Categorical),
            "enum": pl.Series(["a", "b", None], dtype=pl.Enum(["b", "a"])),
            "bool": [True, False, True],
            "boolean": [True, None, False],
            "day": DAYS,
            "zone": pl.Series([dt.datetime(2024, 6, 1), None, None], dtype=zone),
        }
    )


def test_pandas_comes_back():
    pd.testing.assert_frame_equal(Table.of(of_pandas()).to_data(), of_pandas())


def test_polars_comes_back():
    assert_frame_equal(Table.of(of_polars()).to_data(), of_polars())


def test_pyarrow_comes_back():
    # PyArrow's own strings, not the large ones that Polars hands over.
    found = {"float": [0.1, None], "int": [1, 2], "word": ["x", None], "day": DAYS[:2]}
    table = pa.table(found)
    assert Table.of(table).to_data().equals(table)


def test_labels_of_pandas_may_be_numbers():
    frame = pd.DataFrame([[1, 2.5], [3, 4.5]])
    table = Table.of(frame)
    assert table.names == ("0", "1")
    pd.testing.assert_frame_equal(table.to_data(), frame, check_column_type=False)


def test_columns_are_of_four_dtypes():
    table = Table.of(of_polars())
    kinds = dict(zip(table.labels, (column.dtype.str[1:] for column in table.columns), strict=True))
    assert kinds["float"] == kinds["int"] == kinds["uint8"] == kinds["decimal"] == "f8"
    assert kinds["words"] == kinds["categories"] == kinds["enum"] == kinds["boolean"] == "O"
    assert kinds["bool"] == "b1"
    assert kinds["day"] == "M8[D]"
    np.testing.assert_array_equal(table.missing.sum(axis=0), [1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 2])


@given(
    hnp.arrays(
        hnp.integer_dtypes(sizes=(8, 16, 32))
        | hnp.unsigned_integer_dtypes(sizes=(8, 16, 32))
        | hnp.floating_dtypes(endianness="="),
        hnp.array_shapes(min_dims=1, max_dims=2, max_side=4),
        elements={"allow_infinity": False},
    )
)
@settings(deadline=None)
def test_arrays_come_back(x):
    back = Table.of(x).to_data()
    assert back.dtype == x.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, x)
    np.testing.assert_array_equal(Table.of(x).to_array(), x.reshape(len(x), -1))


def test_structured_arrays_come_back():
    x = np.array([(1, 2.5), (3, 4.5)], [("n", "i4"), ("mass", "f8")])
    table = Table.of(x)
    assert table.names == ("n", "mass")
    np.testing.assert_array_equal(table.to_data(), x)


def test_whole_numbers_are_rounded_and_kept_within_their_dtype():
    table = Table.of(np.uint8([[1], [2]]))
    other = Table((np.array([1.6, -3.0]),), None, table.origin)
    np.testing.assert_array_equal(other.to_data(), np.uint8([[2], [0]]))


def test_rows_and_columns_are_taken_with_their_dtypes():
    frame = of_polars()
    table = Table.of(frame).take(np.array([2, 0])).keep([1, 4])
    assert_frame_equal(table.to_data(), frame[[2, 0]].select("int", "words"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((6, 10, 2)), r"x\.reshape\(-1, 2\) gives 60 points of 2 values, .* 6 of 20\."),
        (np.zeros((0, 2)), r"shape \(0, 2\)\. Make it \[N, D\]"),
        (np.array([[1.0, 2.0], [np.inf, 3.0]]), "column 1, row 2: infinite"),
        (np.zeros(3, complex), "column 1: dtype complex128"),
        (pl.DataFrame({"x": [1.0, float("-inf")]}), "x, row 2: infinite"),
        (pl.DataFrame({"x": [[1], [2]]}), "x: cells of type List"),
        (pd.DataFrame({"x": ["a", 1]}), "x: cells of int and str"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "'x' 2 times. Give each column a name"),
        (pl.DataFrame({"x": []}), "at least one row"),
        (pl.DataFrame(), "without columns"),
        (pl.LazyFrame({"x": [1]}), r"collect\(\) it first"),
    ],
)
def test_what_is_no_table(data, message):
    with pytest.raises(DataError, match=message):
        Table.of(data)


def test_words_are_no_array():
    with pytest.raises(DataError, match="words holds words, not numbers"):
        Table.of(of_polars()).to_array()
