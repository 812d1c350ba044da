"""A run that was stopped, however, goes on to the bits of one that never was."""

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import harness
from ddpm_jax.runs import checkpoints, directory
from harness import arguments, at_chunk, copy, reference, results, run, start

ROOT = Path(__file__).resolve().parents[2]
ENDS = ("step", "state", "losses", "samples")


def ends(found):
    return {name: found[name] for name in ENDS}


# --- in this process: every stop, every chunk ---


def train_for(session, chunks):
    """Train until a signal comes, during the chunk of this number."""
    asked, left = session.trainer.stop, iter(range(chunks))

    def stop():
        answer = asked()
        if next(left, None) == chunks - 1:
            session.interrupt.signum = signal.SIGTERM
        return answer

    session.trainer.stop = stop
    return session.train()


@pytest.mark.slow
def test_stopped_after_any_chunk_it_ends_with_the_same_bits(tmp_path):
    """Stopped at each of the twelve chunks of two steps, and resumed with chunks of any size."""
    expected = ends(results(reference()))
    for stop, steps in zip(range(1, 12), [1, 2, 3, 4, 5, 100] * 2, strict=False):
        out = tmp_path / str(stop)
        assert not train_for(start(out, chunk_steps=2), stop)
        resumed = start(out, chunk_steps=steps)
        assert resumed.trainer.step == 2 * stop
        assert resumed.train()
        np.save(out / "samples" / "final.npy", resumed.run.scaler.invert(resumed.samples(100)))
        assert ends(results(out)) == expected, (stop, steps)
    print("stopped after each of 11 chunks, resumed in chunks of 1 to 6 steps: the same bits")


def test_chunks_cover_the_epoch_from_whichever_step(tmp_path):
    """As the trainer is seen to work: where it asks whether to stop, a step is begun."""
    trainer = start(tmp_path / "run").trainer
    done, begun = trainer.state, []

    def stop():
        begun.append(trainer.step)
        return begun[-1] >= 6  # the epoch's end

    trainer.stop = stop
    # The steps themselves do not matter here.
    trainer._train_rows = lambda rows: (  # pyright: ignore
        trainer.state._replace(step=trainer.state.step + len(rows)),
        np.zeros(len(rows), np.float32),
    )
    for begin, size in itertools.product(range(6), [1, 2, 3, 4, 5, 6, 7, 100]):
        begun.clear()
        trainer.chunk_steps, trainer.state = size, done._replace(step=done.step + begin)
        for _ in trainer:
            pass
        assert begun == [*range(begin, 6, size), 6]


# --- in processes: whole networks, cores, signals ---


def on_cores(cores):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fast", pytest.param("reference", marks=pytest.mark.extra)])
def test_devices_and_chunks_change_no_bit_of_a_whole_network(tmp_path, preset):
    """The presets' own networks, where compilers have something to choose from.

    Another number of threads may: large products are then summed in another order, on some
    processors. Going on with another number of them is told.
    """
    np.save(tmp_path / "points.npy", np.random.default_rng(0).uniform(-1, 1, (2600, 2)))
    argv = ["--preset", preset, "--data", str(tmp_path / "points.npy"), "--epochs", "2"]
    argv += ["--batch-size", "256", "--num-steps", "30", "--snapshot-points", "1500"]
    argv += ["--milestones", "1", "2"]

    def train_on(out, devices, cores, steps, *more, stop=0, said=False):
        done = run(
            tmp_path / "log",
            "train",
            [*argv, *more, "--out", str(out), "--devices", str(devices)],
            partial(on_cores, cores),
            make_session=at_chunk(stop, partial(send, [signal.SIGTERM]), chunk_steps=steps),
        )
        assert done.status == (128 + signal.SIGTERM if stop else 0), done.err
        return done.err if said else out

    whole = [(1, 2, 1), (2, 2, 3), (1, 2, 10)]
    expected, *others = [ends(results(train_on(tmp_path / str(part), *part))) for part in whole]
    assert len(expected["samples"]) == 3
    assert others == [expected, expected]
    print(f"{preset}: 1 device and 2, in chunks of 1, 3, 10 steps: the same bits")
    for first, then in [((1, 2, 3), (2, 2, 2)), ((2, 2, 2), (1, 2, 10))]:
        out = tmp_path / f"{first}-{then}"
        train_on(out, *first, stop=2)
        assert checkpoints.steps(out / "checkpoints") == [2 * first[2]]
        assert ends(results(train_on(out, *then, "--resume"))) == expected
    print("stopped on 1 device and resumed on 2, and the other way round: the same bits")
    out = tmp_path / "fewer cores"
    train_on(out, 1, 2, 2, stop=2)
    warned = train_on(out, 1, 1, 2, "--resume", said=True)
    assert "the last bits may be others: threads: 2" in warned


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
    make_session = at_chunk(8, partial(send, [signum]))
    done = run(tmp_path / "1", "train", arguments(out), make_session=make_session)
    assert (done.status, "Traceback" in done.err) == (128 + signum, False)
    assert results(out)["steps"] == [6, 12, 16]  # two epochs, and the chunk that was under way
    done = run(tmp_path / "2", "train", command_of(done), make_session=harness.Plain)
    assert done.status == 0, done.err
    found = results(out)
    assert found["steps"] == [6, 12, 16, 18, 24]
    assert ends(found) == ends(results(reference()))
    assert found["files"] == results(reference())["files"]


