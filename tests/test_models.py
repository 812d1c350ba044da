"""The network against its formulas in NumPy, its initialisation against PyTorch's rule."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.stats import kstest

from ddpm_jax.models import Denoiser, sinusoid


def init(key, dim=2, dtype=jnp.float32, **fields):
    model = Denoiser(dim, **fields)
    x, t = jnp.zeros((1, dim), dtype), jnp.zeros((1,), jnp.int32)
    return model, jax.jit(model.init)(key, x, t)


def numpy_sinusoid(t, width):
    """Entry by entry, from the formula."""
    entries = np.empty((len(t), width))
    for i in range(width // 2):
        frequency = 10000 ** (-2 * i / width)
        entries[:, 2 * i] = np.sin(frequency * np.asarray(t, np.float64))
        entries[:, 2 * i + 1] = np.cos(frequency * np.asarray(t, np.float64))
    return entries


def numpy_denoiser(params, x, t, time_width, depth):
    """The original experiment's network in float64, from the same parameters."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def linear(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    def relu(x):
        return np.maximum(x, 0)

    x = np.asarray(x, np.float64)
    e = linear("time_1", relu(linear("time_0", numpy_sinusoid(t, time_width))))
    if "fourier" in params:
        phases = x @ params["fourier"]
        x = np.hstack([x, np.sin(phases), np.cos(phases)])
    for i in range(depth):
        x = relu(e + linear(f"hidden_{i}", x))
    return linear("out", x)


@pytest.mark.parametrize("width", [2, 50, 128])
def test_sinusoid_is_the_formula(width):
    t = jnp.arange(1000)
    # Angles up to 999 carry a rounding of frequency and product, 6e-8 each: 1.2e-4 in all.
    np.testing.assert_allclose(sinusoid(t, width), numpy_sinusoid(t, width), rtol=0, atol=1.3e-4)
    with jax.enable_x64(True):
        # The same for float64: 999 × 2.2e-16.
        np.testing.assert_allclose(
            sinusoid(t, width, jnp.float64), numpy_sinusoid(t, width), rtol=0, atol=3e-13
        )


def test_sinusoid_keeps_the_shape_of_t():
    grid = sinusoid(jnp.arange(6).reshape(2, 3), 50)
    np.testing.assert_array_equal(grid.reshape(6, 50), sinusoid(jnp.arange(6), 50))
    np.testing.assert_array_equal(sinusoid(jnp.array(4), 50), grid[1, 1])


@pytest.mark.parametrize(
    ("dim", "fields", "expected"),
    [
        (2, {}, 56_706),
        # Each coordinate more is a row of 128 going in and a column of 129 coming out.
        (1, {}, 56_706 - 257),
        (7, {}, 56_706 + 5 * 257),
        # 64 projections of 2 coordinates, and 128 rows more of the first layer.
        (2, {"fourier_features": 64}, 56_706 + 2 * 64 + 128 * 128),
        (2, {"depth": 4}, 56_706 + 128 * 128 + 128),
    ],
)
def test_number_of_parameters(dim, fields, expected, key):
    shapes = jax.eval_shape(lambda key: init(key, dim, **fields)[1], key)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize("dim", [1, 2, 3, 7])
