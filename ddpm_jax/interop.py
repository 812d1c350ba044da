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
from ddpm_jax.diffusion.process import Denoise
from ddpm_jax.diffusion.sampling import DDPM, Sampler, sample
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import CheckpointError, ConfigError

_LEAVES = {"kernel": "weight", "bias": "bias"}
_DIGEST_BYTES = hashlib.sha256().digest_size


def from_torch(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
    """Parameters of `models.Denoiser` from a PyTorch state_dict of the original network, exactly.

    Values are CPU tensors or arrays, of any dim, width and depth, and are copied. A PyTorch weight
    is [out, in], a kernel here [in, out]. Raises CheckpointError for names, shapes or dtypes that
    are not the network's, numbers that are not finite, or float64 that JAX would round.
    """
    arrays = {name: _to_numpy(name, value) for name, value in state_dict.items()}
    hidden = {name.rpartition(".")[0] for name in arrays if name.startswith("layers.")}
    modules = _modules(len(hidden))
    _check_state_dict(arrays, modules)
    return {
        layer: {
            ours: _to_jax(f"{module}.{theirs}", arrays[f"{module}.{theirs}"].T)
            for ours, theirs in _LEAVES.items()
        }
        for layer, module in modules.items()
    }


def to_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: arrays for `torch.from_numpy` and `load_state_dict`, copied.

    Raises CheckpointError for parameters the original network has no place for.
    """
    modules = _modules(sum(layer.startswith("hidden_") for layer in params))
    if params.keys() != modules.keys() or any(params[m].keys() != _LEAVES.keys() for m in modules):
        raise CheckpointError(
            f"the original network has layers {', '.join(modules)}, each of kernel and bias, and "
            f"no place for {', '.join(params)}: encodings of x cannot leave for PyTorch"
        )
    state_dict = {
        f"{module}.{theirs}": np.array(params[layer][ours]).T.copy()
        for layer, module in modules.items()
        for ours, theirs in _LEAVES.items()
    }
    _check_state_dict(state_dict, modules)
    return state_dict


def _modules(depth: int) -> dict[str, str]:
    """Each layer here, and the module that it is in the original network, in the latter's order."""
    hidden = {f"hidden_{i}": f"layers.{i}" for i in range(max(depth, 1))}
    return {"time_0": "embedding.linear1", "time_1": "embedding.linear2", **hidden, "out": "out"}


def _check_state_dict(arrays: Mapping[str, np.ndarray], modules: Mapping[str, str]) -> None:
    names = [f"{module}.{leaf}" for module in modules.values() for leaf in ("weight", "bias")]
    if arrays.keys() != set(names):
        missing = ", ".join(n for n in names if n not in arrays) or "nothing"
        foreign = ", ".join(n for n in arrays if n not in names) or "nothing"
        raise CheckpointError(
            f"state_dict: not of the original network, {missing} is missing and {foreign} foreign: "
            "give that of pytorch_reference.Denoiser, or rename its entries"
        )
    encoding = arrays["embedding.linear1.weight"].shape[1:]
    width, dim = (arrays[f"{module}.bias"].shape for module in ("embedding.linear1", "out"))
    inputs = {"embedding.linear1": encoding, "layers.0": dim}
    for module in modules.values():
        fan_in, fan_out = inputs.get(module, width), dim if module == "out" else width
        for leaf, shape in {"weight": fan_out + fan_in, "bias": fan_out}.items():
            found = arrays[f"{module}.{leaf}"].shape
            if found != shape or len(fan_in) != 1 or len(fan_out) != 1:
                raise CheckpointError(
                    f"state_dict: {module}.{leaf} has shape {found}, which does not fit the other "
                    f"layers: {shape} would, of a weight [out, in] and a bias [out]"
                )


def _to_numpy(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"state_dict: {name} cannot be read as an array ({error}): pass "
            "model.cpu().float().state_dict()"
        ) from error
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise CheckpointError(f"state_dict: {name} holds {array.dtype}, not floating-point numbers")
    _check_finite("state_dict", name, array)
    return array


def _to_jax(name: str, array: np.ndarray) -> Array:
    copied = jnp.array(array)  # never a view: a tensor may be trained on, in place
    if copied.dtype != array.dtype:
        raise CheckpointError(
            f"{name} is {array.dtype}, which JAX would round to {copied.dtype}: set "
            "jax_enable_x64, or convert it first"
        )
    return copied


def save_safetensors(
    path: str | Path, params: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Write parameters and the configuration, a JSON object, with the sha256 of both.

    Raises ConfigError for a configuration that is not JSON, CheckpointError for names with a dot
    and for numbers that are not finite.
    """
    flat = flatten_dict(dict(params))
    for path_of_leaf in flat:
        if any("." in name for name in path_of_leaf):
            raise CheckpointError(f"parameter {path_of_leaf}: a name must not contain a dot")
    try:
        text = json.dumps(dict(config), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration cannot be written as JSON: {error}") from error
    # safetensors writes the memory as it lies, in whatever order.
    tensors = {".".join(name): np.array(leaf, order="C") for name, leaf in flat.items()}
    for name, tensor in tensors.items():
        _check_finite(str(path), name, tensor)
    with files.replacing(path) as temporary:
        save_file(tensors, temporary, {"config": text, "sha256": _digest(text, tensors)})


def load_safetensors(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and configuration as `save_safetensors` wrote them.

    Raises CheckpointError when the file is missing, is not of that kind, or any bit of what it says
    is not what was saved; when it says what `save_safetensors` refuses to; and for float64 where
    JAX would round it.
    """
    try:
        files.open_regular(path).close()  # safetensors would wait for a pipe's other end
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text, digest = metadata["config"], metadata["sha256"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file of parameters with their configuration ({error})"
        ) from error
    if digest != _digest(text, tensors):
        raise CheckpointError(f"{path}: damaged, its sha256 is another: copy it again")
    config = _configuration(path, text)
    for name, tensor in tensors.items():
        for end in (end for end, letter in enumerate(name) if letter == "."):
            if name[:end] in tensors:
                raise CheckpointError(
                    f"{path}: {name[:end]} is a parameter, and cannot hold {name}, too; no "
                    "program of this kind wrote it"
                )
        _check_finite(str(path), name, tensor)
    leaves = {tuple(name.split(".")): _to_jax(name, t) for name, t in tensors.items()}
    return unflatten_dict(leaves), config


def _configuration(path: str | Path, text: str) -> dict[str, Any]:
    """The configuration in the metadata: a JSON object, as `save_safetensors` takes it."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        config = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its field config is not JSON ({error}); save the model again"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{path}: its field config is not an object of JSON but {type(config).__name__}; save "
            "the model again"
        )
    return config


def _check_finite(source: str, name: str, array: np.ndarray) -> None:
    if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all():
        bad = int(np.sum(~np.isfinite(array)))
        raise CheckpointError(
            f"{source}: {name}: {bad} of {array.size} numbers are not finite; save parameters from "
            "before the training diverged"
        )


def _digest(config: str, tensors: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"\n{name} {tensor.dtype} {tensor.shape}\n".encode())
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

    It needs neither this library nor the network's code, only JAX: see `load_sampler`, or call
    `jax.export.deserialize(bytearray(program)).call(jax.random.key_data(key), x_T)`. Its sha256 is
    appended, which JAX passes over.
    """

    def draw(key_data: Array, x_T: Array) -> Array:
        key = jax.random.wrap_key_data(key_data, impl="threefry2x32")
        return sample(key, denoise, schedule, x_T, sampler)

    (batch,) = jax.export.symbolic_shape("batch")
    key_data = jax.ShapeDtypeStruct((2,), jnp.uint32)
    x_T = jax.ShapeDtypeStruct((batch, dim), schedule.betas.dtype)
    exported = jax.export.export(jax.jit(draw), platforms=platforms)(key_data, x_T)
    program = bytes(exported.serialize())
    return program + hashlib.sha256(program).digest()


def load_sampler(
    program: bytes,
) -> Callable[[Key[Array, ""], Float[Array, "n d"]], Float[Array, "n d"]]:
    """The sampler of `export_sampler` as a function `draw(key, x_T) -> points`.

    Raises CheckpointError when a bit of the program is not what was exported. `draw` needs a key of
    JAX's default kind and points of the sampler's dimension and dtype: else it raises ConfigError.
    """
    body, digest = program[:-_DIGEST_BYTES], program[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise CheckpointError("the exported sampler is damaged: copy it again, or export it again")
    exported = jax.export.deserialize(bytearray(body))
    call, wanted = jax.jit(exported.call), exported.in_avals[1]

    def draw(key: Key[Array, ""], x_T: Float[Array, "n d"]) -> Float[Array, "n d"]:
        key_data = jax.random.key_data(key)
        if key_data.shape != (2,) or x_T.shape[1:] != wanted.shape[1:] or x_T.dtype != wanted.dtype:
            raise ConfigError(
                f"this sampler takes a threefry key and an x_T of {wanted.str_short()}, got "
                f"{key.dtype} and {x_T.dtype}{list(x_T.shape)}"
            )
        return call(key_data, x_T)

    return draw
