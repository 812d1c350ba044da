"""Is it the same algorithm? PyTorch and JAX side by side, to the rounding error.

python experiments/compare_pytorch.py                 the table, in float32 and float64, in minutes
python experiments/compare_pytorch.py --json out.json
python experiments/compare_pytorch.py --quick         without training and timing both

Both sides get the same tables, weights, batches, times and noises. A difference is the largest over
all entries; "relative" divides it by the largest magnitude of the quantity itself (for our
schedules, entry by entry). The status is 1 if a row is off. Needs torch: see the README.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from ddpm_jax import files, interop
from ddpm_jax.cli.arguments import parse_args
from ddpm_jax.diffusion import process, sampling, schedules
from ddpm_jax.errors import ConfigError
from ddpm_jax.parallel import use_devices
from ddpm_jax.points.sources import load_points
from studies import pytorch_reference as reference
from studies import workloads
from studies.parity import adam_steps, train_both
from studies.side_by_side import Case, state_dict

ADAM_STEPS, CASES, SAMPLES = (1, 10, 100), 16, 2000
# What rounding allows: float32 has a unit of 1e-7, float64 of 2e-16; sums of some hundred terms and
# hundreds of steps multiply it. Where a ReLU begins, two roundings can part for good; so Adam is
# judged in the cases in which none does, and in float32 a trajectory by 99.9 % of its points, in
# units of the samples' spread.
KINDS = ("schedule", "tables", "network", "gradient", "adam", "path")
LIMITS: dict[str, dict[str, float]] = {
    "float32": dict(zip(KINDS, (1.2e-7, 5e-6, 1e-6, 1e-5, 1e-4, 1e-3), strict=True)),
    "float64": dict.fromkeys(KINDS, 1e-10),
}


@dataclass(frozen=True)
class Args:
    """What to compare, and where the numbers go."""

    json: Path | None = None
    """Write every row to this file, too."""
    quick: bool = False
    """Leave out the rows that take minutes: training both from scratch, and the speed of both."""
    seeds: int = 8
    """How many independent trainings of each side the statistical rows compare, at least two."""
    epochs: int = 10
    """Their epochs, and those of the network whose trajectories are compared."""
    overwrite: bool = False
    """Replace the JSON file if it exists."""

    def __post_init__(self) -> None:
        if self.seeds < 2 or self.epochs < 1:
            raise ConfigError("--seeds must be at least 2, for a spread, and --epochs at least 1")


class Row(NamedTuple):
    """One quantity on both sides."""

    name: str
    dtype: str
    absolute: float
    relative: float
    limit: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the difference is within rounding."""
        return self.relative <= self.limit


def row(name: str, dtype: str, ours: Any, theirs: Any, kind: str, note: str = "") -> Row:
    """Compare two arrays."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape:
        raise ConfigError(f"{name}: shapes {a.shape} and {b.shape} cannot be compared")
    difference = float(np.abs(a - b).max())
    relative = difference / float(np.abs(b).max())
    return Row(name, dtype, difference, relative, LIMITS[dtype][kind], note)


def schedule_rows(dtype: str) -> Iterator[Row]:
    """Both sides' schedules against their formulas: ours entry by entry, theirs as tables."""
    t = np.arange(1000)
    log_alphas = np.log1p(-(1e-4 + t * (2e-2 - 1e-4) / 999))
    formulas = {
        "linear": np.cumsum(log_alphas),
        "sigmoid": -np.log1p(np.exp(-(10 - 20 * t / 1000))),
    }
    for name, log_alpha_bars in formulas.items():
        previous = np.concatenate([[0.0], log_alpha_bars[:-1]])
        exact = {
            "betas": -np.expm1(log_alpha_bars - previous),
            "alpha_bars": np.exp(log_alpha_bars),
            "1 - alpha_bars": -np.expm1(log_alpha_bars),
        }
        s = schedules.SCHEDULES[name](dtype=np.dtype(dtype))
        ours = s.betas, s.alpha_bars, s.one_minus_alpha_bars
        r = getattr(reference, f"{name}_schedule")(dtype=getattr(torch, dtype))
        theirs = r.betas, r.alpha_bars, 1 - r.alpha_bars
        for (part, formula), mine, yours in zip(exact.items(), ours, theirs, strict=True):
            label = f"{name} {part}"
            yield each_entry(label, mine, formula, dtype, LIMITS[dtype]["schedule"])
            # The reference subtracts numbers near 1: what that leaves of small ones is only noted.
            off = each_entry(f"{label}, reference", yours, formula, dtype, LIMITS[dtype]["tables"])
            note = f"of 1; {off.relative:.0e} of its size {off.note}"
            yield off._replace(relative=off.absolute, note=note)


