"""Long use leaves no memory, no open files and no litter behind."""

import ctypes
import gc
import itertools
import json
import os
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

import harness
import numpy as np
import pytest
import train
from harness import arguments, rows, run

from ddpm_jax import plotting
from ddpm_jax.runs import own_files

ROUNDS, RUNS = 200, 20


def usage(folder):
    """Resident memory in MB, open files, and files below, beside those of whole checkpoints."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps of freed memory comes and goes by 50 MB
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    others = sum(not re.search(r"(^|/)checkpoints/\d+/", name) for name in files)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd")), others


def temporary_files_in(folder):
    """Where this process puts them from now on."""
    folder.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def record_each_epoch(log, out):
    """Before the picture and the checkpoint of every epoch, note what is in use."""
    temporary_files_in(out.parent / "tmp")
    real, numbers, append = plotting.snapshot, itertools.count(), train.runs.append_row
    harness.plain()
    plain = plotting.snapshot

    def snapshot(*args):
        (plain if next(numbers) % 10 else real)(*args)

    plotting.snapshot = snapshot

    def recorded(directory, row):
        append(directory, row)
        with open(log, "a") as file:
            file.write(json.dumps(usage(out.parent)) + "\n")

    train.runs.append_row = recorded


def many_runs(log, out):
    """`main` as often as is asked for, in one process: what a notebook or a sweep would do."""
    temporary_files_in(out / "tmp")
    main, devices = train.main, train.use_devices(None)
    train.use_devices = lambda count: devices

    def mains():
        for number in range(RUNS):
            sys.argv[1:] = arguments(out / str(number))
            assert main() == 0
            with open(log, "a") as file:
                file.write(json.dumps(usage(out)) + "\n")
        return 0

    train.main = mains


def quarters(log, what, count):
    """Means of the second and last quarter, of memory, open files and litter; and print them."""
    table = np.array([json.loads(line) for line in log.read_text().splitlines()])
    assert len(table) == count
    early, late = (np.split(table, 4)[i].mean(axis=0) for i in (1, 3))
    print("{} {}: {:.1f} MB and {:.1f} open files".format(count, what, *early), end=", ")
    print("later {:.1f} MB and {:.1f}".format(*late))
    return early, late


@pytest.mark.slow
def test_200_rounds_of_training_saving_and_sampling(tmp_path):
    log, out = tmp_path / "usage", tmp_path / "all" / "run"
    out.parent.mkdir()
    settings = {"epochs": ROUNDS, "snapshot_every": 1, "checkpoint_every": 1, "milestones": (1,)}
    done = run(
        tmp_path / "log", "train", arguments(out, **settings), partial(record_each_epoch, log, out)
    )
    assert done.status == 0, done.err
    assert len(rows(out)) == ROUNDS
    early, late = quarters(log, "rounds", ROUNDS)
    # The quarters are 100 rounds apart: 3 % of 330 MB is 100 kB a round, and a picture, of which
    # every tenth is a real one, 1 MB.
    assert late[0] < 1.03 * early[0]
    assert late[1] <= early[1] + 1
    # A picture a round, and nothing else.
    assert late[2] - early[2] == pytest.approx(ROUNDS / 2, abs=1)


@pytest.mark.slow
def test_20_runs_in_one_process(tmp_path):
    log, out = tmp_path / "usage", tmp_path / "all"
    out.mkdir()
    done = run(tmp_path / "log", "train", [], partial(many_runs, log, out))
    assert done.status == 0, done.err
    early, late = quarters(log, "runs", RUNS)
    # The quarters are ten runs apart: 5 % of 340 MB is 1.7 MB a run, pictures and GIF included.
    assert late[0] < 1.05 * early[0]
    assert late[1] <= early[1] + 1
    # A run's own files for every run, and nothing else beside them or among temporary files.
    own = len([path for path in own_files(out / "0") if path.is_file()]) + len([".lock"])
    assert late[2] - early[2] == pytest.approx(own * RUNS / 2)
