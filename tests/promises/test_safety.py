"""What a run refuses to read, to overwrite and to execute."""

from pathlib import Path

import jax
import pytest

import harness
from ddpm_jax.cli import train
from ddpm_jax.cli.session import Session
from ddpm_jax.errors import ConfigError, InputError
from ddpm_jax.points import readers
from ddpm_jax.points.dataset import Dataset
from ddpm_jax.runs import directory
from ddpm_jax.runs.record import Run
from harness import arguments, copy, reference, start

ROOT = Path(__file__).resolve().parents[2]

# --- settings ---


def train_with(argv, data, devices):
    args = train.parse(argv)
    dataset = Dataset.of(data, args.config.reading)
    train.train_one(args, args.config, dataset, args.out, devices, resume=False)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "learning_rate": (0, -1, 1.5, "nan", "inf"),
        "epochs": (0, -1),
        "batch_size": (0, -1, 65),
        "num_steps": (0, -5),
        "width": (0,),
        "depth": (0,),
        "time_width": (0, 3),
        "ema_decay": (-0.1, 1),
        "sigmoid_k": (0, -1, 1000, "nan"),
        "snapshot_points": (0, 99),
        "snapshot_steps": (-1, 0, 21),
        "milestones": (0, 5),
        "tables": (1,),
        "seed": (-1, 2**32),
        "train_devices": (-1, 0, 3, 99),
    }.items(),
)
def test_settings_out_of_range_are_refused_before_anything_is_written(tmp_path, name, values):
    data, devices = readers.load_points(harness.points()), jax.devices()[:1]
    for value in values:
        argv = arguments(tmp_path / "run", **{name: value})
        with pytest.raises(ConfigError, match=name.replace("_", ".")):
            train_with(argv, data, devices)
        assert list(tmp_path.iterdir()) == []


# --- what is written, and over what ---


@pytest.mark.medium
def test_files_are_written_under_another_name_and_renamed_or_appended_to(tmp_path):
    """Every write of a run, pictures and all, as the interpreter's audit hook sees it."""
    from ddpm_jax.cli import results

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
        session = start(tmp_path / "run", kind=Session)
        assert session.train()
        results.write(session)
    assert [write for write in seen if not allowed(*write)] == []
    assert {path.name.rpartition("-")[2] for event, path in seen if event == "os.rename"} >= {
        Path(name).name for name in directory.RESULTS
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


def prepare(out, overwrite=False):
    train.prepare(out, Run.load(reference()), resume=False, overwrite=overwrite)


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
    prepare(out, overwrite=True)
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


# --- links ---


@pytest.mark.parametrize(
    "name",
    [
        *[".lock", "config.json", "metrics.jsonl", "reverse.gif"],
        *["figures", "samples", "checkpoints", "samples/final.npy", "figures/.tmp-1-data.png"],
        *["checkpoints/24", "checkpoints/.saving", "checkpoints/6/SHA256SUMS"],
    ],
)
def test_a_link_that_leads_out_of_a_run_is_refused(tmp_path, name):
    """By whatever reads, resumes, overwrites or clears it, with what is outside as it was."""
    out, outside = copy(reference(), tmp_path / "run"), tmp_path / "outside"
    place = out / name
    if place.exists():
        place.rename(outside)
    else:
        outside.write_text("precious")
    place.symlink_to(outside)
    before = contents(tmp_path)

    def lock():
        with directory.locked(out):
            pass

    for use in (lambda: Run.load(out), lock, lambda: directory.clear(out)):
        with pytest.raises(InputError, match=rf"{name} is a link that leads out .*to .*/outside: "):
            use()
    assert contents(tmp_path) == before


def test_links_within_a_run_and_to_a_run_are_followed(tmp_path):
    out, link = copy(reference(), tmp_path / "run"), tmp_path / "link"
    (out / "figures").rename(out / "pictures")
    (out / "figures").symlink_to("pictures")
    (out / "notes").symlink_to(tmp_path)  # none of the run's own
    link.symlink_to(out)
    with directory.locked(link):
        assert Run.load(link) == Run.load(reference())
        directory.clear(link)
    assert set(contents(out)) == {".lock"}
    assert (out / "figures").is_dir()


def test_the_lock_empties_no_file(tmp_path):
    """Not even one that is the same file under a second name, which no one can tell."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").hardlink_to(tmp_path / "precious")
    with directory.locked(tmp_path / "run"):
        assert (tmp_path / "precious").read_text() == "precious"
