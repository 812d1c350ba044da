"""The same tables, weights, batches, times and noises for PyTorch and for this library."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch

from ddpm_jax import interop
from ddpm_jax.diffusion import schedules
from studies import pytorch_reference as reference
from studies import workloads


class Case:
    """The same tables, weights, data, times and noises on both sides, in one precision."""

    def __init__(self, dtype: str, seed: int = 0) -> None:
        self.dtype, self.torch_dtype = dtype, getattr(torch, dtype)
        torch.manual_seed(seed)
        self.model = reference.Denoiser(dtype=self.torch_dtype)
        self.params = interop.from_torch(state_dict(self.model))
        self.schedule = subtracted(schedules.sigmoid(dtype=np.dtype(dtype)))
        self.tables = reference.schedule_from_tables(
            np.asarray(self.schedule.betas), np.asarray(self.schedule.alpha_bars), self.torch_dtype
        )
        self.rng = np.random.default_rng(seed)
        self.apply = workloads.network()[0]

    def normal(self, *shape: int) -> tuple[jax.Array, torch.Tensor]:
        """The same normal numbers for both."""
        array = self.rng.standard_normal(shape).astype(self.dtype)
        return jnp.asarray(array), torch.from_numpy(array)

    def batches(self, *shape: int) -> tuple[tuple[jax.Array, ...], tuple[torch.Tensor, ...]]:
        """The same x0, t and ε for both; the first two times are 0 and 999."""
        t = self.rng.integers(0, 1000, shape)
        t.flat[:2] = 0, 999
        (x0, x0_t), (eps, eps_t) = self.normal(*shape, 2), self.normal(*shape, 2)
        return (x0, jnp.asarray(t), eps), (x0_t, torch.from_numpy(t), eps_t)


def subtracted(schedule: schedules.Schedule) -> schedules.Schedule:
    """With 1 - ᾱ subtracted, as in the reference, though in float32 that loses digits."""
    return dataclasses.replace(
        schedule, alphas=1 - schedule.betas, one_minus_alpha_bars=1 - schedule.alpha_bars
    )


def state_dict(model: reference.Denoiser) -> dict[str, np.ndarray]:
    """The reference's weights as they are now."""
    return {n: v.numpy().copy() for n, v in model.state_dict().items()}


def flat(named: dict[str, np.ndarray]) -> np.ndarray:
    """All parameters in one vector."""
    return np.concatenate([named[name].ravel() for name in sorted(named)])


def apart(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> tuple[float, float]:
    """How far 99 % of the parameters, and all, are apart, in units of the largest."""
    off = np.abs(flat(ours) - flat(theirs)) / np.abs(flat(theirs)).max()
    return float(np.quantile(off, 0.99)), float(off.max())
