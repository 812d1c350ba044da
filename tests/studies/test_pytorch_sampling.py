"""The PyTorch reference's sampler, its compiled variant and its script."""

import importlib

import numpy as np
import pytest

from reference import SCHEDULES, assert_close, column, f64, normal, ref, torch


@pytest.fixture
def gen():
    torch.manual_seed(0)
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("make", SCHEDULES)
def test_reverse_step_has_the_mean_of_the_posterior(gen, make):
    schedule = make(dtype=f64)
    t, x, eps = torch.arange(1, 1000), normal(gen, 999, 2), normal(gen, 999, 2)
    beta, alpha, alpha_bar = (column(table[t]) for table in schedule)
    previous = column(schedule.alpha_bars[t - 1])
    x0 = (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    mean = previous.sqrt() * beta / (1 - alpha_bar) * x0  # eq. 7
    mean += alpha.sqrt() * (1 - previous) / (1 - alpha_bar) * x
    step = ref.reverse_step(schedule, lambda x, t: eps, x, t, torch.zeros_like(x))
    # Near t = 0, 1 - ᾱ_t = 5e-5 has lost four digits; near t = T, x0 has size √(1/ᾱ) = 150.
    assert_close(step, mean, rtol=1e-10, atol=1e-10)
    noisy = ref.reverse_step(schedule, lambda x, t: eps, x, t, torch.ones_like(x))
    assert_close(noisy - step, beta.sqrt().expand(-1, 2))


def gaussian_denoiser(schedule, mu, var):
    """E[ε | x_t] for data N(mu, var I): √(1 - ᾱ) (x - √ᾱ mu) / (ᾱ var + 1 - ᾱ)."""

    def denoise(x, t):
        alpha_bar = column(schedule.alpha_bars[t])
        spread = alpha_bar * var + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mu) / spread

    return denoise


@pytest.mark.parametrize(
    ("num_steps", "mu", "var"), [(1, 0.3, 0.5), (50, 0.3, 0.5), (1000, -2.0, 0.01)]
)
def test_sampler_follows_mean_and_variance_of_gaussian_data(num_steps, mu, var):
    schedule = ref.linear_schedule(num_steps, dtype=f64)
    denoise = gaussian_denoiser(schedule, mu, var)
    mean, variance = 0.0, 1.0
    for t in reversed(range(num_steps)):
        beta, alpha, alpha_bar = (table[t].item() for table in schedule)
        gain = (1 - beta / (alpha_bar * var + 1 - alpha_bar)) / alpha**0.5
        shift = beta / (alpha_bar * var + 1 - alpha_bar) * alpha_bar**0.5 * mu / alpha**0.5
        mean, variance = gain * mean + shift, gain**2 * variance + beta * (t > 0)

    # The sampler is affine in x_T and the noises: its answers to unit impulses are its
    # coefficients.
    x_T, noises = torch.zeros(num_steps + 2, 1, dtype=f64), torch.zeros(num_steps, 1, 1, dtype=f64)
    noises = noises.expand(-1, num_steps + 2, 1).clone()
    x_T[-2] = 1
    noises[range(num_steps), range(num_steps)] = 1
    x = ref.sample(denoise, schedule, x_T, noises).flatten()
    assert_close(x[-1], mean)
    assert_close(((x - x[-1]) ** 2).sum(), variance)
    assert x[0] == x[-1]  # no noise at t = 0
    if num_steps == 1000:  # and the process ends at the data, but for its discretisation
        assert mean == pytest.approx(mu, rel=1e-3)
        assert variance == pytest.approx(var, rel=0.02)


def test_trajectory_and_generator(gen):
    schedule = ref.sigmoid_schedule(20, dtype=f64)
    model, x_T = ref.Denoiser(dtype=f64), normal(gen, 5, 2)

    def run(**options):
        generator = torch.Generator().manual_seed(1)
        return ref.sample(model, schedule, x_T, generator=generator, **options)

    states = run(trajectory=True)
    assert states.shape == (21, 5, 2)
    assert torch.equal(states[0], x_T)
    assert torch.equal(states[-1], run())


# torch.compile


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is:DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_compiled_is_eager(gen, dtype):
    schedule, data = ref.linear_schedule(20, dtype=dtype), normal(gen, 200, 2).to(dtype)
    results = []
    for run_epoch, sample, fused in [
        (ref.train_epoch, ref.sample, False),
        (ref.compiled_train_epoch, ref.compiled_sample, True),
    ]:
        torch.manual_seed(0)
        gen.manual_seed(0)
        model = ref.Denoiser(dtype=dtype)
        path = sample(model, schedule, data, generator=gen, trajectory=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
        losses = [run_epoch(model, optimizer, schedule, data, generator=gen)]
        with torch.compiler.set_stance("fail_on_recompile"):  # once compiled, for good
            losses.append(run_epoch(model, optimizer, schedule, data, generator=gen))
            sample(model, schedule, data, generator=gen)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        results.append((path, torch.tensor(losses, dtype=f64), weights))
    # Adam divides by the size of the gradient, so weights whose gradients are near 0 inherit a
    # larger share of their rounding: a hundredth of the six steps of 1e-3 in float32.
    atol = 6e-5 if dtype == torch.float32 else 1e-12
    for eager, compiled in zip(*results, strict=True):
        assert_close(compiled, eager, rtol=0, atol=atol)


# The command


def test_main_writes_weights_and_samples(tmp_path):
    safetensors = importlib.import_module("safetensors.torch")
    np.savetxt(tmp_path / "points.txt", np.random.default_rng(0).uniform(-1, 1, (130, 2)))
    for name in ("a", "b"):
        out = tmp_path / name / "weights.safetensors"
        ref.main(data=tmp_path / "points.txt", out=out, epochs=1, num_samples=7)
    model = ref.Denoiser()
    model.load_state_dict(safetensors.load_file(out))
    samples = np.load(out.with_suffix(".npy"), allow_pickle=False)
    assert samples.shape == (7, 2)
    np.testing.assert_array_equal(samples, np.load(tmp_path / "a/weights.npy"))  # the same seed


@pytest.mark.parametrize("rows", [["0 1"] * 63, ["0 1"] * 63 + ["nan 1"]])
def test_main_refuses_unusable_points(tmp_path, rows):
    (tmp_path / "points.txt").write_text("\n".join(rows))
    with pytest.raises(ValueError, match="at least 64 points"):
        ref.main(data=tmp_path / "points.txt", out=tmp_path / "out.safetensors")
