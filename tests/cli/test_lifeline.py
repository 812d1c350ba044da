"""Processes that do not do the same say in what; and when one is gone, the others say which."""

import multiprocessing
import os
import queue
import signal
import threading
import time

import pytest

from ddpm_jax.cli import lifeline
from ddpm_jax.errors import ConfigError


class Store:
    """What JAX keeps for all processes: keys, values and barriers."""

    def __init__(self, make, count):
        self.values, self.barrier = make.dict(), make.Barrier(count)

    def key_value_set(self, key, value):
        self.values[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        end = time.monotonic() + 20
        while key not in self.values:
            assert time.monotonic() < end
            time.sleep(0.01)
        return self.values[key]

    def wait_at_barrier(self, name, milliseconds):
        self.barrier.wait(20)


# --- that all do the same ---


class Threads:
    dict, Barrier = dict, threading.Barrier


def agreed(*values):
    """What each of some processes is told."""
    store, found = Store(Threads, len(values)), [""] * len(values)

    def one(process):
        try:
            lifeline.agree(values[process], store, process, len(values))
        except ConfigError as error:
            found[process] = str(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(values))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


SAME = {"run": {"config": {"seed": 0, "width": 64}, "scaler": {"shift": [0.5, 1]}}, "jax": "1"}


def test_those_that_do_the_same_go_on():
    assert agreed(SAME, SAME, SAME) == ["", "", ""]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (
            {"run": SAME["run"] | {"config": {"seed": 1, "width": 64}}},
            "run.config.seed: 1 there, 0",
        ),
        ({"run": SAME["run"] | {"config": {"seed": 0}}}, "run.config.width: null there, 64 in"),
        (
            {"run": SAME["run"] | {"scaler": {"shift": [0.5, 2]}}},
            "run.scaler.shift: [0.5, 2] there",
        ),
        ({"jax": "2"}, 'jax: "2" there, "1" in'),
        ({"more": True}, "more: true there, null in"),
    ],
)
def test_the_difference_and_the_process_are_named(other, what):
    """To all of them, so that each of their terminals says why."""
    told = agreed(SAME, SAME, SAME | other)
    assert len(set(told)) == 1
    assert f"process 2 differs from process 0 in {what}" in told[0]


def test_other_code_is_another_program(monkeypatch):
    codes = iter(["a", "b"])
    monkeypatch.setattr(lifeline, "code", lambda: next(codes))
    assert all("process 1 differs from process 0 in code" in told for told in agreed(SAME, SAME))


def test_the_code_is_every_line_of_the_package(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "room").mkdir(parents=True)
    for name in ("__init__.py", "room/a.py"):
        (package / name).write_text("x = 1\n")
    monkeypatch.setattr(lifeline.ddpm_jax, "__file__", str(package / "__init__.py"))
    before = lifeline.code()
    (package / "room" / "a.py").write_text("x = 2\n")
    changed = lifeline.code()
    (package / "room" / "a.py").rename(package / "a.py")
    assert len({before, changed, lifeline.code()}) == 3


# --- who is gone ---


def live(store, process, told):
    """A process that holds the line, and does nothing else."""
    lifeline.hold(store, process, "127.0.0.1", lambda lost: told.put((process, lost)))
    told.put((process, "up"))
    time.sleep(60)


def leave(store, process, told):
    """One that ends as it should."""
    lifeline.hold(store, process, "127.0.0.1", lambda lost: told.put((process, lost)))
    told.put((process, "up"))
    time.sleep(0.5)
    lifeline.release()
    os._exit(0)


@pytest.fixture
def job():
    """Three processes, each with what it does."""
    make = multiprocessing.get_context("forkserver")
    make.set_forkserver_preload(["ddpm_jax.cli.lifeline"])
    with make.Manager() as manager:
        store, told, processes = Store(manager, 3), manager.Queue(), []

        def start(*acts):
            for process, act in enumerate(acts):
                processes.append(make.Process(target=act, args=(store, process, told)))
                processes[-1].start()
            up = {told.get(timeout=60) for _ in acts}
            assert up == {(i, "up") for i in range(len(acts))}
            time.sleep(0.3)  # until the first has met them all
            return processes, told

        yield start
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_are_told_at_once_who_was_killed(job, victim):
    processes, told = job(live, live, live)
    os.kill(processes[victim].pid, signal.SIGKILL)
    others = [i for i in range(3) if i != victim]
    assert {told.get(timeout=10) for _ in others} == {(i, victim) for i in others}


def test_nobody_is_missed_that_ends_as_it_should(job):
    _, told = job(leave, leave, leave)
    with pytest.raises(queue.Empty):
        told.get(timeout=2)
