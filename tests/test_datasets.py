"""Files of points, their errors, and the scaler."""

import gzip
import hashlib
import io
import json
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ddpm_jax.datasets import LIMIT, Scaler, digest, load_points, open_shards, points
from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.toys import toy

POINTS = np.array([[1.0, -2.5], [0.3, 4e-3], [5.0, 6.0]])


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_header(shape: str, header="{{'descr': '<f8', 'fortran_order': False, 'shape': {}, }}\n"):
    header = header.format(shape).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --- Files that are right ---

SPACELESS = "{{'descr':'<f8','fortran_order':False,'shape':{}}}"


@pytest.mark.parametrize(
    "case",
    [
        ("a.txt", b"1 -2.5\n.3 4e-3\n5. 6\n"),
        ("no-newline-at-the-end.txt", b"1 -2.5\n.3 4e-3\n5. 6"),
        ("UPPER.TXT", b"1 -2.5\n.3 4e-3\n5. 6"),
        ("space.txt", b"\n \t\n\t1\t-2.5  \n  .3 4E-3\n \n+5.0   6\n\n"),
        ("comments.txt", "# größe\n1 -2.5 # x\n  # y\n.3 4e-3\n5 6\n#".encode()),
        ("windows.txt", b"\xef\xbb\xbf1 -2.5\r\n.3 4e-3\r\n5 6\r\n"),
        ("mac.txt", b"1 -2.5\r.3 4e-3\r5 6\r"),
        ("a.csv", b"1,-2.5\n.3,4e-3\n5,6\n"),
        ("header.csv", b"# a bicycle\nx,y\n1, -2.5\n.3 ,4e-3\n5,6\n"),
        ("header.semicolon.csv", b"x (m);y (m)\n1;-2.5\n.3;4e-3\n5;6\n"),
        ("header.tab.csv", b'"x"\t"y"\n1\t-2.5\n.3\t4e-3\n5\t6\n\t\n'),
        ("bom.csv", b"\xef\xbb\xbfx,y\r\n1,-2.5\r\n.3,4e-3\r\n5,6\r\n"),
        ("a.txt.gz", gz(b"1 -2.5\n.3 4e-3\n") + gz(b"5 6\n")),
        ("a.csv.gz", gz(b"x,y\n1,-2.5\n.3,4e-3\n5,6\n")),
        ("a.npy", npy(POINTS)),
        ("big-endian.npy", npy(POINTS.astype(">f8"))),
        ("by-column.npy", npy(np.asfortranarray(POINTS))),
        ("spaceless.npy", npy_header("(3,2)", SPACELESS) + POINTS.tobytes()),
    ],
    ids=lambda case: case[0],
)
def test_load_points(tmp_path, case):
    name, content = case
    loaded = load_points(write(tmp_path / name, content))
    assert type(loaded) is np.ndarray
    np.testing.assert_array_equal(loaded, POINTS)  # decimals are read to the nearest float64


@pytest.mark.parametrize(("name", "content"), [("a.txt", b"1\n2\n"), ("a.csv", b"x\n1\n2\n")])
def test_one_column(tmp_path, name, content):
    np.testing.assert_array_equal(load_points(write(tmp_path / name, content)), [[1.0], [2.0]])


@given(
    x=hnp.arrays(
        hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | hnp.floating_dtypes(sizes=(16, 32)),
        hnp.array_shapes(min_dims=1, max_dims=2, min_side=2, max_side=5),
    ),
    order=st.sampled_from("CF"),
)
@settings(max_examples=100, deadline=None)
def test_npy_is_what_numpy_saved(tmp_path_factory, x, order):
    path = write(tmp_path_factory.getbasetemp() / "x.npy", npy(np.array(x, order=order)))
    if np.abs(x.astype(np.float64)).max() <= LIMIT:  # False where there is a NaN
        expected = x.astype(np.float64).reshape(len(x), -1)
        np.testing.assert_array_equal(load_points(path), expected)
    else:
        with pytest.raises(DataError, match="row"):
            load_points(path)


@given(
    x=hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=4),
        elements=st.floats(-1e30, 1e30),
    ),
    separator=st.sampled_from([" ", ",", ";", "\t"]),
)
@settings(max_examples=100, deadline=None)
def test_text_round_trip_is_exact(tmp_path_factory, x, separator):
    lines = [separator.join(map(repr, row)) for row in x.tolist()]
    name = "x.txt" if separator == " " else "x.csv"
    path = write(tmp_path_factory.getbasetemp() / name, "\n".join(lines).encode())
    np.testing.assert_array_equal(load_points(path), x)


