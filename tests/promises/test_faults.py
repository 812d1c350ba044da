"""What may happen to a run from outside: kills, full and read-only disks, damaged files."""

import contextlib
import functools
import itertools
import os
import random
import resource
import shutil
import subprocess
import time
from functools import partial

import pytest

import harness
from ddpm_jax.errors import InputError
from ddpm_jax.runs import checkpoints, directory
from harness import arguments, copy, kill_at_write, reference, results, rows, run, start

KILLED = -9
ENDS = ("step", "state", "losses", "samples")
SHORT = {"epochs": 2, "milestones": (1, 2)}


def ends(found):
    return {name: found[name] for name in ENDS}


@functools.cache
def short():
    """How the run of two epochs ends, in a process of its own."""
    out = reference().with_name("short")
    done = run(
        out.with_suffix(".log"), "train", arguments(out, **SHORT), make_session=harness.Plain
    )
    assert done.status == 0, done.err
    found = ends(results(out))
    del found["samples"]["final.npy"]
    return found


# --- kills ---


@pytest.mark.slow
def test_the_state_before_any_write_can_be_resumed(tmp_path):
    """A copy of the directory before every single write is what a kill there would leave."""
    out, copies = tmp_path / "run", tmp_path / "copies"
    whole = start(out, **SHORT)

    def keep(event, path):
        shutil.copytree(out, copies / str(len(kept)))
        kept.append(f"{event} {path}")

    kept: list[str] = []
    with harness.before_each_write(out, keep):
        assert whole.train()
    expected = short()
    assert ends(results(out)) == expected
    assert len(kept) > 50
    for number, moment in enumerate(kept):
        resumed = start(copies / str(number), **SHORT)
        assert resumed.train()
        assert ends(results(copies / str(number))) == expected, moment
    print(f"copied before each of {len(kept)} writes of a run: all resumed, to the same bits")


@pytest.mark.slow
@pytest.mark.extra
def test_kills_at_many_writes(tmp_path):
    """SIGKILL at the n-th write, n = 3, 6, 9, ..., each in a process that resumes the last one."""
    out, killed = tmp_path / "run", 0
    done = run(
        tmp_path / "log",
        "train",
        arguments(out),
        partial(kill_at_write, out, 3),
        make_session=harness.Plain,
    )
    assert done.status == KILLED
    while done.status == KILLED:
        killed += 1
        assert rows(out) if (out / "metrics.jsonl").exists() else True
        begun = (out / "config.json").exists()
        argv = ["--resume", "--out", str(out)] if begun else arguments(out)
        trap = partial(kill_at_write, out, 3 + 3 * killed)
        done = run(tmp_path / "log", "train", argv, trap, make_session=harness.Plain)
    assert done.status == 0, done.err
    assert results(out) == results(reference())
    print(f"killed at {killed} chosen writes, one run after the other: the same bits in the end")


@pytest.mark.slow
def test_kills_during_the_final_figures(tmp_path):
    out = copy(reference(), tmp_path / "run")
    for name in directory.RESULTS:
        (out / name).unlink()
    for number in (6, 9, 13, 18, 22):
        trap = partial(kill_at_write, out, number)
        done = run(
            tmp_path / "log",
            "train",
            ["--resume", "--out", str(out)],
            trap,
            make_session=harness.Plain,
        )
        assert done.status == KILLED
    done = run(
        tmp_path / "log", "train", ["--resume", "--out", str(out)], make_session=harness.Plain
    )
    assert done.status == 0, done.err
    assert results(out) == results(reference())


LONG = {"epochs": 200, "snapshot_every": 100, "checkpoint_every": 2, "milestones": (100, 200)}


@pytest.mark.slow
def test_12_kills_at_random_moments(tmp_path):
    """Three while the process starts, nine while it trains and saves; then on to the end."""
    whole, out, moments = tmp_path / "whole", tmp_path / "run", random.Random(0)
    began = time.monotonic()
    assert run(whole, "train", arguments(whole, **LONG), make_session=harness.Plain).status == 0
    took = time.monotonic() - began
    reached, argv = [], arguments(out, **LONG)
    for kill in range(12):
        if (out / "config.json").exists():
            argv = ["--resume", "--out", str(out)]
        process = harness.Process(tmp_path / "log", "train", argv, make_session=harness.Plain)
        if kill % 4 == 0:
            time.sleep(moments.uniform(0, took / 4))
        else:
            wait_for_rows(out, process, moments.randint(1, 4))
            time.sleep(moments.uniform(0, 0.05))
        process.kill()
        assert process.wait().status == KILLED
        reached.append(len(rows(out)) if (out / "metrics.jsonl").exists() else 0)
    done = run(
        tmp_path / "log", "train", ["--resume", "--out", str(out)], make_session=harness.Plain
    )
    assert done.status == 0, done.err
    assert results(out) == results(whole)
    print(f"12 kills at random moments, after epochs {reached} of 200: the same bits in the end")


