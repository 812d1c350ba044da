"""Steps of Adam on both sides, and the ReLUs that part on the way: rows of compare_pytorch.py.

A sum that rounds to just above zero on one side and just below on the other opens a ReLU on one
side only. What follows is not rounding any more: Adam divides a gradient by its size, so a weight
that has hardly any other gradient moves a whole learning rate for that one point.
"""

import copy
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Bool, Float, Int

from ddpm_jax import interop
from ddpm_jax.diffusion import process
from ddpm_jax.networks import denoiser
from ddpm_jax.training import steps
from studies import pytorch_reference as reference
from studies import workloads
from studies.side_by_side import Case, apart, flat, state_dict

RATE = 1e-4


class After(NamedTuple):
    """All parameters of one case after some steps; differences in units of the largest."""

    absolute: float
    """Ours from PyTorch's, in units of 1."""
    relative: float
    parted: int
    """ReLUs, over steps and points, that are open on one of the two sides only."""
    torch_relative: float
    """PyTorch's from its own in float64, from the same weights on the same numbers."""
    torch_parted: int


def run(case: Case, when: tuple[int, ...]) -> list[After]:
    """Train both sides, and PyTorch in float64, on the same batches; compare after `when` steps."""
    batches, batches_t = case.batches(max(when), workloads.BATCH)
    optimizer, step, active = _ours()
    state = steps.init_state(case.params, optimizer)
    both = case.model, copy.deepcopy(case.model).double()
    tables = case.tables, reference.Schedule(*(table.double() for table in case.tables))
    torch_optimizers = [torch.optim.Adam(model.parameters(), lr=RATE) for model in both]
    found, parted, torch_parted = [], 0, 0
    for n in range(max(when)):
        batch = steps.Batches(*(part[n] for part in batches))
        x0, t, eps = (part[n] for part in batches_t)
        batch_t = (x0, t, eps), (x0.double(), t, eps.double())
        theirs, exact = (
            relus(model, reference.diffuse(table, *numbers), t)
            for model, table, numbers in zip(both, tables, batch_t, strict=True)
        )
        ours = active(state.params, process.diffuse(case.schedule, *batch[:3]), batch.t)
        parted += int((np.asarray(ours) != theirs).sum())
        torch_parted += int((theirs != exact).sum())
        state, _ = step(case.schedule, state, batch)
        for args in zip(both, torch_optimizers, tables, batch_t, strict=True):
            reference.train_step(*args[:3], *args[3])
        if n + 1 in when:
            mine = interop.to_torch(state.params)
            yours, truth = (state_dict(model) for model in both)
            absolute = float(np.abs(flat(mine) - flat(yours)).max())
            relative, torch_relative = apart(mine, yours)[1], apart(yours, truth)[1]
            found.append(After(absolute, relative, parted, torch_relative, torch_parted))
    return found


@functools.cache
def _ours() -> tuple[Any, Any, Any]:
    """Our optimizer, a step and the ReLUs of it, compiled once for all cases."""
    optimizer, module = steps.adam(RATE), denoiser.Denoiser(num_times=1000)

    def active(
        params: Any, x: Float[Array, "b 2"], t: Int[Array, "b"]
    ) -> Bool[Array, "b {4*module.width}"]:
        _, kept = module.apply({"params": params}, x, t, capture_intermediates=True)
        layers: dict[str, Any] = dict(kept["intermediates"])
        layers = {name: layers[name]["__call__"][0] for name in layers if name != "__call__"}
        e = layers["time_1"]
        sums = [layers["time_0"], *(e + layers[f"hidden_{i}"] for i in range(module.depth))]
        return jnp.concatenate(sums, axis=-1) > 0

    apply = workloads.network()[0]
    step = jax.jit(functools.partial(steps.train_step, apply, optimizer))
    return optimizer, step, jax.jit(active)


@torch.no_grad()
def relus(model: reference.Denoiser, x: torch.Tensor, t: torch.Tensor) -> np.ndarray:
    """Which ReLUs are open: [points, 4 width]."""
    embedding = model.embedding
    sums, e = [embedding.linear1(embedding.encode(t))], embedding(t)
    for layer in model.layers:
        sums.append(e + layer(x))
        x = torch.relu(sums[-1])
    return (torch.cat(sums, dim=-1) > 0).numpy()
