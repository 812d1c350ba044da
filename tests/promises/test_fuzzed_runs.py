"""What is in a run directory may be anything: it is read, or refused by name, and soon."""

import gc
import json
import logging
import shutil
import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ddpm_jax.cli import train
from ddpm_jax.config import Config
from ddpm_jax.errors import InputError
from ddpm_jax.runs import checkpoints
from ddpm_jax.runs.record import Run
from fuzz import at_most, json_values
from harness import copy, reference


@pytest.fixture(scope="module")
def scratch(types_unchecked, tmp_path_factory):
    """A directory for every example; and types are Config's business, as they are for users."""
    return tmp_path_factory.mktemp("scratch")


def refusal(read, seconds=10):
    """What the error says, which must be one of ours; nothing, where reading ends well."""
    try:
        with at_most(seconds):
            read()
    except InputError as error:
        return str(error)
    return ""


# --- config.json ---

RUN = Run.of(Config(data="points.csv"), np.random.default_rng(0).uniform(-1, 1, (300, 2)))
OTHERS = {
    "config": ["setting"],  # of the object as a whole
    "dim": ["shift"],  # no longer of that length
    "num_points": ["batch"],  # more than there are points
    "epochs": ["milestones"],  # after the end
    "shift": ["scaler"],  # of which a part is missing
    "scale": ["scaler"],
}
"""What else the message may name, where the value itself would do."""


def load_bytes(directory, content):
    """Load a config.json: what it says is wrong; what is accepted can be worked with."""
    (directory / "config.json").write_bytes(content)

    def read():
        run = Run.load(directory)
        assert run.total_steps >= 1
        assert run.schedule.num_steps == run.config.noise.num_steps

    message = refusal(read)
    assert not message or message.startswith(f"{directory}/config.json: ")
    return message


@given(content=st.binary(max_size=200))
@example(b"\xff\xfe{\x00}\x00")
@example(b'\xef\xbb\xbf{"format": 2}')
@example(b"[" * 100_000)
@example(b"1" * 10_000)
@example(b'{"format": 2, "format": NaN}')
@settings(deadline=None)
def test_random_bytes_are_refused(scratch, content):
    assert load_bytes(scratch, content)


@given(
    position=st.floats(0, 1, exclude_max=True),
    length=st.integers(0, 20),
    replacement=st.binary(max_size=8),
)
@settings(deadline=None, max_examples=200)
def test_a_config_json_with_a_piece_replaced_is_read_or_refused(
    scratch, position, length, replacement
):
    RUN.save(scratch)
    content = (scratch / "config.json").read_bytes()
    start = int(position * len(content))
    load_bytes(scratch, content[:start] + replacement + content[start + length :])


@pytest.mark.slow
@settings(deadline=None, max_examples=500)
@given(data=st.data())
def test_a_config_json_with_any_value_in_it_is_read_or_refused_by_field(scratch, data):
    """Of any depth, replaced or removed; and as `--resume` reads it, which says the same."""
    RUN.save(scratch)
    config = json.loads((scratch / "config.json").read_text())
    sections = [value for value in config["config"].values() if isinstance(value, dict)]
    assert len(sections) >= 4
    inner = data.draw(st.sampled_from([config, config["config"], config["scaler"], *sections]))
    name = data.draw(st.sampled_from(sorted(inner)))
    edges = st.sampled_from([0, 10**12, 10**400, [10**400, 1], [1, True], 1e308])
    inner[name] = data.draw(json_values | edges)
    if data.draw(st.booleans()):
        del inner[name]
    message = load_bytes(scratch, json.dumps(config).encode())
    assert not message or any(word in message for word in [name, *OTHERS.get(name, [])])
    assert refusal(lambda: train.parse(["--resume", "--out", str(scratch)])) == message


# --- checkpoints ---


def paths(tree, path=()):
    """The keys that lead to every value of nested dictionaries."""
    for key, value in sorted(tree.items()):
        yield (*path, key)
        if isinstance(value, dict):
            yield from paths(value, (*path, key))


def damaged(content, kind, where, byte, other, value):
    """The content with a byte changed, cut short, replaced, or, of JSON, one value replaced."""
    if kind == "other":
        return other
    if kind == "value" and content[:1] == b"{":
        tree = inner = json.loads(content)
        *above, key = (every := list(paths(tree)))[int(where * len(every))]
        for name in above:
            inner = inner[name]
        inner[key] = value
        return json.dumps(tree).encode()
    at = int(where * len(content))
    return content[:at] + (b"" if kind == "cut" else bytes([byte]) + content[at + 1 :])


@pytest.fixture(scope="module")
def one_checkpoint(scratch):
    """A run with one checkpoint, and beside it the same, never to be damaged."""
    whole = copy(reference(), scratch / "whole")
    for step in (6, 12, 18):
        shutil.rmtree(whole / "checkpoints" / str(step))
    return copy(whole, scratch / "run")


@pytest.fixture
def tasks_of_orbax_buried(monkeypatch):
    """Where a read is refused, Orbax leaves tasks whose event loop is closed, and they complain.

    They are to do so in the example they belong to, unheard, and not whenever they are collected.
    """
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    logging.disable()  # the records that pytest keeps would keep the tasks
    gc.collect()
    gc.freeze()  # so that the collection after every example is a short one
    yield
    gc.unfreeze()
    gc.collect()
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    number=st.integers(0, 10**6),
    kind=st.sampled_from(["byte", "cut", "other", "value"]),
    where=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    other=st.binary(max_size=50),
    value=json_values,
    up_to_date=st.booleans(),
)
def test_a_checkpoint_with_anything_in_it_is_read_or_refused_by_name(
    one_checkpoint, tasks_of_orbax_buried, number, up_to_date, **damage
):
    """Half of the time SHA256SUMS are brought up to date, as if whoever did it knew of them."""
    folder = one_checkpoint / "checkpoints" / "24"
    whole = one_checkpoint.with_name("whole") / "checkpoints" / "24"
    names = [p.relative_to(whole) for p in sorted(whole.rglob("*")) if p.is_file()]
    name = names[number % len(names)]
    (folder / name).write_bytes(damaged((whole / name).read_bytes(), **damage))
    if up_to_date:
        (folder / "SHA256SUMS").write_bytes(checkpoints._sums(folder).encode())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            message = refusal(
                lambda: Run.load(one_checkpoint).load_params(one_checkpoint), seconds=60
            )
            gc.collect()
        # With sums that fit, what is wrong may not show before all of a step was read.
        assert not message or str(folder) in message
        assert up_to_date or not message or str(name) in message or name.name == "SHA256SUMS"
    finally:
        for damaged_name in (name, "SHA256SUMS"):
            shutil.copyfile(whole / damaged_name, folder / damaged_name)
