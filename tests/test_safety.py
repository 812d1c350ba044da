"""What a run refuses to read, to overwrite and to execute."""

import gc
import json
import logging
import shutil
import sys
import warnings
from pathlib import Path

import harness
import jax
import pytest
import train
from common import Interrupt
from fuzz import json_values
from harness import arguments, copy, reference, start
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddpm_jax import checkpoints, runs
from ddpm_jax.errors import ConfigError, InputError
from ddpm_jax.runs import Run

ROOT = Path(__file__).resolve().parent.parent

# --- settings ---


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "learning_rate": (0, -1, 1.5, "nan", "inf"),
        "epochs": (-1,),
        "batch_size": (-1, 65),
        "num_steps": (0, -5),
        "width": (0,),
        "depth": (0,),
        "time_width": (0, 3),
        "ema_decay": (-0.1, 1),
        "sigmoid_k": (0, -1, 1000, "nan"),
        "fourier_features": (-1,),
        "snapshot_points": (0, 99),
        "snapshot_steps": (-1, 21),
        "milestones": (0, 5),
        "tables": (1,),
        "seed": (-1, 2**32),
        "train_devices": (-1, 0, 3, 99),
    }.items(),
)
def test_settings_out_of_range_are_refused_before_anything_is_written(
    tmp_path, monkeypatch, name, values
):
    monkeypatch.setattr(train, "use_devices", lambda count: jax.devices()[:1])
    for value in values:
        argv = arguments(tmp_path / "run", **{name: value})
        monkeypatch.setattr(sys, "argv", ["train.py", *argv])
        with pytest.raises(ConfigError, match=name.replace("_", ".")):
            train.main()
        assert list(tmp_path.iterdir()) == []


# --- files of runs ---


@pytest.fixture(scope="module")
def scratch(types_unchecked, tmp_path_factory):
    """A directory for every example; and types are Config's business, as they are for users."""
    return tmp_path_factory.mktemp("scratch")


def only_input_errors(path, read):
    """Reading ends well, or with an error of ours that names the file."""
    try:
        read()
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_config_json_with_anything_in_it_is_read_or_refused_by_name(scratch, data):
    """As `--resume` reads it, with one value of any depth replaced or removed."""
    config = json.loads((reference() / "config.json").read_text())
    inner = data.draw(st.sampled_from([config, config["config"], config["scaler"]]))
    name = data.draw(st.sampled_from(sorted(inner)))
    inner[name] = data.draw(json_values)
    if data.draw(st.booleans()):
        del inner[name]
    (scratch / "config.json").write_text(json.dumps(config))
    only_input_errors(scratch, lambda: train.parse(["--resume", "--out", str(scratch)]))


def paths(tree, path=()):
    """The keys that lead to every value of nested dictionaries."""
    for key, value in sorted(tree.items()):
        yield (*path, key)
        if isinstance(value, dict):
            yield from paths(value, (*path, key))


def damaged(content, kind, where, byte, other, value):
    """The content with a byte changed, cut short, replaced, or, of JSON, one value replaced."""
    if kind == "other":
        return other
    if kind == "value" and content[:1] == b"{":
        tree = inner = json.loads(content)
        *above, key = (every := list(paths(tree)))[int(where * len(every))]
        for name in above:
            inner = inner[name]
        inner[key] = value
        return json.dumps(tree).encode()
    at = int(where * len(content))
    return content[:at] + (b"" if kind == "cut" else bytes([byte]) + content[at + 1 :])


@pytest.fixture(scope="module")
def one_checkpoint(scratch):
    """A run with one checkpoint, and beside it the same, never to be damaged."""
    whole = copy(reference(), scratch / "whole")
    for step in (6, 12, 18):
        shutil.rmtree(whole / "checkpoints" / str(step))
    return copy(whole, scratch / "run")


