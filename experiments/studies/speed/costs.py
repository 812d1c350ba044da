"""How the cost of training and sampling grows, the memory it takes, and how long it starts."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import drawing
from ddpm_jax.config import PRESETS
from ddpm_jax.diffusion import sampling, schedules
from ddpm_jax.networks import denoiser
from ddpm_jax.runs import checkpoints
from ddpm_jax.runs.record import Run
from studies import workloads
from studies.workloads import Timing, alternate

HERE = Path(__file__).resolve().parents[2]


def growth(data: np.ndarray, quick: bool, devices: list) -> dict[str, dict[str, list]]:
    """Seconds as one thing grows and the rest stays: samples, steps, width, dimension, batch.

    `quick` takes every other size, as most of the time is compilation.
    """
    steps = 10 if quick else 20
    result: dict[str, dict[str, list]] = {}

    def measure(name: str, sizes: list[int], make: Any) -> None:
        sizes = sizes[::2] if quick else sizes
        timings = [alternate({"it": make(n)}, 3)["it"] for n in sizes]
        seconds, least, greatest = (list(column) for column in zip(*timings, strict=True))
        result[name] = {"size": sizes, "seconds": seconds, "least": least, "greatest": greatest}

    def sample(dim: int = 2, width: int = 128, steps: int = steps, count: int = 10**4) -> Any:
        network = denoiser.Denoiser(dim, width)
        x, t = jnp.zeros((1, dim)), jnp.zeros((1,), jnp.int32)
        params = jax.jit(network.init)(jax.random.key(0), x, t)["params"]

        def apply(p: Any, x: jax.Array, t: jax.Array) -> jax.Array:
            return network.apply({"params": p}, x, t)  # pyright: ignore[reportReturnType]

        shape = (min(1000, count), dim)
        draw = drawing.make_block_sampler(apply, schedules.sigmoid(steps), shape, devices=devices)
        return lambda: np.asarray(draw(params, jax.random.key(0), 0, -(-count // 1000)))

    counts = [10**2, 10**3, 10**4, 10**5, 10**6]
    measure(f"samples, {steps} steps", counts[:4] if quick else counts, lambda n: sample(count=n))
    measure("steps, 10,000 samples", [10, 30, 100, 300], lambda n: sample(steps=n))
    measure(f"width, 10,000 samples, {steps} steps", [32, 64, 128, 256], lambda n: sample(width=n))
    measure(f"dimension, 10,000 samples, {steps} steps", [1, 2, 8, 32], lambda n: sample(dim=n))
    measure(
        "batch size, 50 training steps",
        [16, 64, 256, 1024],
        lambda n: workloads.ours_train(data, 50, n, shuffled=False),
    )
    return result


def memory() -> dict[str, list]:
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
        bytes_.append(int(analysis.temp_size_in_bytes) / 10_000 if analysis else 0.0)
    return {"steps": sizes, "bytes a sample": bytes_}


def streaming(data: np.ndarray, counts: list[int], steps: int) -> dict[str, list]:
    """Seconds and peak memory of `sample.py` by the number of samples; its network is untrained."""
    seconds, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = Run.of(PRESETS["reference"], data)
        run.save(Path(folder))
        losses = np.zeros(run.steps_per_epoch, np.float32)
        state = {"train": jax.jit(run.init_state)(jax.random.key(0)), "losses": losses}
        checkpoints.save(Path(folder) / "checkpoints", 0, state)
        for count in counts:
            out = Path(folder) / f"{count}.npy"
            command = [sys.executable, str(HERE / "sample.py"), folder, "--out", str(out)]
            command += ["--num-samples", str(count), "--steps", str(steps)]
            began = time.perf_counter()
            # By way of a small process: Linux counts what the one that forks holds as the child's.
            code = f"import subprocess, resource; subprocess.run({command!r}, check=True, "
            code += "capture_output=True); print(resource.getrusage(resource.RUSAGE_CHILDREN)[2])"
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            seconds.append(time.perf_counter() - began)
            unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
            peaks.append(int(done.stdout) * unit / 2**20)
            out.unlink()
    return {
        "samples": counts,
        "steps": [steps] * len(counts),
        "seconds": seconds,
        "peak MiB": peaks,
    }


STARTUP = """
import time; began = time.perf_counter()
from ddpm_jax import parallel
from ddpm_jax.config import PRESETS
from ddpm_jax.assembly import make_trainer
from ddpm_jax.points.sources import load_points
from ddpm_jax.runs.record import Run
import ddpm_jax.cli.train
times = [time.perf_counter() - began]
parallel.use_devices(None)
points = load_points("bicycle")
trainer = make_trainer(Run.of(PRESETS["fast"], points), points)
next(iter(trainer))
times += [trainer.seconds["training"], time.time() - {typed}]
print("startup", *times)
"""


def startup(rounds: int = 3) -> dict[str, dict[str, Timing]]:
    """Seconds of the default recipe's start: to import, of the first epoch, to the first row.

    The first runs from the start of Python; the second is mostly compilation; the third runs from
    the start to the row, for which the ideal denoiser's loss is computed. JAX's persistent
    compilation cache is not used, once; empty ("cold"), a new one each round; or filled by that
    ("warm").
    """
    found: dict[str, list[list[float]]] = {"no cache": [], "cold": [], "warm": []}
    bare = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            cached = bare | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
            for name, times in found.items():
                if name == "no cache" and number:
                    continue  # it differs from "cold" by the writing only
                code = STARTUP.format(typed=time.time())
                done = subprocess.run(
                    [sys.executable, "-c", code],
                    env=bare if name == "no cache" else cached,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                line = next(x for x in done.stdout.splitlines() if x.startswith("startup"))
                times.append(list(map(float, line.split()[1:])))
    parts = ("import", "first epoch", "first row")
    return {
        name: {
            part: Timing(statistics.median(t), min(t), max(t))
            for part, t in zip(parts, zip(*times, strict=True), strict=True)
        }
        for name, times in found.items()
    }


def format_startup(found: dict[str, dict[str, Timing]]) -> str:
    """The medians and ranges as text."""
    return "\n".join(
        f"train.py, {name + ':':<10}"
        + ", ".join(
            f"{part} {t.median:.2f} s ({t.least:.2f} - {t.greatest:.2f})" for part, t in row.items()
        )
        for name, row in found.items()
    )
