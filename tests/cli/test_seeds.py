"""`train --seeds`: a run directory of each, a table of all, and how it goes on after a stop."""

import json
import shutil
from statistics import fmean

import pytest

from harness import Plain, arguments, copy, run

SEEDS = ("--seeds", "2", "--seed", "3")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Seeds 3 and 4, never interrupted; not to be changed."""
    out = tmp_path_factory.mktemp("seeds") / "out"
    done = run(out.with_suffix(".log"), "train", arguments(out, *SEEDS), make_session=Plain)
    assert done.status == 0, done.err
    return out


def final(out, seed):
    return (out / f"seed-{seed}" / "samples" / "final.npy").read_bytes()


@pytest.mark.medium
def test_each_seed_is_a_run_and_the_table_has_their_mean(both, tmp_path):
    alone = tmp_path / "alone"
    done = run(tmp_path / "log", "train", arguments(alone, "--seed", "4"), make_session=Plain)
    assert done.status == 0, done.err
    assert (alone / "samples" / "final.npy").read_bytes() == final(both, 4) != final(both, 3)
    table = json.loads((both / "summary.json").read_text())
    assert list(table) == ["seed-3", "seed-4", "mean", "standard deviation", "real rows"]
    for name, mean in table["mean"].items():
        assert mean == fmean(table[seed][name] for seed in ("seed-3", "seed-4"))


def never_begun(out):
    shutil.rmtree(out / "seed-4")


def half_way(out):
    for name in ("report.html", "summary.json", "samples/final.npy"):
        (out / "seed-4" / name).unlink()
    steps = sorted(int(path.name) for path in (out / "seed-4" / "checkpoints").iterdir())
    shutil.rmtree(out / "seed-4" / "checkpoints" / str(steps[-1]))


@pytest.mark.medium
@pytest.mark.parametrize("stop", [never_begun, half_way])
def test_resumed_it_ends_with_the_same_bits(both, tmp_path, stop):
    out = copy(both, tmp_path / "out")
    (out / "summary.json").unlink()
    stop(out)
    log, again = tmp_path / "log", arguments(out, *SEEDS)
    done = run(log, "train", again, make_session=Plain)
    assert done.status == 2
    assert "pass --resume to go on with it" in done.err
    done = run(log, "train", [*again, "--resume"], make_session=Plain)
    assert done.status == 0, done.err
    assert done.out.count("this run is finished") == 1
    assert final(out, 4) == final(both, 4)
    assert (out / "summary.json").read_bytes() == (both / "summary.json").read_bytes()
