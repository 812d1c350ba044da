"""What more devices and processes buy here: the tables of docs/evidence/scaling.md.

python experiments/scaling.py                     devices, processes, communication
python experiments/scaling.py --json scaling.json

Devices beyond the cores are virtual: they show what splitting the work costs, not what it gains.
"""

import functools
import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ddpm_jax import files, parallel
from ddpm_jax.cli.arguments import parse_args
from ddpm_jax.cli.processes import ALONE, Processes
from ddpm_jax.diffusion import schedules
from ddpm_jax.parallel import use_devices
from ddpm_jax.training import steps
from studies import workloads

SCRIPT = Path(__file__).resolve().parents[2] / "scaling.py"
BATCHES, COUNTS, STEPS, ROUNDS = (64, 256, 1024, 4096), (1, 2, 4), 20, 7


@dataclass(frozen=True)
class Args:
    """Where the figures go."""

    json: Path | None = None
    """Write every figure to this file, too."""
    overwrite: bool = False
    """Replace the file if it exists."""
    processes: Annotated[Processes, tyro.conf.OmitArgPrefixes] = ALONE
    """Of the processes that this script starts itself."""


def trainer(mesh: jax.sharding.Mesh, batch: int) -> Callable[[], Any]:
    """A workload of `STEPS` training steps of the original network on the mesh."""
    apply, params = workloads.network()
    optimizer, everywhere = steps.adam(1e-4), parallel.sharding(mesh)
    shared = parallel.sharding(mesh, None, "data")
    points = np.random.default_rng(0).uniform(-1, 1, (STEPS, batch, 2)).astype(np.float32)
    x0 = jax.make_array_from_callback(points.shape, shared, lambda index: points[index])
    state = parallel.replicate(mesh, steps.init_state(params, optimizer))
    run = steps.make_trainer(
        functools.partial(
            steps.train_points, jax.random.key(0), apply, optimizer, schedules.sigmoid()
        ),
        in_shardings=(everywhere, shared),
        out_shardings=everywhere,
    )
    return lambda: jax.block_until_ready(run(state, x0))


def microseconds(work: dict[Any, Callable[[], Any]]) -> dict[str, float]:
    """The median time a step of each workload, taken in turn."""
    timings = workloads.alternate(work, ROUNDS)
    return {str(name): t.median / STEPS * 1e6 for name, t in timings.items()}


def over_devices() -> dict[str, dict[str, float]]:
    """Microseconds a step by the points of a batch and the number of devices."""
    meshes = {n: parallel.make_mesh(jax.devices()[:n]) for n in COUNTS}
    return {
        str(batch): microseconds({n: trainer(mesh, batch) for n, mesh in meshes.items()})
        for batch in (*BATCHES, 4 * BATCHES[-1])
    }


def collectives(program: Callable, *arguments: Any, **shardings: Any) -> list[str]:
    """The collectives in the program's HLO, "kind, bytes" of each."""
    text = jax.jit(program, **shardings).lower(*arguments).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    found = []
    for result, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", str(text)):
        shapes = re.findall(r"\w+?(\d+)\[([\d,]*)\]", result)
        size = sum(
            int(bits) // 8 * math.prod(map(int, filter(None, shape.split(","))))
            for bits, shape in shapes
        )
        found.append(f"{kind}, {size} bytes")
    return found


def communication() -> dict[str, Any]:
    """The collectives in the programs that train, by the number of devices.

    As train.py compiles them: the order of an epoch, and the chunk that takes the points, draws
    times and noise and trains.
    """
    apply, params = workloads.network()
    key, optimizer, found = jax.random.key(0), steps.adam(1e-4), {}
    state = steps.init_state(params, optimizer)
    arguments = state, jnp.zeros((1024, 2)), jnp.zeros((4, 256), jnp.int32)

    def order(epoch: int) -> jax.Array:
        return steps.epoch_order(key, epoch, 1024, 256)

    def chunk(state: steps.TrainState, data: jax.Array, rows: jax.Array) -> Any:
        done = steps.train_epoch(key, apply, optimizer, schedules.sigmoid(), state, data, rows)
        return done, steps.all_finite(done)  # as make_trainer asks

    for n in COUNTS[1:]:
        mesh = parallel.make_mesh(jax.devices()[:n])
        everywhere, shared = parallel.sharding(mesh), parallel.sharding(mesh, None, "data")
        in_chunk = (everywhere, everywhere, shared)
        found[str(n)] = {
            "order": collectives(order, 0, in_shardings=everywhere, out_shardings=shared),
            "chunk": collectives(
                chunk, *arguments, in_shardings=in_chunk, out_shardings=everywhere
            ),
        }
    return found


def over_processes() -> dict[str, dict[str, float]]:
    """The same as `over_devices` for processes on loopback, one device and one core each.

    As machines of one core would be; where there are more processes than cores, they take turns.
    """
    table: dict[str, dict[str, float]] = {}
    for count in COUNTS:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        command = [sys.executable, SCRIPT, "--distributed", "--coordinator", address]
        started = [
            subprocess.Popen(
                [*command, "--num-processes", str(count), "--process-id", str(i)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(count)
        ]
        try:
            said = [process.communicate(timeout=300)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        if any(process.returncode for process in started):
            raise RuntimeError(f"one of {count} processes failed: {said}")
        for batch, time in json.loads(said[0].splitlines()[-1]).items():
            table.setdefault(batch, {})[str(count)] = time
    return table


def one_process() -> None:
    """What each of several processes does: time the steps together, and the first one says so."""
    mesh = parallel.training_mesh(BATCHES[0], 1, 1)
    times = {str(b): microseconds({"it": trainer(mesh, b)})["it"] for b in BATCHES}
    if parallel.is_first():
        print(json.dumps(times))


def show(title: str, table: dict[str, dict[str, float]]) -> None:
    """Microseconds a step, and how many times as fast as the first column."""
    print(f"{title:<34}" + "".join(f"{n:>18}" for n in next(iter(table.values()))))
    for name, row in table.items():
        first = next(iter(row.values()))
        print(f"  {name:<32}" + "".join(f"{t:>11.0f} ({first / t:.2f})" for t in row.values()))


def main() -> int:
    """Measure, print, write."""
    args = parse_args(Args, description=__doc__)
    jax.config.update("jax_platforms", "cpu")  # of which there are as many as one likes
    if args.processes.distributed:
        if hasattr(os, "sched_setaffinity"):  # on Linux
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[(args.processes.process_id or 0) % len(cores)]})
        args.processes.join()
        use_devices(1)
        one_process()
        return 0
    if args.json:
        files.refuse_existing(args.json, args.overwrite)
    use_devices(max(COUNTS))
    record: dict[str, Any] = {"devices": over_devices()}
    show("µs a step, batch by devices", record["devices"])
    record["processes"] = over_processes()
    show("µs a step, by processes of a core", record["processes"])
    record["communication"] = communication()
    for n, found in record["communication"].items():
        print(f"communication of {n} devices: {found}")
    if args.json:
        files.write_text(args.json, json.dumps(record, indent=2) + "\n")
        print(f"written: {args.json}")
    return 0
