"""A file is the old one or the new one, never part of either."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ddpm_jax.errors import InputError
from ddpm_jax.files import (
    NotAFileError,
    open_regular,
    read_text,
    refuse_beyond_disk,
    refuse_existing,
    replacing,
    write_text,
)
from fuzz import at_most


@pytest.mark.parametrize("old", [None, "old"])
def test_the_file_is_replaced_when_the_block_ends(tmp_path, old):
    path = tmp_path / "a" / "b.txt"
    if old:
        write_text(path, old)
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert (path.read_text() if path.exists() else None) == old
        assert os.stat(temporary.parent).st_dev == os.stat(path.parent).st_dev
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def write_half(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_old_file_survives_a_block_that_raises(tmp_path, error):
    path = tmp_path / "b.txt"
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_appears_when_there_was_nothing_before(tmp_path):
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "b.txt", RuntimeError)
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("old")
    with pytest.raises(InputError, match=r"b\.txt"), replacing(path):
        pass
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["x.npy", "x.tar.gz", ".hidden", "ünï.json"])
def test_writers_that_go_by_the_suffix_see_the_right_one(tmp_path, name):
    with replacing(tmp_path / name) as temporary:
        assert temporary.name.endswith(name)
        temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_array_is_written_whole(tmp_path):
    # np.save would append .npy to a name without it, and the rename would miss the file.
    with replacing(tmp_path / "x.npy") as temporary:
        np.save(temporary, np.arange(5))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.arange(5))


def test_text_is_utf8_whatever_the_locale(tmp_path):
    write_text(tmp_path / "x", "√ᾱ ≤ 1\n")
    assert (tmp_path / "x").read_bytes() == "√ᾱ ≤ 1\n".encode()


def test_what_exists_is_refused_unless_it_may_be_overwritten(tmp_path):
    path = tmp_path / "x.csv"
    refuse_existing(path, overwrite=False)
    path.touch()
    refuse_existing(path, overwrite=True)
    with pytest.raises(InputError, match=r"x\.csv exists.*--overwrite"):
        refuse_existing(path, overwrite=False)
    with pytest.raises(InputError):
        refuse_existing(tmp_path, overwrite=False)


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    """And nothing else: not what a living process writes, nor another file's."""
    killed = subprocess.Popen([sys.executable, "-c", ""])
    assert killed.wait() == 0
    gone, *kept = (
        tmp_path / name
        for name in (
            f".tmp-{killed.pid}-x.npy",
            f".tmp-{os.getppid()}-x.npy",
            f".tmp-{killed.pid}-y.npy",
            f".tmp-{killed.pid}-x.npy.txt",
            ".tmp-mine-x.npy",
        )
    )
    for path in (gone, *kept):
        path.touch()
    write_text(tmp_path / "x.npy", "new")
    assert set(tmp_path.iterdir()) == {tmp_path / "x.npy", *kept}


@pytest.mark.parametrize(("kind", "make"), [("pipe", os.mkfifo), ("directory", os.mkdir)])
def test_what_is_no_file_is_said_at_once(tmp_path, kind, make):
    make(tmp_path / "x")
    with at_most(5), pytest.raises(NotAFileError, match=rf"x is a {kind}, not a file"):
        read_text(tmp_path / "x")
    with pytest.raises(NotAFileError, match=r"/dev/zero is a device"):
        open_regular("/dev/zero")
    (tmp_path / "link").symlink_to(tmp_path / "y")
    (tmp_path / "y").write_bytes(b"\xce\xb1")
    assert read_text(tmp_path / "link") == "α"


def test_more_than_the_disk_has_room_for_is_refused_before_it_is_made(tmp_path):
    refuse_beyond_disk(tmp_path / "a" / "b" / "x.npy", 1000)
    with pytest.raises(InputError, match=r"x\.npy would take 8,000,000\.0 GB, and the disk has"):
        refuse_beyond_disk(tmp_path / "a" / "b" / "x.npy", 8 * 10**15)
