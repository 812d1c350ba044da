"""Write the golden files: what the PyTorch reference makes of the inputs in case.py.

python tests/support/golden/make.py        needs torch, which the tests that read the files do not
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[2] / "experiments")]

from case import GOLDEN, SINUSOID_TIMES, Case  # noqa: E402

from studies import pytorch_reference as reference  # noqa: E402


def outputs(case: Case) -> dict[str, np.ndarray]:
    """All that is compared, by name."""
    return {
        **schedule_outputs(),
        **initialisation(),
        **network_outputs(case),
        **adam_outputs(case),
        **epoch_outputs(case),
        "trajectory": trajectory(case),
    }


def tables(dtype: str, num_steps: int = 1000) -> reference.Schedule:
    """The sigmoid schedule, rounded once from float64: float32 alone would lose 11 % of a β."""
    betas, _, alpha_bars = reference.sigmoid_schedule(num_steps, dtype=torch.float64)
    return reference.schedule_from_tables(betas, alpha_bars, getattr(torch, dtype))


def denoiser(case: Case) -> reference.Denoiser:
    """The reference's network with the case's weights."""
    model = reference.Denoiser(width=case.width, dtype=getattr(torch, case.dtype))
    model.load_state_dict({n: torch.from_numpy(w) for n, w in case.state_dict().items()})
    return model


def tensors(*arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(a) for a in arrays)


def schedule_outputs() -> dict[str, np.ndarray]:
    """β and ᾱ of both schedules, in float64 whatever the case's precision."""
    found = {}
    for name in ("linear", "sigmoid"):
        schedule = getattr(reference, f"{name}_schedule")(dtype=torch.float64)
        found[f"{name} betas"] = schedule.betas.numpy()
        found[f"{name} alpha_bars"] = schedule.alpha_bars.numpy()
    return found


def initialisation(count: int = 50) -> dict[str, np.ndarray]:
    """Largest magnitude, standard deviation and number of draws of each leaf, pooled over seeds."""
    torch.manual_seed(0)
    drawn = [reference.Denoiser().state_dict() for _ in range(count)]
    found = {}
    for name in drawn[0]:
        pooled = np.concatenate([state[name].numpy().ravel() for state in drawn]).astype(np.float64)
        found[f"initial {name}"] = np.array([np.abs(pooled).max(), pooled.std(), pooled.size])
    return found


def network_outputs(case: Case) -> dict[str, np.ndarray]:
    """The sinusoid, x_t, ε̂, the loss and each leaf of its gradient, on one batch."""
    model, schedule = denoiser(case), tables(case.dtype)
    x0, t, eps = tensors(*case.batches("batch", case.batch))
    loss = reference.loss_fn(model, schedule, x0, t, eps)
    loss.backward()
    gradients = {f"gradient {n}": p.grad.numpy() for n, p in model.named_parameters()}
    with torch.no_grad():
        return gradients | {
            "sinusoid": model.embedding.encode(torch.tensor(SINUSOID_TIMES)).numpy(),
            "diffuse": reference.diffuse(schedule, x0, t, eps).numpy(),
            "network": model(x0, t).numpy(),
            "loss": loss.numpy(),
        }


def adam_outputs(case: Case) -> dict[str, np.ndarray]:
    """All parameters in one vector, sorted by name, after so many steps of Adam at 1e-4."""
    model, schedule = denoiser(case), tables(case.dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    batches = tensors(*case.batches("adam", case.adam_steps[-1], case.batch))
    found = {}
    for step, batch in enumerate(zip(*batches, strict=True), start=1):
        reference.train_step(model, optimizer, schedule, *batch)
        if step in case.adam_steps:
            named = sorted(model.state_dict().items())
            found[f"adam {step}"] = np.concatenate([leaf.numpy().ravel() for _, leaf in named])
    return found


def epoch_outputs(case: Case) -> dict[str, np.ndarray]:
    """The loss that an epoch reports, and the batches of which it is made, as it drew them."""
    model, schedule = denoiser(case), tables(case.dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    (data,) = tensors(case.epoch_data())
    batches = []

    def step(model, optimizer, schedule, *batch):
        batches.append(batch)
        return reference.train_step(model, optimizer, schedule, *batch)

    generator = torch.Generator().manual_seed(case.seed)
    loss = reference.train_epoch(model, optimizer, schedule, data, case.batch, generator, step)
    x0, t, eps = (torch.stack(part).numpy() for part in zip(*batches, strict=True))
    return {"epoch loss": np.array(loss), "epoch x0": x0, "epoch t": t, "epoch eps": eps}


def trajectory(case: Case) -> np.ndarray:
    """Every x of the reverse process, from x_T to the samples."""
    schedule = tables(case.dtype, case.reverse_steps)
    inputs = tensors(*case.reverse_inputs())
    return reference.sample(denoiser(case), schedule, *inputs, trajectory=True).numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread would sum in another order
    for dtype, golden in GOLDEN.items():
        path = HERE / f"{dtype}.npz"
        np.savez_compressed(path, **outputs(golden))
        print(f"{path}: {path.stat().st_size:,} bytes")
