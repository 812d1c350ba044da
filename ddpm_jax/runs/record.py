"""What a run is of, as config.json tells it: the configuration, the data's digest, the scaler."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float64, Key

from ddpm_jax import config as configs
from ddpm_jax import files, gmm, numerics, parallel, settings
from ddpm_jax.config import Config
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import CheckpointError, ConfigError, DataError
from ddpm_jax.networks.denoiser import Denoiser
from ddpm_jax.networks.mixture import Mixture, fit_base
from ddpm_jax.networks.prediction import predicting, with_base
from ddpm_jax.numerics import seed_key
from ddpm_jax.points import sources, split
from ddpm_jax.points.columns import Columns
from ddpm_jax.points.conditions import Conditions, Pool
from ddpm_jax.points.dataset import Dataset, table_of
from ddpm_jax.points.mapped import MappedPoints, blocks
from ddpm_jax.points.scaler import Scaler
from ddpm_jax.points.tables import Table
from ddpm_jax.runs import checkpoints
from ddpm_jax.runs.directory import CHECKPOINTS, CONFIG, refuse_links
from ddpm_jax.training import recipe, sparse, steps, validation
from ddpm_jax.training.steps import Apply, Params, TrainState
from ddpm_jax.training.trainer import Task, as_checkpoint

FORMAT = 2
MAX_TABLE_TIMES = 2**14
"""Encodings of as many times are looked up; more would take more memory than they save time."""


@dataclass(frozen=True)
class Run:
    """What a run is of: equal runs end with the same bits."""

    config: Config
    scaler: Scaler
    digest: str
    num_points: int
    """Those that are trained on."""
    dim: int
    """Numbers of a row: those that are drawn, then those of its conditions."""
    extent: float
    components: int = 0
    """Of what lies under the network; 0: nothing does."""
    columns: Columns | None = None
    """How the cells of a row became numbers; None: they are points on disk, and numbers already."""
    pool: Pool = ()
    """Of conditions: which rows of them the data have, scaled, and how often."""

    @staticmethod
    def of(config: Config, data: Any) -> "Run":
        """The run of `config` on the data, with everything that depends on them filled in.

        The rows held out are set apart first: no scale and no parameter is fitted to them.
        """
        data = Dataset.of(data, config.reading, config.condition)
        config = config.replace(hold_out=config.held_out(len(data)))
        told = data.told
        train = _split(config, data)[0]
        n, d = train.shape
        if told is not None and isinstance(train, np.ndarray):
            scaler = told.fit_scaler(train)
        else:
            scaler = Scaler.fit(train)
        # The learned tables cover the data and a margin, but do not follow outliers.
        farthest = max(float(np.nanmax(np.abs(scaler.apply(block)))) for block in blocks(train))
        extent = round(min(1.1 * farthest, 3.0) or 1.0, 6)
        scaled = scaler.apply(sources.shown(train))
        drawn = d if told is None else told.dim
        config = config.for_points(
            n, drawn, lambda: recipe.nearest(gmm.completed(scaled[:, :drawn]))
        )
        pool = () if told is None or not told.chosen else told.pool(scaled, config.seed)
        run = Run(config, scaler, data.digest, n, d, extent, 0, _columns(told), pool)
        base = run.base(scaled)
        return run if base is None else dataclasses.replace(run, components=len(base.log_weights))

    def split(self, data: Any) -> tuple[np.ndarray | MappedPoints, np.ndarray | None]:
        """The points to train on, and those held out, if any, in the data's own units."""
        return _split(self.config, Dataset.of(data, self.config.reading, self.config.condition))

    @property
    def told(self) -> Conditions | None:
        """Which columns are drawn and which are conditions; None of points on disk."""
        return (
            None if self.columns is None else Conditions.named(self.columns, self.config.condition)
        )

    @property
    def num_columns(self) -> int:
        """Columns of the data, as they came: a column of words is several numbers of a row."""
        return self.dim if self.columns is None else len(self.columns.kinds)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many numbers each condition is coded as."""
        return self.told.widths if self.told else ()

    @property
    def drawn(self) -> int:
        """How many numbers of a row are drawn; the others are its conditions."""
        return self.dim - sum(self.widths)

    @property
    def has_gaps(self) -> bool:
        """Whether cells of the data are missing."""
        return self.columns is not None and any(self.columns.gaps)

    def encode(self, data: Any) -> Float64[np.ndarray, "n d"]:
        """Points [n, dim] of a table, an array, a DataFrame or a file of the data's columns.

        NaN where a cell is missing. Raises DataError for other columns, or a word never seen.
        """
        return _encode(data, self.config, self.told, self.dim)

    def decode(self, points: Float[np.ndarray, "n d"]) -> Table:
        """The table that the points [n, dim] stand for; `.to_data()` is as the data came."""
        if self.told is None:
            return Table(tuple(np.asarray(points, np.float64).T))
        return self.told.decode(points[:, : self.drawn], points[:, self.drawn :])

    def table_of(self, scaled: Float[np.ndarray, "n d"]) -> Table:
        """The table that rows [n, dim] in the network's coordinates stand for."""
        return self.decode(self.scaler.invert(scaled))

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON types."""
        names = ("digest", "num_points", "dim", "extent", "components")
        return {
            "format": FORMAT,
            "config": configs.to_json(self.config),
            "scaler": dataclasses.asdict(self.scaler),
            **{name: getattr(self, name) for name in names},
            "columns": None if self.columns is None else self.columns.to_json(),
            "pool": [[count, list(codes)] for count, codes in self.pool],
        }

    @staticmethod
    def from_json(values: Any, where: str) -> "Run":
        """The run back from JSON; ConfigError names the field that is missing or wrong."""
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: expected a JSON object; restore it, or train again")
        if values.get("format") != FORMAT:
            raise ConfigError(
                f"{where}: format {values.get('format')!r}, this version reads format {FORMAT}; "
                "use the version that wrote it, or train again"
            )
        dim = _field(where, values, "dim", int, lambda d: d >= 1)
        num_points = _field(where, values, "num_points", int, lambda n: 2 <= n < 2**63)
        config = configs.from_json(values.get("config"), where)
        columns = values.get("columns")
        try:
            columns = None if columns is None else Columns.from_json(columns)
            told = None if columns is None else Conditions.named(columns, config.condition)
            if columns is not None and columns.dim != dim:
                raise ConfigError(f"columns of {columns.dim} numbers, but dim = {dim}")
            drawn = dim if told is None else told.dim
            config = config.for_points(num_points, drawn)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        scaler = _field(where, values, "scaler", dict, lambda s: set(s) == {"shift", "scale"})
        for name in ("shift", "scale"):
            _field(where, scaler, name, list, lambda v: len(v) == dim and all(map(_is_finite, v)))
        _field(where, scaler, "scale", list, lambda v: min(v) >= 0)
        return Run(
            config=config,
            scaler=Scaler(tuple(map(float, scaler["shift"])), tuple(map(float, scaler["scale"]))),
            digest=_field(where, values, "digest", str, bool),
            num_points=num_points,
            dim=dim,
            extent=float(_field(where, values, "extent", float | int, lambda x: 0 < x <= 3)),
            components=_field(where, values, "components", int, lambda k: 0 <= k <= 1000),
            columns=columns,
            pool=_pool(where, values, dim - drawn),
        )

    def save(self, directory: Path) -> None:
        """Write config.json."""
        files.write_text(directory / CONFIG, json.dumps(self.to_json(), indent=2) + "\n")

    @staticmethod
    def load(directory: str | Path) -> "Run":
        """Read config.json back; ConfigError names the field that is missing or wrong.

        InputError where a link leads out of the directory.
        """
        path = Path(directory) / CONFIG
        refuse_links(Path(directory))
        try:
            values = json.loads(files.read_text(path))
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: no such file; {directory} is not the directory of a run. "
                f"ddpm-jax train --out {directory} makes one"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path}: not a readable JSON file ({error}); restore it, or train again"
            ) from None
        return Run.from_json(values, str(path))

    def refuse_other(self, new: "Run", directory: Path) -> None:
        """Raise ConfigError, with the differences, unless `new` ends with the same bits.

        What is recorded on the way does not change them, and may differ.
        """
        old_values, new_values = self._decisive(), new._decisive()
        lines = settings.differences(old_values, new_values)
        fitted = ("scaler", "extent", "num_points", "dim", "components", "columns", "pool")
        if not lines and any(getattr(self, name) != getattr(new, name) for name in fitted):
            raise ConfigError(
                f"cannot resume {directory}: scaler or extent in its {CONFIG} are not those that "
                "its data give: restore the file, or choose another directory"
            )
        if lines:
            raise ConfigError(
                f"cannot resume {directory}: it is another run\n  "
                + "\n  ".join(lines)
                + "\nLeave these settings out to go on with the run's own, or choose another "
                "directory"
            )

    def metadata(self) -> dict[str, Any]:
        """What a checkpoint keeps to tell whose it is, and what its last bits depend on."""
        parts = self.to_json() | {"config": self._decisive()}
        del parts["format"], parts["config"]["data digest"]  # which is a part of its own
        digests = {
            name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
            for name, part in parts.items()
        }
        threads = {"threads": parallel.threads()}
        return {"run": digests, "versions": numerics.versions() | threads}

    def check_metadata(self, metadata: dict[str, Any], folder: Path) -> None:
        """Raise CheckpointError, with the field, for a checkpoint of another run than this.

        Someone has changed config.json: the points would be others than those it was trained for.
        """
        there, here = metadata.get("run", {}), self.metadata()["run"]
        if not isinstance(there, dict):
            raise CheckpointError(f"{folder}: its metadata are not those of a run's checkpoint")
        if changed := [name for name in here if name in there and here[name] != there[name]]:
            raise CheckpointError(
                f"{folder}: saved by a run whose {changed[0]} is another than config.json says: "
                "restore config.json, or train again"
            )

    def _decisive(self) -> dict[str, Any]:
        """What the bits of the parameters depend on, by name."""
        recorded = settings.flat(self.config.record)
        chosen = {k: v for k, v in settings.flat(self.config).items() if k not in recorded}
        return chosen | {"data digest": self.digest[:12]}

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the data, once a pass; the rest of a pass's points is dropped."""
        return self.num_points // self.batch_size * (self.config.training.passes or 1)

    @property
    def batch_size(self) -> int:
        """Points a step."""
        assert self.config.training.batch_size is not None, "for_points has filled it in"
        return self.config.training.batch_size

    @property
    def epochs(self) -> int:
        """Passes over the data."""
        assert self.config.training.epochs is not None, "for_points has filled it in"
        return self.config.training.epochs

    @property
    def total_steps(self) -> int:
        """Training steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return self.config.noise.make_schedule()

    def denoiser(self) -> Denoiser:
        """The network the configuration describes."""
        c, num_times = self.config.network, self.config.noise.num_steps
        return Denoiser(
            dim=self.drawn,
            width=c.width or 1,  # for_points has filled it in
            depth=c.depth,
            time_width=c.time_width,
            num_times=num_times if num_times <= MAX_TABLE_TIMES else 0,
            tables=c.tables or (),
            table_features=c.table_features,
            extent=self.extent,
            conditions=sum(self.widths),
            missing=self.has_gaps,
        )

    def apply(self) -> Apply:
        """The network, with what lies under it, as a function `apply(params, x_t, t) -> eps`."""
        network = self.denoiser()

        def output(params: Params, *inputs: Array, **looked_up: Array) -> Array:
            return network.apply({"params": params}, *inputs, **looked_up)  # pyright: ignore

        return predicting(output, self.schedule, self.config.network.prediction)

    def rate(self) -> optax.Schedule:
        """The step size of each step."""
        c = self.config.training
        assert c.learning_rate is not None, "for_points has filled it in"
        return steps.rate(c.learning_rate, self.total_steps, c.decay)

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer the configuration describes."""
        c = self.config.training
        assert c.learning_rate is not None, "for_points has filled it in"
        return steps.adam(c.learning_rate, self.total_steps, c.decay)

    def table(self) -> sparse.Table | None:
        """How the learned tables are trained, where there are any."""
        network = self.denoiser()
        return sparse.Table(network.around, self.rate()) if network.tables else None

    @numerics.fixed()
    def keys(self) -> dict[str, Key[Array, ""]]:
        """The base keys of everything random in the run, by purpose."""
        names = ("init", "order", "noise", "sample", "floor", "figures")
        key = seed_key(self.config.seed)
        found = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        return found | {"validation": jax.random.fold_in(key, 1000)}

    def init_params(self, key: Key[Array, ""], base: Mixture | None) -> Params:
        """The parameters before the first step, of the network over `base`."""
        x, t = jnp.zeros((1, self.drawn)), jnp.zeros((1,), jnp.int32)
        return with_base(dict(self.denoiser().init(key, x, t)["params"]), base)

    def init_state(self, key: Key[Array, ""], base: Mixture | None = None) -> TrainState:
        """The state before the first step; `jax.eval_shape` of it is what a checkpoint is like.

        Without `base`, what lies under the network has its shapes and no numbers.
        """
        if base is None and self.components:
            k, d, c = self.components, self.drawn, sum(self.widths)
            told = jnp.zeros((3, c, k)) if c else None
            base = Mixture(
                jnp.zeros(k), jnp.zeros((k, d)), jnp.zeros((k, d, d)), jnp.ones((k, d)), told
            )
        params = self.init_params(key, base)
        ema, table = self.config.training.ema_decay > 0, bool(self.config.network.tables)
        return steps.init_state(params, self.optimizer(), ema=ema, table=table)

    def task(self) -> Task:
        """What is trained, and how, as the training loop takes it."""
        return Task(
            apply=self.apply(),
            optimizer=self.optimizer(),
            table=self.table(),
            schedule=self.schedule,
            settings=self.config.training,
            keys=self.keys(),
            num_points=self.num_points,
            dim=self.dim,
            conditions=self.widths,
            missing=self.has_gaps,
        )

    def base(self, scaled: np.ndarray) -> Mixture | None:
        """What lies under the network, fitted to scaled rows to train on; `of` found the same.

        Missing cells are drawn first, from a Gaussian that is fitted to what is there.
        """
        kind, seed = self.config.network.base, self.config.seed
        if kind in (None, "none"):
            return None
        rows = scaled.copy()
        rows[:, : self.drawn] = gmm.completed(scaled[:, : self.drawn], seed)
        return fit_base(kind, rows, seed, self.components, self.widths)

    @numerics.fixed()
    def first_state(self, base: Mixture | None = None) -> TrainState:
        """The state before the first step, made by one compiled program."""
        # Op by op it would compile for seconds. The bits are the same.
        init = jax.jit(self.init_state, compiler_options=steps.FAST_TO_COMPILE)
        return init(self.keys()["init"], base)

    @numerics.fixed()
    def checkpoint_like(self) -> dict[str, Any]:
        """What a checkpoint of this run is like: shapes and dtypes, no numbers."""
        state = jax.eval_shape(self.init_state, seed_key(0))
        losses = jax.ShapeDtypeStruct((self.steps_per_epoch,), jnp.float32)
        best = None
        if self.config.training.hold_out:
            first = lambda train: validation.start(steps.sampling_params(train))  # noqa: E731
            best = jax.eval_shape(first, state)
        return as_checkpoint(state, losses, best)

    @numerics.fixed()
    def check_params(self, params: Params, where: Path) -> None:
        """Raise CheckpointError, with the leaf, for parameters of another network."""
        like = jax.eval_shape(self.init_state, seed_key(0)).params
        here, there = (
            {jax.tree_util.keystr(k): f"{x.dtype}{list(x.shape)}" for k, x in leaves}
            for leaves in map(jax.tree.leaves_with_path, (like, params))
        )
        if lines := settings.differences(here, there, "in the network"):
            raise CheckpointError(
                f"{where}: its parameters do not fit its settings: {lines[0]} in the file"
            )

    def load_params(self, directory: str | Path) -> tuple[int, Params]:
        """Step and parameters to sample from, of the newest whole checkpoint."""
        folder = Path(directory) / CHECKPOINTS
        step, state, metadata = checkpoints.restore(folder, self.checkpoint_like())
        self.check_metadata(metadata, folder)
        best = state.get("best")
        if best is not None and int(best.step) > 0:
            return step, best.params
        return step, steps.sampling_params(state["train"])


