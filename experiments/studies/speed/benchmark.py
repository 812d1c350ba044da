"""How fast? PyTorch, this library and the bound, in turn on the same threads of the same machine.

python experiments/benchmark.py                      everything, in eight minutes or so
python experiments/benchmark.py --quick              under one
python experiments/benchmark.py --json speed.json    and the figures as JSON, a plot beside it

Without torch it leaves out the PyTorch columns. "bound" is the same matrix products as bare XLA
GEMMs of the same shapes, with nothing between them.
"""

import json
import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax import files
from ddpm_jax.cli.arguments import parse_args
from ddpm_jax.config import PRESETS
from ddpm_jax.diffusion import sampling
from ddpm_jax.figures import plotting
from ddpm_jax.parallel import use_devices
from ddpm_jax.points.sources import load_points
from studies import workloads
from studies.quality.fit import FEW, fit, quick
from studies.speed import costs, default
from studies.workloads import Timing, alternate

SAMPLES, SAMPLE_STEPS = 10_000, 1000
REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "evidence" / "reference.json"
REFERENCE_EPOCHS = 1000


@dataclass(frozen=True)
class Args:
    """How thorough, and where the figures go."""

    json: Path | None = None
    """Write every figure to this file, and a plot of how cost grows beside it."""
    quick: bool = False
    """Fewer rounds and steps, no time to quality, no start-up or whole run: a minute, not eight."""
    million: bool = False
    """Also draw 10,000, 100,000 and a million points in 1000 steps by sample.py: minutes more."""
    against: Path | None = None
    """Another checkout of this project, whose default command is timed in turn with this one's."""
    devices: int | None = None
    """How many devices (on a CPU: cores) sampling uses; by default all."""
    overwrite: bool = False
    """Replace the files if they exist."""


def rows_of(timings: dict[str, Timing], units: int, scale: float, flops: float) -> list[dict]:
    """A row a workload: time a unit (median, least, greatest), GFLOP/s, and ours over it."""
    ours = timings["ours"].median
    return [
        {
            "name": name,
            "median": t.median / units * scale,
            "least": t.least / units * scale,
            "greatest": t.greatest / units * scale,
            "gflops": flops / t.median / 1e9,
            "times ours": t.median / ours,
        }
        for name, t in timings.items()
    ]


