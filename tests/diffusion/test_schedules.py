"""Schedules against the papers' formulas in float64, and against identities that must hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.schedules import SCHEDULES, respace
from ddpm_jax.errors import ConfigError

T = 1000
NAMES = sorted(SCHEDULES)
every_schedule = pytest.mark.parametrize("name", NAMES)
every_spacing = pytest.mark.parametrize("spacing", ["time", "logsnr"])


def formulas(name):
    """β, ᾱ and 1 - ᾱ in float64, T = 1000: good to 1e-9, where float32 rounds to 6e-8."""
    t = np.arange(T)
    if name == "linear":
        betas = 1e-4 + t * (2e-2 - 1e-4) / (T - 1)
        alpha_bars = np.cumprod(1 - betas)
        return betas, alpha_bars, 1 - alpha_bars
    if name == "sigmoid":
        alpha_bars = 1 / (1 + np.exp(-(10 - 20 * t / T)))
        rest = 1 / (1 + np.exp(10 - 20 * t / T))
        # 1 - σ(a) / σ(b) = σ(-a) (1 - exp(a - b)); the first step comes from ᾱ = 1.
        betas = np.where(t == 0, rest, rest * (1 - np.exp(-20 / T)))
        return betas, alpha_bars, rest
    # Nichol & Dhariwal 2021, equation (17), and the cap on β in the text below it.
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    alpha_bars = np.cumprod(1 - betas)
    return betas, alpha_bars, 1 - alpha_bars


def leaves(schedule):
    """Every floating-point leaf by name, in float64."""
    names = {"betas", "alphas", "alpha_bars", "one_minus_alpha_bars", "variances"}
    names |= {"alpha_bars_prev", "one_minus_alpha_bars_prev"}
    return {name: np.asarray(getattr(schedule, name), np.float64) for name in sorted(names)}


def log_snr(schedule):
    return np.log(np.asarray(schedule.snr, np.float64))


@every_schedule
def test_every_float32_leaf_is_the_formula_rounded_once(name):
    betas, alpha_bars, rest = formulas(name)
    expected = {
        "betas": betas,
        "alphas": 1 - betas,
        "alpha_bars": alpha_bars,
        "one_minus_alpha_bars": rest,
        "alpha_bars_prev": np.append(1, alpha_bars[:-1]),
        "one_minus_alpha_bars_prev": np.append(0, rest[:-1]),
        "variances": np.append(0, betas[1:]),
    }
    for leaf, value in leaves(SCHEDULES[name]()).items():
        ulp = np.spacing(expected[leaf].astype(np.float32)).astype(np.float64)
        # One rounding is half an ulp; a hundredth more for the formulas' own error of 1e-9.
        assert np.all(np.abs(value - expected[leaf]) <= 0.51 * ulp), leaf


def test_naive_float32_is_far_off_where_ours_is_not():
    """Where the formulas, computed in float32 throughout, lose the most digits."""
    t = np.arange(T, dtype=np.float32)
    alpha_bars = 1 / (1 + np.exp(-(np.float32(10) - np.float32(0.02) * t)))
    naive_beta = 1 - alpha_bars[2] / alpha_bars[1]
    naive_rest = 1 - (1 - np.float32(1e-4))
    sigmoid_beta = formulas("sigmoid")[0][2]
    assert abs(naive_beta / sigmoid_beta - 1) > 1e-2
    assert abs(naive_rest / 1e-4 - 1) > 1e-4
    # One float32 rounding is a relative error of at most 6e-8.
    assert abs(float(schedules.sigmoid().betas[2]) / sigmoid_beta - 1) < 1e-7
    assert abs(float(schedules.linear().one_minus_alpha_bars[0]) / 1e-4 - 1) < 1e-7


@every_schedule
@pytest.mark.parametrize("num_steps", [1, 2, 7, 1000])
def test_identities_in_float64(name, num_steps):
    with jax.enable_x64(True):
        s = leaves(schedule := SCHEDULES[name](num_steps, dtype=jnp.float64))
        posterior, snr = np.asarray(schedule.posterior_variances), np.asarray(schedule.snr)
    # A product of 1000 factors may lose 1000 half-ulps of float64: 1e-13.
    close = {"rtol": 1e-12, "atol": 0}
    np.testing.assert_allclose(np.cumprod(1 - s["betas"]), s["alpha_bars"], **close)
    np.testing.assert_allclose(s["alphas"] + s["betas"], 1, **close)
    np.testing.assert_allclose(s["alpha_bars"] + s["one_minus_alpha_bars"], 1, **close)
    np.testing.assert_array_equal(s["alpha_bars_prev"], np.append(1, s["alpha_bars"][:-1]))
    np.testing.assert_array_equal(
        s["one_minus_alpha_bars_prev"], np.append(0, s["one_minus_alpha_bars"][:-1])
    )
    np.testing.assert_array_equal(s["variances"], np.append(0, s["betas"][1:]))
    np.testing.assert_array_equal(schedule.t, np.arange(num_steps))
    np.testing.assert_allclose(snr, s["alpha_bars"] / s["one_minus_alpha_bars"], **close)
    np.testing.assert_allclose(
        posterior,
        s["betas"] * (s["one_minus_alpha_bars_prev"] / s["one_minus_alpha_bars"]),
        **close,
    )
    assert posterior[0] == 0
    assert np.all(np.diff(s["alpha_bars"]) < 0)
    assert np.all(np.diff(snr) < 0)
    assert np.all((s["betas"] > 0) & (s["betas"] < 1))


@pytest.mark.parametrize("k", [0.5, 5.0, 10.0, 30.0])
def test_sigmoid_is_symmetric_about_the_middle(k):
    with jax.enable_x64(True):
        alpha_bars = np.asarray(schedules.sigmoid(T, k, dtype=jnp.float64).alpha_bars)
    # σ(-a) = 1 - σ(a), to a rounding of numbers below 1.
    np.testing.assert_allclose(alpha_bars[1:] + alpha_bars[:0:-1], 1, rtol=0, atol=1e-15)
    assert alpha_bars[T // 2] == 0.5


@given(k=st.floats(0.01, 40), num_steps=st.integers(2, 50))
@settings(deadline=None, max_examples=50)
def test_sigmoid_betas_have_a_closed_form(k, num_steps):
    s = leaves(schedules.sigmoid(num_steps, k))
    step = -np.expm1(-2 * k / num_steps)
    expected = s["one_minus_alpha_bars"][1:] * step
    # Both sides are float32 numbers, rounded once each: two half-ulps of at most 6e-8.
    np.testing.assert_allclose(s["betas"][1:], expected, rtol=1.25e-7)


@given(betas=st.lists(st.floats(1e-6, 0.5), min_size=30, max_size=30))
@settings(deadline=None, max_examples=50)
def test_from_betas_keeps_the_betas(betas):
    schedule = schedules.from_betas(np.array(betas))
    # Half an ulp of float32, at most 6e-8, and roundings of log ᾱ > -21 in float64 beside β = 1e-6.
    np.testing.assert_allclose(schedule.betas, betas, rtol=7e-8)


@every_spacing
@every_schedule
def test_respace_for_every_number_of_steps(name, spacing):
    total = 37
    with jax.enable_x64(True):
        full = SCHEDULES[name](total, dtype=jnp.float64)
        alpha_bars = np.asarray(full.alpha_bars)
        for num_steps in range(1, total + 1):
            schedule = respace(full, num_steps, spacing)
            s, t = leaves(schedule), np.asarray(schedule.t)
            assert schedule.num_steps == num_steps
            assert t[0] >= 0
            assert t[-1] == total - 1
            assert np.all(np.diff(t) > 0)
            assert s["alpha_bars_prev"][0] == 1
            assert s["one_minus_alpha_bars_prev"][0] == 0
            assert s["variances"][0] == 0
            # 37 roundings of float64; those of β itself are absolute, as it may be close to 1.
            ratios = alpha_bars[t] / np.append(1, alpha_bars[t[:-1]])
            np.testing.assert_allclose(s["alpha_bars"], alpha_bars[t], rtol=1e-13)
            np.testing.assert_allclose(np.cumprod(s["alphas"]), alpha_bars[t], rtol=1e-13)
            np.testing.assert_allclose(1 - s["betas"], ratios, rtol=0, atol=1e-14)


@every_spacing
@every_schedule
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_respace_to_all_steps_changes_nothing(name, spacing, dtype):
    with jax.enable_x64(dtype == "float64"):
        full = SCHEDULES[name](T, dtype=dtype)
        again = respace(full, T, spacing)
    assert again.betas.dtype == dtype
    np.testing.assert_array_equal(again.t, full.t)
    # log ᾱ is a sum of T logarithms whose roundings, of 1/2 ulp, add up at random: √T ulps at most.
    tolerance = np.sqrt(T) * np.finfo(dtype).eps
    for leaf, value in leaves(again).items():
        np.testing.assert_allclose(value, leaves(full)[leaf], rtol=tolerance, err_msg=leaf)


@every_schedule
@pytest.mark.parametrize("num_steps", [1, 3, 20, 50, 999])
def test_time_spacing_is_even_in_time(name, num_steps):
    gaps = np.diff(np.asarray(respace(SCHEDULES[name](), num_steps, "time").t), prepend=-1)
    assert gaps.sum() == T
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("name", ["linear", "sigmoid"])
@pytest.mark.parametrize("num_steps", [1, 3, 20])
def test_logsnr_spacing_is_even_in_logsnr(name, num_steps):
    full = SCHEDULES[name]()
    rows = np.asarray(respace(full, num_steps, "logsnr").t)
    curve = log_snr(full)
    targets = np.linspace(curve[0], curve[-1], num_steps + 1)[1:]
    # So few targets that none compete for a row: the nearest row has them between its neighbours.
    before, after = curve[rows - 1], curve[np.minimum(rows + 1, T - 1)]
    assert np.all((targets <= before) & (targets >= after))


def test_respacing_twice_keeps_the_original_times():
    twice = respace(respace(schedules.linear(), 100, "time"), 10, "time")
    np.testing.assert_array_equal(twice.t, np.arange(1, 11) * 100 - 1)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *[("linear", (0,)), ("sigmoid", (-1,)), ("cosine", (0,))],
        *[("linear", (10, low, 0.1)) for low in (0.0, -0.1, 0.2, NAN, 1e-50)],
        *[("linear", (10, 0.1, high)) for high in (1.0, INF, NAN)],
        ("linear", (1000, 0.9, 0.9)),
        *[("sigmoid", (10, k)) for k in (0.0, -10.0, NAN, INF, 1000.0, 1e308, 1e-300)],
        *[("cosine", (10, offset)) for offset in (0.0, -0.1, 1.0, NAN, INF, 1e20)],
        *[("cosine", (10, 0.008, beta_max)) for beta_max in (0.0, 1.0, NAN)],
    ],
)
def test_bad_arguments_are_config_errors(name, arguments):
    with pytest.raises(ConfigError):
        SCHEDULES[name](*arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "betas"),
    [
        ("linear", (3, 0.25, 0.25), [0.25, 0.25, 0.25]),
        ("linear", (1, 0.25, 0.5), [0.25]),
        # β_0 = 1 - σ(k); and one step of the cosine's is capped.
        ("sigmoid", (1, 1.0), [1 / (1 + np.e)]),
        ("cosine", (1, 0.5, 0.125), [0.125]),
    ],
)
def test_the_ends_of_what_is_allowed_are_allowed(name, arguments, betas):
    # Rounded once to float32.
    np.testing.assert_allclose(SCHEDULES[name](*arguments).betas, betas, rtol=1e-7)


@pytest.mark.parametrize("betas", [[], [0.1, 0.0], [0.1, 1.0], [0.1, NAN], [-0.1]])
def test_bad_betas_are_config_errors(betas):
    with pytest.raises(ConfigError):
        schedules.from_betas(np.array(betas))


@pytest.mark.parametrize("arguments", [(0,), (-1,), (11,), (5, "quadratic")])
def test_bad_respacings_are_config_errors(arguments):
    with pytest.raises(ConfigError):
        respace(schedules.linear(10), *arguments)


def test_underflow_names_the_array_the_dtype_and_the_time():
    with pytest.raises(ConfigError, match=r"betas .* float32 at t = 0"):
        schedules.sigmoid(10, 110.0)
    with pytest.raises(ConfigError, match=r"alpha_bars .* float32 at t = 37"):
        schedules.linear(1000, 0.9, 0.9)


@pytest.mark.parametrize("k", [50.0, 80.0])
def test_posterior_variances_of_a_steep_schedule_do_not_underflow(k):
    schedule = schedules.sigmoid(T, k)
    s = leaves(schedule)
    expected = s["betas"] * s["one_minus_alpha_bars_prev"] / s["one_minus_alpha_bars"]
    # Two float32 operations.
    np.testing.assert_allclose(schedule.posterior_variances, expected, rtol=2.5e-7)


def test_a_schedule_is_a_pytree_of_rows():
    schedule = schedules.sigmoid(7)
    assert [leaf.shape for leaf in jax.tree.leaves(schedule)] == [(7,)] * 8
    _, rows = jax.lax.scan(lambda carry, row: (carry, row.betas + row.alphas), 0.0, schedule)
    np.testing.assert_array_equal(rows, schedule.betas + schedule.alphas)