@pytest.mark.parametrize("fields", [{}, {"fourier_features": 16}, {"depth": 1, "time_width": 4}])
def test_network_is_the_formula(dim, fields, key):
    t = jnp.array([0, 1, 17, 500, 999])
    with jax.enable_x64(True):
        model, variables = init(key, dim, jnp.float64, **fields)
        x = jax.random.normal(key, (5, dim), jnp.float64)
        output = jax.jit(model.apply)(variables, x, t)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float64")}
        assert output.dtype == np.float64
    expected = numpy_denoiser(variables["params"], x, t, model.time_width, model.depth)
    # Float64 sums of 128 products of order 0.1, and angles of 999 exact to 2e-13.
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fields", [{}, {"fourier_features": 16}])
def test_network_in_float32_is_the_formula_to_rounding(fields, key):
    model, variables = init(key, **fields)
    x, t = jax.random.normal(key, (100, 2)), jnp.arange(0, 1000, 10)
    output = model.apply(variables, x, t)
    expected = numpy_denoiser(variables["params"], x, t, model.time_width, model.depth)
    assert output.dtype == np.float32
    # The sinusoid is off by 1e-4 at most; layers of gain below 1 do not magnify that.
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_a_shared_time_equals_a_batch_of_it(shape, key):
    model, variables = init(key)
    x = jax.random.normal(key, (*shape, 2))
    shared = model.apply(variables, x, jnp.array(321))
    batched = model.apply(variables, x, jnp.full(shape, 321))
    assert shared.shape == x.shape
    # The embedding is a product with one row or with many: float32 sums in another order.
    np.testing.assert_allclose(shared, batched, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fourier_features", [0, 8])
def test_vmap_and_jit_change_nothing(fourier_features, key):
    model, variables = init(key, 3, fourier_features=fourier_features)
    x, t = jax.random.normal(key, (6, 3)), jnp.arange(6) * 150
    plain = model.apply(variables, x, t)
    for transformed in (jax.jit(model.apply), jax.vmap(model.apply, in_axes=(None, 0, 0))):
        # The same float32 sums, in another order.
        np.testing.assert_allclose(transformed(variables, x, t), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fourier_features", [0, 8])
def test_gradient_is_the_difference_quotient(fourier_features, key):
    with jax.enable_x64(True):
        model, variables = init(key, dtype=jnp.float64, fourier_features=fourier_features)
        x, t = jax.random.normal(key, (5, 2), jnp.float64), jnp.arange(5) * 200
        loss = jax.jit(lambda variables: jnp.mean(model.apply(variables, x, t) ** 2))
        # Rounding of 1e-16 over a step of 1e-6, along one random direction of all parameters.
        check_grads(loss, (variables,), order=1, modes=["rev"], rtol=1e-6, atol=1e-6, eps=1e-6)
        # The bias of every layer matters to the output, or it would not be trained.
        assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(jax.grad(loss)(variables)))


# --- initialisation ---


def as_uniform(kernel, bias):
    """p-values of kernel and bias against PyTorch's U(-1/√fan_in, 1/√fan_in)."""
    bound = kernel.shape[0] ** -0.5
    return [kstest(np.ravel(leaf) / bound, "uniform", (-1, 2)).pvalue for leaf in (kernel, bias)]


@pytest.mark.parametrize("fields", [{}, {"fourier_features": 64}])
@pytest.mark.parametrize("dim", [2, 7])
def test_kernels_and_biases_are_uniform_in_pytorchs_bounds(dim, fields, key):
    _, variables = init(key, dim, **fields)
    layers = {k: v for k, v in variables["params"].items() if k != "fourier"}
    for name, layer in layers.items():
        bound = layer["kernel"].shape[0] ** -0.5
        for leaf in layer.values():
            assert np.abs(leaf).max() <= bound
        # A right draw fails at 1e-4 once in 600 keys for 6 layers of 2; the key is fixed.
        assert min(as_uniform(**layer)) > 1e-4, name
    # Pooled, with the scale of each layer taken out: variance 1/3, known to 5 √(4/45 / n).
    pooled = np.concatenate(
        [
            np.ravel(leaf) * v["kernel"].shape[0] ** 0.5
            for v in layers.values()
            for leaf in v.values()
        ]
    )
    assert abs(pooled.mean()) < 5 * np.sqrt(1 / 3 / pooled.size)
    assert abs(pooled.var() - 1 / 3) < 5 * np.sqrt(4 / 45 / pooled.size)


def test_the_check_of_the_initialisation_refuses_flaxs_default(key):
    layer = nn.Dense(128).init(key, jnp.zeros((1, 128)))["params"]
    assert max(as_uniform(**layer)) < 1e-6


def test_layers_are_initialised_independently(key):
    _, variables = init(key)
    kernels = [np.ravel(variables["params"][f"hidden_{i}"]["kernel"]) for i in (1, 2)]
    # The correlation of n independent pairs has a standard error of 1/√n: five of that.
    assert abs(np.corrcoef(kernels)[0, 1]) < 5 / 128


@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_fourier_projections_are_normal_with_the_given_scale(scale, key):
    _, variables = init(key, fourier_features=1000, fourier_scale=scale)
    periods = np.ravel(variables["params"]["fourier"]) / (2 * np.pi)
    assert kstest(periods, "norm", (0, scale)).pvalue > 1e-4
