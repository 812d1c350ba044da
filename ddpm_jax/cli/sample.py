"""Draw points from a trained run, in the coordinates of its data.

ddpm-jax sample runs/bicycle-fast --num-samples 10000 --out points.csv
ddpm-jax sample runs/bicycle-fast --num-samples 1000000 --out points.npy
ddpm-jax sample runs/flowers-fast --num-samples 50 --given kind=a --out more.csv
ddpm-jax sample runs/bicycle-fast --num-samples 100000000 --out many \\
    --sampler sa-solver --steps 25

The last but one draws of one kind only, by a run that was trained with --condition kind. The last
one fills the directory many/ with shards of a million points, in bounded memory; given
again after an interruption, of whatever kind, it goes on with the shard where it stopped.

The same run, sampler, steps and seed give the same points, however many are asked for, on however
many devices and in however many processes: fewer are the first of more.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from tqdm import tqdm

from ddpm_jax import files, numerics, parallel
from ddpm_jax.assembly import conditions_of, make_drawer, with_cells
from ddpm_jax.cli import lifeline, writers
from ddpm_jax.cli.arguments import OnDevices, Replacing, Sampling, parse_args
from ddpm_jax.cli.processes import ALONE, Processes
from ddpm_jax.cli.writers import WRITERS
from ddpm_jax.drawing import BLOCK, TOGETHER, checked
from ddpm_jax.errors import ConfigError
from ddpm_jax.points.shards import Shards, digest
from ddpm_jax.points.tables import Table
from ddpm_jax.runs import directory
from ddpm_jax.runs.record import Run

BLOCKS_PER_CALL = 20
SHARD_BLOCKS = 1000
"""Blocks of a shard: a million points."""


@dataclass(frozen=True, kw_only=True)
class Args(Sampling, Replacing, OnDevices):
    """Which run, how many points, and where they go."""

    run_dir: tyro.conf.Positional[Path]
    """The directory of a run, as train makes it."""
    num_samples: int
    """How many points to draw."""
    out: Path
    """FILE.csv, FILE.txt, FILE.npy or FILE.parquet; no suffix: a directory of .npy shards."""
    given: tuple[str, ...] = ()
    """COLUMN=VALUE of the run's conditions; those that are not given are drawn as the data had."""
    guidance: float = 1.0
    """More than 1 pushes towards what tells the given from the rest."""
    processes: Annotated[Processes, tyro.conf.OmitArgPrefixes] = ALONE

    def __post_init__(self) -> None:
        numerics.checked_seed(self.seed)
        if self.num_samples < 1:
            raise ConfigError(f"--num-samples must be at least 1, got {self.num_samples}")
        if self.out.suffix and self.out.suffix not in WRITERS:
            raise ConfigError(
                f"--out must end in {', '.join(WRITERS)}, or have no suffix for a directory of "
                f"shards; got {self.out}"
            )
        if not math.isfinite(self.guidance):
            raise ConfigError(f"--guidance must be a number, got {self.guidance}")
        if self.out.suffix and self.processes.distributed:
            raise ConfigError("--distributed needs a directory as --out: leave the suffix out")


