"""Train a diffusion model on a file of points, with pictures, numbers and checkpoints on the way.

ddpm-jax train                         the bicycle that ships, in about a minute
ddpm-jax train --data points.csv       points of your own
ddpm-jax train --preset reference      the original experiment

Several processes, all with the same command and --distributed, train one
model: docs/evidence/scaling.md.
"""

import shlex
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ddpm_jax import numerics, parallel, planning
from ddpm_jax.cli import lifeline, seeds
from ddpm_jax.cli.arguments import OnDevices, Replacing, parse_args
from ddpm_jax.cli.processes import ALONE, Processes
from ddpm_jax.cli.session import Session
from ddpm_jax.cli.signals import Stopped, interruptible
from ddpm_jax.config import PRESETS, Config
from ddpm_jax.errors import ConfigError, InputError
from ddpm_jax.points.dataset import Dataset
from ddpm_jax.runs import checkpoints, directory
from ddpm_jax.runs.record import Run
from ddpm_jax.training import recipe


@dataclass(frozen=True, kw_only=True)
class Args(Replacing, OnDevices):
    """What to train, where the results go, and on what."""

    config: Annotated[Config, tyro.conf.OmitArgPrefixes]
    out: Path | None = None
    """Run directory; by default runs/DATA-PRESET."""
    resume: bool = False
    """Go on with the run in the directory, to the same bits as if it had never stopped."""
    seeds: int | None = None
    """Train as many seeds, from --seed on, one by one, and report quality with its spread."""
    train_devices: int | None = None
    """How many of them share a batch; by default as many accelerators as have 2048 points each, but
    one CPU core. Results depend on it by rounding."""
    processes: Annotated[Processes, tyro.conf.OmitArgPrefixes] = ALONE

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ConfigError("--resume and --overwrite: pass one of them")
        if self.seeds is not None and self.seeds < 1:
            raise ConfigError(f"--seeds must be at least 1, got {self.seeds}")
        if self.seeds is not None and self.processes.distributed:
            raise ConfigError("--seeds does not go with --distributed")


def default_out(data: str, kind: str) -> Path:
    """The run directory, unless another is given; `kind` is the preset, or of several runs."""
    return Path("runs") / f"{Path(data).stem}-{kind}"


def parse(argv: list[str]) -> Args:
    """Read the command line; what it leaves out is the preset's, or that of a run to resume."""

    def value(flag: str) -> str | None:
        words = [part for word in argv for part in word.split("=", 1)]
        return words[words.index(flag) + 1] if flag in words[:-1] else None

    base = PRESETS.get(value("--preset") or "", PRESETS["fast"])
    # Of several seeds each run has settings of its own, found anew from what the command gives.
    if "--resume" in argv and value("--seeds") is None:
        out = value("--out") or default_out(value("--data") or base.data, base.preset)
        base = Run.load(out).config
    return parse_args(Args, args=argv, description=__doc__, default=Args(config=base))


def prepare(out: Path, run: Run, *, resume: bool, overwrite: bool) -> None:
    """Make the directory the run's own, or refuse it as it is."""
    own = directory.own_files(out)
    kept = [path for path in own if not directory.is_temporary(path)]  # killed while it began
    if resume:
        old = Run.load(out)
        old.refuse_other(run, out)
        for path in own:
            if directory.is_temporary(path):  # of a process that was killed
                path.unlink()
        if old != run:  # in what is recorded on the way
            run.save(out)
    elif kept and not overwrite:
        raise InputError(
            f"{out} holds {kept[0].name} of an earlier run: pass --resume to go on with that run, "
            "--overwrite to replace it, or another --out"
        )
    else:
        directory.clear(out)
        run.save(out)


def _why(config: Config, run: Run) -> str:
    """Behind the number of steps: how it was found, or what else may end training."""
    if planning.is_left_to_us(config, run):
        return f", {planning.reason(run)}"
    patience = run.config.training.patience
    if run.config.training.hold_out and patience and patience < run.total_steps:
        return f", fewer if the held-out loss is above its least for {patience:,}"
    return ""


