import numpy as np
import pytest

from reference import SCHEDULES, assert_close, column, f64, normal, ref, torch


@pytest.fixture
def gen():
    torch.manual_seed(0)
    return torch.Generator().manual_seed(0)


# The schedules


def test_linear_schedule():
    betas, alphas, alpha_bars = ref.linear_schedule(dtype=f64)
    expected = np.array([1e-4 + t * (2e-2 - 1e-4) / 999 for t in range(1000)])
    assert_close(betas, expected)
    assert_close(alphas, 1 - expected)
    assert_close(alpha_bars, np.exp(np.cumsum(np.log1p(-expected))))


@pytest.mark.parametrize("k", [5.0, 6.0, 10.0])
def test_sigmoid_schedule(k):
    betas, alphas, alpha_bars = ref.sigmoid_schedule(500, k, dtype=f64)
    expected = [1 / (1 + np.exp(2 * k * t / 500 - k)) for t in range(500)]
    assert_close(alpha_bars, expected)
    assert_close((1 - betas).cumprod(0), expected)
    assert_close(alphas, 1 - betas)


@pytest.mark.parametrize("make", SCHEDULES)
def test_float32_schedules_are_off_by_float32_rounding(make):
    for table, exact in zip(make(), make(dtype=f64), strict=True):
        assert table.dtype == torch.float32
        # One rounding of a number near 1 is 6e-8; cumprod makes up to 1000 of them, which
        # average out like a random walk.
        assert_close(table, exact, rtol=0, atol=6e-8 * 1000**0.5)


def test_schedule_from_read_only_tables():
    original = ref.sigmoid_schedule(dtype=f64)
    tables = [original.betas.numpy().copy(), original.alpha_bars.numpy().copy()]
    for table in tables:
        table.setflags(write=False)
    for table, expected in zip(ref.schedule_from_tables(*tables, f64), original, strict=True):
        assert torch.equal(table, expected)
    assert ref.schedule_from_tables(*tables).alphas.dtype == torch.float32


@pytest.mark.parametrize("make", SCHEDULES)
def test_the_forward_chain_adds_up_to_the_closed_form(make):
    schedule = make(dtype=f64)
    one, times = torch.ones(1000, 1, dtype=f64), torch.arange(1000)
    mean, var, means, variances = 1.0, 0.0, [], []
    for beta, alpha in zip(schedule.betas.tolist(), schedule.alphas.tolist(), strict=True):
        mean, var = alpha**0.5 * mean, alpha * var + beta  # x_t = √α_t x_{t-1} + √β_t z
        means.append([mean])
        variances.append([var])
    # A thousand roundings of 1e-16, and 1 - ᾱ_0 = 5e-5 has lost four digits.
    assert_close(ref.diffuse(schedule, one, times, 0 * one), means, rtol=1e-11)
    assert_close(ref.diffuse(schedule, 0 * one, times, one) ** 2, variances, rtol=1e-11)


# The network


def test_parameters_and_their_initialisation(gen):
    shapes = {
        "embedding.linear1": (128, 50),
        "embedding.linear2": (128, 128),
        "layers.0": (128, 2),
        "layers.1": (128, 128),
        "layers.2": (128, 128),
        "out": (2, 128),
    }
    state = ref.Denoiser().state_dict()
    assert sum(array.numel() for array in state.values()) == 56_706
    assert set(state) == {f"{name}.{kind}" for name in shapes for kind in ("weight", "bias")}
    for name, (fan_out, fan_in) in shapes.items():
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        assert weight.shape == (fan_out, fan_in)
        assert bias.shape == (fan_out,)
        assert torch.cat([weight.flatten(), bias]).abs().max() <= fan_in**-0.5
        # The greatest of 256 and more uniform draws is under 0.9 of the bound once in 5e11.
        assert weight.abs().max() > 0.9 * fan_in**-0.5


def test_encoding_interleaves_sines_and_cosines():
    t = np.array([0, 1, 7, 500, 999])
    expected = np.empty((5, 50))
    for i in range(25):
        expected[:, 2 * i] = np.sin(10_000 ** (-2 * i / 50) * t)
        expected[:, 2 * i + 1] = np.cos(10_000 ** (-2 * i / 50) * t)
    for dtype, atol in [(f64, 1e-12), (torch.float32, 1e-4)]:  # 999 times the rounding of w_i
        embedding = ref.TimeEmbedding(dtype=dtype)
        assert_close(embedding.encode(torch.tensor(t)), expected, rtol=0, atol=atol)


def test_the_network_in_numpy(gen):
    model = ref.Denoiser(dim=3, dtype=f64)
    x, t = normal(gen, 10, 3), torch.arange(0, 1000, 100)
    p = {name: value.numpy() for name, value in model.state_dict().items()}

    def linear(name, h):
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    h, e = x.numpy(), model.embedding.encode(t).numpy()
    e = linear("embedding.linear2", np.maximum(0, linear("embedding.linear1", e)))
    for i in range(3):
        h = np.maximum(0, e + linear(f"layers.{i}", h))
    with torch.no_grad():
        assert_close(model(x, t), linear("out", h))
        # One time for all points is that time for each.
        assert_close(model(x, t[3:4]), model(x, t[3:4].expand(10)))