class Source:
    """The endless sequence of a run's points; any stretch of its blocks can be drawn."""

    def __init__(
        self,
        args: Args,
        devices: list,
        blocks_per_call: int = BLOCKS_PER_CALL,
        shard_blocks: int = SHARD_BLOCKS,
    ) -> None:
        self.args, self.run, self.shard_blocks = args, Run.load(args.run_dir), shard_blocks
        self.step, self.params = self.run.load_params(args.run_dir)
        run = self.run
        self.drawer = make_drawer(run, args.sampler, args.steps, args.guidance, devices)
        parsed = run.told.parse(args.given) if run.told and args.given else args.given or None
        self.given, self.given_cells = conditions_of(run, parsed, 1)
        if not (args.out.suffix or writers.all_numbers(run)):
            raise ConfigError(
                f"--out {args.out}: a directory holds numbers only, and these samples have words "
                "or dates; name a .csv or .parquet file"
            )
        # Always the same number of blocks, so that nothing is compiled twice.
        if devices[0].platform != "cpu":
            blocks_per_call *= TOGETHER
        per_call = -(-blocks_per_call // len(devices)) * len(devices)
        self.blocks = min(per_call, -(-args.num_samples // BLOCK))

    def tables(self, first_block: int, count: int, bar: tqdm) -> Iterator[Table]:
        """`count` samples from the beginning of a block on, a bounded number at a time."""
        key, run = numerics.seed_key(self.args.seed), self.run
        for done in range(0, count, self.blocks * BLOCK):
            first = first_block + done // BLOCK
            part = self.drawer.blocks(self.params, key, first, self.blocks, self.given)
            part = checked(part[: count - done])
            cells = {i: np.repeat(cell, len(part)) for i, cell in self.given_cells.items()}
            yield with_cells(run.table_of(part), cells)
            bar.update(len(part))

    def settings(self) -> dict[str, Any]:
        """All that the points depend on."""
        leaves = jax.tree.leaves(self.params)
        return {
            "run": digest(self.args.run_dir / directory.CONFIG),
            "checkpoint": self.step,
            "parameters": sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest(),
            "sampler": self.args.sampler,
            "steps": self.drawer.evaluations,
            "seed": self.args.seed,
            "num_samples": self.args.num_samples,
            "given": sorted(self.args.given),
            "guidance": self.args.guidance,
            "shard_points": self.shard_blocks * BLOCK,
            **numerics.versions(),
        }


def write_file(source: Source, bar: tqdm) -> None:
    """All points in one file."""
    out, count = source.args.out, source.args.num_samples
    with files.replacing(out) as temporary:
        WRITERS[out.suffix](source.run, temporary, count, source.tables(0, count, bar))


def write_shards(source: Source, bar: tqdm) -> None:
    """What is missing of the directory; several processes take turns at the shards."""
    args, size = source.args, source.shard_blocks * BLOCK
    shards = Shards(args.out, source.settings(), args.num_samples, size)

    def draw(i: int, path: Path) -> bytes:
        parts = source.tables(i * source.shard_blocks, shards.rows(i), bar)
        writers.write_npy(source.run, path, shards.rows(i), parts)
        return bytes.fromhex(digest(path))

    with directory.locked(args.out) if parallel.is_first() else contextlib.nullcontext():
        missing = np.zeros(len(shards), bool)
        if parallel.is_first():
            if args.overwrite:
                shards.clear()
            shards.refuse_other()
            missing[list(shards.open())] = True
        missing = parallel.from_first(missing)
        bar.update(sum(shards.rows(int(i)) for i in np.flatnonzero(~missing)))
        todo, together = np.flatnonzero(missing).tolist(), jax.process_count()
        for first in range(0, len(todo), together):
            turn = todo[first : first + together]
            with contextlib.ExitStack() as in_place:
                mine, sha = turn[jax.process_index() :][:1], bytes(32)
                for i in mine:
                    temporary = in_place.enter_context(files.replacing(shards.path(i)))
                    sha = draw(i, temporary)
                found = parallel.gather(np.frombuffer(sha, np.uint8))
                bar.update(sum(shards.rows(i) for i in turn if i not in mine))
                if parallel.is_first():
                    for i, row in zip(turn, found, strict=False):
                        shards.add(i, row.tobytes().hex())
                parallel.wait()  # until all are listed, which is before any is put in place


def main(
    argv: list[str] | None = None, make_source: Callable[[Args, list], Source] = Source
) -> int:
    """Draw the points and write them."""
    args = parse_args(Args, description=__doc__, args=argv)
    args.processes.join()
    devices = parallel.use_devices(args.devices)
    if args.out.suffix:
        directory.refuse_taken(args.out, args.overwrite)
    source = make_source(args, devices)
    lifeline.agree(source.settings())
    total, hidden = args.num_samples, not parallel.is_first()
    # Of text, the least; of shards, what is still missing.
    there = sum(path.stat().st_size for path in args.out.glob("shard_*.npy"))
    width = 8 if args.out.suffix in ("", ".npy") else 1 if args.out.suffix == ".parquet" else 2
    files.refuse_beyond_disk(args.out, width * total * source.run.dim - there)
    with tqdm(
        total=total, unit="point", unit_scale=True, dynamic_ncols=True, disable=hidden
    ) as bar:
        (write_file if args.out.suffix else write_shards)(source, bar)
    if parallel.is_first():
        print(f"{args.num_samples:,} rows of {source.run.num_columns} columns: {args.out}")
    return 0
