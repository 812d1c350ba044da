"""What leaves for PyTorch, safetensors and jax.export comes back the same, or is refused."""

import hashlib
import importlib
import itertools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save_file

from ddpm_jax import interop
from ddpm_jax.diffusion import sampling, schedules
from ddpm_jax.errors import CheckpointError, ConfigError
from ddpm_jax.interop import from_torch, load_safetensors, save_safetensors, to_torch
from ddpm_jax.networks import denoiser
from ddpm_jax.quality import metrics
from fuzz import at_most, json_values
from golden.case import Case


def network(**fields):
    """A small network, and parameters for it that keep its layers' outputs of order 1."""
    model = denoiser.Denoiser(width=8, **fields)
    x, t = jnp.zeros((1, model.dim)), jnp.zeros((1,), jnp.int32)
    like = jax.eval_shape(model.init, jax.random.key(1), x, t)["params"]
    rng = np.random.default_rng(1)

    def draw(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0]), leaf.dtype)

    return model, jax.tree.map(draw, like)


def assert_same_tree(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# --- PyTorch ---


@pytest.mark.parametrize("fields", [{}, {"dim": 1}, {"dim": 8}, {"depth": 1}, {"time_width": 8}])
def test_there_and_back_is_exact(fields):
    _, params = network(**fields)
    assert_same_tree(from_torch(to_torch(params)), params)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_are_copied_exactly_and_weights_turned(dtype):
    state_dict = Case(dtype).state_dict()
    with jax.enable_x64(dtype == "float64"):
        params = from_torch(state_dict)
        back = to_torch(params)
    assert params["time_0"]["kernel"].shape == (50, 16)
    np.testing.assert_array_equal(
        params["hidden_1"]["kernel"], state_dict["layers.1.weight"].T, strict=True
    )
    assert list(back) == list(state_dict)  # in the order of the network's own parameters
    for name, array in state_dict.items():
        np.testing.assert_array_equal(back[name], array, strict=True)
        back[name][:] = array[:] = 0
    assert all(np.all(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(params))


@pytest.mark.usefixtures("x32")
def test_float64_is_not_rounded_in_silence():
    with pytest.raises(CheckpointError, match=r"embedding.linear1.weight is float64.*enable_x64"):
        from_torch(Case("float64").state_dict())


def without(name):
    return lambda state: state.pop(name)


def with_shape(name, *shape):
    return lambda state: state.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layers.1.bias"), r"layers.1.bias is missing and nothing foreign"),
        (without("out.weight"), r"out.weight is missing"),
        (lambda state: state.clear(), r"embedding.linear1.weight.*layers.0.weight.*is missing"),
        (with_shape("running_mean", 3), r"nothing is missing and running_mean foreign"),
        (with_shape("hidden_0.weight", 16, 2), r"nothing is missing and hidden_0.weight foreign"),
        (with_shape("layers.3.bias", 16), r"layers.3.weight is missing and nothing foreign"),
        (
            with_shape("layers.1.weight", 16, 17),
            r"layers.1.weight has shape \(16, 17\).*\(16, 16\)",
        ),
        (with_shape("layers.0.weight", 16, 3), r"layers.0.weight has shape \(16, 3\).*\(16, 2\)"),
        (with_shape("layers.0.weight", 2, 16), r"layers.0.weight has shape \(2, 16\)"),
        (with_shape("out.bias", 3), r"has shape"),
        (with_shape("out.bias", 2, 1), r"has shape"),
        (with_shape("out.bias"), r"has shape"),
        (with_shape("embedding.linear1.weight", 16), r"embedding.linear1.weight has shape \(16,\)"),
        (lambda state: state.update({"out.bias": np.zeros(2, int)}), r"out.bias holds int64"),
    ],
)
def test_a_foreign_state_dict_is_refused(change, message):
    state_dict = Case("float32").state_dict()
    change(state_dict)
    with pytest.raises(CheckpointError, match=message):
        from_torch(state_dict)


@pytest.mark.parametrize("fields", [{"tables": (5,)}, {"depth": 0}])
def test_parameters_without_a_place_in_pytorch_are_refused(fields):
    with pytest.raises(CheckpointError):
        to_torch(network(**fields)[1])


