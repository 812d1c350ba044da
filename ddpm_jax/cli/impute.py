"""Fill in the missing cells of a table, each drawn given the rest of its row.

ddpm-jax impute runs/flowers-fast --data gaps.csv --out whole.csv
ddpm-jax impute runs/flowers-fast --data gaps.csv --out whole.csv --draws 20

What is known stays as it is. Several draws tell how sure the model is: they go to one file after
another, whole_01.csv, whole_02.csv, ...
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from ddpm_jax import files, numerics, parallel
from ddpm_jax.cli.arguments import OnDevices, Replacing, parse_args
from ddpm_jax.cli.writers import WRITERS
from ddpm_jax.errors import ConfigError
from ddpm_jax.model import Model
from ddpm_jax.points import readers
from ddpm_jax.points.tables import Table
from ddpm_jax.runs import directory


@dataclass(frozen=True, kw_only=True)
class Args(Replacing, OnDevices):
    """Which run, which table, and where it goes."""

    run_dir: tyro.conf.Positional[Path]
    """The directory of a run, as train makes it."""
    data: Path
    """A file with the columns of the run's data, read as those were."""
    out: Path
    """FILE.csv, FILE.txt, FILE.npy or FILE.parquet."""
    draws: int = 1
    """How often each missing cell is drawn."""
    seed: int = 0
    """Other seeds give other draws."""

    def __post_init__(self) -> None:
        numerics.checked_seed(self.seed)
        if self.draws < 1:
            raise ConfigError(f"--draws must be at least 1, got {self.draws}")
        if self.out.suffix not in WRITERS:
            raise ConfigError(f"--out must end in {', '.join(WRITERS)}, got {self.out}")


def main(argv: list[str] | None = None) -> int:
    """Fill in, and write."""
    args = parse_args(Args, description=__doc__, args=argv)
    parallel.use_devices(args.devices)
    places = [args.out]
    if args.draws > 1:
        digits = len(str(args.draws))
        names = [f"{args.out.stem}_{i:0{digits}d}" for i in range(1, args.draws + 1)]
        places = [args.out.with_stem(name) for name in names]
    for path in places:
        directory.refuse_taken(path, args.overwrite)
    model = Model.load(args.run_dir)
    table = readers.read(args.data, model.config.reading)[0]
    gaps = int(table.missing.sum())
    found = model.impute(readers.to_data(table), draws=args.draws, seed=args.seed)
    for path, rows in zip(places, found if args.draws > 1 else [found], strict=True):
        filled = Table.of(rows)
        with files.replacing(path) as temporary:
            WRITERS[path.suffix](model.run, temporary, len(filled), iter([filled]))
    several = args.draws > 1
    where = (
        f", drawn {args.draws} times: {places[0]} to {places[-1]}" if several else f": {places[0]}"
    )
    print(f"{len(table):,} rows, {gaps:,} cell{'s' * (gaps != 1)} filled in{where}")
    return 0