@pytest.mark.slow
def test_a_second_signal_exits_at_once(tmp_path):
    out = tmp_path / "run"
    two = partial(send, [signal.SIGTERM, signal.SIGINT])
    done = run(tmp_path / "1", "train", arguments(out), make_session=at_chunk(8, two))
    assert (done.status, "Traceback" in done.err) == (130, False)
    assert results(out)["steps"] == [6, 12]


def before_data(signals, path):
    """As the file of points is opened."""
    opened = []

    def audit(event, args):
        if event == "open" and str(args[0]) == path and not opened:
            opened.append(path)
            send(signals)

    sys.addaudithook(audit)


class Signalled(harness.Plain):
    """A session that is sent signals as it is made, or as a figure of this name is drawn."""

    def __init__(self, moment, signals, *args):
        self.moment, self.signals = moment, signals
        if moment == "made":
            send(signals)
        super().__init__(*args)

    def draw(self, figure, *args, **options):
        if figure.__name__ == self.moment:
            send(self.signals)
        super().draw(figure, *args, **options)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the data", "made", "montage"])
def test_a_signal_outside_training_loses_nothing_either(tmp_path, moment):
    out, signals = tmp_path / "run", [signal.SIGTERM]
    before = (
        partial(before_data, signals, str(harness.points()))
        if moment == "before the data"
        else None
    )
    made = partial(Signalled, moment, signals)
    done = run(tmp_path / "1", "train", arguments(out), before, make_session=made)
    assert (done.status, "Traceback" in done.err) == (143, False)
    assert out.exists() == (moment != "before the data")
    argv = command_of(done) if out.exists() else arguments(out)
    done = run(tmp_path / "2", "train", argv, make_session=harness.Plain)
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
    "missing",
    ["summary.json", "samples/final.npy", "reverse.gif", "report.html", "figures/schedules.png"],
)
def test_what_comes_after_training_is_made_up_for(tmp_path, missing):
    out = copy(reference(), tmp_path / "run")
    (out / missing).unlink()
    done = run(
        tmp_path / "log", "train", ["--resume", "--out", str(out)], make_session=harness.Plain
    )
    assert done.status == 0, done.err
    assert results(out) == results(reference())


@pytest.mark.medium
@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"data": "moons"}, "data digest: "),
        ({"schedule": "linear"}, 'schedule: "sigmoid" in the run, "linear" now'),
        ({"width": 9}, "width: 8 in the run, 9 now"),
        ({"learning_rate": 0.125}, "--learning-rate: 0.004 in the run, 0.125 now"),
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


@pytest.mark.slow
def test_what_is_recorded_may_differ_and_no_bit_does(tmp_path):
    """Stopped after two epochs, and resumed with other pictures and checkpoints."""
    out = tmp_path / "run"
    make_session = at_chunk(6, partial(send, [signal.SIGTERM]))
    done = run(tmp_path / "1", "train", arguments(out), make_session=make_session)
    assert done.status == 143, done.err
    other = ["--checkpoint-every", "5", "--snapshot-every", "1", "--milestones", "3", "4"]
    argv = ["--resume", "--out", str(out), *other]
    done = run(tmp_path / "2", "train", argv, make_session=harness.Plain)
    assert done.status == 0, done.err
    found, expected = results(out), results(reference())
    for name in ("step", "state", "losses"):
        assert found[name] == expected[name]
    for name in ("final.npy", "epoch_0004.npy"):
        assert found["samples"][name] == expected["samples"][name]
    record = json.loads((out / "config.json").read_text())["config"]["record"]
    assert (record["checkpoint_every"], record["snapshot_every"]) == (5, 1)
    assert found["steps"] == [6, 12, 18, 24]  # a milestone's is kept, whatever the interval
    assert "samples/epoch_0003.png" in found["files"]


def test_an_older_format_of_config_json_is_told(tmp_path):
    """As version 0.1 wrote it: settings in one flat row."""
    out = copy(reference(), tmp_path / "run")
    values = json.loads((out / "config.json").read_text())
    values |= {"format": 1, "config": {"epochs": 4, "fourier_features": 0}}
    (out / "config.json").write_text(json.dumps(values))
    for script, argv in [("train", ["--resume", "--out", str(out)]), ("evaluate", [str(out)])]:
        done = run(tmp_path / "log", script, argv)
        assert done.status == 2
        assert done.err == (
            f"error: {out}/config.json: format 1, this version reads format 2; use the version "
            "that wrote it, or train again\n"
        )


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
    with directory.locked(out):
        done = run(tmp_path / "log", "train", ["--resume", "--out", str(out)])
    assert done.status == 2
    assert done.err == f"error: {out} is in use by another process: wait for it, or choose " + (
        "another --out\n"
    )
