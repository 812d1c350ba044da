"""Every setting of a run as one frozen dataclass, the two presets, and config.json.

Two runs with equal configurations and equal data end with the same bits.
"""

import dataclasses
import json
import math
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax

from ddpm_jax.errors import ConfigError
from ddpm_jax.schedules import SCHEDULES, Schedule

DEFAULT_STEPS = 80_000


@dataclass(frozen=True)
class Config:
    """The settings of a run; those left out are the fast preset's."""

    preset: Literal["fast", "reference"] = "fast"
    """fast: the best recipe, about a minute on two cores. reference: the original experiment."""
    data: str = "bicycle"
    """A file of points (.txt, .csv, .gz of these, .npy), a directory of .npy, or bicycle, dino,
    moons, 8gaussians, swissroll, checkerboard, spirals."""
    seed: int = 0
    """Everything random follows from it."""

    schedule: Literal["linear", "sigmoid", "cosine"] = "sigmoid"
    """How noise grows with time."""
    num_steps: int = 1000
    """T, the number of diffusion steps."""
    sigmoid_k: float = 12.0
    """Steepness k of the sigmoid schedule: the least noise is e^(-k/2), which bounds the detail."""

    width: int = 64
    """Units of each hidden layer."""
    depth: int = 2
    """Number of hidden layers."""
    time_width: int = 50
    """Width of the sinusoidal time encoding (even)."""
    fourier_features: int = 0
    """Random Fourier features of the point that the first layer also sees; 0: none."""
    fourier_scale: float = 2.0
    """Their typical frequency, in periods per unit length of the scaled data."""
    tables: tuple[int, ...] = (32, 64, 128, 256)
    """Resolutions of the learned tables whose features the first layer also sees."""
    table_features: int = 4
    """Features of each table."""

    epochs: int = 0
    """Passes over the data; 0: as many as make about 80,000 steps."""
    batch_size: int = 0
    """Points a step; 0: 256, or all of a smaller file."""
    learning_rate: float = 4e-3
    """Adam's step size."""
    decay: Literal["constant", "cosine"] = "cosine"
    """How the step size falls over the run."""
    ema_decay: float = 0.999
    """Decay of the average of the parameters that is sampled from; 0: sample from the last ones."""
    stratified: bool = True
    """Spread a batch's times evenly, instead of drawing them independently."""
    points_per_time: int = 16
    """Points of a batch that share a time, so that fewer are embedded; lowered to a divisor of
    the batch."""

    snapshot_every: int = 0
    """Epochs between pictures, beside the first epoch's; 0: a tenth of the run."""
    checkpoint_every: int = 0
    """Epochs between checkpoints, beside the first epoch's; 0: a tenth of the run."""
    snapshot_steps: int = 25
    """Network evaluations a point of a picture, by the SA-Solver; 0: all, ancestral."""
    snapshot_points: int = 10_000
    """Points in a picture and in samples/final.npy."""
    milestones: tuple[int, ...] = ()
    """Epochs whose samples are measured and shown side by side; none given: 5, 50 and 100 %."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), _HINTS[field.name])
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"{name} must be from {least} to {most}, got {value}")
        if self.time_width % 2:
            raise ConfigError(f"time_width must be even (sines and cosines), got {self.time_width}")
        if not 0 < self.learning_rate <= 1:
            raise ConfigError(f"learning_rate must lie in (0, 1], got {self.learning_rate}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.fourier_scale <= 0:
            raise ConfigError(f"fourier_scale must be positive, got {self.fourier_scale}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must lie in 0..2^32-1, got {self.seed}")
        if any(not 2 <= nodes <= 4096 for nodes in self.tables) or len(set(self.tables)) < len(
            self.tables
        ):
            raise ConfigError(f"tables must differ and have 2 to 4096 nodes, got {self.tables}")
        if self.snapshot_steps > self.num_steps:
            raise ConfigError(
                f"snapshot_steps must be at most num_steps = {self.num_steps}, "
                f"got {self.snapshot_steps}"
            )
        for milestone in self.milestones:
            if not 1 <= milestone <= (self.epochs or math.inf):
                raise ConfigError(f"milestones must be epochs of the run, got {milestone}")

    def make_schedule(self) -> Schedule:
        """The noise schedule the settings describe; ConfigError if it cannot be represented."""
        extra = {"k": self.sigmoid_k} if self.schedule == "sigmoid" else {}
        try:
            return SCHEDULES[self.schedule](self.num_steps, **extra)
        except ConfigError as error:
            settings = {"num_steps": self.num_steps} | {f"sigmoid_{n}": v for n, v in extra.items()}
            given = ", ".join(f"{name} = {value}" for name, value in settings.items())
            raise ConfigError(f"schedule {self.schedule} with {given}: {error}") from None

    def for_points(self, num_points: int) -> "Config":
        """The same with every default that depends on the data filled in.

        Raises ConfigError where a batch is larger than the data, and for an impossible schedule.
        """
        # Checks the schedule, and leaves the choice of devices open.
        jax.eval_shape(lambda: self.make_schedule().betas)
        batch_size = self.batch_size or min(256, num_points)
        if batch_size > num_points:
            raise ConfigError(
                f"a batch of {batch_size} points is more than the data's {num_points}: "
                f"pass --batch-size {num_points} or less"
            )
        points_per_time = math.gcd(self.points_per_time, batch_size)
        steps_per_epoch = num_points // batch_size
        epochs = self.epochs or math.ceil(DEFAULT_STEPS / steps_per_epoch)
        if epochs * steps_per_epoch >= 2**31:
            raise ConfigError(
                f"{epochs} epochs of {steps_per_epoch} steps are more than 2^31 steps: "
                "choose fewer --epochs or a larger --batch-size"
            )
        tenth = math.ceil(epochs / 10)
        milestones = self.milestones or (math.ceil(epochs / 20), math.ceil(epochs / 2), epochs)
        return dataclasses.replace(
            self,
            epochs=epochs,
            batch_size=batch_size,
            points_per_time=points_per_time,
            snapshot_every=self.snapshot_every or tenth,
            checkpoint_every=self.checkpoint_every or tenth,
            milestones=tuple(sorted(set(milestones))),
        )


def _check_type(name: str, value: Any, hint: Any) -> None:
    if not _matches(value, hint):
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        wanted = f"one of {', '.join(choices)}" if choices else getattr(hint, "__name__", str(hint))
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")


def _matches(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(_matches(v, args[0]) for v in value)
    if hint is float:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) <= sys.float_info.max
        )
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


_HINTS = typing.get_type_hints(Config)

_RANGES = {
    "num_steps": (1, 10**6),
    "width": (1, 2**14),
    "depth": (1, 2**8),
    "time_width": (2, 2**14),
    "fourier_features": (0, 2**14),
    "table_features": (1, 2**8),
    "points_per_time": (1, 2**31 - 1),
    "snapshot_steps": (0, 10**6),
    "epochs": (0, 2**31 - 1),
    "batch_size": (0, 2**31 - 1),
    "snapshot_every": (0, 2**31 - 1),
    "checkpoint_every": (0, 2**31 - 1),
    "snapshot_points": (100, 10**8),
}

PRESETS = {
    "fast": Config(),
    "reference": Config(
        preset="reference",
        sigmoid_k=10.0,
        width=128,
        depth=3,
        tables=(),
        epochs=1000,
        batch_size=64,
        learning_rate=1e-4,
        decay="constant",
        ema_decay=0.0,
        stratified=False,
        points_per_time=1,
        snapshot_steps=0,
        snapshot_every=10,
        checkpoint_every=10,
    ),
}


def to_json(config: Config) -> dict[str, Any]:
    """The configuration as plain JSON types."""
    return dataclasses.asdict(config)


def from_json(values: Any, source: str = "config.json") -> Config:
    """The configuration back from JSON; ConfigError names the field that is wrong."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected an object of settings, got {type(values).__name__}")
    unknown = sorted(map(str, values.keys() - _HINTS.keys()))
    if unknown:
        raise ConfigError(f"{source}: unknown setting {unknown[0]!r}; known are {sorted(_HINTS)}")
    values = dict(values)
    for name in ("milestones", "tables"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    try:
        return Config(**values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], where: str = "in the run"
) -> list[str]:
    """A line for each key whose values differ."""
    keys = sorted(old.keys() | new.keys())
    return [
        f"{k}: {json.dumps(old.get(k))} {where}, {json.dumps(new.get(k))} now"
        for k in keys
        if old.get(k) != new.get(k)
    ]
