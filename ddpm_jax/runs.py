"""The run directory: who may write it, what it is of, and its rows of metrics.

config.json holds the configuration, the digest of the data and the scaler; metrics.jsonl a row an
epoch. Both are plain JSON, written whole or appended line by line.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from ddpm_jax import checkpoints, files, training
from ddpm_jax import config as configs
from ddpm_jax.config import Config
from ddpm_jax.datasets import Scaler, digest
from ddpm_jax.errors import ConfigError, InputError
from ddpm_jax.mapped import Points, blocks
from ddpm_jax.models import Denoiser
from ddpm_jax.training import Apply, Params, TrainState

FORMAT = 1
MAX_TABLE_TIMES = 2**14
"""Encodings of as many times are looked up; more would take more memory than they save time."""

REPORT = (
    *(f"figures/{name}.png" for name in ("data", "schedules", "forward", "loss", "montage")),
    "samples/final.npy",
    "reverse.gif",
    "summary.txt",
    "summary.json",
)
"""What a finished run holds beside its checkpoints and metrics."""

_FOLDERS = ("checkpoints", "figures", "samples")
_TEMPORARY = r"\.tmp-\d+-"  # as files.replacing names it
_OWN = re.compile(
    rf"({_TEMPORARY})?(config\.json|metrics\.jsonl|summary\.(txt|json)|reverse\.gif)"
    rf"|samples/({_TEMPORARY})?(epoch_\d{{4,}}|final)\.(png|npy)"
    rf"|figures/(({_TEMPORARY})?(data|schedules|forward|loss|montage)|comparison)\.png"
    r"|checkpoints/(0|[1-9]\d*|\.saving)",
    re.ASCII,
)


@dataclass(frozen=True)
class Run:
    """What a run is of: equal runs end with the same bits."""

    config: Config
    scaler: Scaler
    digest: str
    num_points: int
    dim: int
    extent: float

    @staticmethod
    def of(config: Config, points: Points) -> "Run":
        """The run of `config` on `points`, with everything that depends on the data filled in."""
        scaler = Scaler.fit(points)
        # The learned tables cover the data and a margin, but do not follow outliers.
        farthest = max(float(np.abs(scaler.apply(block)).max()) for block in blocks(points))
        extent = min(1.1 * farthest, 3.0) or 1.0
        n, d = points.shape
        return Run(config.for_points(n), scaler, digest(points), n, d, round(extent, 6))

    def save(self, directory: Path) -> None:
        """Write config.json."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        files.write_text(directory / "config.json", json.dumps(values, indent=2) + "\n")

    @staticmethod
    def load(directory: str | Path) -> "Run":
        """Read config.json back; ConfigError names the field that is missing or wrong.

        InputError where a link leads out of the directory.
        """
        path = Path(directory) / "config.json"
        refuse_links(Path(directory))
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: no such file; {directory} is not the directory of a run. "
                "python experiments/train.py --out makes one"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path}: not a readable JSON file ({error}); restore it, or train again"
            ) from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: expected a JSON object; restore it, or train again")
        if values.get("format") != FORMAT:
            raise ConfigError(
                f"{path}: format {values.get('format')!r}, this version reads format {FORMAT}; "
                "use the version that wrote it, or train again"
            )
        dim = _field(path, values, "dim", int, lambda d: d >= 1)
        num_points = _field(path, values, "num_points", int, lambda n: n >= 2)
        config = configs.from_json(values.get("config"), str(path))
        try:
            config = config.for_points(num_points)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        scaler = _field(path, values, "scaler", dict, lambda s: set(s) == {"shift", "scale"})
        for name in ("shift", "scale"):
            _field(path, scaler, name, list, lambda v: len(v) == dim and all(map(_is_finite, v)))
        _field(path, scaler, "scale", list, lambda v: min(v) >= 0)
        return Run(
            config=config,
            scaler=Scaler(tuple(map(float, scaler["shift"])), tuple(map(float, scaler["scale"]))),
            digest=_field(path, values, "digest", str, bool),
            num_points=num_points,
            dim=dim,
            extent=float(_field(path, values, "extent", float | int, lambda x: 0 < x <= 3)),
        )

    def refuse_other(self, new: "Run", directory: Path) -> None:
        """Raise ConfigError, with the differences, unless `new` is the same run."""
        old_values = configs.to_json(self.config) | {"data digest": self.digest[:12]}
        new_values = configs.to_json(new.config) | {"data digest": new.digest[:12]}
        lines = configs.differences(old_values, new_values)
        if lines:
            raise ConfigError(
                f"cannot resume {directory}: it is another run\n  "
                + "\n  ".join(lines)
                + "\nLeave these settings out to go on with the run's own, or choose another --out"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the data; the rest of an epoch's points is dropped."""
        return self.num_points // self.config.batch_size

    @property
    def total_steps(self) -> int:
        """Training steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs

    def denoiser(self) -> Denoiser:
        """The network the configuration describes."""
        c = self.config
        return Denoiser(
            dim=self.dim,
            width=c.width,
            depth=c.depth,
            time_width=c.time_width,
            num_times=c.num_steps if c.num_steps <= MAX_TABLE_TIMES else 0,
            fourier_features=c.fourier_features,
            fourier_scale=c.fourier_scale,
            tables=c.tables,
            table_features=c.table_features,
            extent=self.extent,
        )

    def apply(self) -> Apply:
        """The network as a function `apply(params, x_t, t) -> eps`."""
        network = self.denoiser()
        return lambda params, x, t: network.apply({"params": params}, x, t)  # pyright: ignore

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer the configuration describes."""
        c = self.config
        return training.adam(c.learning_rate, self.total_steps, c.decay)

    def keys(self) -> dict[str, Key[Array, ""]]:
        """The base keys of everything random in the run, by purpose."""
        names = ("init", "order", "noise", "sample", "floor", "figures")
        keys = jax.random.split(jax.random.key(self.config.seed), len(names))
        return dict(zip(names, keys, strict=True))

    def init_state(self, key: Key[Array, ""]) -> TrainState:
        """The state before the first step; `jax.eval_shape` of it is what a checkpoint is like."""
        x, t = jnp.zeros((1, self.dim)), jnp.zeros((1,), jnp.int32)
        params = self.denoiser().init(key, x, t)["params"]
        return training.init_state(params, self.optimizer(), ema=self.config.ema_decay > 0)

    def load_params(self, directory: str | Path) -> tuple[int, Params]:
        """Step and parameters to sample from, of the newest whole checkpoint."""
        like = {
            "train": jax.eval_shape(self.init_state, jax.random.key(0)),
            "losses": jax.ShapeDtypeStruct((self.steps_per_epoch,), jnp.float32),
        }
        step, state, _ = checkpoints.restore(Path(directory) / "checkpoints", like)
        return step, sampling_params(state["train"])


def sampling_params(state: TrainState) -> Params:
    """The averaged parameters, where an average is kept."""
    return state.params if state.ema is None else state.ema


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; InputError if another process holds it, or a link leads out.

    The kernel drops the lock when its holder dies, however it dies, so a stale one cannot exist.
    """
    directory.mkdir(parents=True, exist_ok=True)
    refuse_links(directory)
    with open(directory / ".lock", "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{directory} is in use by another process: wait for it, or choose another --out"
            ) from None
        yield


def refuse_links(directory: Path) -> None:
    """Raise InputError if a link among the run's own files and folders leads out of `directory`.

    Whoever made it would have us write or remove what is there. The directory may be a link itself.
    """
    folders = [directory / name for name in _FOLDERS]
    below = (directory / "checkpoints").rglob("*")  # follows no links below itself
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
    return sorted(own, key=lambda path: path.name != "config.json")


def clear(directory: Path) -> None:
    """Remove what a run has put into its directory, and nothing else; InputError for links out."""
    refuse_links(directory)
    for path in own_files(directory):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def append_row(directory: Path, row: dict[str, Any]) -> None:
    """Append one line to metrics.jsonl in a single write; OSError if only a part of it fits."""
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    path = directory / "metrics.jsonl"
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        if file.write(line) < len(line):
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def read_rows(directory: Path, last_epoch: int | None = None) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl up to `last_epoch`, without what a crash has torn."""
    path = directory / "metrics.jsonl"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
            wanted = row["epoch"] <= (row["epoch"] if last_epoch is None else last_epoch)
        except (ValueError, TypeError, KeyError):
            break
        if not wanted:
            break
        rows.append(row)
    return rows


def keep_rows(directory: Path, last_epoch: int) -> list[dict[str, Any]]:
    """Cut metrics.jsonl back to the epochs up to `last_epoch`, and return them."""
    rows = read_rows(directory, last_epoch)
    files.write_text(directory / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _field(path: Path, values: dict, name: str, kind: Any, valid: Callable[[Any], bool]) -> Any:
    value = values.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) or not valid(value):
        raise ConfigError(f"{path}: field {name!r} is missing or wrong: {value!r}; restore it")
    return value


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max
