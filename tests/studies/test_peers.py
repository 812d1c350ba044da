"""The same schedules and the same steps as in diffusers, wherever the conventions allow.

Its tables are replaced by ours in float64, so that only the steps are compared. The denoiser is a
fixed linear map: what it is does not matter.
"""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.sampling import DDPM, DPMPP, SDE_DPMPP, ddim, sample

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its many dependencies deprecate is not ours to mend
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    DDPMScheduler, DDIMScheduler = diffusers.DDPMScheduler, diffusers.DDIMScheduler
    DPMSolver = diffusers.DPMSolverMultistepScheduler

# diffusers computes its timesteps from a NumPy array of one element, which NumPy 2.4 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("x64"),
]

torch.set_num_threads(1)  # pytest-xdist already uses every core
POINTS, STEPS = (8, 2), 1000
MATRIX = np.array([[0.5, 0.2], [-0.1, 0.6]])


def denoise(x, t):
    return x @ MATRIX * (0.4 + jnp.asarray(t, x.dtype) / 2500)


def denoise_torch(x, t):
    return x @ torch.tensor(MATRIX, dtype=x.dtype) * (0.4 + int(t) / 2500)


@pytest.fixture
def schedule():
    return schedules.linear(dtype=jnp.float64)


def with_our_tables(scheduler, schedule):
    scheduler.alphas_cumprod = torch.tensor(np.asarray(schedule.alpha_bars))
    return scheduler


def draws(num_steps):
    """x_T and the noise of each row of the schedule."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(POINTS), rng.standard_normal((num_steps, *POINTS))


def our_path(schedule, sampler, x_T, noises):
    args = jax.random.key(0), denoise, schedule, jnp.asarray(x_T), sampler
    return np.asarray(sample(*args, noises=jnp.asarray(noises), trajectory=True))


def their_path(scheduler, x_T, noises, dtype=torch.float64, **options):
    """Every x; the noise of a row goes to the step of the same rank, which runs downwards."""
    x = torch.tensor(x_T, dtype=dtype)
    states = [x]
    for t, z in zip(scheduler.timesteps, torch.tensor(noises, dtype=dtype).flip(0), strict=True):
        step = scheduler.step(denoise_torch(x, t), t, x, variance_noise=z, **options)
        x = step.prev_sample
        states.append(x)
    return torch.stack(states).numpy()


def assert_same_path(ours, theirs, tolerance):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


# The peer subtracts ᾱ from 1, which leaves 1e-12 of 1 - ᾱ_0 = 1e-4, in each of 1000 steps.
IN_FLOAT64 = 1e-8


@pytest.mark.parametrize(
    ("ours", "theirs", "units"),
    [
        (schedules.linear, "linear", 4),  # theirs is a float32 sum of start and multiple
        (schedules.cosine, "squaredcos_cap_v2", 1),
    ],
)
def test_betas(ours, theirs, units):
    betas = DDPMScheduler(beta_schedule=theirs).betas.double().numpy()
    np.testing.assert_allclose(ours(dtype=jnp.float64).betas, betas, rtol=units * 6e-8)


def test_the_sigmoid_of_diffusers_is_another_schedule():
    theirs = DDPMScheduler(beta_schedule="sigmoid").alphas_cumprod.numpy()
    assert np.abs(np.asarray(schedules.sigmoid().alpha_bars) - theirs).max() > 0.1


@pytest.mark.parametrize("kind", ["fixed_large", "fixed_small"])
def test_ancestral_sampling(kind, schedule):
    """All 1000 steps, the last one without noise; β_t is "fixed_large", β̃_t "fixed_small"."""
    scheduler = DDPMScheduler(variance_type=kind, clip_sample=False)
    with_our_tables(scheduler, schedule)
    x_T, _ = draws(STEPS)

    def generator():
        return torch.Generator().manual_seed(0)

    drawn, same = generator(), generator()
    noises = np.zeros((STEPS, *POINTS))
    x, states = torch.tensor(x_T), [torch.tensor(x_T)]
    for t in reversed(range(STEPS)):
        if t > 0:
            noises[t] = torch.randn(POINTS, generator=same, dtype=torch.float64).numpy()
        x = scheduler.step(denoise_torch(x, t), t, x, generator=drawn).prev_sample
        states.append(x)
    if kind == "fixed_small":
        schedule = dataclasses.replace(schedule, variances=schedule.posterior_variances)
    noises[0] = 1  # must not matter
    path = our_path(schedule, DDPM, x_T, noises)
    assert_same_path(path, torch.stack(states).numpy(), IN_FLOAT64)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim(eta, schedule):
    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    with_our_tables(scheduler, schedule).set_timesteps(50)
    x_T, noises = draws(50)
    ours = our_path(schedules.respace(schedule, 50, "time"), ddim(eta), x_T, noises)
    assert_same_path(ours, their_path(scheduler, x_T, noises, eta=eta), IN_FLOAT64)


@pytest.mark.parametrize("num_steps", [10, 20])  # its defaults change below 15
@pytest.mark.parametrize("final", [{}, {"lower_order_final": False}, {"euler_at_final": True}])
@pytest.mark.parametrize(
    ("sampler", "algorithm"), [(DPMPP, "dpmsolver++"), (SDE_DPMPP, "sde-dpmsolver++")]
)
def test_dpm_solver(sampler, algorithm, final, num_steps, schedule):
    """To zero noise the last step is of first order anyhow, whatever `final` says."""
    options = {"timestep_spacing": "trailing", "final_sigmas_type": "zero", **final}
    scheduler = DPMSolver(algorithm_type=algorithm, **options)
    with_our_tables(scheduler, schedule).set_timesteps(num_steps)
    x_T, noises = draws(num_steps)
    ours = our_path(schedules.respace(schedule, num_steps, "time"), sampler, x_T, noises)
    theirs = their_path(scheduler, x_T, noises, dtype=torch.float32)
    # It computes in float32, whose unit 1e-7 the first x̂0 multiplies by 1/√ᾱ_T = 160.
    assert_same_path(ours, theirs, 1e-4)


@pytest.mark.parametrize("num_steps", [1, 10, 20, 50, 1000, 15, 30])
def test_few_steps_are_trailing_ones(num_steps, schedule):
    scheduler = DPMSolver(timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    theirs = scheduler.timesteps.numpy()[::-1]
    ours = np.asarray(schedules.respace(schedule, num_steps, "time").t)
    assert ours[-1] == theirs[-1] == STEPS - 1
    # Where T is not a multiple, it rounds to the nearest, and we round up.
    assert np.abs(ours - theirs).max() <= (0 if STEPS % num_steps == 0 else 1)
