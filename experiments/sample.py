"""Draw points from a trained run, in the coordinates of its data.

python experiments/sample.py runs/bicycle-fast --num-samples 10000 --out points.csv
python experiments/sample.py runs/bicycle-fast --num-samples 1000000 --out points.npy
python experiments/sample.py runs/bicycle-fast --num-samples 100000000 --out many \\
    --sampler sa-solver --steps 25

The last one fills the directory many/ with shards of a million points, in bounded memory; given
again after an interruption, of whatever kind, it goes on with the shard where it stopped.

The same run, sampler, steps and seed give the same points, however many are asked for, on however
many devices and in however many processes: fewer are the first of more.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from common import BLOCK, SamplerName, parse_args, run_main, use_devices
from tqdm import tqdm

from ddpm_jax import files, parallel, runs, sampling
from ddpm_jax.errors import ConfigError
from ddpm_jax.runs import Run
from ddpm_jax.schedules import respace
from ddpm_jax.shards import Shards, digest

BLOCKS_PER_CALL = 20
ALONE = parallel.Processes()
SHARD_BLOCKS = 1000
"""Blocks of a shard: a million points."""


@dataclass(frozen=True)
class Args:
    """Which run, how many points, and where they go."""

    run_dir: tyro.conf.Positional[Path]
    """The directory of a run, as train.py makes it."""
    num_samples: int
    """How many points to draw."""
    out: Path
    """FILE.txt, FILE.csv or FILE.npy; without a suffix, a directory of .npy shards."""
    sampler: SamplerName = "ddpm"
    """How to solve the reverse process."""
    steps: int | None = None
    """Network evaluations a point; by default all of the schedule's."""
    seed: int = 0
    """Other seeds give other points."""
    devices: int | None = None
    """How many devices (on a CPU: cores) to use; by default all. The points do not depend on it."""
    overwrite: bool = False
    """Replace the output if it exists."""
    processes: Annotated[parallel.Processes, tyro.conf.OmitArgPrefixes] = ALONE

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ConfigError(f"--num-samples must be at least 1, got {self.num_samples}")
        if self.out.suffix and self.out.suffix not in WRITERS:
            raise ConfigError(
                f"--out must end in {', '.join(WRITERS)}, or have no suffix for a directory of "
                f"shards; got {self.out}"
            )
        if self.out.suffix and self.processes.distributed:
            raise ConfigError("--distributed needs a directory as --out: leave the suffix out")


Points = Iterator[np.ndarray]


