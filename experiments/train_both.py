"""The original recipe trained from scratch by each side, and how well each side's samples fit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytorch_reference as reference
import torch
import workloads

from ddpm_jax import metrics, models, sampling, schedules, training


def independently(data: np.ndarray, seeds: int, epochs: int) -> dict[str, list[dict]]:
    """Final loss and sample quality of each side trained on its own, seed by seed."""
    results: dict[str, list[dict]] = {"PyTorch": [], "JAX": []}
    for seed in range(seeds):
        for side, train in {"PyTorch": with_torch, "JAX": with_jax}.items():
            loss, samples = train(data, seed, epochs)
            results[side].append({"loss": loss} | metrics.quick(data, samples))
    return results


def with_torch(data: np.ndarray, seed: int, epochs: int) -> tuple[float, np.ndarray]:
    """The reference, trained by itself: last epoch's loss and 10,000 samples."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, tables = reference.Denoiser(), reference.sigmoid_schedule()
    points = torch.tensor(data, dtype=torch.float32)
    losses = reference.train(model, tables, points, epochs, generator=generator)
    x_T = torch.randn(10_000, 2, generator=generator)
    samples = reference.compiled_sample(model, tables, x_T, generator=generator)
    return losses[-1], np.asarray(samples)


def with_jax(data: np.ndarray, seed: int, epochs: int) -> tuple[float, np.ndarray]:
    """Ours, the same recipe: last epoch's loss and 10,000 samples."""
    params, loss, key_sample = trained_params(data, seed, epochs)
    draw = sampling.make_block_sampler(workloads.network()[0], schedules.sigmoid(), (1000, 2))
    return loss, np.asarray(draw(params, key_sample, 0, 10)).reshape(-1, 2)


def trained_params(data: np.ndarray, seed: int, epochs: int) -> tuple[Any, float, jax.Array]:
    """Our parameters and loss after so many epochs of the recipe, and a key to sample with."""
    key_init, key_order, key_noise, key_sample = jax.random.split(jax.random.key(seed), 4)
    apply, schedule, optimizer = workloads.network()[0], schedules.sigmoid(), training.adam(1e-4, 1)

    @jax.jit
    def epoch(state: training.TrainState, points: jax.Array, number: int) -> tuple:
        rows = training.epoch_order(key_order, number, len(data), workloads.BATCH)
        return training.train_epoch(key_noise, apply, optimizer, schedule, state, points, rows)

    example = jnp.zeros((1, 2)), jnp.zeros((1,), jnp.int32)
    params = models.Denoiser().init(key_init, *example)["params"]
    state, points = training.init_state(params, optimizer), jnp.asarray(data, jnp.float32)
    losses = np.zeros(1)
    for number in range(epochs):
        state, losses = epoch(state, points, number)
    return state.params, float(np.sum(losses) * workloads.BATCH / len(data)), key_sample


MOST_SIGMA = 4.0
"""Of Welch's t: with four seeds a side, equal recipes are farther apart once in a hundred times."""


def differences(results: dict[str, list[dict]]) -> dict[str, float]:
    """JAX's mean minus PyTorch's, in units of the difference's own standard error over seeds."""
    found = {}
    for name in results["JAX"][0]:
        a, b = (np.array([r[name] for r in results[side]]) for side in ("PyTorch", "JAX"))
        error = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
        found[name] = float((b.mean() - a.mean()) / error)
    return found


def format_statistics(results: dict[str, list[dict]]) -> str:
    """Mean and spread over seeds of each side, and whether they differ by more than chance."""
    lines = [f"{'trained independently':<34}{'PyTorch':>20}{'JAX':>20}{'difference':>14}"]
    for name, sigma in differences(results).items():
        a, b = (np.array([r[name] for r in results[side]]) for side in ("PyTorch", "JAX"))
        lines.append(
            f"{name.replace('_', ' '):<34}{a.mean():>11.4f} ± {a.std(ddof=1):.4f}"
            f"{b.mean():>11.4f} ± {b.std(ddof=1):.4f}{sigma:>8.1f} sigma  "
            f"{'ok' if abs(sigma) <= MOST_SIGMA else 'OFF'}"
        )
    return "\n".join(lines)
