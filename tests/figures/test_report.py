"""The figures of what is known before training: which schedules, after how many steps."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ddpm_jax.cli import results
from ddpm_jax.config import PRESETS, Config
from ddpm_jax.diffusion import schedules


class AsTheyAre:
    axes = None

    def __call__(self, points):
        return points


@pytest.fixture
def drawn(tmp_path, key):
    """What is drawn for a configuration: the schedules' curves, and the forward process."""

    def draw(config):
        found = {}

        def draw(figure, path, *given, **options):
            found[figure.__name__] = given

        data = 0.1 * jax.random.normal(key, (5000, 2))
        results.figures_of_data(
            SimpleNamespace(
                out=tmp_path,
                run=SimpleNamespace(
                    config=config,
                    schedule=config.noise.make_schedule(),
                    keys=lambda: {"figures": key},
                ),
                data=data,
                view=AsTheyAre(),
                draw=draw,
            )
        )
        assert list(found) == ["data", "schedules", "forward"]
        return found

    return draw


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (PRESETS["fast"].replace(sigmoid_k=12.0), ["sigmoid, k = 12"]),
        (PRESETS["reference"], []),
        (Config().replace(schedule="cosine"), ["cosine"]),
        (Config().replace(schedule="linear"), []),
    ],
)
def test_both_schedules_of_the_original_are_shown_and_the_run_s_own(drawn, config, own):
    (curves,) = drawn(config)["schedules"]
    assert list(curves) == ["linear", "sigmoid, k = 10", *own]
    np.testing.assert_array_equal(curves["linear"], schedules.linear(1000).alpha_bars)
    np.testing.assert_array_equal(
        curves["sigmoid, k = 10"], schedules.sigmoid(1000, 10.0).alpha_bars
    )
    if own:
        np.testing.assert_array_equal(curves[own[0]], config.noise.make_schedule().alpha_bars)


def test_a_schedule_of_so_many_steps_that_the_linear_one_underflows(drawn):
    # ∏ (1 - β) ≈ exp(-10,000 · 0.01) = e^-100, below float32's least normal number, e^-87.3.
    rows, *_ = drawn(Config().replace(num_steps=10_000, sigmoid_k=12.0))["forward"]
    assert list(rows) == ["sigmoid, k = 10", "sigmoid, k = 12"]


def test_n_steps_leave_the_variance_of_time_n_less_one(drawn):
    rows, steps, _ = drawn(Config().replace(num_steps=60, sigmoid_k=12.0))["forward"]
    assert steps == [0, 5, 10, 50, 60]
    alpha_bars = schedules.linear(60).alpha_bars
    for points, step in zip(rows["linear"], steps, strict=True):
        kept = float(alpha_bars[step - 1]) if step else 1.0
        # A variance of 10,000 numbers has a relative standard error of √(2/10,000) = 1.4 %: four.
        assert np.var(points) == pytest.approx(kept * 0.01 + 1 - kept, rel=0.06)