def _columns(told: Conditions | None) -> Columns | None:
    return None if told is None else told.columns


def _split(
    config: Config, data: Dataset
) -> tuple[np.ndarray | MappedPoints, Float64[np.ndarray, "m d"] | None]:
    hold_out = config.training.hold_out or 0.0
    if data.held_out is not None:
        return data.points, data.held_out
    if isinstance(hold_out, str):
        return data.points, _encode(hold_out, config, data.told, data.points.shape[1])
    return split.held_out_of(data.points, hold_out, config.seed)


def _encode(
    data: Any, config: Config, told: Conditions | None, dim: int
) -> Float64[np.ndarray, "n d"]:
    found = table_of(data, config.reading)
    try:
        if told is not None and isinstance(found, Table):
            return told.points(found)
        points = found.to_array() if isinstance(found, Table) else sources.shown(found)
        if points.shape[1] != dim:
            raise DataError(f"{points.shape[1]} columns, where {dim} are expected.")
    except DataError as error:
        name = f"{data}: " if isinstance(data, str | Path) else ""
        raise DataError(f"{name}{error}") from None
    return np.asarray(points, np.float64)


def _pool(where: str, values: dict, width: int) -> Pool:
    def good(pool: list) -> bool:
        return all(
            isinstance(row, list)
            and len(row) == 2
            and _is_finite(row[0])
            and row[0] > 0
            and isinstance(row[1], list)
            and len(row[1]) == width
            and all(map(_is_finite, row[1]))
            for row in pool
        ) and bool(pool) == (width > 0)

    pool = _field(where, values, "pool", list, good)
    return tuple((float(count), tuple(map(float, codes))) for count, codes in pool)


def _field(where: str, values: dict, name: str, kind: Any, valid: Callable[[Any], bool]) -> Any:
    value = values.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) or not valid(value):
        raise ConfigError(f"{where}: field {name!r} is missing or wrong: {value!r}; restore it")
    return value


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max
