"""What the page about a run says of it: the command that repeats it, its losses, its tables."""

import shlex

import numpy as np
import pytest

from ddpm_jax.cli import page, train
from ddpm_jax.config import PRESETS, Config
from ddpm_jax.runs.record import Run

CHANGES = [
    {},
    {"seed": 3, "data": "my points.csv"},
    {"width": 32, "tables": (8, 16), "learning_rate": 1e-3, "stratified": False},
    {"schedule": "linear", "num_steps": 50, "epochs": 7, "batch_size": 64},
]


@pytest.mark.parametrize("preset", ["fast", "reference"])
@pytest.mark.parametrize("changes", CHANGES, ids=["the preset", "data", "network", "training"])
def test_the_command_on_the_page_makes_the_same_run(preset, changes):
    config = PRESETS[preset].replace(**changes)
    program, command, *argv = shlex.split(page.command(config))
    assert (program, command) == ("ddpm-jax", "train")
    assert train.parse(argv).config == config


def test_a_training_that_ended_sooner_is_told_as_that():
    run = Run.of(
        Config().replace(epochs=30, batch_size=20), np.random.default_rng(0).normal(size=(40, 2))
    )
    rows = [{"epoch": epoch} for epoch in range(1, 31)]
    assert page.facts(run, rows)["Training"] == "60 steps, 30 epochs of batches of 20"
    told = page.facts(run, rows[:12])["Training"]
    assert told == "60 steps, 30 epochs of batches of 20, 12 of them done"


def test_losses_are_those_of_the_log():
    rows = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": None}, {"epoch": 3, "loss": 1.0}]
    curves = page.losses(rows)
    assert list(curves) == ["training"]
    np.testing.assert_array_equal(curves["training"], [[1, 3], [2.0, 1.0]])
