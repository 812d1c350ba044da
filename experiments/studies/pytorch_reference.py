"""The original experiment in PyTorch, the yardstick that the JAX version is compared with.

Times t run over 0..T-1, t = 0 is the least noisy, ᾱ_{-1} = 1. Equation numbers are those of Ho et
al. 2020, "Denoising Diffusion Probabilistic Models", arXiv 2006.11239. All is eager and in one
dtype, but for the `compiled_*` functions: the same algorithm, as fast as torch.compile makes it.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import tyro
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.optim import Adam, Optimizer
from tqdm import tqdm

Table = Float[Tensor, " T"]
Points = Float[Tensor, "n d"]
Times = Int[Tensor, "#n"]  # one for each point, or a single one for all
Embedding = Float[Tensor, "#n width"]
Denoise = Callable[[Points, Times], Points]


class Schedule(NamedTuple):
    """The tables β_t, α_t = 1 - β_t and ᾱ_t = ∏_{s≤t} α_s."""

    betas: Table
    alphas: Table
    alpha_bars: Table


def linear_schedule(num_steps: int = 1000, dtype: torch.dtype = torch.float32) -> Schedule:
    """β_t from 10⁻⁴ to 0.02 in equal steps (section 4)."""
    betas = torch.linspace(1e-4, 2e-2, num_steps, dtype=dtype)
    return Schedule(betas, 1 - betas, torch.cumprod(1 - betas, dim=0))


def sigmoid_schedule(
    num_steps: int = 1000, k: float = 10.0, dtype: torch.dtype = torch.float32
) -> Schedule:
    """ᾱ_t = σ(k - 2kt/T), β_t = 1 - ᾱ_t / ᾱ_{t-1}."""
    # As in the original, in one dtype all the way: near t = 0, ᾱ_t is a few float32 units below 1,
    # and for k = 10 that costs up to 11 % of β_t (at t = 2).
    alpha_bars = torch.sigmoid(k - 2 * k * torch.arange(num_steps, dtype=dtype) / num_steps)
    betas = 1 - alpha_bars / torch.cat([torch.ones(1, dtype=dtype), alpha_bars[:-1]])
    return Schedule(betas, 1 - betas, alpha_bars)


def schedule_from_tables(
    betas: ArrayLike, alpha_bars: ArrayLike, dtype: torch.dtype = torch.float32
) -> Schedule:
    """The schedule of given β_t and ᾱ_t, for comparisons on identical tables; α_t = 1 - β_t."""
    # torch.tensor copies: arrays that come from JAX are read-only.
    beta_t, alpha_bar_t = (torch.tensor(np.asarray(a), dtype=dtype) for a in (betas, alpha_bars))
    return Schedule(beta_t, 1 - beta_t, alpha_bar_t)


class TimeEmbedding(nn.Module):
    """The sinusoidal encoding of t through Linear, ReLU, Linear."""

    frequencies: Tensor

    def __init__(self, width: int = 128, encoding: int = 50, dtype: torch.dtype = torch.float32):
        super().__init__()
        exponents = -torch.arange(0, encoding, 2, dtype=torch.float64) / encoding
        self.register_buffer("frequencies", (10_000.0**exponents).to(dtype), persistent=False)
        self.linear1 = nn.Linear(encoding, width, dtype=dtype)
        self.linear2 = nn.Linear(width, width, dtype=dtype)

    def encode(self, t: Times) -> Embedding:
        """Entries 2i and 2i+1 are sin(w_i t) and cos(w_i t), w_i = 10000^(-2i/encoding)."""
        angles = t[:, None] * self.frequencies
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)

    def forward(self, t: Times) -> Embedding:
        """The embedding of each time."""
        return self.linear2(torch.relu(self.linear1(self.encode(t))))


class Denoiser(nn.Module):
    """ε_θ(x, t): e = embedding(t), three times x ← relu(e + Linear(x)), then Linear(x).

    Choose the dtype here: a later `.double()` would keep the frequencies' float32 rounding.
    """

    def __init__(self, dim: int = 2, width: int = 128, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.embedding = TimeEmbedding(width, dtype=dtype)
        self.layers = nn.ModuleList(nn.Linear(n, width, dtype=dtype) for n in (dim, width, width))
        self.out = nn.Linear(width, dim, dtype=dtype)

    def forward(self, x: Points, t: Times) -> Points:
        """The predicted noise in x."""
        return self.from_embedding(x, self.embedding(t))

    def from_embedding(self, x: Points, e: Embedding) -> Points:
        """The predicted noise in x, given the embedding of its times."""
        for layer in self.layers:
            x = torch.relu(e + layer(x))
        return self.out(x)


def diffuse(schedule: Schedule, x0: Points, t: Times, eps: Points) -> Points:
    """x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε, a draw from q(x_t | x_0) (eq. 4)."""
    alpha_bars = schedule.alpha_bars[t][:, None]
    return alpha_bars.sqrt() * x0 + (1 - alpha_bars).sqrt() * eps


def loss_fn(model: Denoise, schedule: Schedule, x0: Points, t: Times, eps: Points) -> Tensor:
    """The mean of (ε_θ(x_t, t) - ε)² over points and coordinates (eq. 14), a scalar."""
    return nn.functional.mse_loss(model(diffuse(schedule, x0, t, eps), t), eps)


def draw_epoch(
    schedule: Schedule, data: Points, batch_size: int = 64, generator: Generator | None = None
) -> tuple[Float[Tensor, "m b d"], Int[Tensor, "m b"], Float[Tensor, "m b d"]]:
    """An epoch's batches: points without replacement, the rest dropped; uniform t; normal ε."""
    random = partial(dict, generator=generator, device=data.device)
    order = torch.randperm(len(data), **random())
    x0 = data[order[: len(data) // batch_size * batch_size].view(-1, batch_size)]
    t = torch.randint(len(schedule.betas), x0.shape[:2], **random())
    return x0, t, torch.randn(x0.shape, **random(dtype=data.dtype))


def train_step(
    model: nn.Module, optimizer: Optimizer, schedule: Schedule, x0: Points, t: Times, eps: Points
) -> Tensor:
    """One step of the optimizer; returns the loss before it (algorithm 1)."""
    optimizer.zero_grad()
    loss = loss_fn(model, schedule, x0, t, eps)
    loss.backward()
    optimizer.step()
    return loss.detach()


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    schedule: Schedule,
    data: Points,
    batch_size: int = 64,
    generator: Generator | None = None,
    step: Callable[..., Tensor] = train_step,
) -> float:
    """One pass over the data; returns the sum of the batch losses times batch_size / N."""
    # Summed where the losses are: .item() at each step would make the host wait for the device.
    total = torch.zeros((), dtype=torch.float64, device=data.device)
    for x0, t, eps in zip(*draw_epoch(schedule, data, batch_size, generator), strict=True):
        total += step(model, optimizer, schedule, x0, t, eps)
    return total.item() * batch_size / len(data)


def train(
    model: Denoiser,
    schedule: Schedule,
    data: Points,
    epochs: int = 1000,
    lr: float = 1e-4,
    generator: Generator | None = None,
    compiled: bool = False,
) -> list[float]:
    """Trains the model in place with Adam on batches of 64; returns the loss of each epoch."""
    optimizer = Adam(model.parameters(), lr=lr, fused=compiled or None)
    run_epoch = compiled_train_epoch if compiled else train_epoch
    losses = []
    for _ in (bar := tqdm(range(epochs), unit="epoch")):
        losses.append(run_epoch(model, optimizer, schedule, data, generator=generator))
        bar.set_postfix(loss=f"{losses[-1]:.4f}")
    return losses


def ancestral_update(schedule: Schedule, x: Points, t: Times, eps: Points, z: Points) -> Points:
    """x_{t-1} = (x_t - (1 - α_t) / √(1 - ᾱ_t) ε) / √α_t + √β_t z (algorithm 2, line 4)."""
    betas, alphas, alpha_bars = (table[t][:, None] for table in schedule)
    return (x - (1 - alphas) / (1 - alpha_bars).sqrt() * eps) / alphas.sqrt() + betas.sqrt() * z


def reverse_step(schedule: Schedule, model: Denoise, x: Points, t: Times, z: Points) -> Points:
    """One step of the reverse process, from x_t to x_{t-1}."""
    return ancestral_update(schedule, x, t, model(x, t), z)


@torch.no_grad()
def sample(
    model: Denoise,
    schedule: Schedule,
    x_T: Points,
    noises: Float[Tensor, "T n d"] | None = None,
    generator: Generator | None = None,
    trajectory: bool = False,
    step: Callable[..., Points] = reverse_step,
) -> Points | Float[Tensor, "T+1 n d"]:
    """The reverse process for t = T-1..0 (algorithm 2); step t adds noises[t], or fresh noise.

    No noise is added at t = 0. A trajectory starts with x_T and ends with the samples.
    """
    x, states = x_T, [x_T]
    times = torch.arange(len(schedule.betas), device=x.device).split(1)
    for t in reversed(range(len(times))):
        if t == 0:
            z = torch.zeros_like(x)
        elif noises is not None:
            z = noises[t]
        else:
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = step(schedule, model, x, times[t], z)
        if trajectory:
            states.append(x)
    return torch.stack(states) if trajectory else x


@cache
def _compile(function, cuda_graphs):
    mode = "reduce-overhead" if cuda_graphs else "default"
    return torch.compile(function, fullgraph=True, dynamic=False, mode=mode)


def _grads_and_loss(model, schedule, x0, t, eps):
    def loss(parameters):
        return loss_fn(lambda *xt: functional_call(model, parameters, xt), schedule, x0, t, eps)

    # Not loss.backward(): autograd runs that on a thread of its own, on CPU with an OpenMP team of
    # its own, at twice the time of forward and backward in one graph.
    return grad_and_value(loss)(dict(model.named_parameters()))


@torch.no_grad()
def compiled_train_step(
    model: nn.Module, optimizer: Optimizer, *batch: Schedule | Tensor, cuda_graphs: bool = False
) -> Tensor:
    """As `train_step`, best with Adam(fused=True); CUDA graphs overwrite the loss at each call."""
    optimizer.zero_grad()
    torch.compiler.cudagraph_mark_step_begin()
    grads, loss = _compile(_grads_and_loss, cuda_graphs)(model, *batch)
    for parameter, grad in zip(model.parameters(), grads.values(), strict=True):
        parameter.grad = grad
    optimizer.step()
    return loss


def compiled_train_epoch(*args, cuda_graphs: bool = False, **kwargs) -> float:
    """As `train_epoch`."""
    return train_epoch(*args, step=partial(compiled_train_step, cuda_graphs=cuda_graphs), **kwargs)


def _hoisted_reverse_step(schedule, model, embeddings, x, t, z):
    return ancestral_update(schedule, x, t, model.from_embedding(x, embeddings[t]), z)


@torch.no_grad()
def compiled_sample(
    model: Denoiser, schedule: Schedule, x_T: Points, *args, cuda_graphs: bool = False, **kwargs
) -> Points | Float[Tensor, "T+1 n d"]:
    """As `sample`, with the embeddings of all T times computed before the loop."""
    embeddings = model.embedding(torch.arange(len(schedule.betas), device=x_T.device))
    compiled = _compile(_hoisted_reverse_step, cuda_graphs)

    def step(schedule, model, x, t, z):
        torch.compiler.cudagraph_mark_step_begin()
        x = compiled(schedule, model, embeddings, x, t, z)
        return x.clone() if cuda_graphs else x  # the next replay writes where x lies

    return sample(model, schedule, x_T, *args, step=step, **kwargs)


def main(
    data: Path = Path("data/bicycle.txt"),
    out: Path = Path("runs/pytorch_reference.safetensors"),
    epochs: int = 1000,
    schedule: Literal["sigmoid", "linear"] = "sigmoid",
    num_samples: int = 10_000,
    seed: int = 0,
    compiled: bool = False,
) -> None:
    """Trains on a text file of points; writes the weights to --out, samples beside it (.npy)."""
    points = torch.tensor(np.loadtxt(data, ndmin=2), dtype=torch.float32)
    if len(points) < 64 or not points.isfinite().all():
        raise ValueError(f"{data}: need at least 64 points (one batch), all finite")
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    tables = {"sigmoid": sigmoid_schedule, "linear": linear_schedule}[schedule]()
    model = Denoiser(points.shape[1])
    train(model, tables, points, epochs, generator=generator, compiled=compiled)
    x_T = torch.randn(num_samples, points.shape[1], generator=generator)
    samples = (compiled_sample if compiled else sample)(model, tables, x_T, generator=generator)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out)
    np.save(out.with_suffix(".npy"), samples.numpy())


if __name__ == "__main__":
    tyro.cli(main)
