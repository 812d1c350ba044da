"""The manifest of a directory of samples: read, resumed after damage, or refused by line."""

import itertools
import json
import os
import shutil
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_jax.errors import ConfigError, InputError
from ddpm_jax.points.shards import Shards, digest
from fuzz import at_most, json_values


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Two of three shards, listed."""
    made = Shards(tmp_path_factory.mktemp("many"), {"seed": 0}, total=8, size=3)
    assert [made.rows(index) for index in range(len(made))] == [3, 3, 2]
    assert list(made.open()) == [0, 1, 2]
    for index in (0, 1):
        np.save(made.path(index), np.full((3, 2), index))
        made.add(index, digest(made.path(index)))
    return made


@pytest.fixture
def content(many):
    """The manifest, which is there again in the end."""
    kept = many.manifest.read_text()
    yield kept
    many.manifest.write_text(kept)


def test_what_is_listed_is_not_drawn_again(many, content):
    many.refuse_other()
    assert list(many.open()) == [2]
    assert many.manifest.read_text() == content


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ('{"rows": 3, "sha256": "0"}', 2),
        ('{"name": 7, "rows": 3, "sha256": "0"}', 2),
        ('{"name": "shard_00000.npy", "rows": "3", "sha256": "0"}', 2),
        ('{"name": "shard_00000.npy", "rows": 3}', 2),
        ('{"name": "../shard_00000.npy", "rows": 3, "sha256": "0"}', 2),
        ('{"name": "/etc/passwd", "rows": 3, "sha256": "0"}', 2),
        ("[" * 100_000, 2),  # only the last line may be torn
        ("17", 3),
        ('{"format": 1}', 3),
    ],
)
def test_a_line_of_another_kind_is_refused_by_number(many, content, line, number):
    lines = content.splitlines()
    lines[number - 1] = line
    many.manifest.write_text("\n".join(lines))
    where = f"manifest\\.jsonl, line {number}: not a line of a manifest.*--overwrite"
    for read in (many.refuse_other, many.open):
        with pytest.raises(ConfigError, match=where):
            read()
    assert many.manifest.read_text() == "\n".join(lines)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "null",
        "{}",
        '{"seed": 0}',
        "[" * 100_000,
        '{"format": 1, "seed": 0}',
        '{"program": "other", "format": 1}',
        '{"program": "ddpm_jax", "format": "1"}',
        '{"audio_filepath": "a.wav", "duration": 1.5}',
    ],
)
def test_a_manifest_of_another_program_is_refused_and_nothing_is_removed(many, content, header):
    """Whatever it lists: the shards may be anybody's."""
    lines = content.splitlines()
    many.manifest.write_text("\n".join([header, *lines[1:]]))
    before = {path: path.read_bytes() for path in many.directory.iterdir()}
    for act in (many.refuse_other, many.open, many.clear):
        with pytest.raises(ConfigError, match=r"manifest\.jsonl, line 1: not .*another name"):
            act()
    assert {path: path.read_bytes() for path in many.directory.iterdir()} == before


def test_only_what_is_listed_is_cleared(many, content, tmp_path):
    """Shards of others stay, whatever their names; then the directory is not ours to fill."""
    made = Shards(shutil.copytree(many.directory, tmp_path / "many"), {"seed": 0}, 8, 3)
    mine = made.directory / "shard_00007.npy"
    np.save(mine, np.zeros(3))
    with pytest.raises(InputError, match=r"shard_00007\.npy is not listed in manifest\.jsonl"):
        made.refuse_other()
    made.clear()
    assert list(made.directory.iterdir()) == [mine]
    with pytest.raises(InputError, match=r"holds shard_00007\.npy and no manifest"):
        made.refuse_other()


def test_only_our_temporaries_are_removed(many, content, tmp_path):
    made = Shards(shutil.copytree(many.directory, tmp_path / "many"), {"seed": 0}, 8, 3)
    names = ".tmp-7-shard_00001.npy", ".tmp-mine-shard_1.npy", ".tmp-7-notes.txt"
    for name in names:
        (made.directory / name).touch()
    made.open()
    assert [name for name in names if (made.directory / name).exists()] == list(names[1:])


def test_a_pipe_for_a_manifest_or_a_shard_does_not_block(many, content, tmp_path):
    made = Shards(shutil.copytree(many.directory, tmp_path / "many"), {"seed": 0}, 8, 3)
    made.path(1).unlink()
    os.mkfifo(made.path(1))
    with at_most(10), pytest.warns(match=r"shard_00001\.npy cannot be read .*is a pipe"):
        assert list(made.open()) == [1, 2]
    made.manifest.unlink()
    os.mkfifo(made.manifest)
    with at_most(10), pytest.raises(ConfigError, match=r"manifest\.jsonl: .*is a pipe"):
        made.refuse_other()


def test_any_number_of_shards_is_no_list(tmp_path):
    """10^9 shards of a million points: that they are many is for the disk to say."""
    with at_most(1):
        made = Shards(tmp_path, {"seed": 0}, total=10**15, size=10**6)
        assert len(made) == 10**9
        assert list(itertools.islice(made.open(), 2)) == [0, 1]


@pytest.mark.parametrize("torn", ['{"name": "shard_0', '{"name": ' + "[" * 100_000, "\0" * 100])
def test_a_torn_line_is_the_last_and_its_shard_not_in_place(many, content, torn, tmp_path):
    made = Shards(shutil.copytree(many.directory, tmp_path / "many"), {"seed": 0}, 8, 3)
    made.manifest.write_bytes(content.encode() + torn.encode())
    made.refuse_other()
    assert list(made.open()) == [2]
    header, first, _ = content.splitlines()
    made.path(1).unlink()
    made.manifest.write_text("\n".join([header, first, torn]))
    made.refuse_other()
    assert list(made.open()) == [1, 2]


def mangled(lines):
    """A manifest with one value replaced or removed, one line replaced, or some bytes."""

    def with_value(at, name, value, remove):
        changed = [json.loads(line) for line in lines]
        inner = changed[at % len(lines)]
        inner[name] = value
        if remove:
            del inner[name]
        return "\n".join(map(json.dumps, changed)).encode()

    names = st.sampled_from(["name", "rows", "sha256", "format", "program", "seed"])
    yield st.builds(with_value, st.integers(0, 9), names, json_values, st.booleans())
    yield st.lists(json_values | st.sampled_from([json.loads(line) for line in lines])).map(
        lambda values: "\n".join(map(json.dumps, values)).encode()
    )
    yield st.binary(max_size=100)
    yield st.binary(max_size=100).map(lambda end: "\n".join([*lines, ""]).encode() + end)


@pytest.mark.medium
@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_no_manifest_does_worse_than_our_error(many, data):
    kept = many.manifest.read_bytes()
    many.manifest.write_bytes(data.draw(st.one_of(*mangled(kept.decode().splitlines()))))
    try:
        with at_most(10), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shards that are not as listed
            many.refuse_other()
            assert set(many.open()) <= {0, 1, 2}
    except InputError as error:
        # A line, another run's settings, or a shard that is no longer listed.
        place = (
            f"{many.manifest}, line ",
            f"{many.directory} holds other samples\n  ",
            f"{many.directory}/shard_",
        )
        assert str(error).startswith(place), error  # noqa: PT017
    finally:
        many.manifest.write_bytes(kept)