def write_npy(path: Path, shape: tuple[int, int], digits: list[int], parts: Points) -> None:
    """Write the points as one float64 array; a memory map's pages would count as memory."""
    with open(path, "wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.astype("<f8").tobytes())


def write_columns(
    delimiter: str,
    header: str,
    path: Path,
    shape: tuple[int, int],
    digits: list[int],
    parts: Points,
) -> None:
    """Write one point a line."""
    with open(path, "w", encoding="utf-8") as file:
        if header:
            file.write(delimiter.join(f"{header}{i}" for i in range(shape[1])) + "\n")
        for part in parts:
            np.savetxt(file, part, fmt=[f"%.{n}g" for n in digits], delimiter=delimiter)


WRITERS: dict[str, Callable[[Path, tuple[int, int], list[int], Points], None]] = {
    ".npy": write_npy,
    ".txt": functools.partial(write_columns, " ", ""),
    ".csv": functools.partial(write_columns, ",", "x"),
}


def decimal_digits(run: Run) -> list[int]:
    """Digits of each column's text that give the network's float32 back, for any offset."""
    shift, scale = np.abs(run.scaler.shift), np.array(run.scaler.scale)
    offset = np.divide(shift, scale, out=np.full(len(shift), np.inf), where=scale > 0)
    return np.minimum(9 + np.ceil(np.log10(1 + offset)), 17).astype(int).tolist()


class Source:
    """The endless sequence of a run's points; any stretch of its blocks can be drawn."""

    def __init__(self, args: Args, devices: list) -> None:
        self.args, self.run = args, Run.load(args.run_dir)
        self.step, self.params = self.run.load_params(args.run_dir)
        schedule = self.run.config.make_schedule()
        if args.steps is not None:
            schedule = respace(schedule, args.steps)
        self.evaluations = schedule.num_steps
        # Always the same number of blocks, so that nothing is compiled twice.
        per_call = -(-BLOCKS_PER_CALL // len(devices)) * len(devices)
        self.blocks = min(per_call, -(-args.num_samples // BLOCK))
        shape, sampler = (BLOCK, self.run.dim), sampling.SAMPLERS[args.sampler]
        self.draw = sampling.make_block_sampler(self.run.apply(), schedule, shape, sampler, devices)

    def points(self, first_block: int, count: int, bar: tqdm) -> Points:
        """`count` points from the beginning of a block on, a bounded number at a time."""
        key = jax.random.key(self.args.seed)
        for done in range(0, count, self.blocks * BLOCK):
            part = self.draw(self.params, key, first_block + done // BLOCK, self.blocks)
            part = np.asarray(part).reshape(-1, self.run.dim)[: count - done]
            yield self.run.scaler.invert(part)
            bar.update(len(part))

    def settings(self) -> dict[str, str | int]:
        """All that the points depend on."""
        leaves = jax.tree.leaves(self.params)
        return {
            "run": digest(self.args.run_dir / "config.json"),
            "checkpoint": self.step,
            "parameters": sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest(),
            "sampler": self.args.sampler,
            "steps": self.evaluations,
            "seed": self.args.seed,
            "num_samples": self.args.num_samples,
            "shard_points": SHARD_BLOCKS * BLOCK,
        }


def write_file(source: Source, bar: tqdm) -> None:
    """All points in one file."""
    out, shape = source.args.out, (source.args.num_samples, source.run.dim)
    with files.replacing(out) as temporary:
        points = source.points(0, source.args.num_samples, bar)
        WRITERS[out.suffix](temporary, shape, decimal_digits(source.run), points)


def write_shards(source: Source, bar: tqdm) -> None:
    """What is missing of the directory; several processes take turns at the shards."""
    args, size = source.args, SHARD_BLOCKS * BLOCK
    sizes = [min(size, args.num_samples - start) for start in range(0, args.num_samples, size)]
    shards = Shards(args.out, source.settings(), sizes)

    def draw(i: int) -> None:
        with files.replacing(shards.path(i)) as temporary:
            points = source.points(i * SHARD_BLOCKS, sizes[i], bar)
            write_npy(temporary, (sizes[i], source.run.dim), [], points)

    with runs.locked(args.out) if parallel.is_first() else contextlib.nullcontext():
        missing = np.zeros(len(sizes), bool)
        if parallel.is_first():
            if args.overwrite:
                shards.clear()
            shards.refuse_other()
            missing[shards.open()] = True
        missing = parallel.from_first(missing)
        bar.update(sum(sizes[i] for i in np.flatnonzero(~missing)))
        todo, together = np.flatnonzero(missing).tolist(), jax.process_count()
        for first in range(0, len(todo), together):
            turn = todo[first : first + together]
            mine = turn[jax.process_index() :][:1]
            sha = bytes(32)
            for i in mine:
                draw(i)
                sha = bytes.fromhex(digest(shards.path(i)))
            found = parallel.gather(np.frombuffer(sha, np.uint8))
            bar.update(sum(sizes[i] for i in turn if i not in mine))
            if parallel.is_first():
                for i, row in zip(turn, found, strict=False):
                    shards.add(i, row.tobytes().hex())


def main() -> int:
    """Draw the points and write them."""
    args = parse_args(Args, description=__doc__)
    args.processes.join()
    devices = use_devices(args.devices)
    if args.out.suffix:
        files.refuse_existing(args.out, args.overwrite)
    source = Source(args, devices)
    total, hidden = args.num_samples, not parallel.is_first()
    with tqdm(
        total=total, unit="point", unit_scale=True, dynamic_ncols=True, disable=hidden
    ) as bar:
        (write_file if args.out.suffix else write_shards)(source, bar)
    if parallel.is_first():
        print(f"{args.num_samples:,} points in {source.run.dim} dimensions: {args.out}")
    return 0


if __name__ == "__main__":
    run_main(main)
