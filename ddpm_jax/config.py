"""Every setting of a run, in five sections, and the two presets.

Two runs whose settings are equal, `record` aside, and whose data are equal, end with the same bits.
In a setting, None stands for "choose for me".
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax

from ddpm_jax import settings
from ddpm_jax.diffusion.schedules import SCHEDULES, Schedule
from ddpm_jax.errors import ConfigError
from ddpm_jax.numerics import checked_seed
from ddpm_jax.points.reading import Options
from ddpm_jax.training import recipe

LEAST_STEPS = 100
"""An epoch has as many steps, where no number of epochs is given: few rows take many passes."""
MOST_STEPS = 2**31

_LARGE = 2**31 - 1


@dataclass(frozen=True)
class Noise:
    """How data turn into noise."""

    schedule: Literal["linear", "sigmoid", "cosine"] = "sigmoid"
    """How noise grows with time."""
    num_steps: int = 1000
    """T, the number of diffusion steps."""
    sigmoid_k: float | None = None
    """Steepness k of the sigmoid schedule: the least noise is e^(-k/2), which bounds the detail. By
    default from how far rows are apart."""

    def __post_init__(self) -> None:
        settings.check(self, {"num_steps": (1, 10**6)})

    def make_schedule(self) -> Schedule:
        """The noise schedule the settings describe; ConfigError if it cannot be represented."""
        known = self.schedule == "sigmoid" and self.sigmoid_k is not None
        extra = {"k": self.sigmoid_k} if known else {}
        try:
            return SCHEDULES[self.schedule](self.num_steps, **extra)
        except ConfigError as error:
            described = {"num_steps": self.num_steps} | {
                f"sigmoid_{n}": v for n, v in extra.items()
            }
            given = ", ".join(f"{name} = {value}" for name, value in described.items())
            raise ConfigError(f"schedule {self.schedule} with {given}: {error}") from None


@dataclass(frozen=True)
class Network:
    """The network that predicts the noise; None: chosen by rows and columns, as `recipe` says."""

    width: int | None = None
    """Units of each hidden layer."""
    depth: int = 2
    """Number of hidden layers."""
    time_width: int = 50
    """Width of the sinusoidal time encoding (even)."""
    tables: tuple[int, ...] | None = None
    """Resolutions of the learned tables whose features the first layer also sees."""
    table_features: int = 4
    """Features of each table."""
    base: Literal["none", "gaussian", "mixture"] | None = None
    """What lies under the network, which then is a correction: nothing, a Gaussian, a mixture."""
    prediction: Literal["eps", "x0", "v"] = "eps"
    """What the network's output stands for: the noise, the point, or the velocity v."""

    def __post_init__(self) -> None:
        ranges = {"width": (1, 2**14), "depth": (1, 2**8), "time_width": (2, 2**14)}
        settings.check(self, ranges | {"table_features": (1, 2**8)})
        if self.time_width % 2:
            raise ConfigError(f"time_width must be even (sines and cosines), got {self.time_width}")
        tables = self.tables or ()
        if any(not 2 <= nodes <= 4096 for nodes in tables) or len(set(tables)) < len(tables):
            raise ConfigError(f"tables must differ and have 2 to 4096 nodes, got {tables}")


@dataclass(frozen=True)
class Training:
    """How the network's parameters are found."""

    epochs: int | None = None
    """Epochs, at most; by default as many as make the steps that the recipe says."""
    passes: int | None = None
    """Passes over the data in an epoch, for each of which there is a row of metrics; by default 1,
    or, where epochs are not given either, as many as make a hundred steps."""
    hold_out: float | str | None = None
    """Rows held out, on which training is checked: a share of the data, or a file of others. By
    default a tenth, but of fewer than 2000 rows none: there cross-validation takes its place."""
    patience: int | None = None
    """Training ends when the held-out loss has been above its least for as many steps; by default
    half of the run."""
    batch_size: int | None = None
    """Points a step; by default 256, or all of a smaller file."""
    learning_rate: float | None = None
    """Adam's step size."""
    decay: Literal["constant", "cosine"] = "cosine"
    """How the step size falls over the run."""
    ema_decay: float = 0.999
    """Decay of the average of the parameters that is sampled from; 0 samples from the last ones."""
    stratified: bool = True
    """Spread a batch's times evenly, instead of drawing them independently."""
    points_per_time: int = 16
    """Points of a batch that share a time, so that fewer are embedded; lowered to a divisor of
    the batch."""

    def __post_init__(self) -> None:
        whole = ("epochs", "batch_size", "points_per_time", "passes", "patience")
        settings.check(self, dict.fromkeys(whole, (1, _LARGE)))
        if not isinstance(self.hold_out, str) and not 0 <= (self.hold_out or 0) < 1:
            raise ConfigError(f"hold_out must be a file or lie in [0, 1), got {self.hold_out}")
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise ConfigError(f"learning_rate must lie in (0, 1], got {self.learning_rate}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")


@dataclass(frozen=True)
class Record:
    """What a run keeps and draws on the way. No bit of the parameters depends on it."""

    snapshot_every: int | None = None
    """Epochs between pictures, beside the first epoch's; by default a tenth of the run."""
    checkpoint_every: int | None = None
    """Epochs between checkpoints, beside the first epoch's; by default a tenth of the run."""
    snapshot_steps: int | Literal["all"] = 25
    """Network evaluations a point of a picture, by the SA-Solver; all: the ancestral sampler."""
    snapshot_points: int = 10_000
    """Points in a picture and in samples/final.npy."""
    milestones: tuple[int, ...] | None = None
    """Epochs whose samples are measured and shown side by side; by default 5, 50 and 100 %."""

    def __post_init__(self) -> None:
        every = dict.fromkeys(("snapshot_every", "checkpoint_every"), (1, _LARGE))
        settings.check(
            self, every | {"snapshot_steps": (1, 10**6), "snapshot_points": (100, 10**8)}
        )
        for milestone in self.milestones or ():
            if milestone < 1:
                raise ConfigError(f"milestones must be epochs of the run, got {milestone}")