# Training


def test_loss_of_denoisers_with_known_loss(gen):
    schedule = ref.linear_schedule(dtype=f64)
    x0, eps, t = normal(gen, 50, 2), normal(gen, 50, 2), torch.arange(0, 1000, 20)

    def know_all(x, t):
        alpha_bars = column(schedule.alpha_bars[t])
        return (x - alpha_bars.sqrt() * x0) / (1 - alpha_bars).sqrt()

    silent = ref.loss_fn(lambda x, t: 0 * x, schedule, x0, t, eps)
    assert silent.item() == pytest.approx(np.mean(np.square(eps.numpy())))
    assert ref.loss_fn(know_all, schedule, x0, t, eps).item() < 1e-20


def batch_of(gen, schedule, n=64):
    t = torch.randint(len(schedule.betas), (n,), generator=gen)
    return normal(gen, n, 2), t, normal(gen, n, 2)


def test_gradient_is_the_slope_of_the_loss(gen):
    schedule = ref.sigmoid_schedule(dtype=f64)
    model, batch = ref.Denoiser(dtype=f64), batch_of(gen, schedule)
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(ref.loss_fn(model, schedule, *batch), parameters)
    for parameter, slopes in zip(parameters, gradient, strict=True):
        direction, h = normal(gen, *parameter.shape), 1e-6
        with torch.no_grad():
            parameter += h * direction
            up = ref.loss_fn(model, schedule, *batch)
            parameter -= 2 * h * direction
            down = ref.loss_fn(model, schedule, *batch)
            parameter += h * direction
        # The difference of two losses of about 1, divided by 2e-6, has an error of about 1e-10; the
        # kinks of some of the 24,576 ReLUs may lie within h and cost h times a slope.
        slope = ((up - down) / (2 * h)).item()
        assert (slopes * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_train_step_is_adam(gen):
    schedule, model = ref.sigmoid_schedule(dtype=f64), ref.Denoiser(dtype=f64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    theta = [p.detach().numpy().copy() for p in model.parameters()]
    m, v = [0 * p for p in theta], [0 * p for p in theta]
    for n in range(1, 4):
        batch = batch_of(gen, schedule)
        loss = ref.loss_fn(model, schedule, *batch)
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        for i, g in enumerate(grad.numpy() for grad in gradient):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            theta[i] -= 1e-3 * (m[i] / (1 - 0.9**n)) / (np.sqrt(v[i] / (1 - 0.999**n)) + 1e-8)
        assert ref.train_step(model, optimizer, schedule, *batch).item() == loss.item()
    for parameter, expected in zip(model.parameters(), theta, strict=True):
        assert_close(parameter.detach(), expected)


def test_an_epoch_visits_points_once_and_drops_the_rest(gen):
    data = torch.arange(200.0)[:, None]
    schedule = ref.linear_schedule(10)
    seen = []
    for _ in range(20):
        x0, t, eps = ref.draw_epoch(schedule, data, generator=gen)
        assert x0.shape == eps.shape == (3, 64, 1)
        assert len(x0.unique()) == 192
        assert t.unique().tolist() == list(range(10))
        seen.append(x0.flatten())
    assert len(torch.cat(seen).unique()) == 200  # it is not always the same 8 that are dropped
    assert len({tuple(order.tolist()) for order in seen}) == 20


def test_epoch_loss_counts_dropped_points_as_zero(gen):
    model, data = ref.Denoiser(dtype=f64), normal(gen, 150, 2)
    torch.nn.init.zeros_(model.out.weight)
    torch.nn.init.zeros_(model.out.bias)  # so it predicts 0: its loss is the mean of ε²
    args = ref.linear_schedule(dtype=f64), data
    state = gen.get_state()
    eps = ref.draw_epoch(*args, generator=gen)[2]
    gen.set_state(state)
    loss = ref.train_epoch(model, torch.optim.SGD(model.parameters(), 0.0), *args, generator=gen)
    expected = sum((batch**2).mean().item() for batch in eps) * 64 / 150
    assert loss == pytest.approx(expected, rel=1e-12)


def test_training_learns_a_ring(gen):
    angles = torch.linspace(0, 2 * torch.pi, 1025)[:-1]
    ring = torch.stack([angles.cos(), angles.sin()], dim=1)
    model, schedule = ref.Denoiser(), ref.linear_schedule()
    losses = ref.train(model, schedule, ring, epochs=20, lr=1e-3, generator=gen)
    # Silence costs E ε² = 1. The ideal linear denoiser of any data of covariance I / 2 costs the
    # mean of ᾱ / (2 - ᾱ) = 0.22, and a network that has learnt anything comes near it.
    assert losses[0] > 2 * losses[-1]
    assert losses[-1] < 0.3


# Sampling
