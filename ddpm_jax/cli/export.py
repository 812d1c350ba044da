"""Write a run's model as one file that other programs read.

ddpm-jax export runs/bicycle-fast --out bicycle.safetensors    for `ddpm_jax.Model.load`
ddpm-jax export runs/bicycle-fast --out bicycle.stablehlo      a sampler that needs JAX only

The second is a whole sampler, weights included, for any number of points: see
`ddpm_jax.interop.load_sampler`. It draws in the network's coordinates.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import tyro

from ddpm_jax import files, interop
from ddpm_jax.cli.arguments import Replacing, SamplerName, parse_args
from ddpm_jax.diffusion.sampling import SAMPLERS
from ddpm_jax.diffusion.schedules import respace
from ddpm_jax.errors import ConfigError
from ddpm_jax.model import Model
from ddpm_jax.runs import directory

SUFFIXES = (".safetensors", ".stablehlo")


@dataclass(frozen=True, kw_only=True)
class Args(Replacing):
    """Which run, and which file."""

    run_dir: tyro.conf.Positional[Path]
    """The directory of a run, as train makes it."""
    out: Path
    """FILE.safetensors or FILE.stablehlo."""
    sampler: SamplerName = "ddpm"
    """Of a .stablehlo: how to solve the reverse process."""
    steps: int | None = None
    """Of a .stablehlo: network evaluations a point; by default all of the schedule's."""

    def __post_init__(self) -> None:
        if self.out.suffix not in SUFFIXES:
            raise ConfigError(f"--out must end in {' or '.join(SUFFIXES)}, got {self.out}")


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    args = parse_args(Args, description=__doc__, args=argv)
    directory.refuse_taken(args.out, args.overwrite)
    model = Model.load(args.run_dir)
    if args.out.suffix == ".safetensors":
        model.save(args.out)
    else:
        run, schedule = model.run, model.run.schedule
        if args.steps is not None:
            schedule = respace(schedule, args.steps)
        denoise = functools.partial(run.apply(), model.params)
        program = interop.export_sampler(denoise, schedule, run.dim, SAMPLERS[args.sampler])
        with files.replacing(args.out) as temporary:
            temporary.write_bytes(program)
    print(f"written: {args.out}")
    return 0