def test_a_million_rows_take_less_than_a_second(tmp_path):
    buffer = io.BytesIO()
    np.savetxt(buffer, np.random.default_rng(0).normal(size=(1000, 2)), "%.7g", delimiter=",")
    path = write(tmp_path / "large.csv", b"x,y\n" + buffer.getvalue() * 1000)

    def seconds() -> float:
        start = time.process_time()  # this process's own time: others may be busy
        assert load_points(path).shape == (1_000_000, 2)
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 1


def test_shards(tmp_path):
    types = [np.int8, np.float16, np.float32, np.float64, np.uint8, np.int64]
    for i in (3, 0, 5, 1, 4, 2):
        write(tmp_path / f"{i}.npy", npy(np.full((i + 1, 2), i, types[i])))
    expected = np.repeat(np.arange(6.0), np.arange(1, 7))[:, None] * [1, 1]
    shards = open_shards(tmp_path)
    assert [shard.dtype for shard in shards] == types
    assert all(isinstance(shard, np.memmap) and not shard.flags.writeable for shard in shards)
    np.testing.assert_array_equal(np.concatenate(shards), expected)
    np.testing.assert_array_equal(load_points(tmp_path), expected)


# --- Files that are wrong: file, line, what was found, what would be right ---

BOMB = gz(b"1 2\n" * 2**22)
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
        ("index.csv", b",x,y\n0,1,2\n1,3,4\n", 1, "'' in column 1", NUMBERS),
        ("hole.csv", b"1,2\n3,\n5,6", 2, "'' in column 2", NUMBERS),
        ("half-header.csv", b"1.0,abc\n1,2\n3,4\n", 1, "'abc' in column 2", NUMBERS),
        ("nan-header.csv", b"nan,inf\n1,2\n3,4\n", 1, "'nan' in column 1", NUMBERS),
        ("decimal-comma.csv", b"1,5;2\n3,5;4\n5;6\n", 1, "'1,5' in column 1", NUMBERS),
        ("quoted.csv", b'x,y\n"1","2"\n3,4\n5,6\n', 2, "'\"1\"' in column 1", NUMBERS),
        ("header.txt", b"x y\n1 2\n3 4\n", 1, "'x' in column 1", NUMBERS),
        ("commas.txt", b"1,2\n3,4\n5,6\n", 1, "'1,2' in column 1", "separated by whitespace"),
        ("spaces.csv", b"1 2\n3 4\n5 6\n", 1, "'1 2' in column 1", "separated by ','"),
        ("word.txt", b"1 2\r\n3 4\r\n5 six\r\n", 3, "'six' in column 2", NUMBERS),
        ("underscore.txt", b"1 2\n3 4\n1_000 6\n", 3, "'1_000' in column 1", NUMBERS),
        ("hex.txt", b"1 2\n3 4\n5 0x10\n", 3, "'0x10' in column 2", NUMBERS),
        ("arabic.txt", "1 2\n3 4\n5 ٣\n".encode(), 3, "'٣' in column 2", NUMBERS),
        ("nan.txt", b"1 2\n3 NaN\n5 6\n", 2, "'NaN' in column 2", NUMBERS),
        ("inf.txt", b"# c\n1 2\n-Infinity 4\n5 6\n", 3, "'-Infinity' in column 1", NUMBERS),
        ("large.txt", b"1 2\n3 4\n1e300 6\n", 3, "'1e300' in column 1", "at most 1e30"),
        ("overflow.txt", b"1 2\n3 4\n5 1e999\n", 3, "'1e999' in column 2", "at most 1e30"),
        ("nul.txt", b"1 2\n3 4\n5 6\0\n", 3, r"'6\x00' in column 2", NUMBERS),
        ("long.txt", b"1\n2\n" + b"x" * 10**5, 3, f"'{'x' * 40}' in column 1", NUMBERS),
        ("latin-1.txt", b"1 2\r\n3 4\r\n\r\n5 6 # \xe9\r\n", 4, "byte 0xe9", "UTF-8"),
        ("utf-16.csv", "1,2\n3,4\n".encode("utf-16"), 1, "not UTF-8", "Save it as plain text"),
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
        ("record.npy", npy(np.zeros(3, "f8,f8")), None, "dtype [('f0'", NUMPY),
        ("complex.npy", npy(POINTS + 1j), None, "dtype <c16", NUMPY),
        ("bool.npy", npy(POINTS > 0), None, "dtype |b1", NUMPY),
        ("string.npy", npy(POINTS.astype(str)), None, "dtype <U32", NUMPY),
        ("scalar.npy", npy(1.0), None, "shape ()", NUMPY),
        ("cube.npy", npy(np.zeros((2, 2, 2))), None, "shape (2, 2, 2)", NUMPY),
        ("no-rows.npy", npy(np.zeros((0, 2))), None, "shape (0, 2)", NUMPY),
        ("no-columns.npy", npy(np.zeros((2, 0))), None, "shape (2, 0)", NUMPY),
        ("one.npy", npy(POINTS[:1]), None, "1 row", TWO),
        ("cut.npy", npy(POINTS)[:-1], None, "175 bytes, where its header needs 176", NUMPY),
        ("two.npy", npy(POINTS) * 2, None, "352 bytes, where its header needs 176", NUMPY),
        ("forged.npy", npy_header("(999999999999, 2)") + bytes(32), None, "header needs", NUMPY),
        ("forged.npy", npy_header("(" + "9" * 5000 + ",)"), None, "shape (999", NUMPY),
        ("forged.npy", b"\x93NUMPY\x02\0\xff\xff\xff\xff{'des", None, "not a NumPy file", NUMPY),
        ("nan.npy", npy(np.array([[1, 2], [3, np.nan]])), None, "row 2 is [3.0, nan]", "finite"),
        ("large.npy", npy(np.array([1, -1e31])), None, "row 2 is [-1e+31]", "at most 1e30"),
        ("long.npy", npy(np.zeros(2**17)), None, "more than 1,000,000 bytes", "open_shards"),
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


