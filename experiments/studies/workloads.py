"""What is timed: the same work in PyTorch, in ours and as bare matrix products; and how.

A workload is a function that does a fixed amount of work and returns when it is done. Workloads to
be compared are run in turn, several rounds, so that what else the machine does falls on all alike.
"""

import functools
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import drawing
from ddpm_jax.diffusion import sampling, schedules
from ddpm_jax.networks import denoiser
from ddpm_jax.parallel import cores
from ddpm_jax.training import steps

BATCH, DIM, WIDTH, TIME_WIDTH = 64, 2, 128, 50
LAYERS = {
    "time_0": (TIME_WIDTH, WIDTH),
    "time_1": (WIDTH, WIDTH),
    "hidden_0": (DIM, WIDTH),
    "hidden_1": (WIDTH, WIDTH),
    "hidden_2": (WIDTH, WIDTH),
    "out": (WIDTH, DIM),
}
NO_INPUT_GRADIENT = ("time_0", "hidden_0")
PER_STEP_LAYERS = ("hidden_0", "hidden_1", "hidden_2", "out")

HAS_TORCH = importlib.util.find_spec("torch") is not None

Workload = Callable[[], Any]


class Timing(NamedTuple):
    """Median seconds, and the least and greatest of the rounds."""

    median: float
    least: float
    greatest: float


def alternate(workloads: dict[str, Workload], rounds: int = 5) -> dict[str, Timing]:
    """Time the workloads in turn, after one run of each that compiles it and is not counted."""
    for work in workloads.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in workloads}
    for _ in range(rounds):
        for name, work in workloads.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    return {n: Timing(statistics.median(s), min(s), max(s)) for n, s in seconds.items()}


def share_cores(devices: list) -> int:
    """Give JAX and PyTorch the same cores, as many as CPU devices are used; how many threads."""
    threads = cores()
    if devices[0].platform == "cpu" and len(devices) < threads:
        threads = len(devices)
        # XLA shares a large product among all cores, whatever the number of its devices.
        if hasattr(os, "sched_setaffinity"):
            own = sorted(os.sched_getaffinity(0))[:threads]
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), own)
    if HAS_TORCH:
        import torch

        torch.set_num_threads(threads)
    return threads


def train_flops() -> int:
    """Floating-point operations of the matrix products of a training step."""
    forward = sum(2 * BATCH * i * o for i, o in LAYERS.values())
    unneeded = sum(2 * BATCH * i * o for n, (i, o) in LAYERS.items() if n in NO_INPUT_GRADIENT)
    return 3 * forward - unneeded


def sample_flops() -> int:
    """The same of one reverse step of one point; the time embedding is shared by all points."""
    return sum(2 * LAYERS[name][0] * LAYERS[name][1] for name in PER_STEP_LAYERS)


@functools.cache
def network() -> tuple[Callable, Any]:
    """The original network as a function of its parameters, and some parameters."""
    module = denoiser.Denoiser(num_times=1000)
    x, t = jnp.zeros((1, DIM)), jnp.zeros((1,), jnp.int32)
    params = module.init(jax.random.key(0), x, t)["params"]
    return lambda p, x, t: module.apply({"params": p}, x, t), params


def ours_train(
    data: np.ndarray, num_steps: int, batch: int = BATCH, shuffled: bool = True
) -> Workload:
    """`num_steps` training steps, drawn, scanned and read back as train.py does.

    An epoch's worth is to be `shuffled`; a few steps are not to pay for the whole of it.
    """
    apply, params = network()
    schedule, optimizer = schedules.sigmoid(), steps.adam(1e-4, num_steps)
    points, key = jnp.asarray(data, jnp.float32), jax.random.key(1)

    chunk = steps.make_trainer(
        functools.partial(steps.train_epoch, key, apply, optimizer, schedule)
    )

    @jax.jit
    def order(epoch: jax.Array) -> jax.Array:
        if shuffled:
            return steps.epoch_order(key, epoch, len(points), batch)[:num_steps]
        return (jnp.arange(num_steps * batch) % len(points)).reshape(num_steps, batch)

    box = [steps.init_state(params, optimizer), 0]

    def work() -> np.ndarray:
        box[0], losses = chunk(box[0], points, order(box[1]))
        box[1] += 1
        return np.asarray(losses)

    return work


