"""A run that was stopped, however, goes on to the bits of one that never was."""

import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import harness
import loop
import numpy as np
import pytest
import train
from common import Interrupt
from harness import arguments, at_chunk, copy, reference, results, run, start

from ddpm_jax import checkpoints, runs

ROOT = Path(__file__).resolve().parent.parent
ENDS = ("step", "state", "losses", "samples")


def ends(found):
    return {name: found[name] for name in ENDS}


# --- in this process: every stop, every chunk ---


@pytest.fixture
def chunks_of(monkeypatch):
    """Set the number of steps of a chunk."""
    harness.plain(monkeypatch.setattr)
    return lambda steps: monkeypatch.setattr(loop, "MAX_CHUNK_POINTS", 10 * steps)


def train_for(experiment, chunks):
    """Train until a signal comes, during the chunk of this number."""
    interrupt, train_chunk, left = Interrupt(), experiment.train_chunk, iter(range(chunks - 1))

    def count(*args):
        interrupt.signum = None if next(left, None) is not None else signal.SIGTERM
        return train_chunk(*args)

    experiment.train_chunk = count
    try:
        return experiment.train(interrupt)
    finally:
        experiment.train_chunk = train_chunk


@pytest.mark.slow
def test_stopped_after_any_chunk_it_ends_with_the_same_bits(tmp_path, chunks_of):
    """Stopped at each of the twelve chunks of two steps, and resumed with chunks of any size."""
    expected = ends(results(reference()))
    for stop, steps in zip(range(1, 12), [2, 3, 4, 5, 100] * 3, strict=False):
        out = tmp_path / str(stop)
        chunks_of(2)
        assert not train_for(start(out), stop)
        chunks_of(steps)
        resumed = start(out)
        assert resumed.step == 2 * stop
        assert resumed.train(Interrupt())
        np.save(out / "samples" / "final.npy", resumed.run.scaler.invert(resumed.samples(100)))
        assert ends(results(out)) == expected, (stop, steps)
    print("stopped after each of 11 chunks, resumed in chunks of 2, 3, 4, 5 and 6: the same bits")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 100])
def test_chunks_cover_the_epoch_and_none_is_a_single_step(chunks_of, size):
    chunks_of(size)
    for begin in range(5):
        bounds = list(harness.experiment().chunks(begin))
        assert (bounds[0][0], bounds[-1][1]) == (begin, 6)
        assert [b for _, b in bounds[:-1]] == [a for a, _ in bounds[1:]]
        assert all(2 <= b - a <= max(size, 2) + 1 for a, b in bounds)


# --- in processes: whole networks, cores, signals ---


def cut(cores, chunk_points, stop=None):
    """What must not matter: on how many cores, in what chunks, and where it is stopped."""
    harness.plain()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    loop.MAX_CHUNK_POINTS = chunk_points
    if stop:
        at_chunk(stop, partial(send, [signal.SIGTERM]), chunk_points)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fast", "reference"])
def test_cores_devices_and_chunks_change_no_bit_of_a_whole_network(tmp_path, preset):
    """The presets' own networks, where compilers and threads have something to choose from."""
    np.save(tmp_path / "points.npy", np.random.default_rng(0).uniform(-1, 1, (2600, 2)))
    argv = ["--preset", preset, "--data", str(tmp_path / "points.npy"), "--epochs", "2"]
    argv += ["--batch-size", "256", "--num-steps", "30", "--snapshot-points", "1500"]
    argv += ["--milestones", "1", "2"]

    def train_on(out, devices, cores, steps, *more, stop=None):
        done = run(
            tmp_path / "log",
            "train",
            [*argv, *more, "--out", str(out), "--devices", str(devices)],
            partial(cut, cores, steps * 256, stop),
        )
        assert done.status == (128 + signal.SIGTERM if stop else 0), done.err
        return out

    whole = [(1, 1, 2), (2, 2, 3), (2, 1, 10)]
    expected, *others = [ends(results(train_on(tmp_path / str(part), *part))) for part in whole]
    assert len(expected["samples"]) == 3
    assert others == [expected, expected]
    print(f"{preset}: 1 device on 1 core, 2 on 2, 2 on 1, in chunks of 2, 3, 10 steps: same bits")
    for first, then in [((1, 1, 3), (2, 2, 2)), ((2, 2, 2), (1, 1, 10))]:
        out = tmp_path / f"{first}-{then}"
        train_on(out, *first, stop=2)
        assert checkpoints.steps(out / "checkpoints") == [2 * first[2]]
        assert ends(results(train_on(out, *then, "--resume"))) == expected
    print("stopped on 1 core and resumed on 2, and the other way round: the same bits")


def command_of(done):
    """The arguments of the one line that says how to go on."""
    (line,) = [line for line in done.out.splitlines() if "to go on" in line]
    python, script, *argv = shlex.split(line.partition("to go on: ")[2])
    assert (python, Path(script).name) == ("python", "train.py")
    return argv