def test_errors_of_paths_and_directories(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: no such file\. Give a \.txt"):
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
    lines=st.lists(st.sampled_from(["1 2", "", "# note", "3 4 # note", " \t"]), max_size=30),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_the_line_is_the_editors(tmp_path_factory, lines, newline, data):
    fault = data.draw(st.sampled_from(["5 nan", "5 6e40", "5 x"]))
    number = data.draw(st.integers(0, len(lines)))
    content = newline.join([*lines[:number], fault, *lines[number:]])
    path = write(tmp_path_factory.getbasetemp() / "x.txt", content.encode())
    with pytest.raises(DataError, match=f", line {number + 1}: "):
        load_points(path)


@given(st.text("0123456789.+-eE_xdjnaifINFyt", min_size=1, max_size=8), st.integers(1, 2))
@example("1_0", 2).via("float() takes it")
@example("infinity", 2).via("np.loadtxt takes it")
@settings(max_examples=300, deadline=None)
def test_a_number_is_what_float_takes_and_no_more(tmp_path_factory, token, others):
    path = tmp_path_factory.getbasetemp() / "x.txt"
    write(path, f"{token}\n".encode() + b"1\n" * others)
    try:
        expected = float(token) if "_" not in token else np.nan
    except ValueError:
        expected = np.nan
    if abs(expected) <= LIMIT:
        assert load_points(path)[0, 0] == expected
    else:
        with pytest.raises(DataError, match="line 1: "):
            load_points(path)


def mangled(content: bytes):
    """`content` with one piece replaced, left out or inserted, or cut off."""
    spans = st.tuples(st.integers(0, len(content)), st.integers(0, 20), st.binary(max_size=8))
    return spans.map(lambda s: content[: s[0]] + s[2] + content[s[0] + s[1] :])


TEXTISH = st.text("0123456789 ,;\t\r\n#.eE+-_naif\"'\ufeff\x00\x0b\x1c\x85\u2028٣", max_size=60)
FILES = st.one_of(
    st.tuples(
        st.sampled_from(["x.txt", "x.csv", "x.npy", "x.txt.gz"]),
        st.binary(max_size=200) | TEXTISH.map(str.encode),
    ),
    st.tuples(
        st.sampled_from(["x.txt.gz", "x.csv.gz"]),
        (TEXTISH.map(str.encode) | st.binary(max_size=60)).map(gz),
    ),
    st.tuples(st.just("x.txt.gz"), mangled(gz(b"1 2\n3 4\n" * 9))),
    st.tuples(st.just("x.npy"), mangled(npy(POINTS)) | mangled(npy(np.zeros(3, "f4,i2")))),
    st.tuples(
        st.just("x.npy"),
        st.builds(npy_header, st.text("0123456789-,() L", max_size=9).map("({})".format)),
    ),
)


@given(FILES)
@settings(max_examples=500, deadline=None)
def test_no_file_does_worse_than_a_data_error(tmp_path_factory, file):
    name, content = file
    path = write(tmp_path_factory.getbasetemp() / name, content)
    try:
        loaded = load_points(path)
    except DataError:
        return
    assert loaded.shape[0] >= 2
    assert np.abs(loaded).max() <= LIMIT


# --- Which points ---


def test_points_takes_toys_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "moons", b"1 2\n3 4\n")
    write(tmp_path / "own.txt", b"1 2\n3 4\n")
    np.testing.assert_array_equal(points("moons", seed=3, n=20), toy("moons", 3, n=20))
    np.testing.assert_array_equal(points("own.txt"), [[1, 2], [3, 4]])
    with pytest.raises(DataError, match=r"unknown kind of file"):
        points("./moons")
    with pytest.raises(DataError, match=r"'moon': neither a file nor one of the toys dino, moons"):
        points("moon")


