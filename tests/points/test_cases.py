"""Files as people have them, each read as cases/README.md says; and tables read as they are told.

The cases were written by hand, with their right readings: names, rows, and the first row.
"""

import datetime as dt
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.points import sources
from ddpm_jax.points.readers import digest, load_points, open_shards, read
from ddpm_jax.points.reading import Options, phrase
from ddpm_jax.points.tables import Table
from point_files import POINTS, npy, write

CASES = Path(__file__).parent / "cases"
EXPECTED = json.loads((CASES / "expected.json").read_text(encoding="utf-8"))

SAID = {
    "semicolon_decimal_comma.csv": "decimal commas",
    "decimal_comma_no_header.csv": "decimal commas",
    "r_row_names.csv": "left out: column 1, an index: --columns 1-3 keeps it",
    "r_row_names_short_header.txt": "left out: column 1, an index: --columns 1-3 keeps it",
    "pandas_index.csv": "left out: column 1, an index: --columns 1-3 keeps it",
    "pandas_unnamed_0.csv": "left out: column 1, an index: --columns 1-3 keeps it",
    "latin1_units.csv": "Windows-1252 (Latin-1): --encoding",
    "years_as_header.csv": "line 1 (2019, 2020), whole numbers where other lines have decimals, "
    "read as the names: --header none for the other",
    "preamble.csv": "lines 1 to 3 skipped: before the table",
    "units_line.csv": "line 2 skipped: units ('cm', 'g')",
    "percent_values.csv": "share: percent signs taken off, 50 % is 50",
    "same_name_twice.csv": "two columns named 'x': the other is now 'x_2'",
    "transposed.npy": "2 rows of 60 columns: if it lies on its side",
}
"""What must be said; of the other files, nothing need be."""


@pytest.mark.parametrize("name", EXPECTED)
def test_every_case_is_read_as_stated(name):
    expected = EXPECTED[name]
    if name in ("footer.csv", "trajectories.npy"):  # of the errors, the two that are one here
        with pytest.raises(DataError) as caught:
            read(CASES / name)
        assert expected["error"].split(":")[0] in str(caught.value)
        return
    table, reading = read(CASES / name)
    said = reading.lines(flags=True)
    assert SAID.get(name, "") in " | ".join(said)
    assert bool(said) == (name in SAID)
    if name == "percent_values.csv":  # or read as numbers, and said so
        assert table.names == ("len", "share")
        assert [column[0] for column in table.columns] == [3.3, 33.0]
        return
    names = expected["names"]
    if name == "same_name_twice.csv":
        names = ["x", "x_2"]
    assert (None if table.names is None else list(table.names)) == names
    assert len(table) == expected["rows"]
    first = [cell_of(column[0]) for column in table.columns]
    assert first[: len(expected["first"])] == expected["first"]


def cell_of(cell):
    """A cell as expected.json writes it."""
    if isinstance(cell, np.datetime64 | np.bool_):
        return str(cell)
    return None if cell is None or cell != cell else cell


@pytest.mark.parametrize("name", ["missing_empty.csv", "missing_na.csv"])
def test_missing_cells_are_missing(name):
    table, _ = read(CASES / name)
    assert table.missing.sum() == 9


def test_cases_are_all_there():
    files = {path.name for path in CASES.iterdir()} - {"README.md", "expected.json"}
    assert files == set(EXPECTED)


def test_frames_have_the_types_of_their_columns(tmp_path):
    text = b"""id,word,ok,day,time,x,n
a1,oak,TRUE,2024-01-31,2024-01-31T12:30:00,1.5,3
a2,elm,false,2024-02-01,2024-02-01 12:30,-2,4
a3,oak,True,,2024-02-02 00:00:00.5,3,
"""
    frame = load_points(write(tmp_path / "x.csv", text))
    assert frame["word"].to_list() == ["oak", "elm", "oak"]
    assert frame["ok"].to_list() == [True, False, True]
    assert frame["day"].to_list() == [dt.date(2024, 1, 31), dt.date(2024, 2, 1), None]
    assert frame["time"].to_list() == [
        dt.datetime(2024, 1, 31, 12, 30),
        dt.datetime(2024, 2, 1, 12, 30),
        dt.datetime(2024, 2, 2, 0, 0, 0, 500_000),
    ]
    assert frame["x"].to_list() == [1.5, -2, 3]
    assert frame["n"].to_list() == [3, 4, None]
    assert frame.dtypes[5:] == [pl.Float64, pl.Int64]


