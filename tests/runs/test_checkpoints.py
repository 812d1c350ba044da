"""Checkpoints: bit for bit, or a warning and the one before, or an error; never wrong numbers."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoint_states import make_state
from ddpm_jax.errors import CheckpointError
from ddpm_jax.runs import checkpoints
from ddpm_jax.runs.checkpoints import restore, save, steps
from fuzz import at_most
from harness import assert_same_bits

STATE = make_state(0)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def seal(folder):
    """SHA256SUMS of a folder as sha256sum writes it: an independent statement of the format."""
    files = [path for path in files_of(folder) if path.name != "SHA256SUMS"]
    lines = [
        f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(folder)}" for f in files
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("abstract", [False, True])
def test_round_trip_is_bit_for_bit(run, abstract):
    like = jax.eval_shape(lambda: make_state(0)) if abstract else make_state(0)
    for step in (2, 1):
        at, state, metadata = restore(run, like)
        assert (at, metadata) == (step, {"epoch": step})
        assert_same_bits(state, make_state(step))
        shutil.rmtree(run / str(step))


def test_restored_arrays_are_as_fresh_ones(run):
    """Uncommitted, so that a sharded batch may join them in a jit; and free to be donated."""
    _, state, _ = restore(run, make_state(0))
    assert all(isinstance(x, jax.Array) and not x.committed for x in jax.tree.leaves(state))
    assert all(x.devices() == {jax.devices()[0]} for x in jax.tree.leaves(state))
    jax.jit(lambda tree: jax.tree.map(jnp.logical_not, tree), donate_argnums=0)(state[2].mask)
    jax.jit(lambda x: x + 1, donate_argnums=0)(state[0]["dense"]["kernel"])
    assert_same_bits(restore(run, make_state(0))[1], make_state(2))


def test_a_leaf_gets_the_sharding_of_like(run):
    sharding = jax.sharding.NamedSharding(
        jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
        jax.sharding.PartitionSpec(),
    )
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), make_state(0)
    )
    _, state, _ = restore(run, like)
    assert all(x.sharding == sharding for x in jax.tree.leaves(state))
    assert_same_bits(state, make_state(2))


def test_sums_are_those_of_sha256sum(run):
    assert (run / "2" / "SHA256SUMS").read_text() == seal(run / "2")


def delete(path):
    path.unlink()


def truncate(path):
    """Cut to half; a file that is empty already grows instead."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if content else b"\0")


def flip(path, bit):
    """One bit of the byte in the middle: the lowest leaves text readable, the highest does not."""
    content = bytearray(path.read_bytes() or b"\0")
    content[len(content) // 2] ^= bit
    path.write_bytes(content)


def flip_low(path):
    flip(path, 0x01)


def flip_high(path):
    flip(path, 0x80)


@pytest.mark.parametrize("damage", [delete, truncate, flip_low, flip_high])
def test_damage_to_any_file_is_seen_and_the_step_before_used(run, tmp_path, damage):
    files = files_of(run / "2")
    assert len(files) > 5
    for path in files:
        shutil.copytree(run / "2", tmp_path / "whole")
        damage(path)
        name = str(path.relative_to(run / "2"))
        with pytest.warns(UserWarning, match=f"run/2: .*{re.escape(name)}"):
            step, state, metadata = restore(run, make_state(0))
        assert (step, metadata) == (1, {"epoch": 1})
        assert_same_bits(state, make_state(1))
        shutil.rmtree(run / "2")
        (tmp_path / "whole").rename(run / "2")
    assert restore(run, make_state(0))[0] == 2


def test_without_a_whole_checkpoint_the_error_tells_of_each(run):
    (run / "1" / "SHA256SUMS").unlink()
    truncate(run / "2" / "state" / "_METADATA")
    with (
        pytest.warns(UserWarning, match="trying the step before"),
        pytest.raises(CheckpointError, match=r"(?s)run/2: .*_METADATA.*run/1: .*SHA256SUMS"),
    ):
        restore(run, make_state(0))


def test_wrong_leaves_in_sound_files_are_seen(run):
    """Leaves of another step under valid sums: only the digests of the leaves can tell."""
    save(run, 3, make_state(3))
    shutil.rmtree(run / "3" / "state")
    shutil.copytree(run / "2" / "state", run / "3" / "state")
    (run / "3" / "SHA256SUMS").write_text(seal(run / "3"))
    with pytest.warns(UserWarning, match=r"run/3: leaf \[0\]\['dense'\]\['kernel'\]"):
        assert restore(run, make_state(0))[0] == 2


@pytest.mark.parametrize("name", ["state/_METADATA", "_CHECKPOINT_METADATA"])
def test_what_orbax_cannot_read_is_passed_over(run, name):
    (run / "2" / name).unlink()
    (run / "2" / "SHA256SUMS").write_text(seal(run / "2"))
    with pytest.warns(UserWarning, match="run/2: Orbax cannot read it"):
        assert restore(run, make_state(0))[0] == 1


def test_metadata_of_a_wrong_type_under_valid_sums_are_passed_over(run):
    path = run / "2" / "state" / "_METADATA"
    metadata = json.loads(path.read_text())
    name = next(iter(metadata["tree_metadata"]))
    metadata["tree_metadata"][name] = 0
    path.write_text(json.dumps(metadata))
    (run / "2" / "SHA256SUMS").write_text(seal(run / "2"))
    with pytest.warns(UserWarning, match="run/2: Orbax cannot read it"):
        assert restore(run, make_state(0))[0] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_never_saved(run, bad):
    state = make_state(3)
    state[0]["dense"]["bias"] = state[0]["dense"]["bias"].at[1].set(bad)
    with pytest.raises(CheckpointError, match=r"\['bias'\]: 1 of 3 numbers are not finite"):
        save(run, 1, state)
    assert sorted(os.listdir(run)) == ["1", "2"]
    assert restore(run, make_state(0))[0] == 2


@pytest.mark.usefixtures("x32")
@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (1.5, "float"),
        ("text", "str"),
        (np.float32(1), "array of at least one"),
        (jnp.zeros((0, 2), jnp.float32), "array of at least one"),
        (np.arange(3), "int64, which JAX would cast"),
        (np.array([None]), "object"),
        (jax.random.key(0), r"key<fry>.*key_data"),
    ],
)
def test_leaves_that_would_not_come_back_are_refused(tmp_path, leaf, message):
    with pytest.raises(CheckpointError, match=rf"leaf \['x'\] .*{message}"):
        save(tmp_path / "run", 0, {"x": leaf})
    assert not (tmp_path / "run").exists()