def test_digest():
    expected = hashlib.sha256(b"(3, 2)" + struct.pack("<6d", *POINTS.ravel())).hexdigest()
    assert digest(POINTS) == digest(np.asfortranarray(POINTS)) == expected
    assert digest(POINTS.reshape(2, 3)) != expected


# --- Scaler ---


def test_scaler_leaves_data_that_fill_the_square_alone():
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    scaler = Scaler.fit(x)
    assert scaler.is_identity
    np.testing.assert_array_equal(scaler.apply(x), x.astype(np.float32))
    assert not Scaler.fit(x + 0.1).is_identity  # leaves [-1, 1]
    assert not Scaler.fit(x * [1, 0.1]).is_identity  # std 0.06


@pytest.mark.parametrize(
    ("offset", "spread"),
    [
        (1e4, 1e3),
        (-3e-5, 1e-6),
        (1e8, 1e-3),
        (1e30, 1e24),
        (0, 1e30),
        (0, 1e-200),
        (1e-300, 1e-310),
    ],
)
def test_scaler_survives_any_offset_and_spread(offset, spread):
    n = 10_001
    u = np.linspace(-1, 1, n)[:, None]
    std = np.sqrt((n + 1) / (3 * (n - 1)))  # of n equidistant points on [-1, 1], by Σ k²
    x = offset + spread * u
    scaler = Scaler.fit(x)
    # x itself is off by half a unit in the last place of the offset.
    error = np.spacing(np.abs(x).max()) + 1e-12 * spread
    np.testing.assert_allclose(scaler.shift, [offset], rtol=0, atol=error)
    np.testing.assert_allclose(scaler.scale, [2 * spread * std], rtol=0, atol=2 * error)
    z = scaler.apply(x)
    assert z.dtype == np.float32
    # Half a unit of float32 at |z| < 1 is 3e-8.
    np.testing.assert_allclose(z, u / (2 * std), rtol=0, atol=1e-7 + 2 * error / spread)
    np.testing.assert_allclose(scaler.invert(z), x, rtol=0, atol=1e-7 * spread + error)


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
        elements=st.floats(-1e30, 1e30),
    )
)
@settings(max_examples=300, deadline=None)
def test_scaler_round_trip(x):
    scaler = Scaler.fit(x)
    assert (
        Scaler(**{k: tuple(v) for k, v in json.loads(json.dumps(vars(scaler))).items()}) == scaler
    )
    back = scaler.invert(scaler.apply(x))
    shift, scale = np.array(scaler.shift), np.array(scaler.scale)
    # One rounding to float32 (subnormal at worst), a few to float64, and float64's own subnormals.
    bound = 2**-24 * np.abs(x - shift) + 2**-149 * scale + 2**-50 * np.abs(x).max(0) + 1e-322
    assert (np.abs(back - x) <= bound).all()


def test_scaler_gives_a_constant_column_back_exactly():
    x = np.stack([np.full(1000, 0.1), np.arange(1000.0)], axis=1)
    scaler = Scaler.fit(x)
    assert not scaler.apply(x)[:, 0].any()
    samples = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    assert (scaler.invert(samples)[..., 0] == 0.1).all()


def test_scaler_never_clamps():
    scaler = Scaler((1.0,), (2.0,))
    np.testing.assert_array_equal(scaler.apply(np.array([[2e6 + 1]])), [[1e6]])
    np.testing.assert_array_equal(scaler.invert(np.array([[-1e6]])), [[1 - 2e6]])


def test_scaler_errors():
    for shift, scale in [((0.0,), ()), ((), ()), ((0.0,), (-1.0,)), ((float("nan"),), (1.0,))]:
        with pytest.raises(ConfigError, match="of one length"):
            Scaler(shift, scale)
    for convert in (Scaler((0.0, 0.0), (1.0, 1.0)).apply, Scaler((0.0, 0.0), (1.0, 1.0)).invert):
        with pytest.raises(DataError, match="points have 1 columns; this Scaler is for 2"):
            convert(np.zeros((5, 1)))


def test_files_being_written_into_a_directory_are_not_read(tmp_path):
    np.save(tmp_path / "shard_00000.npy", np.ones((3, 2)))
    np.save(tmp_path / ".tmp-1-shard_00001.npy", np.zeros((5, 2)))
    assert load_points(tmp_path).tolist() == [[1, 1]] * 3
