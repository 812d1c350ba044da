"""Checkpoints: bit for bit, or a warning and the one before, or an error; never wrong numbers."""

import contextlib
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax import checkpoints
from ddpm_jax.checkpoints import restore, save, steps
from ddpm_jax.errors import CheckpointError


class Pair(NamedTuple):
    count: jax.Array
    mask: np.ndarray


def make_state(step):
    """Every kind of node and leaf, a known function of `step`; Adam's moments are not zero."""
    params = {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3) - step, "bias": jnp.ones(3)}}
    adam = optax.adam(1e-3)
    _, moments = adam.update(params, adam.init(params))
    # The signed zero, the smallest subnormal and the largest float: what a lossy path would lose.
    edges = np.array([-0.0, 1e-45, 3.4028235e38], np.float32)
    half = jnp.full((1, 2), step, jnp.bfloat16)
    return (params, moments, Pair(jnp.int32(step), np.array([True, False])), {"e": [edges, half]})


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def seal(folder):
    """SHA256SUMS of a folder as sha256sum writes it: an independent statement of the format."""
    files = [path for path in files_of(folder) if path.name != "SHA256SUMS"]
    lines = [
        f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(folder)}" for f in files
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for step in (1, 2):
        save(folder, step, make_state(step), {"epoch": step})
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """A directory with checkpoints of steps 1 and 2."""
    return shutil.copytree(saved, tmp_path / "run")


@pytest.mark.parametrize("abstract", [False, True])
def test_round_trip_is_bit_for_bit(run, abstract):
    like = jax.eval_shape(lambda: make_state(0)) if abstract else make_state(0)
    for step in (2, 1):
        at, state, metadata = restore(run, like)
        assert (at, metadata) == (step, {"epoch": step})
        assert_same(state, make_state(step))
        shutil.rmtree(run / str(step))


def test_restored_arrays_are_as_fresh_ones(run):
    """Uncommitted, so that a sharded batch may join them in a jit; and free to be donated."""
    _, state, _ = restore(run, make_state(0))
    assert all(isinstance(x, jax.Array) and not x.committed for x in jax.tree.leaves(state))
    assert all(x.devices() == {jax.devices()[0]} for x in jax.tree.leaves(state))
    jax.jit(lambda tree: jax.tree.map(jnp.logical_not, tree), donate_argnums=0)(state[2].mask)
    jax.jit(lambda x: x + 1, donate_argnums=0)(state[0]["dense"]["kernel"])
    assert_same(restore(run, make_state(0))[1], make_state(2))


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
    assert_same(state, make_state(2))


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
        assert_same(state, make_state(1))
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


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (1.5, "float"),
        ("text", "str"),
        (np.float32(1), "array of at least one"),
        (jnp.zeros((0, 2)), "array of at least one"),
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
        (with_kernel(jnp.zeros((2, 4))), r"\['kernel'\] is float32\[2, 3\] there, float32\[2, 4\]"),
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
    assert_same(restore(run, make_state(0))[1], make_state(-10))


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


class KilledError(BaseException):
    """As a kill: no handler of errors sees it."""


@pytest.mark.parametrize(
    ("renames", "left", "newest"), [(0, [1, 2, 3], 3), (1, [1, 2], 2), (2, [1], 1), (3, [1, 2], -2)]
)
def test_a_swap_cut_short_leaves_whole_steps_of_one_run(run, monkeypatch, renames, left, newest):
    save(run, 3, make_state(3))
    rename, done = Path.rename, []

    def rename_until_killed(*paths):
        if len(done) == renames:
            raise KilledError
        done.append(rename(*paths))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_until_killed)
        with contextlib.suppress(KilledError):
            save(run, 2, make_state(-2))
    assert steps(run) == left
    assert_same(restore(run, make_state(0))[1], make_state(newest))