def with_kernel(kernel):
    params, *rest = make_state(0)
    return ({"dense": {**params["dense"], "kernel": kernel}}, *rest)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            with_kernel(jnp.zeros((2, 4), jnp.float32)),
            r"\['kernel'\] is float32\[2, 3\] there, float32\[2, 4\]",
        ),
        (with_kernel(jnp.zeros((2, 3), jnp.bfloat16)), r"float32\[2, 3\] there, bfloat16\[2, 3\]"),
        (with_kernel({"a": jnp.zeros((2, 3))}), r"\['kernel'\] is .* there, missing here"),
        ((*make_state(0), jnp.zeros(1)), r"\[4\] is missing there"),
        (make_state(0)[:3], r"\[3\]\['e'\]\[0\] is .* missing here, .*\[1\]"),
        (with_kernel(1.0), r"leaf .*\['kernel'\] is not an array"),
    ],
)
def test_another_network_is_refused_not_taken_for_damage(run, like, message):
    with pytest.raises(CheckpointError, match=message):
        restore(run, like)


@pytest.mark.parametrize("version", [0, 2])
def test_another_format_is_refused_not_taken_for_damage(run, monkeypatch, version):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "FORMAT", version)
        save(run, 3, make_state(3))
    with pytest.raises(CheckpointError, match=rf"format version {version}, .* reads 1 only"):
        restore(run, make_state(0))


def test_a_save_ends_the_abandoned_future(run):
    for step in (9, 10, 100):
        save(run, step, make_state(step))
    assert steps(run) == [1, 2, 9, 10, 100]
    flip_low(run / "100" / "SHA256SUMS")
    save(run, 10, make_state(-10))
    assert steps(run) == [1, 2, 9, 10]
    assert_same_bits(restore(run, make_state(0))[1], make_state(-10))


def test_all_of_a_step_is_on_the_disk_before_it_is_renamed(run, monkeypatch):
    fsync, rename, synced, renamed = os.fsync, Path.rename, set(), []

    def recording_fsync(descriptor):
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def recording_rename(path, target):
        if path.name == "3":
            parts = {str(p) for p in [path, *path.rglob("*")]}
            renamed.append((len(parts), parts - synced))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "rename", recording_rename)
    save(run, 3, make_state(3))
    ((count, missing),) = renamed
    assert count > 5
    assert missing == set()
    assert str(run) in synced


def test_nothing_else_is_left_in_the_directory(run):
    (run / ".saving" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    (run / "notes.txt").write_text("kept")
    assert steps(run) == [1, 2]
    save(run, 1, make_state(1))
    assert {path.name for path in run.iterdir()} == {"1", "notes.txt"}


def test_bad_requests_say_what_would_be_right(run, tmp_path):
    state = make_state(0)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*nowhere"):
        restore(tmp_path / "nowhere", state)
    with pytest.raises(CheckpointError, match="steps count from 0"):
        save(run, -1, state)
    for metadata in ({"path": Path("x")}, {"loss": float("nan")}):
        with pytest.raises(CheckpointError, match="not JSON"):
            save(run, 3, state, metadata)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot save"):
        save(tmp_path / "file", 0, state)


def test_no_file_stays_open(run):
    for step in range(21):
        save(run, step, {"x": jnp.arange(3.0)})
        restore(run, {"x": jnp.arange(3.0)})
        if step == 0:  # what the first one opens for good, as for Orbax's own threads, is no leak
            before = os.listdir("/dev/fd")
    assert len(os.listdir("/dev/fd")) <= len(before)


def test_what_is_not_finite_is_not_restored_though_all_digests_agree(run):
    """As whoever edits a checkpoint can make them agree."""
    with mock.patch.object(checkpoints, "_is_finite", return_value=True):
        save(run, 2, jax.tree.map(lambda x: x * np.nan if x.dtype == np.float32 else x, STATE))
    with pytest.warns(match=r"/2: leaf .* is not finite.*trying the step before"):
        step, state, _ = restore(run, STATE)
    assert step == 1
    assert_same_bits(state, make_state(1))


def test_a_folder_that_orbax_cannot_open_is_not_called_damaged(run, tmp_path):
    moved = run.rename(tmp_path / os.fsdecode(b"moved-\xff"))
    for act in (lambda: restore(moved, STATE), lambda: save(moved, 3, STATE)):
        with pytest.raises(CheckpointError, match=r"name is not UTF-8: rename or move it"):
            act()
    assert restore(moved.rename(run), STATE)[0] == 2


def test_a_pipe_in_a_checkpoint_does_not_block(run):
    for name in ("SHA256SUMS", *[path.name for path in files_of(run / "2")][:1]):
        (path,) = (run / "2").rglob(name)
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        with at_most(20), pytest.warns(match=r"/2: .*trying the step before"):
            assert restore(run, STATE)[0] == 1
        path.unlink()
        path.write_bytes(content)
