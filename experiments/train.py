"""Train a diffusion model on a file of points, with pictures, numbers and checkpoints on the way.

python experiments/train.py                         the shipped bicycle, in about a minute
python experiments/train.py --data points.csv       points of your own
python experiments/train.py --preset reference      the original experiment

Several processes, all with the same command and --distributed, train one model: docs/scaling.md.
"""

import shlex
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from common import Stopped, in_memory, interruptible, load_data, parse_args, run_main, use_devices
from loop import Experiment

from ddpm_jax import parallel, runs
from ddpm_jax.config import PRESETS, Config
from ddpm_jax.errors import ConfigError, InputError
from ddpm_jax.runs import Run

ALONE = parallel.Processes()


@dataclass(frozen=True)
class Args:
    """What to train, where the results go, and on what."""

    config: Annotated[Config, tyro.conf.OmitArgPrefixes]
    out: Path | None = None
    """Run directory; by default runs/DATA-PRESET."""
    resume: bool = False
    """Go on with the run in the directory, to the same bits as if it had never stopped."""
    overwrite: bool = False
    """Delete an earlier run in the directory first."""
    devices: int | None = None
    """How many devices (on a CPU: cores) to use; by default all. Samples do not depend on it."""
    seeds: int | None = None
    """Train as many seeds, from --seed on, at once, and report quality with its spread."""
    train_devices: int | None = None
    """How many of them share a batch; by default as many accelerators as have 2048 points each, but
    one CPU core. Results depend on it by rounding."""
    processes: Annotated[parallel.Processes, tyro.conf.OmitArgPrefixes] = ALONE

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ConfigError("--resume and --overwrite: pass one of them")
        if self.seeds is not None and self.seeds < 1:
            raise ConfigError(f"--seeds must be at least 1, got {self.seeds}")


def default_out(data: str, preset: str) -> Path:
    """The run directory, unless another is given."""
    return Path("runs") / f"{Path(data).stem}-{preset}"


def parse(argv: list[str]) -> Args:
    """Read the command line; what it leaves out is the preset's, or the run's to resume."""

    def value(flag: str) -> str | None:
        words = [part for word in argv for part in word.split("=", 1)]
        return words[words.index(flag) + 1] if flag in words[:-1] else None

    base = PRESETS.get(value("--preset") or "", PRESETS["fast"])
    if "--resume" in argv:
        out = value("--out") or default_out(value("--data") or base.data, base.preset)
        base = Run.load(out).config
    return parse_args(Args, args=argv, description=__doc__, default=Args(config=base))


def prepare(out: Path, run: Run, args: Args) -> None:
    """Make the directory the run's own, or refuse it as it is."""
    own = runs.own_files(out)
    kept = [path for path in own if not path.name.startswith(".tmp-")]  # killed while it began
    if args.resume:
        Run.load(out).refuse_other(run, out)
        for path in own:
            if path.name.startswith(".tmp-"):  # of a process that was killed
                path.unlink()
    elif kept and not args.overwrite:
        raise InputError(
            f"{out} holds {kept[0].name} of an earlier run: pass --resume to go on with that run, "
            "--overwrite to replace it, or another --out"
        )
    else:
        runs.clear(out)
        run.save(out)


def resume_command() -> str:
    """The command line that goes on with this run."""
    words = [word for word in sys.argv if word not in ("--resume", "--overwrite")]
    return shlex.join(["python", *words, "--resume"])


def main() -> int:
    """Train, then draw and measure the result; 130 or 143 after a signal."""
    began = time.perf_counter()
    args = parse(sys.argv[1:])
    args.processes.join()
    devices = use_devices(args.devices)
    points = load_data(args.config.data)
    if args.seeds is not None:
        import ensemble

        return ensemble.train(args, in_memory(points), devices)
    run = Run.of(args.config, points)
    out = args.out or default_out(run.config.data, run.config.preset)
    mesh = parallel.training_mesh(run.config.batch_size, len(devices), args.train_devices)
    first = parallel.is_first()
    if args.resume:
        Run.load(out)  # before the directory is made
    with runs.locked(out) if first else nullcontext():
        if first:
            prepare(out, run, args)
            print(f"{len(points):,} points in {run.dim} dimensions -> {out}/")
        parallel.wait()
        import report

        try:
            experiment = Experiment(run, out, points, devices, mesh)
            if args.resume:
                experiment.restore()
            if args.resume and report.is_complete(experiment):
                print("this run is finished: there is nothing left to do")
                return 0
            with interruptible() as interrupt:
                experiment.train(interrupt)
            if signum := parallel.greatest(interrupt.signum or 0):
                if first:
                    print(f"stopped, and saved; to go on: {resume_command()}")
                return 128 + signum  # all processes together, so that none waits for another
            if first:
                with experiment.timed("report"):
                    report.write(experiment)
                parts = ", ".join(f"{n} {s:.0f}" for n, s in experiment.seconds.items())
                total = time.perf_counter() - began
                print(f"done in {total:.0f} s ({parts}): everything is in {out}/")
            parallel.wait()
        except Stopped:
            if first:
                print(f"stopped, and saved; to go on: {resume_command()}")
            raise
    return 0


if __name__ == "__main__":
    run_main(main)
