"""Quality against the number of network evaluations: the first study of quality.py."""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from common import load_run_data
from quality_fit import Fit, Row, Study, fit, mean, quick

from ddpm_jax import diffusion, plotting, sampling
from ddpm_jax.config import PRESETS
from ddpm_jax.runs import Run
from ddpm_jax.schedules import Schedule, respace
from ddpm_jax.toys import toy


@dataclass(frozen=True)
class Samplers(Study):
    """Quality against the number of network evaluations, for every sampler."""

    run: Path | None = None
    """A trained run; without one, the toys alone."""
    toys: tuple[str, ...] = ("checkerboard", "spirals")
    """Toy distributions, trained on first."""
    evaluations: tuple[int, ...] = (5, 10, 15, 20, 25, 50, 100, 250)
    """Network evaluations a point; the ancestral samplers also take all of the schedule's."""
    train_steps: int = 20_000
    """Training steps on each toy."""
    num_samples: int = 20_000
    """Samples of a set."""
    seeds: int = 2
    """Independent sets of samples, averaged."""

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
            self._figure(name, part)
        return rows

    def _rows(self, name: str, data: np.ndarray, model: Fit) -> Iterator[Row]:
        scaler, full = model.run.scaler, model.run.config.make_schedule()
        scaled = scaler.apply(data)
        floors = [
            quick(scaled, np.random.default_rng(seed).choice(scaled, self.num_samples))
            for seed in range(self.seeds)
        ]
        yield {"data": name, "sampler": "real points", "evaluations": None, **mean(floors)}
        denoise = functools.partial(model.run.apply(), model.params)
        some = jnp.asarray(np.random.default_rng(0).choice(scaled, 2000), "float32")
        for sampler_name, (sampler, change) in SAMPLERS.items():
            everything = (full.num_steps,) if sampler_name.startswith("ddpm") else ()
            for steps in (*self.evaluations, *everything):
                schedule = change(denoise, respace(full, steps), some)
                count = self.seeds * self.num_samples
                samples = model.sample(count, sampler=sampler, schedule=schedule)
                parts = np.split(scaler.apply(samples), self.seeds)
                found = [quick(scaled, part) for part in parts]
                row = {"data": name, "sampler": sampler_name, "evaluations": steps, **mean(found)}
                print(row, flush=True)
                yield row

    def _figure(self, name: str, rows: list[Row]) -> None:
        floor, *rows = rows
        series = {}
        for sampler in SAMPLERS:
            points = sorted((r["evaluations"], r["TV"]) for r in rows if r["sampler"] == sampler)
            x, y = np.array(points, float).T
            series[sampler] = x, y
        plotting.curves(
            self.images / f"samplers-{name}.png",
            series,
            "network evaluations a point",
            "total variation",
            logx=True,
            logy=True,
            floor=floor["TV"],
            floor_label="real points, redrawn",
            title=f"Few steps on {name}",
        )


def _as_is(denoise: diffusion.Denoise, schedule: Schedule, x0: jax.Array) -> Schedule:
    return schedule


def _optimal(denoise: diffusion.Denoise, schedule: Schedule, x0: jax.Array) -> Schedule:
    best = jax.jit(functools.partial(diffusion.optimal_variances, denoise=denoise))
    return dataclasses.replace(
        schedule, variances=best(jax.random.key(0), schedule=schedule, x0=x0)
    )


SAMPLERS = {
    "sa-solver": (sampling.SA_SOLVER, _as_is),
    "sde-dpmpp": (sampling.SDE_DPMPP, _as_is),
    "ddpm": (sampling.DDPM, _as_is),
    "ddpm, optimal variance": (sampling.DDPM, _optimal),
    "dpmpp": (sampling.DPMPP, _as_is),
    "ddim": (sampling.DDIM, _as_is),
}