def ours_sample(
    count: int,
    steps: int,
    devices: list | None = None,
    block: int = 1000,
    sampler: sampling.Sampler = sampling.DDPM,
) -> Workload:
    """`count` points in `steps` steps of a sampler, in blocks over the devices."""
    apply, params = network()
    schedule = schedules.sigmoid(steps)
    shape = min(block, count), DIM
    draw = drawing.make_block_sampler(apply, schedule, shape, sampler, devices)
    key, blocks = jax.random.key(2), -(-count // block)
    return lambda: np.asarray(draw(params, key, 0, blocks))


def torch_device(device: Any) -> str | None:
    """Where PyTorch can do what JAX does on its device: "cpu", "cuda", or None for nowhere."""
    if not HAS_TORCH or device.platform == "cpu":
        return "cpu" if HAS_TORCH else None
    import torch

    return "cuda" if device.platform == "gpu" and torch.cuda.is_available() else None


class Version(NamedTuple):
    """A way to run the PyTorch reference: its functions, and whether Adam is to be fused."""

    step: Callable
    epoch: Callable
    sample: Callable
    fused: bool | None


def torch_versions(where: str) -> dict[str, Version]:
    """As written, compiled, and on a GPU with CUDA graphs."""
    from studies import pytorch_reference as reference

    def version(prefix: str, fused: bool | None, **options: bool) -> Version:
        names = "train_step", "train_epoch", "sample"
        step, epoch, sample = (
            functools.partial(getattr(reference, prefix + name), **options) for name in names
        )
        return Version(step, epoch, sample, fused)

    versions = {
        "PyTorch as written": version("", None),
        "PyTorch compiled": version("compiled_", True),
    }
    if where == "cuda":
        versions["PyTorch with CUDA graphs"] = version("compiled_", True, cuda_graphs=True)
    return versions


def moved(schedule: Any, where: str) -> Any:
    """A schedule of the reference, on a device."""
    return type(schedule)(*(table.to(where) for table in schedule))


def torch_workloads(
    data: np.ndarray, steps: int, count: int, sample_steps: int, where: str = "cpu"
) -> dict[str, dict[str, Workload]]:
    """Training and sampling by each version of PyTorch; each ends with numbers on the host."""
    import torch

    from studies import pytorch_reference as reference

    if where == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, which is XLA's default there

    points = torch.tensor(data, dtype=torch.float32, device=where)[: steps * BATCH]
    schedule, short = (moved(reference.sigmoid_schedule(n), where) for n in (1000, sample_steps))

    def make(version: Version) -> tuple[Workload, Workload]:
        model = reference.Denoiser().to(where)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=version.fused)
        x_T = torch.randn(count, DIM, device=where)
        return (
            lambda: version.epoch(model, optimizer, schedule, points),
            lambda: version.sample(model, short, x_T).cpu().numpy(),
        )

    made = {name: make(version) for name, version in torch_versions(where).items()}
    return {
        "train": {name: train for name, (train, _) in made.items()},
        "sample": {name: sample for name, (_, sample) in made.items()},
    }


def gemm_bound_train(steps: int) -> Workload:
    """The matrix products of `steps` training steps and nothing else, as XLA's own GEMMs."""
    h = {n: jnp.ones((BATCH, i)) for n, (i, _) in LAYERS.items()}
    g = {n: jnp.ones((BATCH, o)) for n, (_, o) in LAYERS.items()}
    w = {n: jnp.ones(shape) for n, shape in LAYERS.items()}

    def products(h: dict, g: dict, w: dict) -> list:
        forward = [h[n] @ w[n] for n in LAYERS]
        to_weights = [h[n].T @ g[n] for n in LAYERS]
        to_inputs = [g[n] @ w[n].T for n in LAYERS if n not in NO_INPUT_GRADIENT]
        return forward + to_weights + to_inputs

    return _repeated(products, (h, g, w), steps)


def gemm_bound_sample(count: int, steps: int, devices: list, block: int = 1000) -> Workload:
    """The matrix products of the reverse process and nothing else, block by block."""
    rows = min(block, count)
    per_device = -(-count // rows // len(devices))
    h = {n: jnp.ones((rows, LAYERS[n][0])) for n in PER_STEP_LAYERS}
    w = {n: jnp.ones(LAYERS[n]) for n in PER_STEP_LAYERS}

    def products(h: dict, w: dict) -> list:
        return [h[n] @ w[n] for n in PER_STEP_LAYERS]

    works = [
        _repeated(products, jax.device_put((h, w), device), steps * per_device, wait=False)
        for device in devices
    ]
    return lambda: jax.block_until_ready([work() for work in works])


def _repeated(products: Callable, operands: tuple, times: int, wait: bool = True) -> Workload:
    """Run the products `times` times; barriers keep XLA from hoisting, merging or dropping any."""

    @jax.jit
    def run(operands: tuple) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple:
            held, carry = jax.lax.optimization_barrier((operands, carry))
            results = jax.lax.optimization_barrier(products(*held))
            return carry + sum(r[0, 0] for r in results), None

        return jax.lax.scan(body, jnp.zeros(()), None, length=times)[0]

    return lambda: jax.block_until_ready(run(operands)) if wait else run(operands)