@dataclass(frozen=True)
class Config:
    """The settings of a run; those left out are the fast preset's."""

    preset: Literal["fast", "reference"] = "fast"
    """fast: the best recipe, about a minute on two cores. reference: the original experiment."""
    data: str = "bicycle"
    """A file of rows (.csv, .tsv, .txt, ..., also compressed; .parquet, .npy, .npz), a directory of
    .npy, or bicycle, dino, moons, 8gaussians, swissroll, checkerboard, spirals."""
    seed: int = 0
    """Everything random follows from it."""
    condition: tuple[str, ...] = ()
    """Columns that the model is told when it draws the others, by name or number from 1."""
    reading: Options = field(default_factory=Options)
    noise: Noise = field(default_factory=Noise)
    network: Network = field(default_factory=Network)
    training: Training = field(default_factory=Training)
    record: Record = field(default_factory=Record)

    def __post_init__(self) -> None:
        settings.check(self, {})
        checked_seed(self.seed)
        if (steps := self.record.snapshot_steps) != "all" and steps > self.noise.num_steps:
            raise ConfigError(
                f"snapshot_steps must be at most num_steps = {self.noise.num_steps}, got {steps}"
            )
        for milestone in self.record.milestones or ():
            if milestone > (self.training.epochs or math.inf):
                raise ConfigError(f"milestones must be epochs of the run, got {milestone}")

    def replace(self, **changes: Any) -> "Config":
        """The same with the named settings changed, in whichever section they are."""
        return settings.replace(self, **changes)

    def for_points(
        self, num_points: int, dim: int = 2, spacing: Callable[[], float] = lambda: 0.0
    ) -> "Config":
        """The same with every default that depends on the training rows filled in.

        `spacing` tells how far rows are apart, and is asked only where that matters. Raises
        ConfigError where a batch is larger than the data, and for an impossible schedule.
        """
        noise, network, training = self.noise, self.network, self.training
        asked = noise.sigmoid_k is None or (network.tables is None and dim == 2)
        rule = recipe.rule(num_points, dim, spacing() if asked else 0.0)
        batch_size = training.batch_size or min(256, num_points)
        if batch_size > num_points:
            raise ConfigError(
                f"a batch of {batch_size} points is more than the data's {num_points}: "
                f"give a batch_size of {num_points} or less"
            )
        per_pass = num_points // batch_size
        passes = training.passes or (1 if training.epochs else math.ceil(LEAST_STEPS / per_pass))
        per_epoch = passes * per_pass
        epochs = training.epochs or math.ceil(rule.steps / per_epoch)
        if epochs * per_epoch >= MOST_STEPS:
            raise ConfigError(
                f"{epochs} epochs of {per_epoch} steps are more than 2^31 steps: "
                "choose fewer epochs or a larger batch_size"
            )
        tenth = math.ceil(epochs / 10)
        thirds = (math.ceil(epochs / 20), math.ceil(epochs / 2), epochs)
        filled = self.replace(
            sigmoid_k=_or(noise.sigmoid_k, rule.sigmoid_k),
            width=_or(network.width, rule.width),
            tables=_or(network.tables, rule.tables),
            base=_or(network.base, rule.base),
            learning_rate=_or(training.learning_rate, rule.learning_rate),
            hold_out=_or(training.hold_out, 0.0),
            patience=_or(training.patience, max(epochs * per_epoch // 2, LEAST_STEPS)),
            passes=passes,
            epochs=epochs,
            batch_size=batch_size,
            points_per_time=math.gcd(training.points_per_time, batch_size),
            snapshot_every=self.record.snapshot_every or tenth,
            checkpoint_every=self.record.checkpoint_every or tenth,
            milestones=tuple(sorted(set(self.record.milestones or thirds))),
        )
        # Checks the schedule, and leaves the choice of devices open.
        jax.eval_shape(lambda: filled.noise.make_schedule().betas)
        return filled

    def held_out(self, num_rows: int) -> float | str:
        """What is held out of as many rows: the setting, or what the recipe says."""
        return _or(self.training.hold_out, recipe.rule(num_rows, 2, 0.0).hold_out)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


PRESETS = {
    "fast": Config(),
    "reference": Config(
        preset="reference",
        reading=Options(kinds=("real",)),
        noise=Noise(sigmoid_k=10.0),
        network=Network(width=128, depth=3, tables=(), base="none"),
        training=Training(
            epochs=1000,
            hold_out=0.0,
            batch_size=64,
            learning_rate=1e-4,
            decay="constant",
            ema_decay=0.0,
            stratified=False,
            points_per_time=1,
        ),
        record=Record(snapshot_steps="all", snapshot_every=10, checkpoint_every=10),
    ),
}


def to_json(config: Config) -> dict[str, Any]:
    """The configuration as plain JSON types."""
    return dataclasses.asdict(config)


def from_json(values: Any, source: str = "config.json") -> Config:
    """The configuration back from JSON; ConfigError names the field that is wrong."""
    return settings.from_json(Config, values, source)