def each_entry(name: str, table: Any, formula: np.ndarray, dtype: str, limit: float) -> Row:
    """Compare a table with its formula, each entry in units of itself."""
    off = np.abs(np.asarray(table, np.float64) - formula)
    relative = off / formula
    note = f"at t = {relative.argmax()}"
    return Row(name, dtype, float(off.max()), float(relative.max()), limit, note)


def network_rows(case: Case) -> Iterator[Row]:
    """Diffuse, network, loss and every leaf of the gradient, on one batch."""
    batch, batch_t = case.batches(workloads.BATCH)
    (x0, t, _), (x0_t, t_t, _) = batch, batch_t
    compare = functools.partial(row, dtype=case.dtype, kind="network")
    x_t, theirs = process.diffuse(case.schedule, *batch), reference.diffuse(case.tables, *batch_t)
    yield compare("diffuse", ours=x_t, theirs=theirs)
    eps, theirs = case.apply(case.params, x0, t), case.model(x0_t, t_t).detach()
    yield compare("network output", ours=eps, theirs=theirs)

    def loss(params: Any) -> jax.Array:
        denoise = functools.partial(case.apply, params)
        return process.denoising_loss(case.schedule, denoise, *batch)

    ours, grads = jax.jit(jax.value_and_grad(loss))(case.params)
    case.model.zero_grad()
    theirs = reference.loss_fn(case.model, case.tables, *batch_t)
    theirs.backward()
    yield compare("loss", ours=ours, theirs=theirs.detach())
    named = interop.to_torch(grads)
    for name, parameter in case.model.named_parameters():
        yield row(f"gradient {name}", case.dtype, named[name], parameter.grad, "gradient")


def adam_rows(dtype: str) -> Iterator[Row]:
    """All parameters after 1, 10 and 100 steps of Adam on the same batches, in several cases.

    Judged are all parameters of the cases in which, so far, every ReLU was open on both sides or on
    neither. The note says how far the others are apart, and how PyTorch in float32 fares against
    itself in float64.
    """
    cases = [adam_steps.run(Case(dtype, seed), ADAM_STEPS) for seed in range(CASES)]
    for steps, found in zip(ADAM_STEPS, zip(*cases, strict=True), strict=True):
        alike = [after for after in found if not after.parted]
        note = f"in {len(alike)} of {CASES} cases; where a ReLU parted, up to "
        note += _worst(after.relative for after in found if after.parted)
        if dtype == "float32":
            torch_alike = [after for after in found if not after.torch_parted]
            note += (
                f". PyTorch from its float64: {_worst(a.torch_relative for a in torch_alike)} in "
                f"{len(torch_alike)}, else up to "
                f"{_worst(a.torch_relative for a in found if a.torch_parted)}"
            )
        yield Row(
            f"parameters after {steps} Adam steps",
            dtype,
            max((after.absolute for after in alike), default=np.inf),
            max((after.relative for after in alike), default=np.inf),
            LIMITS[dtype]["adam"],
            note,
        )