@pytest.fixture
def tasks_of_orbax_buried(monkeypatch):
    """Where a read is refused, Orbax leaves tasks whose event loop is closed, and they complain.

    They are to do so in the example they belong to, unheard, and not whenever they are collected.
    """
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    logging.disable()  # the records that pytest keeps would keep the tasks
    gc.collect()
    gc.freeze()  # so that the collection after every example is a short one
    yield
    gc.unfreeze()
    gc.collect()
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    number=st.integers(0, 10**6),
    kind=st.sampled_from(["byte", "cut", "other", "value"]),
    where=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    other=st.binary(max_size=50),
    value=json_values,
    up_to_date=st.booleans(),
)
def test_a_checkpoint_with_anything_in_it_is_read_or_refused_by_name(
    one_checkpoint, tasks_of_orbax_buried, number, up_to_date, **damage
):
    """Half of the time SHA256SUMS are brought up to date, as if whoever did it knew of them."""
    folder = one_checkpoint / "checkpoints" / "24"
    whole = one_checkpoint.with_name("whole") / "checkpoints" / "24"
    names = [p.relative_to(whole) for p in sorted(whole.rglob("*")) if p.is_file()]
    name = names[number % len(names)]
    (folder / name).write_bytes(damaged((whole / name).read_bytes(), **damage))
    if up_to_date:
        (folder / "SHA256SUMS").write_bytes(checkpoints._sums(folder).encode())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            only_input_errors(
                one_checkpoint, lambda: Run.load(one_checkpoint).load_params(one_checkpoint)
            )
            gc.collect()
    finally:
        for damaged_name in (name, "SHA256SUMS"):
            shutil.copyfile(whole / damaged_name, folder / damaged_name)


# --- what is written, and over what ---


def test_files_are_written_under_another_name_and_renamed_or_appended_to(tmp_path):
    """Every write of a run, pictures and all, as the interpreter's audit hook sees it."""
    import report

    def allowed(event, path):
        unfinished = path.name.startswith(".tmp-") or path.parts[:2] == ("checkpoints", ".saving")
        step = path.parts[0] == "checkpoints" and len(path.parts) == 2 and path.name.isdigit()
        return {
            "open": unfinished or str(path) == "metrics.jsonl",
            "os.rename": unfinished or step,  # an abandoned step, out of the way
            "os.remove": unfinished,
            "os.rmdir": unfinished,
            "os.mkdir": unfinished or len(path.parts) == 1,
        }[event]

    seen = []
    with harness.before_each_write(tmp_path / "run", lambda *write: seen.append(write)):
        experiment = start(tmp_path / "run")
        assert experiment.train(Interrupt())
        report.write(experiment)
    assert [write for write in seen if not allowed(*write)] == []
    assert {path.name.rpartition("-")[2] for event, path in seen if event == "os.rename"} >= {
        Path(name).name for name in runs.REPORT
    }
    assert len(harness.rows(tmp_path / "run")) == 4


STRANGERS = (
    "notes.txt",
    "summary.md",
    "metrics.jsonl.bak",
    "samples/mine.npy",
    "samples/epoch_12.png",
    "figures/mine.png",
    "figures/old/data.png",
    "checkpoints/best/weights",
    "checkpoints/12.bak/weights",
    "data/points.txt",
)


def contents(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def prepare(out, *more):
    args = train.parse(arguments(out, *more))
    train.prepare(out, harness.experiment().run, args)


def test_overwriting_removes_a_run_and_nothing_else(tmp_path):
    out = copy(reference(), tmp_path / "run")
    for name in STRANGERS:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(name)
    (out / "samples" / ".tmp-123-final.npy").touch()
    before = contents(out)
    with pytest.raises(InputError, match=r"holds config\.json .*--resume.*--overwrite.*--out"):
        prepare(out)
    assert contents(out) == before
    prepare(out, "--overwrite")
    assert contents(out).keys() == {*STRANGERS, "config.json", ".lock"}
    assert all(contents(out)[name] == name.encode() for name in STRANGERS)


def test_a_directory_of_other_things_is_no_run(tmp_path):
    """Without config.json nothing is deleted either, unless it is asked for."""
    for name in STRANGERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    prepare(tmp_path)
    assert contents(tmp_path).keys() == {*STRANGERS, "config.json"}
    (tmp_path / "config.json").unlink()
    (tmp_path / "samples" / "final.npy").touch()
    with pytest.raises(InputError, match=r"holds final\.npy of an earlier run"):
        prepare(tmp_path)
    assert (tmp_path / "samples" / "final.npy").exists()
