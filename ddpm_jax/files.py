"""Files that are either whole or not there, and reading that never waits for anybody."""

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from ddpm_jax.errors import InputError

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class NotAFileError(OSError):
    """A path that leads to a directory, a pipe, a device or a socket."""


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading; NotAFileError where it is none, at once.

    A pipe in a file's place would block for good, a device might never end.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    # A directory cannot be opened everywhere, a socket nowhere, and some devices act on it.
    _refuse_special(path, os.stat(path).st_mode)
    file = open(os.open(path, flags), "rb")  # noqa: SIM115
    try:
        _refuse_special(path, os.fstat(file.fileno()).st_mode)
    except NotAFileError:
        file.close()
        raise
    return file


def _refuse_special(path: str | Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise NotAFileError(f"{path} is {kind}, not a file")


def read_text(path: str | Path, errors: str = "strict") -> str:
    """The whole of a UTF-8 file; OSError as `open_regular`, UnicodeDecodeError."""
    with open_regular(path) as file:
        return file.read().decode("utf-8", errors)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well, removed when not.

    It ends as `path` does, so that writers which go by the suffix write the right format. What was
    written is on the disk before it is renamed: not even a power cut leaves half a file. What a
    process that was killed left of an earlier try is removed. Raises InputError where the disk
    refuses to take it.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        yield temporary
        if temporary.exists():
            sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what dead processes left that were writing `path`."""
    pattern = re.compile(rf"\.tmp-(\d{{1,9}})-{re.escape(path.name)}", re.ASCII)
    with os.scandir(path.parent) as entries:
        found = [
            (entry.path, match) for entry in entries if (match := pattern.fullmatch(entry.name))
        ]
    for name, match in found:
        if not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                os.unlink(name)


def _is_alive(pid: int) -> bool:
    """Whether there is such a process; on Windows False, as there a file in use stays anyway."""
    if os.name == "nt":  # where signal 0 would be Ctrl-C
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def sync(path: str | Path) -> None:
    """Have the disk keep the file, or what a directory lists, before going on."""
    if os.name == "nt":  # where neither a directory nor a file opened for reading can be synced
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` whole."""
    with replacing(path) as temporary:
        # A name of a file may be no Unicode, and is then written byte for byte.
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def refuse_existing(path: str | Path, overwrite: bool) -> None:
    """Raise InputError if there is something at `path` and `overwrite` is not set."""
    if Path(path).exists() and not overwrite:
        raise InputError(f"{path} exists: choose another name, or pass --overwrite to replace it")


def refuse_beyond_disk(path: str | Path, size: int) -> None:
    """Raise InputError if `size` more bytes at `path` are more than the disk has room for."""
    above = next(p for p in [Path(path), *Path(path).absolute().parents] if p.exists())
    free = shutil.disk_usage(above).free
    if size > free:
        raise InputError(
            f"{path} would take {size / 1e9:,.1f} GB, and the disk has {free / 1e9:,.1f} GB free: "
            "ask for fewer, or choose another disk"
        )
