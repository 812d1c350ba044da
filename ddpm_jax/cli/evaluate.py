"""How good are a run's samples? Every metric beside its floor, and a picture of the difference.

ddpm-jax evaluate runs/bicycle-fast
ddpm-jax evaluate runs/bicycle-fast --json quality.json --overwrite
ddpm-jax evaluate runs/bicycle-fast --samples theirs.csv

Samples are compared with rows that the model has not seen: those that the run held out, or those of
a file, --held-out. The floor is what as many training rows score against the same rows: no samples
can be expected below it. Of other programs' points, --samples, the same is measured. Distances are
in the scaled coordinates in which the model was trained. The picture goes to
RUN_DIR/figures/comparison.png, and the table into RUN_DIR/report.html.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from ddpm_jax import files, numerics, parallel
from ddpm_jax.assembly import make_drawer
from ddpm_jax.cli import page
from ddpm_jax.cli.arguments import OnDevices, Reporting, Sampling, parse_args
from ddpm_jax.cli.data import load_run_split
from ddpm_jax.cli.views import View
from ddpm_jax.errors import ConfigError
from ddpm_jax.figures import plotting, report
from ddpm_jax.judging import completed, judge, measured
from ddpm_jax.model import Model
from ddpm_jax.runs import directory
from ddpm_jax.runs.record import Run


@dataclass(frozen=True, kw_only=True)
class Args(Reporting, Sampling, OnDevices):
    """Which run, and how its samples are drawn."""

    run_dir: tyro.conf.Positional[Path]
    """The directory of a run, as train makes it."""
    samples: Path | None = None
    """Points of any program, to be judged in place of the run's own; no picture or page is made."""
    held_out: Path | None = None
    """Rows that the model has not seen, to compare with; by default those that the run held out."""
    data: Path | None = None
    """Where the run's data are now, if they were moved."""
    num_samples: int = 20_000
    """How many samples to draw and measure."""

    def __post_init__(self) -> None:
        numerics.checked_seed(self.seed)
        if self.num_samples < 1000:
            raise ConfigError(f"--num-samples must be at least 1000, got {self.num_samples}")


def main(argv: list[str] | None = None) -> int:
    """Draw, measure, draw the picture."""
    args = parse_args(Args, description=__doc__, args=argv)
    devices = parallel.use_devices(args.devices)
    own, figure = args.samples is None, args.run_dir / directory.COMPARISON
    if own:
        files.refuse_existing(figure, args.overwrite)
    if args.json:
        directory.refuse_own(args.json)
        files.refuse_existing(args.json, args.overwrite)
    run = Run.load(args.run_dir)
    train, others = load_run_split(run, args.data)
    if args.held_out is not None:
        others = run.encode(args.held_out)
    data = completed(run, train)
    held_out = None if others is None else completed(run, others)
    step, params = run.load_params(args.run_dir)
    about = {"run": str(args.run_dir), "training steps": step}
    if args.samples is None:
        drawer = make_drawer(run, args.sampler, args.steps, devices=devices)
        drawn = drawer.points(params, numerics.seed_key(args.seed), args.num_samples)
        # Measured is what `sample` writes: constant columns, for one, come back exactly.
        samples = measured(run, run.table_of(drawn))
        about |= {
            "samples": len(samples),
            "sampler": args.sampler,
            "evaluations": drawer.evaluations,
        }
        print(
            f"{args.run_dir}: {len(samples):,} samples after {step:,} training steps, "
            f"{args.sampler}, {drawer.evaluations} evaluations each"
        )
    else:
        samples = measured(run, args.samples)
        about |= {"samples": len(samples), "file": str(args.samples)}
        print(f"{args.samples}: {len(samples):,} samples, judged by the data of {args.run_dir}")

    log_prob = Model(run, step, params).density_of_scaled if own else None
    found = judge(run, samples, held_out, data, log_prob=log_prob, seed=args.seed)
    print(found)
    if own:
        view, real = View.of(run), data if held_out is None else np.concatenate([data, held_out])
        plotting.comparison(figure, view(real), view(samples), names=view.axes)
        print(f"picture: {figure}")
        if shares := view.words(real, samples):
            plotting.words(args.run_dir / directory.WORDS, shares)
            print(f"picture: {args.run_dir / directory.WORDS}")
        frames = page.trajectory(run, params, report.MOVIE_POINTS, devices)
        table = page.quality_table(found)
        page.write(args.run_dir, run, real, samples, frames, table, found.warnings)
        print(f"page: {args.run_dir / directory.REPORT}")
    if args.json:
        files.write_text(args.json, json.dumps(about | found.to_json(), indent=2) + "\n")
        print(f"written: {args.json}")
    return 0
