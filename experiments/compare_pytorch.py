"""Is it the same algorithm? PyTorch and JAX side by side, to the rounding error.

python experiments/compare_pytorch.py                 the table, in float32 and float64, in minutes
python experiments/compare_pytorch.py --json out.json
python experiments/compare_pytorch.py --quick         without training and timing both

Both sides get the same weights, batches, times and noises. A difference is the largest over all
entries; "relative" divides it by the largest magnitude of the quantity itself (for schedules, entry
by entry). Needs torch: see the README.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytorch_reference as reference
import torch
import tyro
import workloads
from common import load_data, run_main, use_devices

from ddpm_jax import diffusion, files, interop, metrics, models, sampling, schedules, training

BATCH, ADAM_STEPS, SAMPLES = 64, (1, 10, 100), 2000
# What rounding allows: float32 has a unit of 6e-8, float64 of 1e-16; sums of some hundred terms and
# hundreds of steps multiply it. A trajectory is judged by 99.9 % of its points, in units of the
# samples' spread: at the kink of a ReLU two roundings can part for good.
LIMITS = {
    "float32": {"network": 1e-6, "gradient": 1e-5, "adam": 1e-4, "path": 1e-3, "schedule": 1.2e-7},
    "float64": dict.fromkeys(("network", "gradient", "adam", "path", "schedule"), 1e-10),
}


@dataclass(frozen=True)
class Args:
    """What to compare, and where the numbers go."""

    json: Path | None = None
    """Write every row to this file, too."""
    quick: bool = False
    """Leave out the rows that take minutes: training both from scratch, and the speed of both."""
    seeds: int = 4
    """How many independent trainings of each side the statistical rows compare."""
    epochs: int = 10
    """Their epochs."""
    overwrite: bool = False
    """Replace the JSON file if it exists."""


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


def row(name: str, dtype: str, ours: Any, theirs: Any, kind: str, each: bool = False) -> Row:
    """Compare two arrays; `each` divides entry by entry."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    difference = np.abs(a - b)
    relative = (difference / (np.abs(b) if each else np.abs(b).max())).max()
    return Row(name, dtype, float(difference.max()), float(relative), LIMITS[dtype][kind])


class Case:
    """The same weights, data, times and noises on both sides, in one precision."""

    def __init__(self, dtype: str, seed: int = 0) -> None:
        self.dtype, self.torch_dtype = dtype, getattr(torch, dtype)
        torch.manual_seed(seed)
        self.model = reference.Denoiser(dtype=self.torch_dtype)
        self.params = interop.from_torch(self.state_dict())
        self.schedule = schedules.sigmoid(dtype=np.dtype(dtype))
        self.tables = reference.schedule_from_tables(
            np.asarray(self.schedule.betas), np.asarray(self.schedule.alpha_bars), self.torch_dtype
        )
        self.rng = np.random.default_rng(seed)
        network = models.Denoiser()
        self.apply = lambda p, x, t: network.apply({"params": p}, x, t)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The reference's weights as they are now."""
        return {n: v.detach().numpy().copy() for n, v in self.model.state_dict().items()}

    def normal(self, *shape: int) -> tuple[jax.Array, torch.Tensor]:
        """The same normal numbers for both."""
        return self.both(self.rng.standard_normal(shape).astype(self.dtype))

    def times(self, *shape: int) -> tuple[jax.Array, torch.Tensor]:
        """The same times for both."""
        return self.both(self.rng.integers(0, 1000, shape))

    def both(self, array: np.ndarray) -> tuple[jax.Array, torch.Tensor]:
        """One array for both."""
        return jnp.asarray(array), torch.from_numpy(array)


def schedule_rows(dtype: str) -> Iterator[Row]:
    """Both schedules against their float64 formulas: ours, and how far off the reference's are."""
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
        ours = dict(zip(exact, (s.betas, s.alpha_bars, s.one_minus_alpha_bars), strict=True))
        r = getattr(reference, f"{name}_schedule")(dtype=getattr(torch, dtype))
        theirs = dict(zip(exact, (r.betas, r.alpha_bars, 1 - r.alpha_bars), strict=True))
        for part, formula in exact.items():
            off = np.abs(np.asarray(theirs[part], np.float64) / formula - 1)
            note = f"reference off by {off.max():.1e} at t = {off.argmax()}"
            yield row(f"{name} {part}", dtype, ours[part], formula, "schedule", each=True)._replace(
                note=note
            )