def test_parquet_is_read_as_it_was_written(tmp_path):
    frame = pl.DataFrame({"x": [1.5, 2.5], "w": ["a", None], "day": [dt.date(2024, 1, 1), None]})
    frame.write_parquet(tmp_path / "x.parquet")
    table, reading = read(tmp_path / "x.parquet")
    assert table.to_data().equals(frame)
    assert reading.lines() == []
    frame.with_columns(pl.lit([1]).alias("list")).write_parquet(tmp_path / "y.parquet")
    with pytest.raises(DataError, match=r"y\.parquet: list: cells of type List.*Leave such"):
        read(tmp_path / "y.parquet")


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (b"1,5\n2,5\n3,5\n", {"decimal": ","}, [[1.5], [2.5], [3.5]]),
        (b"1,5;2\n3,5;4\n5;6\n", {"decimal": ","}, [[1.5, 2], [3.5, 4], [5, 6]]),
        (b"1:2\n3:4\n5:6\n", {"delimiter": ":"}, [[1, 2], [3, 4], [5, 6]]),
        (
            b"2019,2020\n1.5,2.5\n3.5,4.5\n",
            {"header": "none"},
            [[2019, 2020], [1.5, 2.5], [3.5, 4.5]],
        ),
        (b"1990,2000\n1.5,2.5\n3.5,4.5\n", {"header": "first"}, [[1.5, 2.5], [3.5, 4.5]]),
        (b"9,9,9\n8\n1,2\n3,4\n", {"skip_lines": 2}, [[1, 2], [3, 4]]),
        (b"1,2\n-9999,4\n5,X\n", {"missing": ("-9999", "X")}, [[1, 2], [np.nan, 4], [5, np.nan]]),
        (b"1,2,3\n4,5,6\n", {"columns": ("3", "1")}, [[1, 3], [4, 6]]),
        (b"1,2,3\n4,5,6\n", {"columns": ("2-3",)}, [[2, 3], [5, 6]]),
        (b"x,id,y\n1,a,3\n4,b,6\n", {"columns": ("y", "x")}, [[1, 3], [4, 6]]),
        (b",x\n0,1.5\n1,2.5\n", {"columns": ("1-2",)}, [[0, 1.5], [1, 2.5]]),
        ("x\n1\n2\n# é".encode("utf-16-be"), {"encoding": "utf-16-be"}, [[1], [2]]),
    ],
)
def test_what_is_told_is_done(tmp_path, content, options, expected):
    table, _ = read(write(tmp_path / "x.csv", content), Options(**options))
    np.testing.assert_array_equal(table.to_array(), expected)
    loaded = load_points(tmp_path / "x.csv", **options)
    np.testing.assert_array_equal(np.asarray(loaded, np.float64), expected)


@pytest.mark.parametrize("sign", [";", "|", "\t"])
def test_a_first_line_may_name_the_delimiter(tmp_path, sign):
    text = "sep=?\nx?y\n1?2\n3?4\n5?6\n".replace("?", sign)
    table, _ = read(write(tmp_path / "x.csv", text.encode()))
    assert table.names == ("x", "y")
    np.testing.assert_array_equal(table.to_array(), [[1, 2], [3, 4], [5, 6]])