@contextlib.contextmanager
def small_files(folder):
    """A limit on the size of files, which any user can set: the large file cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        yield "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def full_disk(folder):
    """A disk of 600 kB, where mounting is permitted; a limit on the size of files elsewhere."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        with small_files(folder) as reason:
            yield reason
        return
    try:
        yield "No space left on device"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder):
    """A folder that may not be written, not even by root, who becomes nobody in the meantime."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield "Permission denied"
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.parametrize("broken", [small_files, full_disk])
@pytest.mark.parametrize(("asks", "where"), [(True, r"\[Errno"), (False, "Failed writing")])
def test_a_full_disk_costs_no_checkpoint(tmp_path, key, caplog, monkeypatch, broken, asks, where):
    """Refused where room is asked for or, when others filled the disk since, in Orbax's threads."""
    run, small = tmp_path / "run", {"x": jnp.arange(3.0)}
    large = {"x": jax.random.normal(key, (2**18,))}
    if not asks:
        monkeypatch.setattr(checkpoints, "_ask_for_room", lambda path, size: None)
    with broken(run) as reason:
        save(run, 0, small)
        for _ in range(2):
            with pytest.raises(CheckpointError, match=f"save step 1 .*{where}.*{reason}.*intact"):
                save(run, 1, large)
            assert os.listdir(run) == ["0"]
            assert_same(restore(run, small)[1], small)
        save(run, 1, small)
        assert steps(run) == [0, 1]
    assert not caplog.records


def test_a_read_only_directory_is_an_error_and_costs_no_checkpoint(run):
    with (
        read_only(run) as reason,
        pytest.raises(CheckpointError, match=rf"cannot save step 2 .*{reason}.*intact"),
    ):
        save(run, 2, make_state(0))
    assert_same(restore(run, make_state(0))[1], make_state(2))


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
    before = os.listdir("/dev/fd")
    for step in range(20):
        save(run, step, {"x": jnp.arange(3.0)})
        restore(run, {"x": jnp.arange(3.0)})
    assert len(os.listdir("/dev/fd")) <= len(before)


SAVE_FOR_EVER = """
import sys, jax.numpy as jnp, numpy as np
from ddpm_jax.checkpoints import restore, save, steps
run, like = sys.argv[1], {"x": jnp.zeros(50_000), "step": jnp.int32(0)}
step = restore(run, like)[0] if steps(run) else 0
while True:
    step += 1
    state = {"x": np.random.default_rng(step).random(50_000, np.float32), "step": jnp.int32(step)}
    save(run, step, state)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """What a save that returned has written is there, to the bit, after SIGKILL in a later one."""
    run, like = tmp_path / "run", {"x": jnp.zeros(50_000), "step": jnp.int32(0)}
    moments = random.Random(0)
    for _ in range(10):
        command = [sys.executable, "-c", SAVE_FOR_EVER, str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            first = process.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            returned = int((first + process.stdout.read()).split()[-1])
        step, state, _ = restore(run, like)
        assert step in (returned, returned + 1)
        expected = np.random.default_rng(step).random(50_000, np.float32)
        assert_same(state, {"x": jnp.asarray(expected), "step": jnp.int32(step)})


TWO_PROCESSES = """
import sys, jax, jax.numpy as jnp, numpy as np
run, address, process = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, 2, int(process))
from ddpm_jax.checkpoints import restore, save, steps
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
for step in (5, 6, 5):
    state = {"x": jax.device_put(np.arange(3.0, dtype=np.float32) + step, everywhere)}
    save(run, step, state, {"step": step})
    assert steps(run)[-1] == step
    at, back, metadata = restore(run, state)
    assert at == metadata["step"] == step and back["x"].sharding == everywhere
    assert np.array_equal(np.asarray(back["x"]), np.arange(3.0) + step)
"""


@pytest.mark.slow
def test_two_processes_save_and_restore_together(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path / "run"), address]
    pair = [subprocess.Popen([*command, str(process)]) for process in range(2)]
    assert [process.wait(timeout=120) for process in pair] == [0, 0]
    state = {"x": jnp.arange(3.0) + 5}
    assert_same(restore(tmp_path / "run", state)[1], state)
