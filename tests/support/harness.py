"""A tiny run of train.py: in processes of its own, in this one, and what it must end with."""

import contextlib
import functools
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from ddpm_jax import files
from ddpm_jax.cli import signals
from ddpm_jax.cli.session import Session

TESTS = Path(__file__).resolve().parent
FOLDER = tempfile.TemporaryDirectory(prefix="ddpm_jax-")
SETTINGS: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 10,
    "num_steps": 20,
    "width": 8,
    "depth": 1,
    "time_width": 4,
    "tables": (),
    "base": "none",
    "hold_out": 0.0,
    "sigmoid_k": 12.0,
    "learning_rate": 4e-3,
    "snapshot_points": 100,
    "snapshot_steps": 5,
    "snapshot_every": 2,
    "checkpoint_every": 1,
    "milestones": (1, 4),
}
"""Six steps an epoch: of 64 points four are left over; and nothing is chosen by the data."""


@functools.cache
def points() -> Path:
    """The file of the tiny run's data."""
    path = Path(FOLDER.name) / "points.txt"
    np.savetxt(path, np.random.default_rng(0).uniform(-1, 1, (64, 2)))
    return path


def arguments(out: Path, *more: str, **changes: Any) -> list[str]:
    """The command line of the tiny run."""
    words = ["--data", str(points()), "--out", str(out)]
    for name, value in (SETTINGS | changes).items():
        values = value if isinstance(value, tuple) else (value,)
        words += ["--" + name.replace("_", "-"), *map(str, values)]
    return [*words, *more]


@functools.cache
def reference() -> Path:
    """The tiny run, never interrupted; not to be changed."""
    out = Path(FOLDER.name) / "reference"
    done = run(out.with_suffix(".log"), "train", arguments(out))
    assert done.status == 0, done.err
    return out


def copy(source: Path, target: Path) -> Path:
    """A copy of a run directory."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target)


# --- in processes of their own ---

# A server that has imported the scripts forks them: each starts at once, and starts JAX afresh.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *("ddpm_jax.cli.train", "ddpm_jax.cli.results", "ddpm_jax.cli.evaluate", "harness"),
        "sklearn.mixture",  # which is imported where it is needed
    ]
)
# These are killed at any moment, perhaps while a program is written, which JAX then compiles again
# with a warning: none of other tests' is there, and no entry is of two files.
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(TESTS.parents[1]), str(TESTS)]),
    "JAX_COMPILATION_CACHE_DIR": FOLDER.name + "/cache",
    "JAX_COMPILATION_CACHE_MAX_SIZE": "-1",
}


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Process:
    """A command at work; `before` is called in its process first, to set a trap."""

    def __init__(
        self,
        log: Path,
        script: str | Callable[[], int],
        argv: list[str],
        before: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        self.logs = log.with_suffix(".out"), log.with_suffix(".err")
        self.process = PROCESSES.Process(
            target=_main, args=(script, argv, self.logs, before, options)
        )
        with mock.patch.dict(os.environ, ENVIRONMENT):
            self.process.start()

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> Done:
        self.process.join(300)
        assert self.process.exitcode is not None, "the process hangs"
        return Done(self.process.exitcode, *(log.read_text() for log in self.logs))


def _main(
    script: Any, argv: list[str], logs: tuple[Path, Path], before: Any, options: dict[str, Any]
) -> None:
    for number, log in enumerate(logs, start=1):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if not isinstance(script, str):
        signals.run_main(script)
    module = importlib.import_module(f"ddpm_jax.cli.{script}")
    sys.argv = [f"experiments/{script}.py", *argv]
    if before:
        before()
    signals.run_main(functools.partial(module.main, **options))


def run(
    log: Path,
    script: str | Callable[[], int],
    argv: list[str],
    before: Callable[[], None] | None = None,
    **options: Any,
) -> Done:
    """The command, or a function, to its end; `options` are what else its `main` takes."""
    return Process(log, script, argv, before, **options).wait()


def command(folder: Path, name: str, *arguments: object, **options: Any) -> Done:
    """The command as typed, its words of any type; what it says is kept in the folder."""
    return run(folder / "log", name, list(map(str, arguments)), **options)


# --- in this process ---


class Plain(Session):
    """A session with plain files for pictures, which take most of a tiny run's time."""

    def draw(self, figure: Any, path: Path, *args: Any, **options: Any) -> None:
        files.write_text(path, "a picture")


