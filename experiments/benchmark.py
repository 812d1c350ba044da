"""How fast? PyTorch, this library and the bound, in turn on the same threads of the same machine.

python experiments/benchmark.py                      everything, under five minutes
python experiments/benchmark.py --quick              under one
python experiments/benchmark.py --json speed.json    and the figures as JSON, a plot beside it

Without torch it leaves out the PyTorch columns. "bound" is the same matrix products as bare XLA
GEMMs of the same shapes: what no implementation on XLA can beat.
"""

import importlib.util
import json
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import costs
import jax
import jax.numpy as jnp
import numpy as np
import workloads
from common import in_memory, load_data, parse_args, run_main, use_devices
from quality_fit import FEW, fit, quick
from workloads import Timing, alternate

from ddpm_jax import files, plotting, sampling, schedules, training
from ddpm_jax.config import PRESETS

HAS_TORCH = importlib.util.find_spec("torch") is not None
SAMPLES, SAMPLE_STEPS = 10_000, 1000
REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference.json"
REFERENCE_EPOCHS = 1000


@dataclass(frozen=True)
class Args:
    """How thorough, and where the figures go."""

    json: Path | None = None
    """Write every figure to this file, and a plot of how cost grows beside it."""
    quick: bool = False
    """Fewer rounds and steps: a minute instead of five."""
    million: bool = False
    """Also draw 10,000, 100,000 and a million points in 1000 steps by sample.py: minutes more."""
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
    sample_steps, rounds = (100, 3) if quick else (SAMPLE_STEPS, 5)
    train = {"ours": workloads.ours_train(data, steps)}
    sample = {"ours": workloads.ours_sample(SAMPLES, sample_steps, devices)}
    if HAS_TORCH:
        theirs = workloads.torch_workloads(data, steps, SAMPLES, sample_steps)
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
            seconds = row["median"] * steps / 1e6
            ratio = seconds / found["fast preset"][-1]["seconds"]
            lines.append(
                f"PyTorch as written, 1000 epochs: {seconds:.0f} s, {ratio:.0f} times that"
            )
    return "\n".join(lines)


def agreement(data: np.ndarray) -> float:
    """Largest relative difference of the parameters after a step: both sides do the same work."""
    import pytorch_reference as reference
    import torch

    from ddpm_jax import interop

    torch.manual_seed(0)
    model, schedule = reference.Denoiser(), schedules.sigmoid()
    tables = reference.schedule_from_tables(
        np.asarray(schedule.betas), np.asarray(schedule.alpha_bars)
    )
    apply, optimizer = workloads.network()[0], training.adam(1e-4, 1)
    params = interop.from_torch({n: v.detach() for n, v in model.state_dict().items()})
    x0 = np.asarray(data[:64], np.float32)
    t, eps = np.arange(0, 960, 15), np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    batch = training.Batches(jnp.asarray(x0), jnp.asarray(t), jnp.asarray(eps))
    state = training.init_state(params, optimizer)
    state, _ = training.train_step(apply, optimizer, schedule, state, batch)
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    reference.compiled_train_step(model, adam, tables, *(torch.from_numpy(a) for a in (x0, t, eps)))
    theirs = {n: v.detach().numpy() for n, v in model.state_dict().items()}
    ours = interop.to_torch(state.params)
    return max(float(np.abs(ours[n] - v).max() / np.abs(v).max()) for n, v in theirs.items())


def few_steps(devices: list) -> list[dict]:
    """Seconds for 10,000 points by each sampler with 25 network evaluations a point."""
    rows = []
    for name, sampler in sampling.SAMPLERS.items():
        work = workloads.ours_sample(SAMPLES, FEW, devices, sampler=sampler)
        time = alternate({"ours": work}, 3)["ours"]
        rows.append({"sampler": name, "evaluations": FEW, "seconds": time.median})
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
        model = fit(PRESETS["fast"], data, steps)
        scale = model.run.scaler.apply
        found = quick(scale(data), scale(model.sample(20_000)))
        rows.append({"steps": steps, "seconds": model.seconds} | found)
        reached = all(found[name] <= wanted[name] for name in wanted)
        if reached:
            break
    return {"wanted": wanted, "fast preset": rows, "reached": reached}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    return {
        "device": jax.local_devices()[0].device_kind,
        "devices": len(jax.local_devices()),
        "cores": len(os.sched_getaffinity(0)),
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
    record: dict[str, Any] = {"machine": machine()}
    print(", ".join(f"{k} {v}" for k, v in record["machine"].items()))
    data = in_memory(load_data("bicycle"))
    if HAS_TORCH:
        import torch

        torch.set_num_threads(record["machine"]["cores"])
        record["agreement"] = agreement(data)
        print(f"one compiled PyTorch step and one of ours agree to {record['agreement']:.0e}")
    record["speed"] = against_pytorch(data, args.quick, devices)
    print(format_speed(record["speed"]))
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
    record["startup"] = costs.startup()
    print("\n".join(f"{name:<38}{value:.2f}" for name, value in record["startup"].items()))
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


if __name__ == "__main__":
    run_main(main)
