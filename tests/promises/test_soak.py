"""Long use leaves no memory, no open files and no litter behind."""

import ctypes
import gc
import itertools
import json
import os
import re
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import harness
from ddpm_jax.cli import train
from ddpm_jax.runs.directory import own_files
from harness import arguments, rows, run

ROUNDS, RUNS = 100, 12
KEPT = []


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
    """As the row of every epoch is written, before its picture and checkpoint, note the use."""
    temporary_files_in(out.parent / "tmp")

    def record(event, path):
        if (event, path.name) == ("open", "metrics.jsonl"):
            with open(log, "a") as file:
                file.write(json.dumps(usage(out.parent)) + "\n")

    watching = harness.before_each_write(out, record)
    watching.__enter__()
    KEPT.append(watching)  # to the end of the process


class TenthDrawn(harness.Plain):
    """A session every tenth picture of which is a real one."""

    pictures = itertools.count()

    def draw(self, figure, *args, **options):
        drawing = super() if next(self.pictures) % 10 else super(harness.Plain, self)
        drawing.draw(figure, *args, **options)


def many_runs(log, out):
    """`main` as often as is asked for, in one process: what a notebook or a sweep would do."""
    temporary_files_in(out / "tmp")
    for number in range(RUNS):
        assert train.main(arguments(out / str(number))) == 0
        with open(log, "a") as file:
            file.write(json.dumps(usage(out)) + "\n")
    return 0


def quarters(log, what, count):
    """Means of the second and last quarter, of memory, open files and litter; and print them."""
    table = np.array([json.loads(line) for line in log.read_text().splitlines()])
    assert len(table) == count
    early, late = (np.split(table, 4)[i].mean(axis=0) for i in (1, 3))
    print("{} {}: {:.1f} MB and {:.1f} open files".format(count, what, *early), end=", ")
    print("later {:.1f} MB and {:.1f}".format(*late))
    return early, late


@pytest.mark.slow
def test_100_rounds_of_training_saving_and_sampling(tmp_path):
    log, out = tmp_path / "usage", tmp_path / "all" / "run"
    out.parent.mkdir()
    settings = {"epochs": ROUNDS, "snapshot_every": 1, "checkpoint_every": 1, "milestones": (1,)}
    before = partial(record_each_epoch, log, out)
    done = run(
        tmp_path / "log", "train", arguments(out, **settings), before, make_session=TenthDrawn
    )
    assert done.status == 0, done.err
    assert len(rows(out)) == ROUNDS
    early, late = quarters(log, "rounds", ROUNDS)
    # The quarters are 50 rounds apart: 3 % of 330 MB is 200 kB a round, and a picture, of which
    # every tenth is a real one, 1 MB.
    assert late[0] < 1.03 * early[0]
    assert late[1] <= early[1] + 1
    # A picture a round, and nothing else.
    assert late[2] - early[2] == pytest.approx(ROUNDS / 2, abs=1)


@pytest.mark.slow
@pytest.mark.extra
def test_12_runs_in_one_process(tmp_path):
    log, out = tmp_path / "usage", tmp_path / "all"
    out.mkdir()
    done = run(tmp_path / "log", partial(many_runs, log, out), [])
    assert done.status == 0, done.err
    early, late = quarters(log, "runs", RUNS)
    # The quarters are six runs apart: 5 % of 340 MB is 2.8 MB a run, pictures and GIF included.
    assert late[0] < 1.05 * early[0]
    assert late[1] <= early[1] + 1
    # A run's own files for every run, and nothing else beside them or among temporary files.
    own = len([path for path in own_files(out / "0") if path.is_file()]) + len([".lock"])
    assert late[2] - early[2] == pytest.approx(own * RUNS / 2)