@functools.cache
def session(kind: type = Plain, **changes: Any) -> Any:
    """The tiny run's session, for all tests, as its compilation takes a while."""
    import jax

    from ddpm_jax import parallel
    from ddpm_jax.config import Config
    from ddpm_jax.points import readers
    from ddpm_jax.runs.record import Run

    data = readers.load_points(points())
    run = Run.of(Config().replace(**SETTINGS | {"data": str(points())} | changes), data)
    mesh = parallel.training_mesh(run.batch_size, 1)
    return kind(run, Path(), data, jax.devices()[:1], mesh)


@functools.cache
def _first(kind: type, **changes: Any) -> tuple[dict[str, Any], Callable[[], bool]]:
    made = session(kind, **changes)
    return copied(made.trainer.checkpoint()), made.trainer.stop


def copied(tree: Any) -> Any:
    """A tree of arrays of its own, as training consumes those that it is given."""
    import jax
    import jax.numpy as jnp

    return jax.tree.map(jnp.copy, tree)


def start(out: Path, chunk_steps: int | None = None, kind: type = Plain, **changes: Any) -> Any:
    """The session in directory `out`, as a new process would begin or resume it."""
    first, stop = _first(kind, **changes)
    made = session(kind, **changes)
    made.out, made.interrupt.signum = out, None
    trainer, floor = made.trainer, made.trainer.floor
    trainer.chunk_steps, trainer.stop = chunk_steps, stop
    trainer.restore(copied(first))
    if (out / "config.json").exists():
        made.restore()
    else:
        out.mkdir(parents=True, exist_ok=True)
        made.run.save(out)
    trainer.floor = trainer.floor or floor  # which only depends on the data, and takes its time
    return made


# --- traps ---

_watchers: list[tuple[str, Callable[[str, Path], None]]] = []


def _audit(event: str, args: tuple) -> None:
    if not _watchers or event not in {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}:
        return
    if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
        return
    for folder, act in _watchers.copy():
        if str(args[0]).startswith(folder + os.sep):
            act(event, Path(str(args[0])).relative_to(folder))


@functools.cache
def _install() -> None:
    sys.addaudithook(_audit)


@contextlib.contextmanager
def before_each_write(folder: Path, act: Callable[[str, Path], None]) -> Iterator[None]:
    """Call `act(event, path)` just before Python creates, renames or removes anything in it."""
    _install()
    watcher = (str(folder), act)
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def at_write(number: int, act: Callable[[], None]) -> Callable[[str, Path], None]:
    """For `before_each_write`: act before the n-th write, counted from 1."""
    writes = iter(range(1, number + 1))
    return lambda event, path: act() if next(writes, None) == number else None


def kill_at_write(folder: Path, number: int) -> None:
    """Kill this process just before its n-th write."""
    kill = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
    _install()
    _watchers.append((str(folder), at_write(number, kill)))


def at_chunk(
    number: int, act: Callable[[Any], None], chunk_steps: int = 2, kind: type = Plain
) -> Callable[..., Session]:
    """For `make_session`: act on the session during its n-th chunk, counted from 1.

    That is before the chunk's first step, and after it was asked whether to stop.
    """
    return functools.partial(_at_chunk, number, act, chunk_steps, kind)


def _at_chunk(
    number: int, act: Callable[[Any], None], chunk_steps: int, kind: type, *args: Any
) -> Session:
    made = kind(*args, chunk_steps=chunk_steps)
    asked, chunks = made.trainer.stop, itertools.count(1)

    def stop() -> bool:
        answer = asked()
        if next(chunks) == number:
            act(made)
        return answer

    made.trainer.stop = stop
    return made


# --- what a run ends with ---


def assert_same_bits(a: Any, b: Any) -> None:
    """Trees of the same structure, shapes, dtypes and bytes."""
    import jax

    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def rows(out: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, none of them torn, doubled or left out."""
    read = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in read] == list(range(1, len(read) + 1))
    return read


def digest(tree: Any) -> str:
    """SHA-256 of all numbers of a tree."""
    import jax

    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


def results(out: Path) -> dict[str, Any]:
    """The bits a run has ended with: state, losses, samples; and the names of its files."""
    from ddpm_jax.runs import checkpoints
    from ddpm_jax.runs.record import Run

    like = Run.load(out).checkpoint_like()
    step, state, _ = checkpoints.restore(out / "checkpoints", like)
    inside = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    return {
        "step": step,
        "steps": checkpoints.steps(out / "checkpoints"),
        "state": digest(state),
        "losses": [row["loss"] for row in rows(out)],
        "samples": {path.name: digest(np.load(path)) for path in out.glob("samples/*.npy")},
        "files": {str(path) for path in inside if path.parts[0] != "checkpoints"} - {".lock"},
    }
