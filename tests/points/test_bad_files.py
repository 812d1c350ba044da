"""Files that are wrong: errors name the file, the line, what was found and what would be right."""

import bz2
import contextlib
import io
import lzma
import os
import re
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ddpm_jax.errors import DataError
from ddpm_jax.points.dataset import Dataset
from ddpm_jax.points.readers import LIMIT, load_points, open_shards
from ddpm_jax.points.tables import Table
from fuzz import TooLongError, at_most
from point_files import POINTS, gz, npy, npy_header, npz, write


def parquet(column) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"x": column}).write_parquet(buffer)
    return buffer.getvalue()


BOMB = gz(b"1 2\n" * 2**22)
GREEDY = lzma.compress(b"1 2\n", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}])
ANY, NUMBERS, TWO, NUMPY = "one point a line", "finite numbers", "at least two", "np.save"


@pytest.mark.parametrize(
    "case",
    [
        ("empty.txt", b"", None, "no points", ANY),
        ("blank.txt", b" \n\n", None, "no points", ANY),
        ("comment.csv", b"# x,y\n", None, "no points", ANY),
        ("empty.txt.gz", b"", None, "no points", ANY),
        ("header-only.csv", b"x,y\n", None, "0 row(s)", TWO),
        ("one.txt", b"1 2\n", None, "1 row(s)", TWO),
        ("ragged.txt", b"1 2\n\n#\n3 4\n5 6 7\n", 5, "3 values where the first row has 2", NUMBERS),
        ("ragged.csv", b"x,y\n1,2\n3,4\n5\n6,7", 4, "1 values where the first row has 2", NUMBERS),
        ("names.csv", b"x,y,z\n1,2\n3,4\n5,6", 2, "2 values where the first row has 3", NUMBERS),
        ("trailing.csv", b"1,2\n3,4,\n5,6\n", 2, "3 values", NUMBERS),
        ("no-row-names.txt", b"x y\na 1 2\na 3 4\nb 5 6\n", 2, "3 values", "skip_lines=1"),
        ("half-header.csv", b"1.0,abc\n1,2\n3,4\n", 1, "'abc' in column 2", NUMBERS),
        ("nan-header.csv", b"nan,inf\n1,2\n3,4\n", 1, "'inf' in column 2", NUMBERS),
        ("commas.txt", b"1,2\n3,4\n5,6 7\n", 3, "'6 7' in column 2", "separated by ','"),
        ("footer.csv", b"x,y\n1,2\n3,4\nmean,3\n", 4, "'mean' in column 1 (x)", "missing='mean'"),
        ("quote.csv", b'x,y\n1,2\n"3,4\n5,6\n', 4, "badly quoted", "Close every quote"),
        ("after.csv", b'x,y\n1,2\n"3"3,4\n5,6\n', 3, "badly quoted", "double the ones"),
        ("cell.csv", b'x,y\n1,2\n"3' + b" " * 2**18 + b'",4\n', 3, "badly quoted", "Close"),
        ("empty-column.csv", b"x,y\n1,NA\n3,NA\n", None, "no value in column 2 (y)", "columns="),
        ("sep.csv", b"sep=;\n", None, "0 row(s)", TWO),
        ("word.txt", b"1 2\r\n3 4\r\n5 six\r\n", 3, "'six' in column 2", NUMBERS),
        ("underscore.txt", b"1 2\n3 4\n1_000 6\n", 3, "'1_000' in column 1", NUMBERS),
        ("hex.txt", b"1 2\n3 4\n5 0x10\n", 3, "'0x10' in column 2", NUMBERS),
        ("arabic.txt", "1 2\n3 4\n5 ٣\n".encode(), 3, "'٣' in column 2", NUMBERS),
        ("inf.txt", b"# c\n1 2\n-Infinity 4\n5 6\n", 3, "'-Infinity' in column 1", NUMBERS),
        ("large.txt", b"1 2\n3 4\n1e300 6\n", 3, "'1e300' in column 1", "at most 1e30"),
        ("overflow.txt", b"1 2\n3 4\n5 1e999\n", 3, "'1e999' in column 2", "at most 1e30"),
        ("nul.txt", b"1 2\n3 4\n5 6\0\n", 3, r"'6\x00' in column 2", NUMBERS),
        ("long.txt", b"1\n2\n" + b"x" * 10**5, 3, f"'{'x' * 40}' in column 1", NUMBERS),
        ("binary.txt", b"1 2\r\n3 4\r\n\r\n5 6 # \x81\r\n", 4, "byte 0x81", "UTF-8"),
        ("damaged.txt", b"# \xc3\xa4\n1 2\n3 \xe4\n", 3, "byte 0xe4", "or name its encoding="),
        ("control.txt", b"1 2\n3 \x01\xff\n", 2, "byte 0xff, which is not UTF-8", "plain text"),
        ("utf-16.csv", "1,2\n3,4\n".encode("utf-16")[:-1], 1, "byte 0x", "plain text"),
        ("not.txt.gz", b"1 2\n3 4\n", None, "cannot be read", "compress it anew"),
        ("cut.txt.gz", gz(b"1 2\n3 4\n")[:-9], None, "cannot be read", "anew"),
        ("flipped.txt.gz", b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 9, None, "cannot be", "anew"),
        ("bomb.txt.gz", BOMB, None, "more than 1,000,000 bytes", "max_bytes"),
        ("long.csv", b"1,2\n" * 2**18, None, "more than 1,000,000 bytes", "max_bytes"),
        ("points.json", b"[[1, 2]]", None, "unknown kind", ".csv"),
        ("points.npy.gz", gz(npy(POINTS)), None, "unknown kind", ".npy"),
        ("points", b"1 2\n3 4\n", None, "unknown kind", ".txt"),
        ("empty.npy", b"", None, "not a NumPy file", NUMPY),
        ("text.npy", b"1 2\n3 4\n", None, "not a NumPy file", NUMPY),
        ("object.npy", npy(np.array([[1, None]])), None, "dtype |O", NUMPY),
        ("record.npy", npy(np.zeros(3, "f8,c16")), None, "dtype [('f0'", NUMPY),
        ("nested.npy", npy(np.zeros(3, [("a", "f8", 2)])), None, "dtype [('a'", NUMPY),
        ("rows.npy", npy(np.zeros((3, 2), "f8,f8")), None, "shape (3, 2)", NUMPY),
        ("complex.npy", npy(POINTS + 1j), None, "dtype <c16", NUMPY),
        ("bool.npy", npy(POINTS > 0), None, "dtype |b1", NUMPY),
        ("string.npy", npy(POINTS.astype(str)), None, "dtype <U32", NUMPY),
        ("scalar.npy", npy(1.0), None, "shape ()", NUMPY),
        ("cube.npy", npy(np.zeros((2, 3, 4))), None, "shape (2, 3, 4)", "x.reshape(-1, 4) gives 6"),
        ("no-rows.npy", npy(np.zeros((0, 2))), None, "shape (0, 2)", NUMPY),
        ("no-columns.npy", npy(np.zeros((2, 0))), None, "shape (2, 0)", NUMPY),
        ("one.npy", npy(POINTS[:1]), None, "1 row", TWO),
        ("one-record.npy", npy(np.zeros(1, "f8,f8")), None, "1 row", TWO),
        ("cut.npy", npy(POINTS)[:-1], None, "175 bytes, where its header needs 176", NUMPY),
        ("two.npy", npy(POINTS) * 2, None, "352 bytes, where its header needs 176", NUMPY),
        ("forged.npy", npy_header("(999999999999, 2)") + bytes(32), None, "header needs", NUMPY),
        ("forged.npy", npy_header("(" + "9" * 5000 + ",)"), None, "shape (999", NUMPY),
        ("forged.npy", b"\x93NUMPY\x02\0\xff\xff\xff\xff{'des", None, "not a NumPy file", NUMPY),
        ("inf.npy", npy(np.array([[1, 2], [3, np.inf]])), None, "row 2 is [3.0, inf]", "finite"),
        ("two.npz", npz(POINTS, POINTS), None, "2 arrays (arr_0, arr_1)", NUMPY),
        ("none.npz", npz(), None, "no arrays", NUMPY),
        ("bomb.npz", npz(np.zeros(2**21)), None, "more than 1,000,000 bytes", "max_bytes"),
        ("cut.npz", npz(POINTS)[:-9], None, "cannot be read", "np.savez"),
        ("not.parquet", b"PAR1", None, "cannot be read", "Parquet"),
        ("long.parquet", parquet(np.zeros(2**18)), None, "1,000,000 bytes as float64", "max_bytes"),
        ("bomb.txt.bz2", bz2.compress(b"1 2\n" * 2**22), None, "more than 1,000,000", "max_bytes"),
        ("bomb.txt.xz", lzma.compress(b"1 2\n" * 2**22), None, "more than 1,000,000", "max_bytes"),
        ("cut.txt.bz2", bz2.compress(b"1 2\n3 4\n")[:-9], None, "cannot be read", "anew"),
        ("cut.txt.xz", lzma.compress(b"1 2\n3 4\n")[:-9], None, "cannot be read", "anew"),
        ("greedy.txt.xz", GREEDY, None, "cannot be read", "anew"),
        ("large.npy", npy(np.array([1, -1e31])), None, "row 2 is [-1e+31]", "at most 1e30"),
        ("long.npy", npy(np.zeros(2**17)), None, "more than 1,000,000 bytes", ".npy shards"),
        ("short-rows.txt.gz", gz(b"1\n" * 2**18), None, "1,000,000 bytes as float64", "shards"),
        ("wide-rows.txt", b"1 1 1 1\n" * 2**16, None, "1,000,000 bytes as float64", "shards"),
        ("newlines.txt.gz", gz(b"\r\n" * 2**18), None, "1,000,000 bytes as float64", "shards"),
    ],
    ids=lambda case: case[0],
)
def test_errors_name_file_line_and_remedy(tmp_path, case):
    name, content, line, found, remedy = case
    path = write(tmp_path / name, content)
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        load_points(path, max_bytes=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: " if line else f"{path}: ")
    assert found in message
    assert remedy in message
    assert peak < 2**24  # the bombs and forgeries promise 2**24 bytes at least


@pytest.mark.parametrize(("name", "saved"), [("x.npy", npy), ("x.npz", npz)])
def test_as_many_bytes_as_are_allowed_are_read(tmp_path, name, saved):
    path = write(tmp_path / name, saved(np.ones((100, 2), np.float32)))
    assert load_points(path, max_bytes=1600).shape == (100, 2)  # of 8 bytes each, once read
    with pytest.raises(DataError, match="more than 1,599 bytes"):
        load_points(path, max_bytes=1599)


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    for name in ("p.npy", "p.txt", "p.csv.gz"):
        os.mkfifo(tmp_path / name)
        with at_most(10), pytest.raises(DataError, match=r"not a file but a pipe, a device"):
            load_points(tmp_path / name)
    with pytest.raises(DataError, match=r"/dev/zero: not a file but a pipe, a device"):
        load_points("/dev/zero")
    for read in (load_points, open_shards):
        with at_most(10), pytest.raises(DataError, match=r"p\.npy: cannot be read .*is a pipe"):
            read(tmp_path)


def test_errors_of_paths_and_directories(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: no such file\. Use \.txt, "):
        load_points(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"no such file"):
        load_points("\0" * 5000)
    for read in (load_points, open_shards):
        with pytest.raises(DataError, match=r"no directory with \.npy files\. Put the shards"):
            read(tmp_path)
    write(tmp_path / "a.npy", npy(POINTS))
    write(tmp_path / "b.npy", npy(POINTS[:, :1]))
    with pytest.raises(DataError, match=r"b\.npy: 1 columns where a\.npy has 2\. Give all"):
        open_shards(tmp_path)
    write(tmp_path / "b.npy", npy(np.where(POINTS > 5, np.inf, POINTS)))
    with pytest.raises(DataError, match=r"b\.npy: row 3 is \[5\.0, inf\]"):
        open_shards(tmp_path)
    long = np.ones((2**20 + 9, 2), np.float16)
    long[2**20 + 5 :] = np.inf
    write(tmp_path / "b.npy", npy(long))
    with pytest.raises(DataError, match=rf"b\.npy: row {2**20 + 6} is \[inf, inf\]"):
        open_shards(tmp_path)
    (tmp_path / "c.npy").mkdir()
    with pytest.raises(DataError, match=r"c\.npy: cannot be read"):
        open_shards(tmp_path)


@given(
    lines=st.lists(
        st.sampled_from(["1 2", "", "# note", "3 4 # note", " \t"]), min_size=3, max_size=30
    ).filter(lambda lines: sum(line[:1].isdigit() for line in lines) > 1),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_the_line_is_the_editors(tmp_path_factory, lines, newline, data):
    fault = data.draw(st.sampled_from(["5 inf", "5 6e40", "5 x"]))
    number = data.draw(st.integers(0, len(lines)))
    content = newline.join([*lines[:number], fault, *lines[number:]])
    path = write(tmp_path_factory.getbasetemp() / "x.txt", content.encode())
    with pytest.raises(DataError, match=f", line {number + 1}: "):
        load_points(path)


@pytest.mark.medium
@given(st.text("0123456789.+-eE_xdjnaifINFyt", min_size=1, max_size=8), st.booleans())
@example("1_0", True).via("float() takes it")
@example("Na", False).via("a missing cell, whatever its case")
@example("infinity", True).via("np.loadtxt takes it")
@settings(max_examples=100, deadline=None)
def test_a_number_is_what_float_takes_or_fortran_and_no_more(tmp_path_factory, token, slowly):
    """`slowly`: with a missing cell, which np.loadtxt does not read."""
    path = tmp_path_factory.getbasetemp() / "x.txt"
    write(path, b"1\n" + (b"NA\n" if slowly else b"2\n") + f"{token}\n3\n".encode())
    fortran = re.sub(r"(?<=[\d.])[dD](?=[+-]?\d)", "e", token)
    try:
        expected = float(fortran) if "_" not in token else np.nan
    except ValueError:
        expected = np.nan
    if abs(expected) <= LIMIT:
        assert load_points(path)[2, 0] == expected
    elif token.lower() in ("nan", "na", "-nan", "-", "--", "."):
        assert np.isnan(load_points(path)[2, 0])
    else:
        with pytest.raises(DataError, match="line 3: "):
            load_points(path)


def parquet() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"x": [1.5, 2.5], "w": ["a", None]}).write_parquet(buffer)
    return buffer.getvalue()


def mangled(content: bytes):
    """`content` with one piece replaced, left out or inserted, or cut off."""
    spans = st.tuples(st.integers(0, len(content)), st.integers(0, 20), st.binary(max_size=8))
    return spans.map(lambda s: content[: s[0]] + s[2] + content[s[0] + s[1] :])


TEXTISH = st.text("0123456789 ,;\t\r\n#.eE+-_naif\"'\ufeff\x00\x0b\x1c\x85\u2028٣", max_size=60)
ENDINGS = ["txt", "csv", "tsv", "npy", "npz", "parquet", "txt.gz", "dat.bz2", "csv.xz"]
FILES = st.one_of(
    st.tuples(
        st.sampled_from([f"x.{ending}" for ending in ENDINGS]),
        st.binary(max_size=200) | TEXTISH.map(str.encode),
    ),
    st.tuples(
        st.sampled_from(["x.txt.gz", "x.csv.gz"]),
        (TEXTISH.map(str.encode) | st.binary(max_size=60)).map(gz),
    ),
    st.tuples(st.just("x.txt.gz"), mangled(gz(b"1 2\n3 4\n" * 9))),
    st.tuples(st.just("x.csv.xz"), mangled(lzma.compress(b"1 2\n3 4\n" * 9, preset=0))),
    st.tuples(st.just("x.csv.bz2"), mangled(bz2.compress(b"1 2\n3 4\n" * 9))),
    st.tuples(st.just("x.npz"), mangled(npz(POINTS))),
    st.tuples(st.just("x.parquet"), mangled(parquet())),
    st.tuples(st.just("x.npy"), mangled(npy(POINTS)) | mangled(npy(np.zeros(3, "f4,i2")))),
    st.tuples(
        st.just("x.npy"),
        st.builds(npy_header, st.text("0123456789-,() L", max_size=9).map("({})".format)),
    ),
)


# Of what is wrong with a file as a whole there is no line to name.
WHOLE_FILE = re.compile(
    r"no points in it|[01] row|cannot be read|not a NumPy file|dtype |shape |row \d+ is |"
    r"\d+ bytes, where its header needs|no value in|(no|\d+) arrays|\w+, row \d+ is|.*cells of|"
    r".*infinite"
)


@pytest.mark.medium
@given(FILES)
@settings(max_examples=300, deadline=None)
def test_no_file_does_worse_than_a_data_error(tmp_path_factory, file):
    """Which names the file and the line, or says what of the whole is wrong; soon, and in 8 MiB."""
    name, content = file
    path = write(tmp_path_factory.getbasetemp() / name, content)
    tracemalloc.start()
    try:
        with at_most(10):
            loaded = load_points(path)
    except DataError as error:
        where = re.match(rf"{re.escape(str(path))}(?:, line (\d+))?: ", str(error))
        assert where, error  # noqa: PT017
        assert where[1] or WHOLE_FILE.match(str(error)[where.end() :]), error  # noqa: PT017
    else:
        table = Table.of(loaded)
        assert len(table) >= 2
        for column in table.columns:
            assert column.dtype != np.float64 or np.nanmax(np.abs(column)) <= LIMIT
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # 200 bytes compressed are 200 kB at most; a read asks for 1 MiB, its decoder for another.
    assert peak < 2**23


def test_the_guard_of_fuzz_tests_ends_what_hangs():
    def hang():
        while True:
            with contextlib.suppress(Exception):
                time.sleep(60)

    began = time.perf_counter()
    with pytest.raises(TooLongError), at_most(0.2):
        hang()
    assert time.perf_counter() - began < 10


# --- limits ---


def test_a_line_has_an_end(tmp_path):
    """Else its fields, or one character of four bytes, take many times the memory of the text."""
    path = write(tmp_path / "x.txt.gz", gz(b"1 2\n" + b"11 " * 2**23))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a line of more than 16,777,216 bytes\. Write one point"):
        load_points(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25  # the line's 24 MiB were not parsed: as fields they would take 500


@pytest.mark.parametrize("at", [2**20 - 1, 2**20, 2**20 + 1])
def test_characters_may_lie_across_the_pieces_that_are_read(tmp_path, at):
    """Two bytes from `at` on, in a comment, after lines of 8 bytes: pieces end at 2**20."""
    before = b"# 3456\r\n" * (at // 8 - 1)
    before += b"# " + b"x" * (at - len(before) - 2)
    path = write(tmp_path / "x.txt", before + "é".encode() + b"\n1 2\n3 4\n")
    assert load_points(path).tolist() == [[1, 2], [3, 4]]
    for bad in (b"\x81\n1 2\n3 4\n", b"\x81"):
        write(path, before + bad)
        with pytest.raises(DataError, match=f"line {at // 8}: byte 0x81, which is not UTF-8"):
            load_points(path)


BOMBED = """
import pathlib, sys
from ddpm_jax.points.readers import load_points
status = pathlib.Path("/proc/self/status")
most = lambda: int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
before = most()
try:
    load_points(sys.argv[1])
except ValueError as error:
    print(most() - before, error)
"""


@pytest.mark.slow
def test_a_bomb_takes_no_more_than_the_limit(tmp_path):
    """4 GiB of text in a file of 10 MB; or 1 GiB of it, 4 times as large as numbers."""
    for line, found in [(b"-0.12345678 0.12345678\n", "of text"), (b"1\n", "as float64")]:
        part = line * (2**24 // len(line))
        repeats = 2**8 if found == "of text" else 2**30 // len(part)
        path = write(tmp_path / "x.txt.gz", gz(part) * repeats)
        done = subprocess.run(
            [sys.executable, "-c", BOMBED, str(path)], capture_output=True, text=True, timeout=300
        )
        taken, _, message = done.stdout.partition(" ")
        assert f"{path}: more than 1,073,741,824 bytes {found}. Raise max_bytes" in message
        print(f"{path.stat().st_size / 1e6:.1f} MB: {int(taken) / 2**30:.2f} GiB {found}")
        # The limit, and an eighth for the way in which a growing buffer is extended.
        assert int(taken) < 1.2 * 2**30


def test_more_columns_than_can_be_looked_at_are_refused_at_once(tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text((",".join(["1.5"] * 100_001) + "\n") * 2)
    with at_most(10), pytest.raises(DataError, match=r"wide.csv, line 1: 100,001 columns"):
        Dataset.of(path)


def test_more_columns_than_can_be_learnt_together_are_refused():
    with pytest.raises(DataError, match="4,097 columns, and at most 4,096 can be learnt"):
        Dataset.of(np.zeros((3, 4097)))
