"""Save, verify, restore, fall back: the checkpoints of a training run, through Orbax.

    checkpoints/
      0/  10/  20/      one folder a step: an Orbax checkpoint and, beside its files,
        SHA256SUMS      the digest of each of them (`sha256sum -c SHA256SUMS` checks a step)
      .saving/          what is being saved or removed; never read, cleared by the next save

Orbax notices damage only where a file no longer parses: a flipped bit in the numbers or in the
metadata loads as silent garbage. So the files of a step are compared with SHA256SUMS before any
is loaded, and the leaves loaded with the digests of those that were saved. A step is renamed into
place once it is whole: a process killed at any moment leaves whole steps only.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from ddpm_jax import files
from ddpm_jax.errors import CheckpointError

# Every later format must keep SHA256SUMS: a version number is believed only in verified files.
FORMAT = 1

_LEAF_FIELDS = {"dtype", "shape", "sha256"}
_SUMS = "SHA256SUMS"
_SCRATCH = ".saving"
_OVERHEAD = 2**17  # bytes of a checkpoint beside its arrays, amply


class _DamageError(CheckpointError):
    """A step is not what was saved, so that an older one may still be whole."""


def steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps with a finished checkpoint in `directory`, ascending; damaged ones included."""
    names = [path.name for path in Path(directory).glob("*") if path.is_dir()]
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def save(
    directory: str | os.PathLike[str],
    step: int,
    state: PyTree,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write `state` as the checkpoint of `step` ≥ 0; later ones, an abandoned future, are removed.

    `state` is a pytree of jax or numpy arrays; `metadata`, an object of JSON, is stored with it.
    When the call returns, the checkpoint is in place and on the disk, should the power be cut.
    Where there are several processes all must call it, each holding all of `state`.

    Raises CheckpointError for a leaf that is not finite or not an array that can be stored exactly
    (nothing is written), and when the disk refuses (the steps before `step` stay as they were).
    """
    if step < 0:
        raise CheckpointError(f"step = {step}: steps count from 0")
    directory = check_name(Path(directory).absolute())
    leaves = {name: _checked(name, leaf) for name, leaf in _named_leaves(state)}
    record = {"format": FORMAT, "leaves": leaves, "metadata": _as_json(metadata or {})}
    host = jax.tree.map(np.asarray, state)
    room = sum(leaf.nbytes for leaf in jax.tree.leaves(host)) + _OVERHEAD
    try:
        with _scratch_folder(directory, room) as scratch, _quiet_orbax():
            ocp.save(str(scratch / str(step)), host, custom_metadata=record)
            if jax.process_index() == 0:
                (scratch / str(step) / _SUMS).write_bytes(_sums(scratch / str(step)).encode())
                _put_in_place(scratch, directory, step)
    except (OSError, ValueError) as error:  # tensorstore reports a full disk as a ValueError
        raise CheckpointError(
            f"cannot save step {step} in {directory}: {error}; older checkpoints are intact"
        ) from error
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("ddpm_jax.checkpoints.save")


def restore(directory: str | os.PathLike[str], like: PyTree) -> tuple[int, PyTree, dict[str, Any]]:
    """Read `(step, state, metadata)` of the newest whole checkpoint.

    `like` is a pytree of arrays or `jax.ShapeDtypeStruct`s with the structure, shapes and dtypes to
    expect. Leaves that carry a sharding there get it; the others go to the default device. For
    each damaged checkpoint a warning says what is wrong with it, and the one before is tried.

    Raises CheckpointError when none is whole, or when one that is differs from `like` (it belongs
    to another network: nothing is cast or left out) or is of another format version.
    """
    directory = check_name(Path(directory).absolute())
    found = steps(directory)
    if not found:
        raise CheckpointError(f"no checkpoint in {directory}: train the run first, or --resume it")
    damages = []
    for candidate in reversed(found):
        try:
            return candidate, *_read(directory / str(candidate), like)
        except _DamageError as damage:
            warnings.warn(f"{damage}; trying the step before", stacklevel=2)
            damages.append(str(damage))
    remedy = "Copy one back from elsewhere, or train again with --overwrite"
    raise CheckpointError("\n  ".join([f"no whole checkpoint in {directory}:", *damages, remedy]))


def check_name(directory: Path) -> Path:
    """The directory, if Orbax can open it; its error would be taken for damage of the files."""
    try:
        str(directory).encode("utf-8")
    except UnicodeEncodeError:
        raise CheckpointError(
            f"{directory}: Orbax opens no folder whose name is not UTF-8: rename or move it"
        ) from None
    return directory


def _read(folder: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """The state, verified and placed as `like` says, and the metadata of one step."""
    _verify_files(folder)
    with _orbax_reads(folder):
        record: Any = ocp.metadata(str(folder)).custom_metadata
    version = record.get("format") if isinstance(record, dict) else None
    if version != FORMAT:
        raise CheckpointError(
            f"{folder}: format version {version}, but this program reads {FORMAT} only: "
            "restore it with the version of ddpm_jax that wrote it"
        )
    if not _is_record(record):
        raise _DamageError(f"{folder}: its metadata are not those of a checkpoint")
    _verify_match(folder, record["leaves"], like)
    with _orbax_reads(folder):
        abstract = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        host = ocp.load(str(folder), abstract)
    for name, leaf in _named_leaves(host):
        if _digest(leaf) != record["leaves"][name]["sha256"]:
            raise _DamageError(f"{folder}: leaf {name} is not what was saved")
        if not _is_finite(leaf):
            raise _DamageError(f"{folder}: leaf {name} is not finite, which no save accepts")
    return jax.tree.map(_place, host, like), record["metadata"]


def _is_record(record: dict[str, Any]) -> bool:
    """Whether the metadata of a step have the fields that `save` writes."""
    leaves = record.get("leaves")
    return (
        isinstance(record.get("metadata"), dict)
        and isinstance(leaves, dict)
        and all(isinstance(v, dict) and v.keys() == _LEAF_FIELDS for v in leaves.values())
    )


def _named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _type_of(name: str, leaf: Any) -> dict[str, Any]:
    """The dtype and shape of a leaf, provided that JAX can hold it as it is."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)):
        kind = type(leaf).__name__ if dtype is None else dtype
        raise CheckpointError(
            f"leaf {name} is not an array of numbers but {kind}: jnp.asarray makes an array of a "
            "number, jax.random.key_data of a key"
        )
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise CheckpointError(f"leaf {name} is {dtype}, which JAX would cast: cast it yourself")
    return {"dtype": str(dtype), "shape": list(leaf.shape)}


def _checked(name: str, leaf: Any) -> dict[str, Any]:
    """The dtype, shape and digest of a leaf, provided that it may be saved."""
    record = _type_of(name, leaf)
    if not isinstance(leaf, jax.Array | np.ndarray) or leaf.size == 0:
        raise CheckpointError(f"leaf {name} is not an array of at least one number")
    host = np.asarray(leaf)
    if not _is_finite(host):
        raise CheckpointError(
            f"leaf {name}: {np.sum(~np.isfinite(host))} of {host.size} numbers are not finite; "
            "nothing was saved, resume from an older checkpoint"
        )
    return record | {"sha256": _digest(host)}


def _is_finite(host: np.ndarray) -> bool:
    return not jnp.issubdtype(host.dtype, jnp.inexact) or bool(np.isfinite(host).all())


def _digest(host: np.ndarray) -> str:
    header = f"{host.dtype}{host.shape}".encode()
    return hashlib.sha256(header + host.tobytes()).hexdigest()


def _place(host: np.ndarray, like: Any) -> jax.Array:
    """The array where `like` is; uncommitted, as every fresh array, where it names no place."""
    named = not isinstance(like, jax.Array) or like.committed
    return jax.device_put(host, getattr(like, "sharding", None) if named else None)


def _as_json(metadata: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(metadata, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the metadata are not JSON: {error}") from error


def _verify_match(folder: Path, saved: dict[str, Any], like: PyTree) -> None:
    """Refuse a checkpoint whose leaves differ from those of `like` in name, shape or dtype."""

    def show(record: dict[str, Any] | None) -> str:
        return f"{record['dtype']}{record['shape']}" if record else "missing"

    wanted = {name: _type_of(name, leaf) for name, leaf in _named_leaves(like)}
    differences = [
        f"{name} is {show(saved.get(name))} there, {show(wanted.get(name))} here"
        for name in sorted(saved.keys() | wanted.keys())
        if show(saved.get(name)) != show(wanted.get(name))
    ]
    if differences:
        raise CheckpointError(
            f"{folder} does not fit this network or optimizer: {_first(differences)}; restore it "
            "with the configuration of its own run, or train in an empty directory"
        )


def _first(items: list[str], limit: int = 3) -> str:
    more = f", and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def _sums(folder: Path) -> str:
    """The digests of all files below `folder`, as sha256sum prints them, ordered by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _SUMS)
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in paths
    )


def _verify_files(folder: Path) -> None:
    try:
        saved, found = files.read_text(folder / _SUMS, errors="replace"), _sums(folder)
    except OSError as error:
        raise _DamageError(f"{folder}: cannot verify its files by {_SUMS}: {error}") from error
    if saved != found:
        lines = set(saved.split("\n")) ^ set(found.split("\n"))
        names = _first(sorted({line.partition("  ")[2] for line in lines}))
        raise _DamageError(f"{folder}: missing, changed or not listed in {_SUMS}: {names}")


@contextlib.contextmanager
def _scratch_folder(directory: Path, room: int) -> Iterator[Path]:
    """A folder for unfinished work, with `room` bytes to spare; gone in the end, come what may."""
    scratch = directory / _SCRATCH
    if jax.process_index() != 0:
        yield scratch
        return
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        _ask_for_room(scratch / "room", room)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _ask_for_room(path: Path, size: int) -> None:
    """Meet a full disk here, not in Orbax, whose other threads would write on after the error."""
    path.write_bytes(bytes(size))
    path.unlink()


def _put_in_place(scratch: Path, directory: Path, step: int) -> None:
    """Swap the abandoned future for the new step.

    A step goes by one rename, the future from its far end: wherever this is cut short, the steps
    left are whole, and an uninterrupted stretch of one run.
    """
    new = scratch / str(step)
    for path in [*new.rglob("*"), new]:
        files.sync(path)
    for old in reversed([old for old in steps(directory) if old >= step]):
        (directory / str(old)).rename(scratch / f"removed-{old}")
    new.rename(directory / str(step))
    files.sync(directory)


@contextlib.contextmanager
def _orbax_reads(folder: Path) -> Iterator[None]:
    """Translate what Orbax and tensorstore raise where a checkpoint does not parse: anything."""
    try:
        yield
    except Exception as error:
        raise _DamageError(f"{folder}: Orbax cannot read it: {error}") from error


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Keep Orbax from logging a traceback a thread: all they say is in the exception, too."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
