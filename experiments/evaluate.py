"""How good are a run's samples? Every metric beside its floor, and a picture of the difference.

python experiments/evaluate.py runs/bicycle-fast
python experiments/evaluate.py runs/bicycle-fast --json quality.json --overwrite

The floor is what the same estimator gives for real points: no samples can be expected below it.
Distances are in the scaled coordinates in which the model was trained. The picture goes to
RUN_DIR/figures/comparison.png.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro
from common import BLOCK, SamplerName, draw_points, load_run_data, parse_args, run_main, use_devices

from ddpm_jax import evaluation, files, plotting, sampling
from ddpm_jax.errors import ConfigError
from ddpm_jax.runs import Run
from ddpm_jax.schedules import respace


@dataclass(frozen=True)
class Args:
    """Which run, and how its samples are drawn."""

    run_dir: tyro.conf.Positional[Path]
    """The directory of a run, as train.py makes it."""
    json: Path | None = None
    """Write the table to this file, too."""
    num_samples: int = 20_000
    """How many samples to draw and measure."""
    sampler: SamplerName = "ddpm"
    """How to solve the reverse process."""
    steps: int | None = None
    """Network evaluations a point; by default all of the schedule's."""
    seed: int = 0
    """Seed of the samples and of the redrawn real points."""
    devices: int | None = None
    """How many devices (on a CPU: cores) to use; by default all."""
    overwrite: bool = False
    """Replace the picture, and the JSON file, of an earlier evaluation."""

    def __post_init__(self) -> None:
        if self.num_samples < 1000:
            raise ConfigError(f"--num-samples must be at least 1000, got {self.num_samples}")


def main() -> int:
    """Draw, measure, draw the picture."""
    args = parse_args(Args, description=__doc__)
    devices = use_devices(args.devices)
    figure = args.run_dir / "figures" / "comparison.png"
    for path in [figure, args.json] if args.json else [figure]:
        files.refuse_existing(path, args.overwrite)
    run = Run.load(args.run_dir)
    data = run.scaler.apply(load_run_data(run))
    step, params = run.load_params(args.run_dir)

    schedule = run.config.make_schedule()
    if args.steps is not None:
        schedule = respace(schedule, args.steps)
    draw = sampling.make_block_sampler(
        run.apply(), schedule, (BLOCK, run.dim), sampling.SAMPLERS[args.sampler], devices
    )
    samples = draw_points(draw, params, jax.random.key(args.seed), args.num_samples)

    print(
        f"{args.run_dir}: {len(samples):,} samples after {step:,} training steps, "
        f"{args.sampler}, {schedule.num_steps} evaluations each"
    )
    measurements = evaluation.evaluate(data, samples, seed=args.seed)
    print(evaluation.format_table(measurements))
    plotting.comparison(figure, data, samples)
    print(f"picture: {figure}")
    if args.json:
        record = {
            "run": str(args.run_dir),
            "training steps": step,
            "samples": len(samples),
            "sampler": args.sampler,
            "evaluations": schedule.num_steps,
            "metrics": [dataclasses.asdict(m) for m in measurements],
        }
        files.write_text(args.json, json.dumps(record, indent=2) + "\n")
        print(f"written: {args.json}")
    return 0


if __name__ == "__main__":
    run_main(main)
