"""The original recipe trained from scratch by each side, and how well each side's samples fit."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from scipy.stats import ttest_ind

from ddpm_jax import drawing, interop
from ddpm_jax.diffusion import process, schedules
from ddpm_jax.networks import denoiser
from ddpm_jax.quality import metrics
from ddpm_jax.training import steps
from studies import pytorch_reference as reference
from studies import workloads

LOSS_CHUNKS, LOSS_POINTS = 64, 2**14


def independently(data: np.ndarray, seeds: int, epochs: int) -> dict[str, list[dict]]:
    """Final loss and sample quality of each side trained on its own, seed by seed.

    All weights are judged by one estimate of the loss, over the same 2²⁰ points, times and noises.
    """
    results: dict[str, list[dict]] = {"PyTorch": [], "JAX": []}
    for seed in range(seeds):
        for side, train in {"PyTorch": with_torch, "JAX": with_jax}.items():
            params, samples = train(data, seed, epochs)
            loss = float(final_loss(params, jnp.asarray(data, jnp.float32)))
            results[side].append({"loss": loss} | metrics.quick(data, samples))
    return results


def with_torch(data: np.ndarray, seed: int, epochs: int) -> tuple[Any, np.ndarray]:
    """The reference, trained by itself: its parameters, as ours, and 10,000 samples."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, tables = reference.Denoiser(), reference.sigmoid_schedule()
    points = torch.tensor(data, dtype=torch.float32)
    reference.train(model, tables, points, epochs, generator=generator)
    x_T = torch.randn(10_000, 2, generator=generator)
    samples = reference.compiled_sample(model, tables, x_T, generator=generator)
    return interop.from_torch(model.state_dict()), np.asarray(samples)


def with_jax(data: np.ndarray, seed: int, epochs: int) -> tuple[Any, np.ndarray]:
    """Ours, the same recipe: parameters and 10,000 samples."""
    params, key_sample = trained_params(data, seed, epochs)
    draw = drawing.make_block_sampler(workloads.network()[0], schedules.sigmoid(), (1000, 2))
    return params, np.asarray(draw(params, key_sample, 0, 10)).reshape(-1, 2)


@jax.jit
def final_loss(params: Any, points: jax.Array) -> jax.Array:
    """The mean loss over draws that are always the same."""
    denoise, schedule = functools.partial(workloads.network()[0], params), schedules.sigmoid()

    def chunk(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 3)
        x0 = points[jax.random.randint(keys[0], (LOSS_POINTS,), 0, len(points))]
        t = jax.random.randint(keys[1], (LOSS_POINTS,), 0, schedule.num_steps)
        eps = jax.random.normal(keys[2], x0.shape)
        return process.denoising_loss(schedule, denoise, x0, t, eps)

    return jax.lax.map(chunk, jax.random.split(jax.random.key(0), LOSS_CHUNKS)).mean()


def trained_params(data: np.ndarray, seed: int, epochs: int) -> tuple[Any, jax.Array]:
    """Our parameters after so many epochs of the recipe, and a key to sample with."""
    key_init, key_order, key_noise, key_sample = jax.random.split(jax.random.key(seed), 4)
    apply, schedule, optimizer = workloads.network()[0], schedules.sigmoid(), steps.adam(1e-4)

    @jax.jit
    def epoch(state: steps.TrainState, points: jax.Array, number: int) -> tuple:
        rows = steps.epoch_order(key_order, number, len(data), workloads.BATCH)
        return steps.train_epoch(key_noise, apply, optimizer, schedule, state, points, rows)

    example = jnp.zeros((1, 2)), jnp.zeros((1,), jnp.int32)
    params = denoiser.Denoiser().init(key_init, *example)["params"]
    state, points = steps.init_state(params, optimizer), jnp.asarray(data, jnp.float32)
    for number in range(epochs):
        state, _ = epoch(state, points, number)
    return state.params, key_sample


CHANCE = 0.01
"""Of Welch's t-test: equal recipes are farther apart once in a hundred times."""


class Difference(NamedTuple):
    """JAX's mean minus PyTorch's, in units of the spread over seeds, and Welch's p of it.

    The spread is the standard deviation over seeds, pooled. With eight seeds a side equal recipes
    exceed it in 6 % of cases; so a difference beyond it counts only if its p is below CHANCE.
    """

    spreads: float
    p: float

    @property
    def verdict(self) -> str:
        """Within the spread, "ok"; beyond it, "chance" if p does not exclude that, else "OFF"."""
        if abs(self.spreads) <= 1:
            return "ok"
        return "chance" if self.p >= CHANCE else "OFF"


def differences(results: dict[str, list[dict]]) -> dict[str, Difference]:
    """How far the two sides' means are apart, by quantity."""
    found = {}
    for name in results["JAX"][0]:
        a, b = (np.array([r[name] for r in results[side]]) for side in ("PyTorch", "JAX"))
        spread = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
        p = np.asarray(ttest_ind(a, b, equal_var=False))[1]
        found[name] = Difference(float((b.mean() - a.mean()) / spread), float(p))
    return found


def format_statistics(results: dict[str, list[dict]]) -> str:
    """Mean and spread over seeds of each side, and whether they differ by more than that."""
    seeds = f"trained independently, {len(results['JAX'])} seeds"
    lines = [f"{seeds:<34}{'PyTorch':>19}{'JAX':>19}{'difference / spread':>21}{'p':>8}"]
    for name, difference in differences(results).items():
        cells = ""
        for side in ("PyTorch", "JAX"):
            values = np.array([r[name] for r in results[side]])
            cells += f"{values.mean():>10.4f} ± {values.std(ddof=1):.4f}"
        lines.append(
            f"{name.replace('_', ' '):<34}{cells}{difference.spreads:>21.2f}"
            f"{difference.p:>8.2g}  {difference.verdict}"
        )
    return "\n".join(lines)