def resume_command() -> str:
    """The command line that goes on with this run, as this one was started."""
    words = [word for word in sys.argv if word not in ("--resume", "--overwrite")]
    started = ["python", *words] if words[0].endswith(".py") else [Path(words[0]).name, *words[1:]]
    return shlex.join([*started, "--resume"])


def main(argv: list[str] | None = None, make_session: Callable[..., Session] = Session) -> int:
    """Train, then draw and measure the result; 130 or 143 after a signal."""
    args = parse(sys.argv[1:] if argv is None else argv)
    args.processes.join()
    devices = parallel.use_devices(args.devices)
    data = Dataset.of(args.config.data, args.config.reading, args.config.condition)
    if parallel.is_first():
        print("\n".join([f"{args.config.data}: {len(data):,} rows", *data.lines(flags=True)]))

    def train(config: Config, out: Path, resume: bool) -> int:
        return train_one(args, config, data, out, devices, resume=resume, make_session=make_session)

    kind = args.config.preset if args.seeds is None else f"{args.config.preset}-seeds"
    out = args.out or default_out(args.config.data, kind)
    if args.seeds is None:
        return train(args.config, out, args.resume)
    again = {"resume": args.resume, "overwrite": args.overwrite}
    return seeds.train(args.config, args.seeds, out, train, **again)


def train_one(
    args: Args,
    config: Config,
    data: Dataset,
    out: Path,
    devices: list,
    *,
    resume: bool,
    make_session: Callable[..., Session] = Session,
) -> int:
    """Train one run in its directory, new or resumed; the exit status.

    `make_session` is given what `Session` is, and may return one that also does other things.
    """
    began, first = time.perf_counter(), parallel.is_first()
    recipe.warn_of_shape(*data.points.shape)
    run = planning.plan(config, data)
    mesh = parallel.training_mesh(run.batch_size, len(devices), args.train_devices)
    lifeline.agree(
        {"run": run.to_json(), "resume": resume, "train_devices": args.train_devices}
        | numerics.versions()
    )
    checkpoints.check_name(out.absolute())  # before the first epoch, not after it
    if resume:
        Run.load(out)  # before the directory is made
    with directory.locked(out) if first else nullcontext():
        if first:
            prepare(out, run, resume=resume, overwrite=args.overwrite)
            held_out = len(data) - run.num_points
            aside = f", {held_out:,} of them held out," if held_out else ""
            print(f"{len(data):,} rows of {run.num_columns} columns{aside} -> {out}/")
            if config.training.epochs is None:
                print(f"training steps: {run.total_steps:,}{_why(config, run)}")
        parallel.wait()
        from ddpm_jax.cli import results  # the figures' library takes a while to import

        try:
            session = make_session(run, out, data, devices, mesh)
            if resume:
                session.restore()
            if resume and results.is_complete(session):
                print("this run is finished: there is nothing left to do")
                return 0
            with interruptible(session.interrupt) as interrupt:
                session.train()
            if signum := parallel.greatest(interrupt.signum or 0):
                if first:
                    print(f"stopped, and saved; to go on: {resume_command()}")
                return 128 + signum  # all processes together, so that none waits for another
            if first:
                with session.timed("report"):
                    quality = results.write(session)
                parts = ", ".join(f"{n} {s:.0f}" for n, s in session.seconds.items())
                total = time.perf_counter() - began
                took = f"{total:.0f} s ({parts}); everything is in {out}/"
                if quality.far:
                    print(f"trained, but THE SAMPLES ARE FAR FROM THE DATA: see above. {took}")
                elif quality.copies:
                    print(f"trained, but THE MODEL COPIES its training rows: see above. {took}")
                else:
                    print(f"done in {took}")
            parallel.wait()
        except Stopped:
            if first:
                print(f"stopped, and saved; to go on: {resume_command()}")
            raise
    return 0
