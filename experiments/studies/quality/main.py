"""How good the recipe is, and what each part of it is worth: docs/evidence/quality.md.

python experiments/quality.py preset                              the fast preset on many data sets
python experiments/quality.py samplers --run runs/bicycle-fast    quality against evaluations
python experiments/quality.py ablation                            one setting changed at a time
python experiments/quality.py toys                                moons and 8 gaussians, exact W2
python experiments/quality.py tabular                             against a Gaussian mixture
python experiments/quality.py held-out                            rows never seen: against rivals
python experiments/quality.py wide                                up to 150 columns
python experiments/quality.py copies                              are copies told from fresh rows?
python experiments/quality.py tables                              public tables, beside rivals
python experiments/quality.py words                               one-hot beside analog bits
python experiments/quality.py density runs/bicycle-fast           the density it has learned
python experiments/quality.py lattice runs/bicycle-fast           what a classifier goes by

Each prints its table as the document has it; --json FILE writes it, with the values behind each
mean. The defaults fit a small, shared machine.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ddpm_jax import files
from ddpm_jax.cli.arguments import parse_args
from ddpm_jax.cli.data import load_run_data
from ddpm_jax.diffusion import density, sampling
from ddpm_jax.diffusion.schedules import respace
from ddpm_jax.errors import ConfigError
from ddpm_jax.figures import plotting
from ddpm_jax.parallel import use_devices
from ddpm_jax.quality import metrics
from ddpm_jax.runs.record import Run
from studies.quality import tabular
from studies.quality.ablation import Ablation
from studies.quality.copies import Copies
from studies.quality.fit import Fit, Over, Row, Study, markdown, say, write_json
from studies.quality.held_out import HeldOut, Wide
from studies.quality.preset import Preset
from studies.quality.samplers import Samplers
from studies.quality.tables import Tables
from studies.quality.toys import Toys
from studies.quality.words import Words


@dataclass(frozen=True)
class Tabular(Study):
    """More dimensions: against a Gaussian mixture chosen by BIC, on held-out rows."""

    train_steps: int = 5000
    """Training steps."""
    seeds: int = 2
    """Seeds of the split, training and sampling."""

    def __call__(self) -> list[Row]:
        """Train both on each table and measure them."""
        return tabular.compare(self.train_steps, self.seeds)


@dataclass(frozen=True)
class Density(Study):
    """The learned density on a grid, drawn beside the data, and bits a dimension of the data."""

    run: tyro.conf.Positional[Path] = Path("runs/bicycle-fast")
    """A trained run in the plane."""
    grid: int = 200
    """Cells an axis."""
    steps: int = 100
    """Steps of the flow."""
    num_points: int = 1000
    """Data points whose likelihood is measured."""

    def figures(self) -> list[Path]:
        """The density beside the data."""
        return [self.images / "density.png"]

    def __call__(self) -> list[Row]:
        """Evaluate log p on the grid and the data, draw the picture."""
        run = Run.load(self.run)
        if run.dim != 2:
            raise ConfigError(f"the picture needs points in the plane, not in {run.dim} dimensions")
        data = run.scaler.apply(load_run_data(run))
        denoise = functools.partial(run.apply(), run.load_params(self.run)[1])
        full = run.schedule
        few = respace(full, self.steps)
        log_prob = jax.jit(lambda x: density.log_prob(denoise, few, x)[0])
        bound = jax.jit(lambda key, x: density.variational_bound(key, denoise, full, x))

        edges = np.linspace(-run.extent, run.extent, self.grid + 1)
        centres = (edges[1:] + edges[:-1]) / 2
        cells = np.stack(np.meshgrid(centres, centres, indexing="ij"), -1).reshape(-1, 2)
        log_p = np.asarray(log_prob(cells.astype(np.float32)), np.float64)
        mass = np.exp(log_p) * (edges[1] - edges[0]) ** 2
        ends = (float(edges[0]), float(edges[-1])) * 2
        grid = log_p.reshape(self.grid, self.grid)
        plotting.density(self.figures()[0], data, grid, (ends[0], ends[1], ends[0], ends[1]))

        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.choice(data, self.num_points), "float32")
        uniform = np.log2(2 * run.extent)
        bits = float(jnp.mean(bound(jax.random.key(0), x))) / np.log(2)
        exact = -float(jnp.mean(log_prob(x))) / 2 / np.log(2)
        return [
            {"quantity": "mass on the grid", "value": float(mass.sum())},
            {"quantity": "flow, bits a dimension", "value": exact},
            {"quantity": "variational bound, bits a dimension", "value": bits},
            {"quantity": "uniform on the frame, bits a dimension", "value": float(uniform)},
        ]


@dataclass(frozen=True)
class Lattice(Study):
    """Does a classifier tell samples from data by more than the lattice that data lie on?"""

    run: tyro.conf.Positional[Path] = Path("runs/bicycle-fast")
    """A trained run on points of a lattice."""
    per_unit: int = 256
    """Lattice points a unit of length."""
    seeds: int = 3
    """Draws of each kind."""

    def __call__(self) -> list[Row]:
        """The two-sample test of each kind of points against real ones."""
        run = Run.load(self.run)
        data = load_run_data(run)
        model = Fit(run, run.load_params(self.run)[1], 0.0)
        found: dict[str, list[float]] = {}
        for seed in range(self.seeds):
            half, shuffled = (
                min(len(data) // 2, 10_000),
                np.random.default_rng(seed).permutation(data),
            )
            real, others = shuffled[:half], shuffled[half : 2 * half]
            samples = model.sample(
                half, seed, steps=run.config.noise.num_steps, sampler=sampling.DDPM
            )
            noise = np.random.default_rng(seed).normal(0, 0.25 / self.per_unit, others.shape)
            kinds = {
                "real points": others,
                "real points, redrawn from all": np.random.default_rng(seed).choice(data, half),
                "real points, off the lattice by a quarter of it": others + noise,
                "samples": samples,
                "samples, moved to the lattice": np.round(samples * self.per_unit) / self.per_unit,
            }
            for name, points in kinds.items():
                accuracy = metrics.classifier_two_sample(real, points, seed)
                found.setdefault(name, []).append(accuracy)
        return [{"points": name, "two-sample test": Over(v)} for name, v in found.items()]


def main() -> None:
    """Run one study, print its table."""
    study: Study = parse_args(
        tyro.conf.OmitSubcommandPrefixes[
            Preset
            | Samplers
            | Ablation
            | Toys
            | Tabular
            | Tables
            | Words
            | HeldOut
            | Copies
            | Wide
            | Density
            | Lattice  # pyright: ignore
        ],
        description=__doc__,
    )
    use_devices(1)
    for path in [study.json, *study.figures()] if study.json else study.figures():
        files.refuse_existing(path, study.overwrite)
    rows = study()
    print("\n\n".join(markdown(table) for table in study.tables(rows)))
    if study.json:
        write_json(study.json, study, rows)
    for path in study.figures():
        say(f"picture: {path}")
