"""Quality against the number of network evaluations: the first study of quality.py."""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.cli.data import load_run_data
from ddpm_jax.config import PRESETS
from ddpm_jax.diffusion import process, sampling
from ddpm_jax.diffusion.schedules import Schedule, respace
from ddpm_jax.figures import plotting
from ddpm_jax.points.toys import toy
from ddpm_jax.runs.record import Run
from studies.quality.fit import Fit, Row, Study, fit, floor, over, quick, say


@dataclass(frozen=True)
class Samplers(Study):
    """Quality against the number of network evaluations, for every sampler."""

    run: Path | None = None
    """A trained run; without one, the toys alone."""
    toys: tuple[str, ...] = ("checkerboard", "spirals")
    """Toy distributions, trained on first."""
    evaluations: tuple[int, ...] = (5, 10, 15, 20, 25, 50, 100, 250, 1000)
    """Network evaluations a point."""
    train_steps: int = 20_000
    """Training steps on each toy."""
    num_samples: int = 20_000
    """Samples of a set."""
    sets: int = 3
    """Independent sets of samples of one model; ± is their standard deviation."""

    def figures(self) -> list[Path]:
        """One a distribution."""
        names = [Path(Run.load(self.run).config.data).stem] if self.run else []
        return [self._figure(name) for name in (*names, *self.toys)]

    def __call__(self) -> list[Row]:
        """Measure every sampler at every number of evaluations on every distribution."""
        models = {}
        if self.run:
            run = Run.load(self.run)
            data = load_run_data(run)
            models[Path(run.config.data).stem] = data, Fit(run, run.load_params(self.run)[1], 0.0)
        for name in self.toys:
            points = toy(name, 0)
            models[name] = points, fit(PRESETS["fast"], points, self.train_steps)
        rows = []
        for name, (data, model) in models.items():
            part = list(self._rows(name, data, model))
            rows += part
            self._draw(name, part)
        return rows

    def tables(self, rows: list[Row]) -> list[list[Row]]:
        """For each distribution and measure, a row a sampler and a column a number."""
        tables = []
        for name in dict.fromkeys(row["data"] for row in rows):
            part = [row for row in rows if row["data"] == name]
            for measure, (label, unit) in MEASURES.items():
                lines: dict[str, Row] = {}
                for row in part:
                    start = {f"{name}: {label}": row["sampler"]}
                    line = lines.setdefault(row["sampler"], start)
                    line[str(row["evaluations"] or self.evaluations[0])] = row[measure] * unit
                tables.append(list(lines.values()))
        return tables

    def _rows(self, name: str, data: np.ndarray, model: Fit) -> Iterator[Row]:
        scaler, full = model.run.scaler, model.run.schedule
        scaled = scaler.apply(data)
        denoise = functools.partial(model.run.apply(), model.params)
        some = jnp.asarray(np.random.default_rng(0).choice(scaled, 2000), "float32")
        for sampler_name, (sampler, change) in SAMPLERS.items():
            for steps in self.evaluations:
                schedule = change(denoise, respace(full, steps), some)
                count = self.sets * self.num_samples
                samples = model.sample(count, sampler=sampler, schedule=schedule)
                found = [quick(scaled, x) for x in np.split(scaler.apply(samples), self.sets)]
                row = {"data": name, "sampler": sampler_name, "evaluations": steps, **over(found)}
                say(*row.values())
                yield row
        floors = floor(scaled, self.num_samples, self.sets)
        yield {"data": name, "sampler": FLOOR, "evaluations": None, **floors}

    def _figure(self, name: str) -> Path:
        return self.images / f"samplers-{name}.png"

    def _draw(self, name: str, rows: list[Row]) -> None:
        *rows, real = rows
        panels = {}
        for measure, label in {"TV": "total variation", "SW": "sliced Wasserstein"}.items():
            series = {}
            for sampler in SAMPLERS:
                found = [r for r in rows if r["sampler"] == sampler]
                x, y = ([float(r[key]) for r in found] for key in ("evaluations", measure))
                series[sampler] = np.array(x), np.array(y)
            panels[label] = series, float(real[measure])
        plotting.panels(
            self._figure(name),
            panels,
            "network evaluations a point",
            floor_label=FLOOR,
            title=f"Few steps on {name}",
        )


def _as_is(denoise: process.Denoise, schedule: Schedule, x0: jax.Array) -> Schedule:
    return schedule


def _optimal(denoise: process.Denoise, schedule: Schedule, x0: jax.Array) -> Schedule:
    best = jax.jit(functools.partial(process.optimal_variances, denoise=denoise))
    return dataclasses.replace(
        schedule, variances=best(jax.random.key(0), schedule=schedule, x0=x0)
    )


def _posterior(denoise: process.Denoise, schedule: Schedule, x0: jax.Array) -> Schedule:
    return dataclasses.replace(schedule, variances=schedule.posterior_variances)


SAMPLERS = {
    "sa-solver": (sampling.SA_SOLVER, _as_is),
    "sde-dpmpp": (sampling.SDE_DPMPP, _as_is),
    "ddpm": (sampling.DDPM, _as_is),
    "ddpm, optimal variance": (sampling.DDPM, _optimal),
    "ddpm, posterior variance": (sampling.DDPM, _posterior),
    "ddim": (sampling.DDIM, _as_is),
    "dpmpp": (sampling.DPMPP, _as_is),
}
"""With the posterior variance `ddpm` is `ddim` with eta = 1, step by step."""
FLOOR = "real points"
MEASURES = {"TV": ("TV", 1), "SW": ("1000 SW", 1000), "off": ("off, %", 100)}