def wait_for_rows(out, process, count):
    """Until metrics.jsonl has grown so many times: the process is training."""
    path, grown = out / "metrics.jsonl", 0
    size = path.stat().st_size if path.exists() else 0
    while grown < count:
        assert process.process.is_alive(), process.wait().err
        time.sleep(0.001)
        now = path.stat().st_size if path.exists() else 0
        grown, size = grown + (now > size), now


# --- disks ---


class Disk:
    """A disk of 4 MB, where mounting is permitted; elsewhere files may be forbidden to grow."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(command, check=False).returncode == 0
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.reason = "No space left on device" if self.mounted else "File too large"

    def fill(self, room=0):
        """From now on, only `room` bytes can be written, or to a file."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, self.limits[1]))
            return
        usage = os.statvfs(self.folder)
        with open(self.folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, usage.f_bavail * usage.f_bsize - room)

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self):
        self.free()
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk")
    yield made
    made.close()


# Orbax's threads do not stop at the first error, and meet the end of what they worked for.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_a_disk_that_is_full_at_any_write(disk):
    fills, refusals = 0, []
    for number in itertools.count(2, 2):
        out, full = disk.folder / str(number), []

        def fill(full=full):
            full.append(True)
            disk.fill()

        begun = start(out, **SHORT)
        with harness.before_each_write(out, harness.at_write(number, fill)):
            try:
                begun.train()  # to its end, where it has just removed something
            except (InputError, OSError) as error:
                refusals.append(str(error))
        disk.free()
        if not full:  # the run has no more writes
            break
        fills += 1
        resumed = start(out, **SHORT)
        assert resumed.train()
        assert ends(results(out)) == short(), number
        shutil.rmtree(out)
    assert fills >= 25
    assert len(refusals) >= fills / 2
    assert all(disk.reason in refusal and "\n" not in refusal for refusal in refusals)
    print(f"disk filled before {fills} writes, {len(refusals)} of which failed: each run resumed")


def half_done(out):
    """The reference run, as it was after two of four epochs."""
    copy(reference(), out)
    for path in [*(out / name for name in directory.RESULTS), *out.glob("samples/epoch_000[34]*")]:
        path.unlink()
    for step in (18, 24):
        shutil.rmtree(out / "checkpoints" / str(step))
    return out


def refused(done):
    """The one line of a run that could not go on."""
    assert done.status == 2
    assert "Traceback" not in done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.err.endswith(line + "\n")
    return line


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_costs_no_checkpoint(tmp_path, disk):
    out = half_done(disk.folder / "run")
    argv = ["--resume", "--out", str(out)]
    fill = disk.fill if disk.mounted else None
    done = None
    if fill:
        disk.fill(room=100_000)
    done = run(tmp_path / "log", "train", argv, None if fill else partial(disk.fill, 100_000))
    line = refused(done)
    assert line.startswith(f"error: cannot save step 18 in {out}/checkpoints: ")
    assert disk.reason in line
    assert checkpoints.steps(out / "checkpoints") == [6, 12]
    disk.free()
    done = run(tmp_path / "log", "train", argv, make_session=harness.Plain)
    assert done.status == 0, done.err
    assert results(out) == results(reference())


@pytest.mark.slow
def test_a_read_only_disk_is_one_line(tmp_path, disk):
    out = half_done(disk.folder / "run")
    argv = ["--resume", "--out", str(out)]
    if disk.mounted:
        subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
    else:
        (out / ".lock").chmod(0o444)
    line = refused(run(tmp_path / "log", "train", argv))
    assert str(out) in line
    assert "Read-only file system" in line or "Permission denied" in line
    if disk.mounted:
        subprocess.run(["mount", "-o", "remount,rw", str(disk.folder)], check=True)
    assert results(out)["step"] == 12


def flip_a_bit(folder):
    """In the largest file of a checkpoint."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    out = copy(reference(), tmp_path / "run")
    flip_a_bit(out / "checkpoints" / "24")
    argv = ["--resume", "--out", str(out)]
    done = run(tmp_path / "log", "train", argv, make_session=harness.Plain)
    assert done.status == 0, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert str(out / "checkpoints" / "24") in line
    assert results(out) == results(reference())
    for step in (6, 12, 18, 24):
        flip_a_bit(out / "checkpoints" / str(step))
    for script, words in [("train", argv), ("evaluate", [str(out)])]:
        done = run(tmp_path / "log", script, words)
        assert done.status == 2
        assert f"error: no whole checkpoint in {out}/checkpoints" in done.err
        assert "Traceback" not in done.err
