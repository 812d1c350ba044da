"""What this library makes of the same inputs, and how far that is from the reference's outputs.

Each check returns its worst difference in units of what rounding allows: above 1, it has failed.
Every call goes through the module's attribute, so that a mutant put there is what is checked.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import interop
from ddpm_jax.diffusion import process, sampling, schedules
from ddpm_jax.networks import denoiser, encodings
from ddpm_jax.training import steps
from golden.case import SINUSOID_TIMES, Case

Golden = Mapping[str, np.ndarray]

# A float32 has a unit of 1.2e-7, a float64 of 2e-16; sums of some hundred terms and hundreds of
# steps multiply that. Differences are relative to the largest entry of the reference's array.
LIMITS = {
    "float32": {"network": 1e-6, "gradient": 1e-5, "adam": 1e-4, "path": 1e-3},
    "float64": dict.fromkeys(("network", "gradient", "adam", "path"), 1e-10),
}


def excess(case: Case, kind: str, ours, theirs: np.ndarray) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return np.inf
    return excess_of(np.abs(ours - theirs).max(), case, kind, theirs)


def excess_of(difference: float, case: Case, kind: str, scale: np.ndarray) -> float:
    return float(difference / (LIMITS[case.dtype][kind] * np.abs(scale).max()))


def make_schedule(case: Case, num_steps: int = 1000) -> schedules.Schedule:
    """Ours, with 1 - β and 1 - ᾱ subtracted as the reference has to, for it is given β and ᾱ.

    In float32 that alone is 4e-6 of x_t at t = 0; what is compared here is all that follows.
    """
    schedule = schedules.sigmoid(num_steps, dtype=np.dtype(case.dtype))
    if case.dtype == "float64":
        return schedule
    return dataclasses.replace(
        schedule,
        alphas=1 - schedule.betas,
        one_minus_alpha_bars=1 - schedule.alpha_bars,
    )


def to_jax(arrays):
    return [jnp.asarray(array) for array in arrays]


def make_params(case: Case):
    return interop.from_torch(case.state_dict())


def apply(params, x, t):
    width = params["out"]["kernel"].shape[0]
    return denoiser.Denoiser(width=width).apply({"params": params}, x, t)


def check_schedules(case: Case, golden: Golden) -> float:
    """Entry by entry: one unit of the dtype, and what the reference's 1 - ᾱ loses in float64."""
    worst = 0.0
    for name in ("linear", "sigmoid"):
        ours = getattr(schedules, name)(dtype=np.dtype(case.dtype))
        betas, alpha_bars = golden[f"{name} betas"], golden[f"{name} alpha_bars"]
        theirs = {
            "betas": betas,
            "alphas": 1 - betas,
            "alpha_bars": alpha_bars,
            "one_minus_alpha_bars": 1 - alpha_bars,
        }
        for leaf, exact in theirs.items():
            allowed = {"float32": 1.2e-7, "float64": 1e-10}[case.dtype] * exact + 4.5e-16
            off = np.abs(np.asarray(getattr(ours, leaf), np.float64) - exact)
            worst = max(worst, float(np.max(off / allowed)))
    return worst


def check_sinusoid(case: Case, golden: Golden) -> float:
    ours = encodings.sinusoid(jnp.array(SINUSOID_TIMES), 50, np.dtype(case.dtype))
    return excess(case, "network", ours, golden["sinusoid"])


def check_network(case: Case, golden: Golden) -> float:
    x0, t, _ = to_jax(case.batches("batch", case.batch))
    return excess(case, "network", apply(make_params(case), x0, t), golden["network"])


def check_diffuse(case: Case, golden: Golden) -> float:
    batch = to_jax(case.batches("batch", case.batch))
    x_t = process.diffuse(make_schedule(case), *batch)
    return excess(case, "network", x_t, golden["diffuse"])


def make_loss(case: Case):
    batch, schedule = to_jax(case.batches("batch", case.batch)), make_schedule(case)

    def loss(params):
        return process.denoising_loss(schedule, functools.partial(apply, params), *batch)

    return loss


def check_loss(case: Case, golden: Golden) -> float:
    return excess(case, "network", make_loss(case)(make_params(case)), golden["loss"])


def check_gradient(case: Case, golden: Golden) -> float:
    """Every leaf by itself."""
    leaves = interop.to_torch(jax.jit(jax.grad(make_loss(case)))(make_params(case)))
    return max(excess(case, "gradient", g, golden[f"gradient {n}"]) for n, g in leaves.items())