def test_a_column_without_a_name_is_called_by_its_number(tmp_path):
    path = write(tmp_path / "x.csv", b"a,,c\n1,2,3\n4,5,6\n")
    table, _ = read(path, Options(header="first"))
    assert table.names == ("a", "column_2", "c")
    table, _ = read(path, Options(header="first", columns=("2-3",)))
    assert table.names == ("column_2", "c")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decimal": ";"}, r'decimal=\';\': use "\." or ","'),
        ({"header": "2"}, 'header=\'2\': use "none" or "first"'),
        ({"delimiter": "ab"}, "delimiter='ab': use one sign"),
        ({"delimiter": '"'}, "use one sign"),
        ({"skip_lines": -1}, "skip_lines=-1"),
        ({"encoding": "klingon"}, "no such encoding"),
        ({"columns": ("z",)}, r"x\.csv: columns='z': there are the columns x, y"),
        ({"columns": ("3",)}, "columns='3'"),
        ({"columns": ()}, "name at least one"),
    ],
)
def test_what_cannot_be_told(types_unchecked, tmp_path, options, message):
    path = write(tmp_path / "x.csv", b"x,y\n1,2\n3,4\n")
    with pytest.raises(ConfigError, match=message):
        load_points(path, **options)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (
            b"1;1,234\n2;2,345\n3;3,456\n",
            "'1,234': the comma read as decimal sign, not of thousands",
        ),
        (b"1,1.5\n2,2.5\n3,3.5\n", 'column 1 counts the rows: columns="2-2" leaves it out'),
        (b"a\nb\nb\n", 'line 1 read as the names: header="none" for the other'),
        (b"a\nb\na\n", 'line 1 read as a row: header="first" for the other'),
        (b"1990,2000\n1.5,2.5\n3.5,4.5\n", 'read as a row: header="first" for the other'),
        (b"x,y\n1,2\n,\n3,4\n", "1 lines without a value left out"),
    ],
)
def test_where_two_readings_are_plausible_it_is_said_which(tmp_path, content, note):
    _, reading = read(write(tmp_path / "x.csv", content))
    assert note in "\n".join(reading.lines())


def test_what_a_note_advises_can_be_done(tmp_path):
    path = write(tmp_path / "x.csv", b"x,y\n1,2\n3,-9\n")
    assert load_points(path, columns="2-2").columns == ["y"]
    assert load_points(path, missing="-9")["y"].null_count() == 1


def test_options_are_parameters_or_flags():
    note = "{missing=-9} or {skip_lines=3} or {delimiter=;}"
    assert phrase(note) == 'missing="-9" or skip_lines=3 or delimiter=";"'
    assert phrase(note, flags=True) == "--missing -9 or --skip-lines 3 or --delimiter ';'"


def test_a_folder_of_tables_is_not_a_folder_of_shards(tmp_path):
    """Else of a folder of CSV files, the one .npy in it would be read, and nothing said."""
    write(tmp_path / "a.npy", npy(POINTS))
    assert len(open_shards(tmp_path)) == 1
    write(tmp_path / "README.txt", b"These are points.")
    assert len(open_shards(tmp_path)) == 1
    for i in range(5):
        shutil.copy(CASES / "tabs.tsv", tmp_path / f"{i}.tsv")
    for reads in (open_shards, load_points):
        with pytest.raises(
            DataError, match=r"1 \.npy files, and beside them 0\.tsv, 1\.tsv, 2\.tsv and 2 more"
        ):
            reads(tmp_path)


def test_points_of_a_run_are_numbers(tmp_path):
    with pytest.raises(DataError, match=r"words_last\.csv: tree holds words"):
        sources.load(CASES / "words_last.csv")
    with pytest.raises(DataError, match=r"missing_empty\.csv: cells of mass are missing"):
        sources.load(CASES / "missing_empty.csv")


def test_digests_tell_tables_apart():
    frame = pl.DataFrame({"x": [1.5, 2.5], "w": ["a", None], "day": [dt.date(2024, 1, 1), None]})
    other = [
        frame,
        frame.rename({"x": "y"}),
        frame.with_columns(pl.Series("x", [1.5, None])),
        frame.with_columns(pl.Series("w", ["a", "b"])),
        frame.with_columns(pl.Series("day", [dt.date(2024, 1, 2), None])),
    ]
    assert len({digest(Table.of(table)) for table in other}) == 5
    assert digest(Table.of(frame)) == digest(Table.of(frame.to_pandas()))
    named = pl.DataFrame(POINTS, schema=["x", "y"])
    assert digest(Table.of(named)) == digest(POINTS)