def send(signals, *_):
    """Send this process signals from within, so that the moment is known."""
    for signum in signals:
        os.kill(os.getpid(), signum)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_within_a_chunk_and_the_command_it_prints_goes_on(tmp_path, signum):
    out = tmp_path / "run"
    done = run(
        tmp_path / "1", "train", arguments(out), partial(at_chunk, 8, partial(send, [signum]))
    )
    assert (done.status, "Traceback" in done.err) == (128 + signum, False)
    assert results(out)["steps"] == [6, 12, 16]  # two epochs, and the chunk that was under way
    done = run(tmp_path / "2", "train", command_of(done), harness.plain)
    assert done.status == 0, done.err
    found = results(out)
    assert found["steps"] == [6, 12, 16, 18, 24]
    assert ends(found) == ends(results(reference()))
    assert found["files"] == results(reference())["files"]


@pytest.mark.slow
def test_a_second_signal_exits_at_once(tmp_path):
    out = tmp_path / "run"
    two = partial(send, [signal.SIGTERM, signal.SIGINT])
    done = run(tmp_path / "1", "train", arguments(out), partial(at_chunk, 8, two))
    assert (done.status, "Traceback" in done.err) == (130, False)
    assert results(out)["steps"] == [6, 12]


def before_data(signals):
    train.load_data = partial(send, signals)


def before_state(signals):
    train.Experiment.__init__ = partial(send, signals)


def in_the_figures(signals):
    from ddpm_jax import plotting

    harness.plain()
    plotting.montage = partial(send, signals)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [before_data, before_state, in_the_figures])
def test_a_signal_outside_training_loses_nothing_either(tmp_path, moment):
    out, signals = tmp_path / "run", [signal.SIGTERM]
    done = run(tmp_path / "1", "train", arguments(out), partial(moment, signals))
    assert (done.status, "Traceback" in done.err) == (143, False)
    assert out.exists() == (moment is not before_data)
    argv = command_of(done) if out.exists() else arguments(out)
    done = run(tmp_path / "2", "train", argv, harness.plain)
    assert done.status == 0, done.err
    assert results(out) == results(reference())


@pytest.mark.slow
def test_ctrl_c_in_a_terminal(tmp_path):
    """The script itself, as typed, and a signal from outside."""
    out = tmp_path / "run"
    command = [sys.executable, "experiments/train.py", *arguments(out, epochs=2000)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not (out / "checkpoints" / "6").exists():
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert command_of(harness.Done(130, printed, errors))[-1] == "--resume"
    assert results(out)["step"] >= 6


# --- what is there to resume ---


def contents(out):
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_finished_run_says_so_and_stays_as_it_is(tmp_path):
    out = copy(reference(), tmp_path / "run")
    before = contents(out)
    done = run(tmp_path / "log", "train", ["--resume", "--out", str(out)])
    assert done.status == 0, done.err
    assert "this run is finished" in done.out
    assert contents(out) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing", ["summary.json", "samples/final.npy", "reverse.gif", "figures/schedules.png"]
)
def test_what_comes_after_training_is_made_up_for(tmp_path, missing):
    out = copy(reference(), tmp_path / "run")
    (out / missing).unlink()
    done = run(tmp_path / "log", "train", ["--resume", "--out", str(out)], harness.plain)
    assert done.status == 0, done.err
    assert results(out) == results(reference())


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"data": "moons"}, "data digest: "),
        ({"schedule": "linear"}, 'schedule: "sigmoid" in the run, "linear" now'),
        ({"width": 9}, "width: 8 in the run, 9 now"),
        ({"learning_rate": 0.125}, "learning_rate: 0.004 in the run, 0.125 now"),
        ({"epochs": 5, "seed": 7}, "seed: 0 in the run, 7 now"),
    ],
)
def test_another_run_is_not_resumed_and_the_differences_are_shown(tmp_path, changes, difference):
    out = copy(reference(), tmp_path / "run")
    before = contents(out)
    done = run(tmp_path / "log", "train", arguments(out, "--resume", **changes))
    assert done.status == 2
    assert done.err.startswith(f"error: cannot resume {out}: it is another run\n")
    assert difference in done.err
    assert "Traceback" not in done.err
    assert contents(out) == before


def test_data_that_changed_under_a_run_are_noticed(tmp_path):
    """By --resume and by evaluate.py, whatever the file is called."""
    data, out = tmp_path / "points.txt", copy(reference(), tmp_path / "run")
    text = harness.points().read_text()
    config = (out / "config.json").read_text()
    (out / "config.json").write_text(config.replace(str(harness.points()), str(data)))
    data.write_text(text.replace("7", "8", 1))
    done = run(tmp_path / "1", "train", ["--resume", "--out", str(out)])
    assert done.status == 2
    assert "data digest" in done.err
    done = run(tmp_path / "2", "evaluate", [str(out)])
    assert done.status == 2
    assert done.err == f"error: {data} is not what it was when the run was trained: " + (
        "restore the file, or train again\n"
    )


def test_without_a_run_there_is_nothing_to_resume(tmp_path):
    for more in ([], ["--overwrite"]):
        done = run(tmp_path / "log", "train", arguments(tmp_path / "run", "--resume", *more))
        assert done.status == 2
        assert done.err.startswith("error: ")
        assert len(done.err.splitlines()) == 1
        assert not (tmp_path / "run").exists()


def test_a_directory_in_use_is_refused(tmp_path):
    out = copy(reference(), tmp_path / "run")
    with runs.locked(out):
        done = run(tmp_path / "log", "train", ["--resume", "--out", str(out)])
    assert done.status == 2
    assert done.err == f"error: {out} is in use by another process: wait for it, or choose " + (
        "another --out\n"
    )