def test_tensors():
    torch = pytest.importorskip("torch")
    reference = importlib.import_module("studies.pytorch_reference")
    model = reference.Denoiser(width=16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    params = from_torch(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict({n: torch.from_numpy(a) for n, a in to_torch(params).items()})
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    for bad in (dict(model.named_parameters()), model.bfloat16().state_dict()):
        with pytest.raises(CheckpointError, match=r"pass model.cpu\(\).float\(\).state_dict\(\)"):
            from_torch(bad)


@pytest.mark.slow
def test_a_network_trained_in_pytorch_samples_as_well_in_jax():
    """And the way back: the same weights once more in PyTorch, after a round trip."""
    torch = pytest.importorskip("torch")
    reference = importlib.import_module("studies.pytorch_reference")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(2048, 1, generator=generator) * 2 * torch.pi
    ring = torch.cat([angles.cos(), angles.sin()], dim=1)
    model, tables = reference.Denoiser(width=64), reference.sigmoid_schedule(100)
    reference.train(model, tables, ring, epochs=20, lr=2e-3, generator=generator)

    def draw_torch(model, seed):
        generator = torch.Generator().manual_seed(seed)
        x_T = torch.randn(2000, 2, generator=generator)
        return reference.sample(model, tables, x_T, generator=generator).numpy()

    params = from_torch(model.state_dict())
    again = reference.Denoiser(width=64)
    again.load_state_dict({n: torch.from_numpy(a) for n, a in to_torch(params).items()})
    np.testing.assert_array_equal(draw_torch(again, 0), draw_torch(model, 0))

    def denoise(x, t):
        return denoiser.Denoiser(width=64).apply({"params": params}, x, t)

    @jax.jit
    def draw_jax(key):
        return sampling.sample(key, denoise, schedules.sigmoid(100), (2000, 2))

    theirs = [draw_torch(model, seed) for seed in range(1, 6)]
    ours = [np.asarray(draw_jax(jax.random.key(seed))) for seed in range(5)]
    among = [metrics.sliced_wasserstein(a, b) for a, b in itertools.pairwise(theirs)]
    across = [metrics.sliced_wasserstein(a, b) for a, b in zip(theirs, ours, strict=True)]
    quality = [[metrics.sliced_wasserstein(ring, x) for x in side] for side in (theirs, ours)]
    # Five seeds give a mean and its spread; four of its standard errors.
    assert np.mean(across) < np.mean(among) + 4 * np.std([*among, *across]) / np.sqrt(5)
    spread = np.std(quality, axis=1, ddof=1).max() * np.sqrt(2 / 5)
    assert abs(np.mean(quality[0]) - np.mean(quality[1])) < 4 * spread
    assert np.mean(quality) < 0.2  # N(0, I), which is no ring at all, has 0.38


# --- safetensors ---

CONFIG = {
    "dim": 2,
    "schedule": "sigmoid",
    "extent": 1.1,
    "tables": [5, 9],
    "note": "ε",
    "ema": None,
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("fields", [{}, {"dim": 3, "tables": (5,)}])
def test_safetensors_keep_parameters_and_configuration(path, fields):
    _, params = network(**fields)
    save_safetensors(path, params, CONFIG)
    loaded, config = load_safetensors(path)
    assert_same_tree(loaded, params)
    assert config == CONFIG


def test_safetensors_keep_arrays_whose_memory_lies_otherwise(path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    params = {"turned": {"kernel": array.T}, "backwards": array[:, ::-1], "scalar": np.float32(3)}
    save_safetensors(path, params, {})
    loaded, _ = load_safetensors(path)
    assert_same_tree(loaded, jax.tree.map(jnp.asarray, params))


def test_any_flipped_bit_of_a_file_is_noticed(path):
    save_safetensors(path, {"out": {"kernel": np.ones((2, 2), np.float32)}}, CONFIG)
    good = path.read_bytes()
    for place in range(len(good)):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"weights.safetensors"):
                load_safetensors(path)


def test_a_cut_or_missing_file_is_refused(path):
    save_safetensors(path, {"bias": np.ones(3, np.float32)}, CONFIG)
    good = path.read_bytes()
    for damaged in [*(good[:size] for size in range(len(good))), good + b"\0", b"not at all"]:
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_safetensors(path)
    path.unlink()
    for missing in (path, path.parent):
        with pytest.raises(CheckpointError):
            load_safetensors(missing)


@pytest.mark.usefixtures("x32")
def test_what_cannot_be_written_is_refused(path):
    with pytest.raises(ConfigError, match="JSON"):
        save_safetensors(path, {}, {"learning_rate": float("nan")})
    with pytest.raises(CheckpointError, match="dot"):
        save_safetensors(path, {"a.b": np.ones(1)}, {})
    assert not path.exists()
    save_safetensors(path, {"bias": np.ones(1)}, {})
    with pytest.raises(CheckpointError, match="float64"):
        load_safetensors(path)


def write_as_ours(path, tensors, text):
    """A file whose digest agrees with whatever it says."""
    save_file(tensors, path, {"config": text, "sha256": interop._digest(text, tensors)})


ONE = {"a": np.ones(1, np.float32)}


@pytest.mark.parametrize(
    ("tensors", "text", "what"),
    [
        (ONE, "[" * 100_000, "config is not JSON"),
        (ONE, "dim: 2", "config is not JSON"),
        (ONE, '{"extent": NaN}', "config is not JSON"),
        (ONE, '{"seed": ' + "1" * 5000 + "}", "config is not JSON"),
        (ONE, '["dim", 2]', "config is not an object of JSON but list"),
        (ONE, "null", "config is not an object of JSON but NoneType"),
        (ONE | {"a.b": np.ones(1, np.float32)}, "{}", "a is a parameter, and cannot hold a.b"),
        (ONE | {"a..b": np.ones(1, np.float32)}, "{}", "a is a parameter, and cannot hold a..b"),
        ({"a.b": np.array([1, np.nan], np.float32)}, "{}", "a.b: 1 of 2 numbers are not finite"),
        ({"a": np.array([np.inf], np.float16)}, "{}", "a: 1 of 1 numbers are not finite"),
    ],
)
def test_what_was_never_saved_is_refused_though_its_digest_agrees(path, tensors, text, what):
    write_as_ours(path, tensors, text)
    with pytest.raises(CheckpointError) as caught:
        load_safetensors(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert what in str(caught.value)


@given(
    tensors=st.dictionaries(
        st.text(".ab", max_size=4),
        arrays(
            st.sampled_from([np.dtype(t) for t in ("f2", "f4", "i4", "u1", "?")]),
            array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
        ),
        max_size=4,
    ),
    text=json_values.map(json.dumps) | st.text(max_size=20),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_with_a_digest_is_read_or_refused_by_name(path, tensors, text):
    write_as_ours(path, tensors, text)
    try:
        with at_most(10):
            loaded, config = load_safetensors(path)
    except CheckpointError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        return
    assert isinstance(config, dict)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded))


def test_a_pipe_for_a_file_does_not_block(path):
    os.mkfifo(path)
    with at_most(10), pytest.raises(CheckpointError, match=r"weights\.safetensors is a pipe"):
        load_safetensors(path)


def test_what_is_not_finite_does_not_leave_for_anywhere(path):
    with pytest.raises(CheckpointError, match=r"out\.bias: 1 of 2 numbers are not finite"):
        save_safetensors(path, {"out": {"bias": np.array([1, np.nan], np.float32)}}, {})
    assert not path.exists()
    _, params = network()
    state = to_torch(params)
    state["out.bias"][0] = np.inf
    with pytest.raises(CheckpointError, match=r"out\.bias: 1 of 2 numbers are not finite"):
        from_torch(state)


# --- jax.export ---


@pytest.fixture(scope="module")
def exported():
    model, params = network()
    schedule = schedules.respace(schedules.sigmoid(), 8)

    def denoise(x, t):
        return model.apply({"params": params}, x, t)

    program = interop.export_sampler(denoise, schedule, 2, sampling.SDE_DPMPP)
    return denoise, schedule, program, interop.load_sampler(program)


@pytest.mark.medium
@pytest.mark.parametrize("count", [1, 7, 300])
def test_exported_sampler_draws_what_the_library_draws(exported, count):
    denoise, schedule, _, draw = exported
    key, x_T = jax.random.key(3), jax.random.normal(jax.random.key(4), (count, 2))
    expected = sampling.sample(key, denoise, schedule, x_T, sampling.SDE_DPMPP)
    # Compiled on its own, the same float32 sums in another order, magnified by 1/√ᾱ_T = 150; the
    # farthest points, at some hundreds, also differ by some units in their last place, 6e-8.
    np.testing.assert_allclose(draw(key, x_T), expected, rtol=2e-6, atol=1e-4)
    assert np.all(draw(jax.random.key(5), x_T) != draw(key, x_T))


def test_exported_sampler_needs_only_jax(exported):
    _, _, program, draw = exported
    plain = jax.export.deserialize(bytearray(program))
    assert plain.platforms == ("cpu", "cuda", "tpu")
    key, x_T = jax.random.key(0), jnp.ones((3, 2), jnp.float32)
    np.testing.assert_array_equal(plain.call(jax.random.key_data(key), x_T), draw(key, x_T))


def test_a_damaged_program_is_refused(exported):
    program = exported[2]
    assert hashlib.sha256(program[:-32]).digest() == program[-32:]
    places = [*range(0, len(program), len(program) // 50), len(program) - 1]
    flips = [program[:i] + bytes([program[i] ^ 1]) + program[i + 1 :] for i in places]
    for damaged in [b"", program[:10], program[:-1], program + b"\0", *flips]:
        with pytest.raises(CheckpointError):
            interop.load_sampler(damaged)


@pytest.mark.parametrize(
    ("impl", "x_T"),
    [
        ("threefry2x32", jnp.ones((3, 1))),
        ("threefry2x32", jnp.ones((3, 2), jnp.float16)),
        ("rbg", jnp.ones((3, 2))),
    ],
)
def test_exported_sampler_says_what_it_takes(exported, impl, x_T):
    with pytest.raises(ConfigError, match=r"takes a threefry key and an x_T of float32\[batch,2\]"):
        exported[3](jax.random.key(0, impl=impl), x_T)