def against_pytorch(data: np.ndarray, quick: bool = False, devices: list | None = None) -> dict:
    """Training steps at batch 64 and ancestral sampling, each against PyTorch and the bound."""
    devices = devices or jax.local_devices()
    steps = len(data) // workloads.BATCH  # a whole epoch always: its shuffling counts
    sample_steps, rounds = (50, 3) if quick else (SAMPLE_STEPS // 2, 5)  # each takes as long
    train = {"ours": workloads.ours_train(data, steps)}
    sample = {"ours": workloads.ours_sample(SAMPLES, sample_steps, devices)}
    if where := workloads.torch_device(devices[0]):
        theirs = workloads.torch_workloads(data, steps, SAMPLES, sample_steps, where)
        train, sample = train | theirs["train"], sample | theirs["sample"]
    train["bound"] = workloads.gemm_bound_train(steps)
    sample["bound"] = workloads.gemm_bound_sample(SAMPLES, sample_steps, devices)
    flops = workloads.sample_flops() * SAMPLES * sample_steps
    return {
        "train step, batch 64 (µs)": rows_of(
            alternate(train, rounds), steps, 1e6, workloads.train_flops() * steps
        ),
        f"sampling {SAMPLES:,} points x 1000 steps (s)": rows_of(
            alternate(sample, min(rounds, 3)), 1, SAMPLE_STEPS / sample_steps, flops
        ),
    }


def format_speed(tables: dict[str, list[dict]]) -> str:
    """The tables as text."""
    lines = []
    for title, rows in tables.items():
        lines.append(f"{title:<44}{'median':>10}{'range':>20}{'GFLOP/s':>10}{'times ours':>12}")
        for r in rows:
            spread = f"{r['least']:.4g} - {r['greatest']:.4g}"
            lines.append(
                f"  {r['name']:<42}{r['median']:>10.4g}{spread:>20}{r['gflops']:>10.1f}"
                f"{r['times ours']:>12.2f}"
            )
    return "\n".join(lines)


def format_quality(found: dict[str, Any], speed: dict[str, list[dict]], num_points: int) -> str:
    """What the fast preset takes to the reference's quality, and PyTorch for its 1000 epochs."""
    rows = [("reference preset, 1000 epochs", found["wanted"])]
    rows += [("fast preset", row) for row in found["fast preset"]]
    lines = [f"{name}: " + ", ".join(f"{k} {v:,.4g}" for k, v in row.items()) for name, row in rows]
    steps = REFERENCE_EPOCHS * (num_points // workloads.BATCH)
    for row in speed["train step, batch 64 (µs)"]:
        if row["name"] == "PyTorch as written" and found["reached"]:
            seconds, last = row["median"] * steps / 1e6, found["fast preset"][-1]
            lines.append(
                f"PyTorch as written, 1000 epochs: {seconds:.0f} s, extrapolated from its steps: "
                f"{seconds / last['seconds']:.0f} times that (our compilation, "
                f"{last['compilation']:.1f} s, not counted)"
            )
    return "\n".join(lines)


def few_steps(devices: list) -> list[dict]:
    """Seconds for 10,000 points by each sampler with 25 network evaluations a point."""
    rows = []
    for name, sampler in sampling.SAMPLERS.items():
        work = workloads.ours_sample(SAMPLES, FEW, devices, sampler=sampler)
        timing = alternate({"ours": work}, 3)["ours"]
        spread = {"least": timing.least, "greatest": timing.greatest}
        rows.append({"sampler": name, "evaluations": FEW, "seconds": timing.median} | spread)
    return rows


def time_to_quality(data: np.ndarray, reference: Path) -> dict[str, Any]:
    """The fast preset, trained longer and longer till it is as good as the reference's 1000 epochs.

    `reference` is what `evaluate.py RUN --json` wrote of a run of the reference preset.
    """
    measured = {m["name"]: m["value"] for m in json.loads(reference.read_text())["metrics"]}
    names = {"TV": "total_variation", "SW": "sliced_wasserstein", "off": "far_fraction"}
    wanted = {short: measured[name] for short, name in names.items()}
    rows, reached = [], False
    for steps in (1000, 2000, 4000, 8000, 16_000, 32_000):
        began = time.perf_counter()
        model = fit(PRESETS["fast"], data, steps)
        compilation = time.perf_counter() - began - model.seconds
        real, fake = map(model.run.scaler.apply, (data, model.sample(20_000)))
        found = quick(real, fake, projections=256)  # as many as evaluate.py takes
        row = {"steps": steps, "seconds": model.seconds, "compilation": compilation}
        rows.append(row | found)
        reached = all(found[name] <= wanted[name] for name in wanted)
        if reached:
            break
    return {"wanted": wanted, "fast preset": rows, "reached": reached}


def machine(devices: list, threads: int) -> dict[str, Any]:
    """What the figures were measured on."""

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "threads of each side": threads,
        "processor": platform.machine(),
        "python": platform.python_version(),
        **{p: installed(p) for p in ("jax", "jaxlib", "flax", "torch")},
    }


def main() -> int:
    """Measure, print, write."""
    args = parse_args(Args, description=__doc__)
    devices = use_devices(args.devices)
    figure = args.json.with_suffix(".png") if args.json else None
    for path in filter(None, (args.json, figure)):
        files.refuse_existing(path, args.overwrite)
    threads = workloads.share_cores(devices)
    record: dict[str, Any] = {"machine": machine(devices, threads)}
    print(", ".join(f"{k} {v}" for k, v in record["machine"].items()))
    data = load_points("bicycle")
    if where := workloads.torch_device(devices[0]):
        from studies import agreement

        record["agreement"] = agreement.check(where)
        for name, difference in record["agreement"].items():
            print(f"{name}: agrees with ours to {difference:.0e}")
    elif workloads.HAS_TORCH:
        print(f"this PyTorch cannot use the {devices[0].platform}: no columns of it")
    record["speed"] = against_pytorch(data, args.quick, devices)
    print(format_speed(record["speed"]))
    record["default step"] = default.step(data, 2 if args.quick else 5)
    print(
        default.table("default recipe, a training step (µs)", {"": record["default step"]}, ".0f")
    )
    record["few steps"] = few_steps(devices)
    for row in record["few steps"]:
        print("10,000 points, {sampler}, {evaluations} evaluations: {seconds:.3g} s".format(**row))
    if not args.quick:
        record["quality"] = time_to_quality(data, REFERENCE)
        print(format_quality(record["quality"], record["speed"], len(data)))
    record["growth"] = costs.growth(data, args.quick, devices)
    for name, curve in record["growth"].items():
        pairs = zip(curve["size"], curve["seconds"], strict=True)
        print(f"{name:<38}" + "  ".join(f"{n:,}: {s:.3g} s" for n, s in pairs))
    record["memory"] = costs.memory()
    print(f"working memory: {record['memory']}")
    streams = [([10**3, 10**5] if args.quick else [10**4, 10**6], 10)]
    streams += [([10**3, 10**4, 10**5, 10**6], SAMPLE_STEPS)] if args.million else []
    record["sample.py"] = [costs.streaming(data, *stream) for stream in streams]
    for table in record["sample.py"]:
        for count, steps, seconds, peak in zip(*table.values(), strict=True):
            print(f"sample.py, {count:,} points, {steps} steps: {seconds:.1f} s, {peak:.0f} MiB")
    if not args.quick:
        record["startup"] = costs.startup()
        print(costs.format_startup(record["startup"]))
        folders = {"this checkout": default.HERE.parent}
        folders |= {str(args.against): args.against.resolve()} if args.against else {}
        record["command"] = default.command(folders, rounds=3 if args.against else 1)
        print(default.table("python experiments/train.py (s)", record["command"]))
    if args.json and figure:
        files.write_text(args.json, json.dumps(record, indent=2) + "\n")
        plotting.curves(
            figure,
            {
                name: (np.array(c["size"]), np.array(c["seconds"]))
                for name, c in record["growth"].items()
            },
            "size",
            "seconds",
            logx=True,
            logy=True,
            title="How the cost of sampling grows",
        )
        print(f"written: {args.json}, {figure}")
    return 0