def check_adam(case: Case, golden: Golden) -> float:
    """The parameters after 1, 10 and 100 steps, in units of the distance gone.

    In float32, 99 % of them in units of the largest: a weight that has hardly any gradient moves as
    fast as any other once a ReLU opens for a single point, and rounding decides whether it does.
    """
    optimizer, schedule = steps.adam(1e-4, case.adam_steps[-1]), make_schedule(case)
    state, worst = steps.init_state(make_params(case), optimizer), 0.0
    start = flat_params(state.params)
    batches = case.batches("adam", case.adam_steps[-1], case.batch)

    @jax.jit
    def step(state, *batch):
        batch = steps.Batches(*batch)
        return steps.train_step(apply, optimizer, schedule, state, batch)[0]

    for n, batch in enumerate(zip(*batches, strict=True), start=1):
        state = step(state, *batch)
        if n in case.adam_steps:
            ours, theirs = flat_params(state.params), golden[f"adam {n}"]
            off = np.abs(ours - theirs)
            if case.dtype == "float64":
                worst = max(worst, excess_of(off.max(), case, "adam", theirs - start))
            else:
                worst = max(worst, excess_of(np.quantile(off, 0.99), case, "adam", theirs))
    return worst


def flat_params(params) -> np.ndarray:
    named = interop.to_torch(params)
    return np.concatenate([named[name].ravel() for name in sorted(named)])


def check_epoch(case: Case, golden: Golden) -> float:
    """The number of batches, and sum of losses x batch size / number of points."""
    order = steps.epoch_order(jax.random.key(0), 0, case.epoch_points, case.batch)
    if order.shape != golden["epoch t"].shape or len(np.unique(order)) != order.size:
        return np.inf
    optimizer = steps.adam(1e-4, 1)
    state = steps.init_state(make_params(case), optimizer)
    drawn = to_jax([golden[f"epoch {part}"] for part in ("x0", "t", "eps")])
    batches = steps.Batches(*drawn)
    _, losses = steps.train_steps(apply, optimizer, make_schedule(case), state, batches)
    ours = np.sum(losses) * case.batch / case.epoch_points
    return excess(case, "adam", ours, golden["epoch loss"])


def check_trajectory(case: Case, golden: Golden) -> float:
    """Of each point the largest distance on its way, in units of the samples' spread.

    In float32 one point of 1000 is let off: where a ReLU begins, two roundings can part.
    """
    x_T, noises = to_jax(case.reverse_inputs())
    schedule = schedules.sigmoid(case.reverse_steps, dtype=np.dtype(case.dtype))
    denoise = functools.partial(apply, make_params(case))

    @jax.jit
    def draw(x_T, noises):
        key = jax.random.key(0)
        return sampling.sample(key, denoise, schedule, x_T, noises=noises, trajectory=True)

    ours, theirs = draw(x_T, noises), golden["trajectory"]
    apart = np.abs(np.asarray(ours, np.float64) - theirs).max(axis=(0, 2)) / theirs[-1].std()
    part = {"float32": 0.999, "float64": 1.0}[case.dtype]
    return float(np.quantile(apart, part) / LIMITS[case.dtype]["path"])


def check_initialisation(case: Case, golden: Golden) -> float:
    """Spread and bound of every leaf over 16 keys, against as many draws of PyTorch's."""
    x, t = jnp.zeros((1, 2)), jnp.zeros((1,), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 16)
    drawn = [interop.to_torch(denoiser.Denoiser().init(key, x, t)["params"]) for key in keys]
    worst = 0.0
    for name in drawn[0]:
        bound, std, size = golden[f"initial {name}"]
        pooled = np.concatenate([state[name].ravel() for state in drawn]).astype(np.float64)
        # The spread of n uniform draws has a relative standard error of 0.45/√n: five of them. The
        # largest of n falls short of the bound by 1/n of it on average: by 20 once in 1e9.
        error = 0.45 * np.sqrt(1 / pooled.size + 1 / size)
        worst = max(worst, abs(pooled.std() / std - 1) / (5 * error))
        shortfall = 20 * (1 / pooled.size + 1 / size)
        worst = max(worst, abs(np.abs(pooled).max() / bound - 1) / shortfall)
    return worst


CHECKS: dict[str, Callable[[Case, Golden], float]] = {
    "schedules": check_schedules,
    "initialisation": check_initialisation,
    "sinusoid": check_sinusoid,
    "network": check_network,
    "diffuse": check_diffuse,
    "loss": check_loss,
    "gradient": check_gradient,
    "Adam": check_adam,
    "epoch": check_epoch,
    "trajectory": check_trajectory,
}


def worst_excess(name: str, case: Case, golden: Golden) -> float:
    with jax.enable_x64(case.dtype == "float64"), jax.default_matmul_precision("highest"):
        return CHECKS[name](case, golden)
