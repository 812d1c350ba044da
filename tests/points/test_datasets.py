"""Files of points that are right, and which points a name stands for."""

import bz2
import hashlib
import io
import lzma
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ddpm_jax.errors import DataError
from ddpm_jax.points import sources
from ddpm_jax.points.readers import LIMIT, digest, load_points, open_shards
from ddpm_jax.points.toys import toy
from point_files import POINTS, gz, npy, npy_header, npz, write

SPACELESS = "{{'descr':'<f8','fortran_order':False,'shape':{}}}"


@pytest.mark.parametrize(
    "case",
    [
        ("a.txt", b"1 -2.5\n.3 4e-3\n5. 6\n"),
        ("no-newline-at-the-end.txt", b"1 -2.5\n.3 4e-3\n5. 6"),
        ("UPPER.TXT", b"1 -2.5\n.3 4e-3\n5. 6"),
        ("space.txt", b"\n \t\n\t1\t-2.5  \n  .3 4E-3\n \n+5.0   6\n\n"),
        ("comments.txt", "# größe\n1 -2.5 # x\n  # y\n.3 4e-3\n5 6\n#".encode()),
        ("comma.txt", b"1,-2.5\n.3,4e-3\n5,6"),
        ("tab.dat", b"1\t-2.5\n.3\t4e-3\n5\t6"),
        ("decimal-comma.csv", b"1;-2,5\n0,3;4e-3\n5;6"),
        ("fortran.asc", b"1 -2.5D0\n3.d-1 4d-03\n5 6\n"),
        ("quoted.csv", b'"1","-2.5"\n"0.3","4e-3"\n"5","6"'),
        ("minus.txt", "1 −2.5\n.3 4e-3\n5 6".encode()),
        ("utf-16.txt", "1 -2.5\n.3 4e-3\n5 6".encode("utf-16-le")),
        ("latin-1.txt", "# größe\n1 -2.5\n.3 4e-3\n5 6".encode("latin-1")),
        ("percent.txt", b"% a note # in it\n1 -2.5\n.3 4e-3\n% another\n5 6 # here too"),
        ("windows.txt", b"\xef\xbb\xbf1 -2.5\r\n.3 4e-3\r\n5 6\r\n"),
        ("mac.txt", b"1 -2.5\r.3 4e-3\r5 6\r"),
        ("a.csv", b"1,-2.5\n.3,4e-3\n5,6\n"),
        ("a.txt.gz", gz(b"1 -2.5\n.3 4e-3\n") + gz(b"5 6\n")),
        ("a.csv.gz", gz(b"1,-2.5\n.3,4e-3\n5,6\n")),
        ("a.csv.bz2", bz2.compress(b"1,-2.5\n.3,4e-3\n5,6\n")),
        ("a.csv.xz", lzma.compress(b"1,-2.5\n.3,4e-3\n") + lzma.compress(b"5,6\n")),
        ("a.npz", npz(POINTS)),
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


@pytest.mark.parametrize(
    "case",
    [
        ("header.csv", b"# a bicycle\nx,y\n1, -2.5\n.3 ,4e-3\n5,6\n", ["x", "y"]),
        ("semi.csv", b"x (m);y (m)\n1;-2.5\n.3;4e-3\n5;6\n", ["x (m)", "y (m)"]),
        ("header.tab.csv", b'"x"\t"y"\n1\t-2.5\n.3\t4e-3\n5\t6\n\t\n', ["x", "y"]),
        ("bom.csv", b"\xef\xbb\xbfx,y\r\n1,-2.5\r\n.3,4e-3\r\n5,6\r\n", ["x", "y"]),
        ("a.csv.gz", gz(b"x,y\n1,-2.5\n.3,4e-3\n5,6\n"), ["x", "y"]),
        ("ends.csv", b"x,y,\n1,-2.5\n.3,4e-3\n5,6\n", ["x", "y"]),
        ("record.npy", npy(np.array(list(map(tuple, POINTS)), "f8,f8")), ["f0", "f1"]),
    ],
    ids=lambda case: case[0],
)
def test_named_columns_are_a_frame(tmp_path, case):
    name, content, names = case
    loaded = load_points(write(tmp_path / name, content))
    assert loaded.columns == names
    np.testing.assert_array_equal(loaded.to_numpy(), POINTS)
    np.testing.assert_array_equal(sources.load(tmp_path / name), POINTS)


def test_one_column(tmp_path):
    loaded = load_points(write(tmp_path / "a.txt", b"1\n2\n"))
    np.testing.assert_array_equal(loaded, [[1.0], [2.0]])
    assert load_points(write(tmp_path / "a.csv", b"x\n1\n2\n")).to_dict(as_series=False) == {
        "x": [1, 2]
    }


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
    there = x[~np.isnan(x)] if x.dtype.kind == "f" else x
    if np.abs(there.astype(np.float64)).max(initial=0) <= LIMIT:
        expected = x.astype(np.float64).reshape(len(x), -1)
        np.testing.assert_array_equal(load_points(path), expected)
    else:
        with pytest.raises(DataError, match="row"):
            load_points(path)


@pytest.mark.medium
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


@pytest.mark.medium
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
    np.testing.assert_array_equal(np.concatenate([shard[:] for shard in shards]), expected)
    np.testing.assert_array_equal(load_points(tmp_path), expected)


def test_files_being_written_into_a_directory_are_not_read(tmp_path):
    np.save(tmp_path / "shard_00000.npy", np.ones((3, 2)))
    np.save(tmp_path / ".tmp-1-shard_00001.npy", np.zeros((5, 2)))
    assert load_points(tmp_path).tolist() == [[1, 1]] * 3


def test_names_of_toys_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "moons", b"1 2\n3 4\n")
    write(tmp_path / "own.txt", b"1 2\n3 4\n")
    np.testing.assert_array_equal(sources.load("moons"), toy("moons", 0))
    np.testing.assert_array_equal(sources.load("own.txt"), [[1, 2], [3, 4]])
    with pytest.raises(DataError, match=r"unknown kind of file"):
        sources.load("./moons")
    with pytest.raises(DataError, match=r"'moon': neither a file nor one of the names bicycle, "):
        sources.load("moon")


def test_digest():
    expected = hashlib.sha256(b"(3, 2)" + struct.pack("<6d", *POINTS.ravel())).hexdigest()
    assert digest(POINTS) == digest(np.asfortranarray(POINTS)) == expected
    assert digest(POINTS.reshape(2, 3)) != expected