def network_rows(case: Case) -> Iterator[Row]:
    """Diffuse, network, loss and every leaf of the gradient, on one batch."""
    x0, x0_t = case.normal(BATCH, 2)
    t, t_t = case.times(BATCH)
    eps, eps_t = case.normal(BATCH, 2)
    dtype = case.dtype
    x_t, x_t_t = (
        diffusion.diffuse(case.schedule, x0, t, eps),
        reference.diffuse(case.tables, x0_t, t_t, eps_t),
    )
    yield row("diffuse", dtype, x_t, x_t_t, "network")
    yield row(
        "network output",
        dtype,
        case.apply(case.params, x0, t),
        case.model(x0_t, t_t).detach(),
        "network",
    )

    def loss(params: Any) -> jax.Array:
        denoise = functools.partial(case.apply, params)
        return diffusion.denoising_loss(case.schedule, denoise, x0, t, eps)

    ours, grads = jax.jit(jax.value_and_grad(loss))(case.params)
    case.model.zero_grad()
    theirs = reference.loss_fn(case.model, case.tables, x0_t, t_t, eps_t)
    theirs.backward()
    yield row("loss", dtype, ours, theirs.detach(), "network")
    named = interop.to_torch(grads)
    for name, parameter in case.model.named_parameters():
        yield row(f"gradient {name}", dtype, named[name], parameter.grad, "gradient")


def adam_rows(case: Case) -> Iterator[Row]:
    """All parameters after 1, 10 and 100 steps of Adam on the same batches."""
    steps = max(ADAM_STEPS)
    x0, x0_t = case.normal(steps, BATCH, 2)
    t, t_t = case.times(steps, BATCH)
    eps, eps_t = case.normal(steps, BATCH, 2)
    optimizer = training.adam(1e-4, steps)
    state = training.init_state(case.params, optimizer)
    step = jax.jit(functools.partial(training.train_step, case.apply, optimizer, case.schedule))
    torch_optimizer = torch.optim.Adam(case.model.parameters(), lr=1e-4)
    for n in range(steps):
        state, _ = step(state, training.Batches(x0[n], t[n], eps[n]))
        reference.train_step(case.model, torch_optimizer, case.tables, x0_t[n], t_t[n], eps_t[n])
        if n + 1 in ADAM_STEPS:
            theirs = case.state_dict()
            ours = interop.to_torch(state.params)
            flat = [np.concatenate([d[k].ravel() for k in theirs]) for d in (ours, theirs)]
            yield row(f"parameters after {n + 1} Adam steps", case.dtype, *flat, "adam")


def trajectory_row(case: Case, trained: dict[str, np.ndarray]) -> Row:
    """All 1000 reverse steps of a trained network, from the same x_T with the same noises."""
    case.model.load_state_dict(
        {n: torch.from_numpy(v).to(case.torch_dtype) for n, v in trained.items()}
    )
    x_T, x_T_t = case.normal(SAMPLES, 2)
    noises, noises_t = case.normal(1000, SAMPLES, 2)
    denoise = functools.partial(case.apply, interop.from_torch(case.state_dict()))

    @jax.jit
    def draw(x_T: jax.Array, noises: jax.Array) -> jax.Array:
        key = jax.random.key(0)
        return sampling.sample(key, denoise, case.schedule, x_T, noises=noises, trajectory=True)

    ours = np.asarray(draw(x_T, noises), np.float64)
    theirs = np.asarray(
        reference.sample(case.model, case.tables, x_T_t, noises_t, trajectory=True), np.float64
    )
    parted = np.abs(ours - theirs).max(axis=(0, 2)) / theirs[-1].std()
    quantiles = np.quantile(parted, [0.5, 0.99, 0.999, 1.0])
    note = "of the spread: median {:.0e}, 99 % {:.0e}, 99.9 % {:.0e}, all {:.0e}".format(*quantiles)
    absolute = float(np.abs(ours - theirs).max())
    limit = LIMITS[case.dtype]["path"]
    worst = quantiles[-1] if case.dtype == "float64" else quantiles[2]
    return Row("1000-step trajectory", case.dtype, absolute, float(worst), limit, note)


def parity(dtype: str, trained: dict[str, np.ndarray]) -> list[Row]:
    """Every row of one precision."""
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        case = Case(dtype)
        rows = [*schedule_rows(dtype), *network_rows(case), *adam_rows(case)]
        return [*rows, trajectory_row(case, trained)]


def format_rows(rows: list[Row]) -> str:
    """The table of differences."""
    lines = [f"{'quantity':<34}{'dtype':<9}{'absolute':>10}{'relative':>10}{'limit':>10}"]
    for r in rows:
        verdict = "ok" if r.holds else "OFF"
        lines.append(
            f"{r.name:<34}{r.dtype:<9}{r.absolute:>10.1e}{r.relative:>10.1e}{r.limit:>10.1e}"
            f"  {verdict:<4}{r.note}"
        )
    return "\n".join(lines)