def _worst(differences: Iterable[float]) -> str:
    """The largest."""
    return f"{max(differences, default=0.0):.0e}"


def trajectory_row(case: Case, trained: dict[str, np.ndarray]) -> Row:
    """All 1000 reverse steps of a trained network, from the same x_T with the same noises."""
    case.model.load_state_dict(
        {n: torch.from_numpy(v).to(case.torch_dtype) for n, v in trained.items()}
    )
    x_T, x_T_t = case.normal(SAMPLES, 2)
    noises, noises_t = case.normal(1000, SAMPLES, 2)
    denoise = functools.partial(case.apply, interop.from_torch(state_dict(case.model)))

    @jax.jit
    def draw(x_T: jax.Array, noises: jax.Array) -> jax.Array:
        key = jax.random.key(0)
        return sampling.sample(key, denoise, case.schedule, x_T, noises=noises, trajectory=True)

    ours = np.asarray(draw(x_T, noises), np.float64)
    theirs = np.asarray(
        reference.sample(case.model, case.tables, x_T_t, noises_t, trajectory=True), np.float64
    )
    parted = np.abs(ours - theirs).max(axis=(0, 2)) / theirs[-1].std()
    parts = np.quantile(parted, [0.5, 0.99, 0.999, 1.0])
    note = "of the spread: median {:.0e}, 99 % {:.0e}, 99.9 % {:.0e}, all {:.0e}".format(*parts)
    *_, most, every = parts
    worst = every if case.dtype == "float64" else most
    compared = row("1000-step trajectory", case.dtype, ours, theirs, "path", note)
    return compared._replace(relative=float(worst))


def parity(dtype: str, trained: dict[str, np.ndarray]) -> list[Row]:
    """Every row of one precision."""
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        rows, case = list(schedule_rows(dtype)), Case(dtype)
        return [*rows, *network_rows(case), *adam_rows(dtype), trajectory_row(case, trained)]


def format_rows(rows: list[Row]) -> str:
    """The table of differences."""
    lines = [f"{'quantity':<34}{'dtype':<9}{'absolute':>10}{'relative':>10}{'limit':>10}"]
    for r in rows:
        numbers = "".join(f"{x:>10.1e}" for x in (r.absolute, r.relative, r.limit))
        lines.append(f"{r.name:<34}{r.dtype:<9}{numbers}  {'ok' if r.holds else 'OFF':<4}{r.note}")
    return "\n".join(lines)


def main() -> int:
    """Print the tables; status 1 if a row is off."""
    args = parse_args(Args, description=__doc__)
    devices = use_devices(None)
    threads = workloads.share_cores(devices)
    if args.json:
        files.refuse_existing(args.json, args.overwrite)
    print(f"JAX on {len(devices)} {devices[0].platform} devices, PyTorch on {threads} threads")
    data = load_points("bicycle")
    trained = interop.to_torch(train_both.trained_params(data, 0, args.epochs)[0])
    rows = [r for dtype in ("float32", "float64") for r in parity(dtype, trained)]
    print(format_rows(rows))
    record: dict[str, Any] = {"parity": [r._asdict() | {"holds": r.holds} for r in rows]}
    alike = all(r.holds for r in rows)
    if not args.quick:
        from studies.speed import benchmark

        results = train_both.independently(data, args.seeds, args.epochs)
        print("\n" + train_both.format_statistics(results))
        found = train_both.differences(results)
        alike = alike and all(d.verdict != "OFF" for d in found.values())
        speed = benchmark.against_pytorch(data, quick=True)
        print("\n" + benchmark.format_speed(speed))
        record |= {
            "trained independently": results,
            "differences": {n: d._asdict() | {"verdict": d.verdict} for n, d in found.items()},
            "speed": speed,
        }
    if args.json:
        files.write_text(args.json, json.dumps(record, indent=2) + "\n")
        print(f"\nwritten: {args.json}")
    return 0 if alike else 1
