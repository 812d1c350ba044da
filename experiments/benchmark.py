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
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
import workloads
from common import load_data, run_main, use_devices
from workloads import Timing, alternate

from ddpm_jax import files, models, plotting, sampling, schedules, training

HAS_TORCH = importlib.util.find_spec("torch") is not None
TRAIN_STEPS, SAMPLES, SAMPLE_STEPS = 788, 10_000, 1000


@dataclass(frozen=True)
class Args:
    """How thorough, and where the figures go."""

    json: Path | None = None
    """Write every figure to this file, and a plot of how cost grows beside it."""
    quick: bool = False
    """Fewer rounds and steps: a minute instead of five."""
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
    # A whole epoch always: its shuffling counts.
    steps = TRAIN_STEPS
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


def growth(quick: bool, devices: list) -> dict[str, dict[str, list]]:
    """Seconds as one thing grows and the rest stays: samples, steps, width, dimension, batch."""
    most = 10**5 if quick else 10**6
    counts = [n for n in (10**2, 10**3, 10**4, 10**5, 10**6) if n <= most]
    steps = 10 if quick else 20
    result: dict[str, dict[str, list]] = {}

    def measure(name: str, sizes: list[int], make: Any) -> None:
        seconds = [alternate({"it": make(n)}, 3)["it"].median for n in sizes]
        result[name] = {"size": sizes, "seconds": seconds}

    def sample(dim: int = 2, width: int = 128, steps: int = steps, count: int = 10**4) -> Any:
        network = models.Denoiser(dim, width)
        x, t = jnp.zeros((1, dim)), jnp.zeros((1,), jnp.int32)
        params = network.init(jax.random.key(0), x, t)["params"]

        def apply(p: Any, x: jax.Array, t: jax.Array) -> jax.Array:
            return network.apply({"params": p}, x, t)  # pyright: ignore[reportReturnType]

        shape = (min(1000, count), dim)
        draw = sampling.make_block_sampler(apply, schedules.sigmoid(steps), shape, devices=devices)
        return lambda: np.asarray(draw(params, jax.random.key(0), 0, -(-count // 1000)))

    measure(f"samples, {steps} steps", counts, lambda n: sample(count=n))
    measure("steps, 10,000 samples", [10, 30, 100], lambda n: sample(steps=n))
    measure(f"width, 10,000 samples, {steps} steps", [32, 64, 128, 256], lambda n: sample(width=n))
    measure(f"dimension, 10,000 samples, {steps} steps", [1, 2, 8, 32], lambda n: sample(dim=n))
    return result


def memory(devices: list) -> dict[str, list]:
    """Bytes of working memory of the compiled sampler, by the number of steps: flat."""
    apply, params = workloads.network()
    sizes, bytes_ = [10, 100, 1000], []
    for steps in sizes:
        schedule = schedules.sigmoid(steps)

        def draw(key: jax.Array, schedule: schedules.Schedule = schedule) -> jax.Array:
            def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
                return apply(params, x, t)

            return sampling.sample(key, denoise, schedule, (10_000, 2))

        analysis = jax.jit(draw).lower(jax.random.key(0)).compile().memory_analysis()
        bytes_.append(int(analysis.temp_size_in_bytes) if analysis else 0)
    return {"steps": sizes, "bytes for 10,000 samples": bytes_}


STARTUP = """
import time; began = time.perf_counter()
import sys; sys.path.insert(0, {folder!r})
import train; imported = time.perf_counter() - began
sys.argv = ["train.py", "--preset", "reference", "--epochs", "1", "--out", {out!r}]
record = train.Experiment.record
def first(self, *args):
    print("startup", imported, time.perf_counter() - began, flush=True)
    import os; os._exit(0)
train.Experiment.record = first
train.main()
"""


def startup() -> dict[str, float]:
    """Seconds to import, and from the start of Python to the first epoch done, cold and warm."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        for name, env in (("no cache", os.environ), ("cold", environment), ("warm", environment)):
            code = STARTUP.format(folder=str(Path(__file__).parent), out=f"{folder}/{name}")
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
            )
            result[f"first epoch done, {name} (s)"] = time.perf_counter() - began
            line = next(x for x in done.stdout.splitlines() if x.startswith("startup"))
            result["import (s)"] = float(line.split()[1])
    return result


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
    args = tyro.cli(Args, description=__doc__)
    devices = use_devices(args.devices)
    figure = args.json.with_suffix(".png") if args.json else None
    for path in filter(None, (args.json, figure)):
        files.refuse_existing(path, args.overwrite)
    record: dict[str, Any] = {"machine": machine()}
    print(", ".join(f"{k} {v}" for k, v in record["machine"].items()))
    data = load_data("bicycle", 0)
    if HAS_TORCH:
        import torch

        torch.set_num_threads(record["machine"]["cores"])
        record["agreement"] = agreement(data)
        print(f"one compiled PyTorch step and one of ours agree to {record['agreement']:.0e}")
    record["speed"] = against_pytorch(data, args.quick, devices)
    print(format_speed(record["speed"]))
    record["growth"] = growth(args.quick, devices)
    for name, curve in record["growth"].items():
        pairs = zip(curve["size"], curve["seconds"], strict=True)
        print(f"{name:<38}" + "  ".join(f"{n:,}: {s:.3g} s" for n, s in pairs))
    record["memory"] = memory(devices)
    print(f"working memory: {record['memory']}")
    record["startup"] = startup()
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
