"""Draw points from a trained run, in the coordinates of its data.

python experiments/sample.py runs/bicycle-fast --num-samples 10000 --out points.csv
python experiments/sample.py runs/bicycle-fast --num-samples 1000000 --out points.npy
python experiments/sample.py runs/bicycle-fast --num-samples 100000 --out few.npy \\
    --sampler sde-dpmpp --steps 25

The same run, sampler, steps and seed give the same points, however many are asked for and on however
many devices: fewer are the first of more.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro
from common import BLOCK, run_main, use_devices
from tqdm import tqdm

from ddpm_jax import files, sampling
from ddpm_jax.errors import ConfigError
from ddpm_jax.runs import Run
from ddpm_jax.schedules import respace

BLOCKS_PER_CALL = 20


@dataclass(frozen=True)
class Args:
    """Which run, how many points, and where they go."""

    run_dir: tyro.conf.Positional[Path]
    """The directory of a run, as train.py makes it."""
    num_samples: int
    """How many points to draw."""
    out: Path
    """FILE.txt, FILE.csv or FILE.npy."""
    sampler: Literal["ddpm", "ddim", "dpmpp", "sde-dpmpp"] = "ddpm"
    """How to solve the reverse process."""
    steps: int | None = None
    """Network evaluations a point; by default all of the schedule's."""
    seed: int = 0
    """Other seeds give other points."""
    devices: int | None = None
    """How many devices (on a CPU: cores) to use; by default all. The points do not depend on it."""
    overwrite: bool = False
    """Replace the output if it exists."""

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ConfigError(f"--num-samples must be at least 1, got {self.num_samples}")
        if self.out.suffix not in WRITERS:
            raise ConfigError(f"--out must end in {', '.join(WRITERS)}, got {self.out}")


Draw = Iterator[np.ndarray]


def write_npy(path: Path, shape: tuple[int, int], parts: Draw) -> None:
    """Write the points as one float64 array, through a memory map."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=shape)
    start = 0
    for part in parts:
        array[start : start + len(part)] = part
        start += len(part)
    array.flush()


def write_columns(delimiter: str, header: str) -> Callable[[Path, tuple[int, int], Draw], None]:
    """A writer of one point a line, with digits enough to give the float32 back."""

    def write(path: Path, shape: tuple[int, int], parts: Draw) -> None:
        with open(path, "w", encoding="utf-8") as file:
            if header:
                file.write(delimiter.join(f"{header}{i}" for i in range(shape[1])) + "\n")
            for part in parts:
                np.savetxt(file, part, fmt="%.9g", delimiter=delimiter)

    return write


WRITERS = {".npy": write_npy, ".txt": write_columns(" ", ""), ".csv": write_columns(",", "x")}


def draw_points(args: Args, run: Run, devices: list) -> Draw:
    """The points, in the data's coordinates, a bounded number at a time."""
    _, params = run.load_params(args.run_dir)
    schedule = run.config.make_schedule()
    if args.steps is not None:
        schedule = respace(schedule, args.steps)
    sampler = sampling.SAMPLERS[args.sampler]
    shape = (BLOCK, run.dim)
    draw = sampling.make_block_sampler(run.apply(), schedule, shape, sampler, devices)
    key = jax.random.key(args.seed)
    total = -(-args.num_samples // BLOCK)
    with tqdm(total=args.num_samples, unit="point", unit_scale=True, dynamic_ncols=True) as bar:
        for first in range(0, total, BLOCKS_PER_CALL):
            # Always the same number of blocks, so that nothing is compiled twice.
            blocks = draw(params, key, first, min(BLOCKS_PER_CALL, total))
            part = run.scaler.invert(np.asarray(blocks).reshape(-1, run.dim))
            part = part[: args.num_samples - first * BLOCK]
            yield part
            bar.update(len(part))


def main() -> int:
    """Draw the points and write them."""
    args = tyro.cli(Args, description=__doc__)
    devices = use_devices(args.devices)
    files.refuse_existing(args.out, args.overwrite)
    run = Run.load(args.run_dir)
    with files.replacing(args.out) as temporary:
        shape = (args.num_samples, run.dim)
        WRITERS[args.out.suffix](temporary, shape, draw_points(args, run, devices))
    print(f"{args.num_samples:,} points in {run.dim} dimensions: {args.out}")
    return 0


if __name__ == "__main__":
    run_main(main)
