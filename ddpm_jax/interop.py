"""Weights and samplers that leave this library and come back: PyTorch, safetensors, jax.export.

Nothing here unpickles: a file from a stranger is numbers and text, or a program that JAX compiles.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Key
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ddpm_jax import files
from ddpm_jax.diffusion import Denoise
from ddpm_jax.errors import CheckpointError
from ddpm_jax.sampling import DDPM, Sampler, sample
from ddpm_jax.schedules import Schedule

_TORCH_NAMES = {"embedding.linear1": "time_0", "embedding.linear2": "time_1", "out": "out"}
_TORCH_LEAVES = {"weight": "kernel", "bias": "bias"}


def from_torch(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
    """Parameters of `models.Denoiser` from a PyTorch state_dict of the original network, exactly.

    Values are CPU tensors or arrays. A PyTorch weight is [out, in], a kernel here [in, out]. Raises
    CheckpointError for names or shapes that are not the network's.
    """
    params: dict[str, dict[str, Array]] = {}
    for name, value in state_dict.items():
        module, _, leaf = name.rpartition(".")
        ours = _TORCH_NAMES.get(module) or module.replace("layers.", "hidden_")
        array = np.asarray(value)
        if leaf not in _TORCH_LEAVES or array.ndim != (2 if leaf == "weight" else 1):
            raise CheckpointError(
                f"state_dict: {name} {array.shape} is not of the network's layers"
            )
        # A copy: the tensor may be trained on, in place.
        params.setdefault(ours, {})[_TORCH_LEAVES[leaf]] = jnp.array(array.T)
    depth = sum(name.startswith("hidden_") for name in params)
    wanted = {"time_0", "time_1", "out", *(f"hidden_{i}" for i in range(depth))}
    if params.keys() != wanted or any(
        layer.keys() != {"kernel", "bias"} for layer in params.values()
    ):
        raise CheckpointError(f"state_dict: layers {sorted(params)}, expected {sorted(wanted)}")
    return params


def to_torch(params: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: arrays for `torch.from_numpy` and `load_state_dict`, copied.

    Raises CheckpointError for parameters the original network has no place for.
    """
    modules = {ours: torch for torch, ours in _TORCH_NAMES.items()}
    state_dict = {}
    for layer, leaves in params.items():
        if layer == "fourier":
            raise CheckpointError("the original network has no Fourier features: nothing fits them")
        module = modules.get(layer) or layer.replace("hidden_", "layers.")
        for torch_leaf, leaf in _TORCH_LEAVES.items():
            state_dict[f"{module}.{torch_leaf}"] = np.array(leaves[leaf]).T.copy()
    return state_dict


def save_safetensors(
    path: str | Path, params: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Write parameters and the configuration, a JSON object, with the sha256 of the tensors."""
    tensors = {name: np.array(leaf) for name, leaf in flatten_dict(dict(params), sep=".").items()}
    metadata = {"config": json.dumps(dict(config)), "sha256": _digest(tensors)}
    with files.replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_safetensors(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and configuration as `save_safetensors` wrote them.

    Raises CheckpointError when the file is missing, is not of that kind, or any bit of its tensors
    is not what was saved.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config, digest = json.loads(metadata["config"]), metadata["sha256"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file of parameters with their configuration ({error})"
        ) from error
    if digest != _digest(tensors):
        raise CheckpointError(f"{path}: the tensors are not those that were saved: copy it again")
    params = unflatten_dict({tuple(n.split(".")): jnp.asarray(t) for n, t in tensors.items()})
    return params, config


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        sha.update(tensor.tobytes())
    return sha.hexdigest()


def export_sampler(
    denoise: Denoise,
    schedule: Schedule,
    dim: int,
    sampler: Sampler = DDPM,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> bytes:
    """A whole sampler as one portable program, for any number of points, weights included.

    It needs neither this library nor the network's code, only JAX: see `load_sampler`.
    """

    def draw(key_data: Array, x_T: Array) -> Array:
        return sample(jax.random.wrap_key_data(key_data), denoise, schedule, x_T, sampler)

    (batch,) = jax.export.symbolic_shape("batch")
    key_data = jax.ShapeDtypeStruct((2,), jnp.uint32)
    x_T = jax.ShapeDtypeStruct((batch, dim), schedule.betas.dtype)
    exported = jax.export.export(jax.jit(draw), platforms=platforms)(key_data, x_T)
    return bytes(exported.serialize())


def load_sampler(
    program: bytes,
) -> Callable[[Key[Array, ""], Float[Array, "n d"]], Float[Array, "n d"]]:
    """The sampler of `export_sampler` as a function `draw(key, x_T) -> points`."""
    call = jax.jit(jax.export.deserialize(bytearray(program)).call)
    return lambda key, x_T: call(jax.random.key_data(key), x_T)
