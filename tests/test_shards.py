"""The manifest of a directory of samples: read, resumed after damage, or refused by line."""

import json
import warnings

import numpy as np
import pytest
from fuzz import at_most, json_values
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_jax.errors import ConfigError, InputError
from ddpm_jax.shards import Shards, digest


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Two of three shards, listed."""
    made = Shards(tmp_path_factory.mktemp("many"), {"seed": 0}, [3, 3, 2])
    assert made.open() == [0, 1, 2]
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
    assert many.open() == [2]
    assert many.manifest.read_text() == content


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("", 1),
        ("null", 1),
        ("{}", 1),
        ('{"seed": 0}', 1),
        ("[" * 100_000, 1),
        ('{"rows": 3, "sha256": "0"}', 2),
        ('{"name": 7, "rows": 3, "sha256": "0"}', 2),
        ('{"name": "shard_00000.npy", "rows": "3", "sha256": "0"}', 2),
        ('{"name": "shard_00000.npy", "rows": 3}', 2),
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


@pytest.mark.parametrize("torn", ['{"name": "shard_0', '{"name": ' + "[" * 100_000, "\0" * 100])
def test_a_torn_line_ends_the_list(many, content, torn):
    first, second, *_ = content.splitlines()
    many.manifest.write_text("\n".join([first, second, torn]))
    many.refuse_other()
    assert many.open() == [1, 2]
    many.manifest.write_text(content)
    many.manifest.write_bytes(content.encode() + torn.encode())
    assert many.open() == [2]


def mangled(lines):
    """A manifest with one value replaced or removed, one line replaced, or some bytes."""

    def with_value(at, name, value, remove):
        changed = [json.loads(line) for line in lines]
        inner = changed[at % len(lines)]
        inner[name] = value
        if remove:
            del inner[name]
        return "\n".join(map(json.dumps, changed)).encode()

    names = st.sampled_from(["name", "rows", "sha256", "format", "seed"])
    yield st.builds(with_value, st.integers(0, 9), names, json_values, st.booleans())
    yield st.lists(json_values | st.sampled_from([json.loads(line) for line in lines])).map(
        lambda values: "\n".join(map(json.dumps, values)).encode()
    )
    yield st.binary(max_size=100)
    yield st.binary(max_size=100).map(lambda end: "\n".join([*lines, ""]).encode() + end)


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
        # A line, or another run's settings.
        place = (f"{many.manifest}, line ", f"{many.directory} holds other samples\n  ")
        assert str(error).startswith(place), error  # noqa: PT017
    finally:
        many.manifest.write_bytes(kept)
