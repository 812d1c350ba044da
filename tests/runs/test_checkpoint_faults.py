"""Saves that are cut short, by a full disk or a kill, and saves of two processes."""

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoint_states import make_state, save_killed
from ddpm_jax.errors import CheckpointError
from ddpm_jax.runs import checkpoints
from ddpm_jax.runs.checkpoints import restore, save, steps
from harness import ENVIRONMENT, PROCESSES, assert_same_bits


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
    assert_same_bits(restore(run, make_state(0))[1], make_state(newest))


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
            assert_same_bits(restore(run, small)[1], small)
        save(run, 1, small)
        assert steps(run) == [0, 1]
    assert not caplog.records


def test_a_read_only_directory_is_an_error_and_costs_no_checkpoint(run):
    with (
        read_only(run) as reason,
        pytest.raises(CheckpointError, match=rf"cannot save step 2 .*{reason}.*intact"),
    ):
        save(run, 2, make_state(0))
    assert_same_bits(restore(run, make_state(0))[1], make_state(2))


@pytest.mark.slow
def test_a_kill_at_any_write_of_a_save_leaves_whole_steps(tmp_path):
    """A process for each write that Python makes in a save of step 2 over steps 1 and 2."""
    states = {value: {"x": np.full(3, value, np.float32)} for value in (1, 2, -2)}
    for step in (1, 2):
        save(tmp_path / "saved", step, states[step])
    left, killed = [], True
    while killed:
        run = shutil.copytree(tmp_path / "saved", tmp_path / str(len(left)))
        process = PROCESSES.Process(target=save_killed, args=(run, len(left) + 1))
        with mock.patch.dict(os.environ, ENVIRONMENT):
            process.start()
        process.join(60)
        killed = process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode == 0
        step, state, _ = restore(run, states[1])
        left.append(int(state["x"][0]))
        assert step == abs(left[-1])
        assert_same_bits(jax.tree.map(np.asarray, state), states[left[-1]])
        save(run, 2, states[-2])
        assert sorted(os.listdir(run)) == ["1", "2"]
        assert_same_bits(jax.tree.map(np.asarray, restore(run, states[1])[1]), states[-2])
    # The step that was there; between two renames, the one before; then the new one.
    assert list(dict.fromkeys(left)) == [2, 1, -2]
    print(f"killed at each of {len(left) - 1} writes of a save: whole steps, and room for the next")


SAVE_FOR_EVER = """
import sys, jax.numpy as jnp, numpy as np
from ddpm_jax.runs.checkpoints import restore, save, steps
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
        assert_same_bits(state, {"x": jnp.asarray(expected), "step": jnp.int32(step)})


TWO_PROCESSES = """
import sys, jax, jax.numpy as jnp, numpy as np
run, address, process = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, 2, int(process))
from ddpm_jax.runs.checkpoints import restore, save, steps
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
    assert_same_bits(restore(tmp_path / "run", state)[1], state)
