"""Files that are either whole or not there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ddpm_jax.errors import InputError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well, removed when not.

    It ends as `path` does, so that writers which go by the suffix write the right format. What was
    written is on the disk before it is renamed: not even a power cut leaves half a file. Raises
    InputError where the disk refuses to take it.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.exists():
            sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)


def sync(path: str | Path) -> None:
    """Have the disk keep the file, or what a directory lists, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def refuse_existing(path: str | Path, overwrite: bool) -> None:
    """Raise InputError if there is something at `path` and `overwrite` is not set."""
    if Path(path).exists() and not overwrite:
        raise InputError(f"{path} exists: choose another name, or pass --overwrite to replace it")
