"""That PyTorch and this library do the same work: checked before the two are timed."""

import copy
import functools

import jax
import numpy as np
import optax
import torch

from ddpm_jax import interop
from ddpm_jax.diffusion import sampling, schedules
from ddpm_jax.training import steps
from studies import pytorch_reference as reference
from studies import workloads
from studies.side_by_side import Case, apart, state_dict, subtracted

LIMIT = 1e-4
"""Of the largest magnitude. Float32 has a unit of 1e-7, and sums of some hundred terms and a few
steps make some 1e-6 of it; a wrong factor, time or term makes 1e-2 and more."""
RATE, STEPS, POINTS = 1e-2, 50, 10_000  # the shapes of benchmark.py --quick: compiled once for both


def check(where: str = "cpu") -> dict[str, float]:
    """How far each version of PyTorch is from us after a training step and a short sampling.

    Both sides get the same weights, batch, x_T and noises. Raises RuntimeError above LIMIT.
    """
    with jax.default_matmul_precision("highest"):
        case = Case("float32")
        found = train_step(case, where) | sample(case, where)
    for name, difference in found.items():
        if not difference <= LIMIT:  # a NaN, too
            raise RuntimeError(
                f"{name} differs from ours by {difference:.1e} of the largest magnitude, more than "
                f"the {LIMIT:.0e} that rounding explains: to time them would compare unlike things"
            )
    return found


def train_step(case: Case, where: str) -> dict[str, float]:
    """After a step of Adam: all of its first moments, gradients that is, and the parameters.

    Its rate moves a parameter by a hundred limits. Of the parameters 99 % count: where a gradient
    is next to nothing, rounding alone decides which way a whole rate goes.
    """
    batch, batch_t = case.batches(workloads.BATCH)
    optimizer = steps.adam(RATE)
    state = steps.init_state(case.params, optimizer)
    step = jax.jit(functools.partial(steps.train_step, case.apply, optimizer, case.schedule))
    state, _ = step(state, steps.Batches(*batch))
    ours = interop.to_torch(state.params)
    moments = interop.to_torch(optax.tree_utils.tree_get(state.opt_state, "mu"))
    found = {}
    for name, version in workloads.torch_versions(where).items():
        model = copy.deepcopy(case.model).to(where)
        adam = torch.optim.Adam(model.parameters(), lr=RATE, fused=version.fused)
        inputs = (array.to(where) for array in batch_t)
        version.step(model, adam, workloads.moved(case.tables, where), *inputs)
        theirs = {n: adam.state[p]["exp_avg"].cpu().numpy() for n, p in model.named_parameters()}
        found[f"train step, {name}"] = max(
            apart(moments, theirs)[1], apart(ours, state_dict(model.cpu()))[0]
        )
    return found


def sample(case: Case, where: str) -> dict[str, float]:
    """All the points, after a few steps of the whole schedule."""
    schedule = subtracted(schedules.sigmoid(STEPS))
    short = reference.schedule_from_tables(schedule.betas, schedule.alpha_bars)
    (x_T, x_T_t), (noises, noises_t) = case.normal(POINTS, 2), case.normal(STEPS, POINTS, 2)
    denoise = functools.partial(case.apply, case.params)
    ours = sampling.sample(jax.random.key(0), denoise, schedule, x_T, noises=noises)
    found = {}
    for name, version in workloads.torch_versions(where).items():
        inputs = workloads.moved(short, where), x_T_t.to(where), noises_t.to(where)
        theirs = version.sample(copy.deepcopy(case.model).to(where), *inputs).cpu().numpy()
        found[f"sampling, {name}"] = apart({"x": np.asarray(ours)}, {"x": theirs})[1]
    return found
