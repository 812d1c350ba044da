"""The directory of a run: which files are its own, and who may write them."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ddpm_jax import files
from ddpm_jax.errors import InputError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
FIGURES = "figures"
SAMPLES = "samples"
FINAL = f"{SAMPLES}/final.npy"
ANIMATION = "reverse.gif"
REPORT = "report.html"
SUMMARY = "summary.txt"
SUMMARY_JSON = "summary.json"
COMPARISON = f"{FIGURES}/comparison.png"
WORDS = f"{FIGURES}/words.png"
FIGURE_NAMES = ("data", "schedules", "forward", "loss", "montage")
RESULTS = (
    *(f"{FIGURES}/{name}.png" for name in FIGURE_NAMES),
    FINAL,
    ANIMATION,
    REPORT,
    SUMMARY,
    SUMMARY_JSON,
)
"""What a finished run holds beside its checkpoints and metrics."""


def snapshot(epoch: int, suffix: str = ".png") -> str:
    """The picture of an epoch's samples; with the suffix .npy, the samples themselves."""
    return f"{SAMPLES}/epoch_{epoch:04d}{suffix}"


_FOLDERS = (CHECKPOINTS, FIGURES, SAMPLES)
_TEMPORARY = r"\.tmp-\d+-"  # as files.replacing names it
_PLAIN = "|".join(
    re.escape(name) for name in (CONFIG, METRICS, *(name for name in RESULTS if "/" not in name))
)
_OWN = re.compile(
    rf"({_TEMPORARY})?({_PLAIN})"
    rf"|{SAMPLES}/({_TEMPORARY})?(epoch_\d{{4,}}|final)\.(png|npy)"
    rf"|{FIGURES}/({_TEMPORARY})?({'|'.join(FIGURE_NAMES)}|comparison|words)\.png"
    rf"|{CHECKPOINTS}/(0|[1-9]\d*|\.saving)",
    re.ASCII,
)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; InputError if another process holds it, or a link leads out.

    The kernel drops the lock when its holder dies, however it dies, so a stale one cannot exist.
    """
    import filelock  # with asyncio and more, which only who writes a run needs

    directory.mkdir(parents=True, exist_ok=True)
    refuse_links(directory)
    lock = filelock.FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(
            f"{directory} is in use by another process: wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def refuse_links(directory: Path) -> None:
    """Raise InputError if a link among the run's own files and folders leads out of `directory`.

    Whoever made it would have us write or remove what is there. The directory may be a link itself.
    """
    folders = [directory / name for name in _FOLDERS]
    below = (directory / CHECKPOINTS).rglob("*")  # follows no links below itself
    for path in [*folders, directory / ".lock", *own_files(directory), *below]:
        end = Path(os.path.realpath(path))
        if path.is_symlink() and not end.is_relative_to(os.path.realpath(directory)):
            raise InputError(
                f"{path} is a link that leads out of the run, to {os.readlink(path)}: remove it, "
                "or put there what it stands for"
            )


def own_files(directory: Path) -> list[Path]:
    """What a run has put into its directory, config.json first; files of others are not listed."""
    folders = [directory, *(directory / name for name in _FOLDERS)]
    found = [path for folder in folders for path in sorted(folder.glob("*"))]
    own = [p for p in found if _OWN.fullmatch(p.relative_to(directory).as_posix())]
    return sorted(own, key=lambda path: path.name != CONFIG)


def refuse_own(path: Path) -> None:
    """Raise InputError if `path` is, or would be, one of a run's own files."""
    path = Path(os.path.realpath(path))
    for directory in path.parents[:3]:
        own = path.relative_to(directory).as_posix()
        inside = own.startswith(f"{CHECKPOINTS}/") or _OWN.fullmatch(own)
        if inside and (directory / CONFIG).exists():
            raise InputError(f"{path} is a run's own file: choose another name")


def refuse_taken(path: Path, overwrite: bool) -> None:
    """Raise InputError for a run's own file, and for any other unless `overwrite` is set."""
    refuse_own(path)
    files.refuse_existing(path, overwrite)


def clear(directory: Path) -> None:
    """Remove what a run has put into its directory, and nothing else; InputError for links out."""
    refuse_links(directory)
    for path in own_files(directory):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def is_temporary(path: Path) -> bool:
    """Whether it is a file that a process, perhaps killed since, had not finished writing."""
    return re.match(_TEMPORARY, path.name) is not None