def independent_trainings(data: np.ndarray, seeds: int, epochs: int) -> dict[str, list[dict]]:
    """Final loss and sample quality of each side trained on its own, seed by seed."""
    results: dict[str, list[dict]] = {"PyTorch": [], "JAX": []}
    for seed in range(seeds):
        for side, train in {"PyTorch": train_torch, "JAX": train_jax}.items():
            loss, samples = train(data, seed, epochs)
            results[side].append({"loss": loss} | metrics.quick(data, samples))
    return results


def train_torch(data: np.ndarray, seed: int, epochs: int) -> tuple[float, np.ndarray]:
    """The reference, trained by itself: last epoch's loss and 10,000 samples."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, tables = reference.Denoiser(), reference.sigmoid_schedule()
    points = torch.tensor(data, dtype=torch.float32)
    losses = reference.train(model, tables, points, epochs, generator=generator)
    x_T = torch.randn(10_000, 2, generator=generator)
    samples = reference.compiled_sample(model, tables, x_T, generator=generator)
    return losses[-1], np.asarray(samples)


def train_jax(data: np.ndarray, seed: int, epochs: int) -> tuple[float, np.ndarray]:
    """Ours, the same recipe: last epoch's loss and 10,000 samples."""
    state, loss, key_sample = trained_state(data, seed, epochs)
    draw = sampling.make_block_sampler(workloads.network()[0], schedules.sigmoid(), (1000, 2))
    return loss, np.asarray(draw(state.params, key_sample, 0, 10)).reshape(-1, 2)


def trained_state(
    data: np.ndarray, seed: int, epochs: int
) -> tuple[training.TrainState, float, jax.Array]:
    """Our state and loss after some epochs of the original recipe, and a key to sample with."""
    key = jax.random.key(seed)
    key_init, key_order, key_noise, key_sample = jax.random.split(key, 4)
    apply, schedule = workloads.network()[0], schedules.sigmoid()
    optimizer = training.adam(1e-4, 1)
    params = models.Denoiser().init(key_init, jnp.zeros((1, 2)), jnp.zeros((1,), jnp.int32))[
        "params"
    ]

    @jax.jit
    def epoch(state: training.TrainState, points: jax.Array, number: int) -> tuple:
        rows = training.epoch_order(key_order, number, len(data), BATCH)
        return training.train_epoch(key_noise, apply, optimizer, schedule, state, points, rows)

    state, points = training.init_state(params, optimizer), jnp.asarray(data, jnp.float32)
    losses = np.zeros(1)
    for number in range(epochs):
        state, losses = epoch(state, points, number)
    return state, float(np.sum(losses) * BATCH / len(data)), key_sample


def format_statistics(results: dict[str, list[dict]]) -> str:
    """Mean and spread over seeds of each side, and the difference in units of its own error."""
    lines = [f"{'trained independently':<34}{'PyTorch':>20}{'JAX':>20}{'difference':>14}"]
    for name in results["JAX"][0]:
        a, b = (np.array([r[name] for r in results[side]]) for side in ("PyTorch", "JAX"))
        error = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
        lines.append(
            f"{name.replace('_', ' '):<34}{a.mean():>11.4f} ± {a.std(ddof=1):.4f}"
            f"{b.mean():>11.4f} ± {b.std(ddof=1):.4f}{(b.mean() - a.mean()) / error:>8.1f} sigma"
        )
    return "\n".join(lines)


def main() -> int:
    """Print the tables; status 1 if a row is off."""
    args = tyro.cli(Args, description=__doc__)
    use_devices(None)
    if args.json:
        files.refuse_existing(args.json, args.overwrite)
    data = load_data("bicycle", 0)
    trained = interop.to_torch(trained_state(data, 0, args.epochs)[0].params)
    rows = [r for dtype in ("float32", "float64") for r in parity(dtype, trained)]
    print(format_rows(rows))
    record: dict[str, Any] = {"parity": [r._asdict() | {"holds": r.holds} for r in rows]}
    if not args.quick:
        import benchmark

        results = independent_trainings(data, args.seeds, args.epochs)
        print("\n" + format_statistics(results))
        speed = benchmark.against_pytorch(data)
        print("\n" + benchmark.format_speed(speed))
        record |= {"trained independently": results, "speed": speed}
    if args.json:
        files.write_text(args.json, json.dumps(record, indent=2) + "\n")
        print(f"\nwritten: {args.json}")
    return 0 if all(r.holds for r in rows) else 1


if __name__ == "__main__":
    run_main(main)
