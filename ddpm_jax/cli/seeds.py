"""Several seeds, one run after another, for `train --seeds`: quality with its spread."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, stdev

import jax
from jax.experimental.compilation_cache import compilation_cache

from ddpm_jax import files
from ddpm_jax.config import Config
from ddpm_jax.errors import InputError
from ddpm_jax.runs import directory

CACHE = "jax_compilation_cache_dir"


def train(
    config: Config,
    count: int,
    out: Path,
    train_one: Callable[[Config, Path, bool], int],
    *,
    resume: bool,
    overwrite: bool,
) -> int:
    """Train seeds seed, seed + 1, ... and leave a run directory of each, and a table.

    `train_one(config, out, resume)` trains one of them, and returns its exit status.
    """
    folders = {seed: out / f"seed-{seed}" for seed in range(config.seed, config.seed + count)}
    old = [path for path in out.glob("*") if path.name[0] != "."]
    if old and not (overwrite or resume):
        raise InputError(
            f"{out} holds {old[0].name}: pass --resume to go on with it, --overwrite to replace "
            "it, or another --out"
        )
    with compiled_once():
        for seed, folder in folders.items():
            print(f"seed {seed}:", end=" ", flush=True)
            begun = resume and (folder / directory.CONFIG).exists()
            if status := train_one(config.replace(seed=seed), folder, begun):
                return status
    write_table(out, list(folders.values()))
    print(f"everything is in {out}/; every seed's folder is a run to sample from")
    return 0


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """What the first seed compiles, the others take from a temporary compilation cache.

    A cache that the user has set serves them as well, and stays as it is.
    """
    everything = {
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in (CACHE, *everything)}
    if before[CACHE]:
        yield
        return

    def choose(settings: dict) -> None:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # JAX looks at the settings once

    with tempfile.TemporaryDirectory() as folder:
        choose({CACHE: folder} | everything)
        try:
            yield
        finally:
            choose(before)


def write_table(out: Path, folders: list[Path]) -> None:
    """summary.txt and summary.json: each seed's quality, and the spread over the seeds."""
    table: dict[str, dict[str, float]] = {}
    floors: list[dict[str, float]] = []
    for folder in folders:
        measured = json.loads(files.read_text(folder / directory.SUMMARY_JSON))["final"]["metrics"]
        table[folder.name] = {m["name"]: m["value"] for m in measured}
        floors.append({m["name"]: m["floor"] for m in measured})
    names = list(table[folders[0].name])
    columns = {name: [row[name] for row in table.values()] for name in names}
    table["mean"] = {name: fmean(column) for name, column in columns.items()}
    if len(folders) > 1:
        table["standard deviation"] = {name: stdev(column) for name, column in columns.items()}
    table["real rows"] = {name: fmean(row[name] for row in floors) for name in names}
    head = " " * 22 + "".join(f"{name.replace('_', ' '):>22}" for name in names)
    lines = [f"{k:<22}" + "".join(f"{v:>22.4f}" for v in row.values()) for k, row in table.items()]
    text = "\n".join([head, *lines]) + "\n"
    files.write_text(out / directory.SUMMARY, text)
    files.write_text(out / directory.SUMMARY_JSON, json.dumps(table, indent=2) + "\n")
    print(text, end="")
