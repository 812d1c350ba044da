"""What the studies of quality count and print; the metrics themselves are tested elsewhere."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.config import PRESETS
from ddpm_jax.diffusion import sampling
from ddpm_jax.errors import ConfigError
from gaussian import denoise, make_schedule
from studies.quality import ablation
from studies.quality.fit import Over, floor, in_processes, markdown, over, write_json
from studies.quality.preset import rose
from studies.quality.samplers import SAMPLERS, Samplers

SCRIPT = Path(__file__).parents[2] / "experiments" / "quality.py"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, 2.0, 3.0], "2.0 ± 1.0"),
        ([0.19, 0.21], "0.200 ± 0.014"),  # 0.02 / √2
        ([100.0, 500.0], "300 ± 283"),
        ([0.25], "0.25"),
        ([0.25, 0.25], "0.25"),  # nothing varied: no precision is claimed
    ],
)
def test_means_are_given_to_the_digits_of_their_spread(values, text):
    assert str(Over(values)) == text


def test_medians_and_units():
    assert str(Over([1.0, 2.0, 9.0], np.median) * 10) == "20 ± 44"  # √(19) of 1, 2, 9


def test_tables_are_markdown_with_a_column_for_every_name():
    rows = [{"data": "a", "TV": Over([0.5])}, {"data": "b", "off": 0.25, "TV": None}]
    assert markdown(rows).split("\n") == [
        "| data | TV | off |",
        "| --- | --- | --- |",
        "| a | 0.5 |  |",
        "| b |  | 0.25 |",
    ]


def test_json_keeps_every_value_and_no_path(tmp_path):
    study = Samplers(json=tmp_path / "a.json", run=tmp_path / "run")
    write_json(tmp_path / "a.json", study, [{"TV": Over([0.1, 0.2])}])
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["study"], record["rows"]) == ("samplers", [{"TV": [0.1, 0.2]}])
    assert record["settings"]["sets"] == study.sets
    assert not {"json", "images", "overwrite"} & record["settings"].keys()


def test_samplers_are_a_row_each_and_numbers_of_evaluations_a_column():
    def row(name, steps, value):
        measures = {"TV": Over([value]), "SW": Over([value]), "off": value}
        return {"data": "moons", "sampler": name, "evaluations": steps, **measures}

    rows = [row("a", 5, 1.0), row("a", 9, 0.5), row("b", 5, 0.75), row("real points", None, 0.25)]
    tables = Samplers(evaluations=(5, 9)).tables(rows)
    for table, unit in zip(tables, (1, 1000, 100), strict=True):
        found = [[float(x) for x in list(line.values())[1:]] for line in table]
        assert found == [[unit, unit / 2], [0.75 * unit], [0.25 * unit]]
        assert [next(iter(line.values())) for line in table] == ["a", "b", "real points"]


def test_every_sampler_takes_every_number_of_evaluations_by_default():
    assert Samplers().evaluations[0] == 5
    assert Samplers().evaluations[-1] == PRESETS["fast"].noise.num_steps == 1000
    assert {"ddpm, posterior variance", "ddpm, optimal variance", *sampling.SAMPLERS} == {*SAMPLERS}


def test_ddpm_with_the_posterior_variance_is_ddim_with_eta_1(key):
    sampler, change = SAMPLERS["ddpm, posterior variance"]
    schedule = make_schedule(25)
    ours = sampling.sample(key, denoise, change(denoise, schedule, None), (50, 1), sampler)
    ddim = sampling.sample(key, denoise, schedule, (50, 1), sampling.ddim(1.0))
    # The same noise in the same places: what differs is rounding, 25 steps of float32 at order 1.
    np.testing.assert_allclose(ours, ddim, atol=1e-4)


@pytest.mark.parametrize("name", ["seeds", "sets", "workers"])
def test_nothing_is_measured_of_no_draws_and_by_no_process(name):
    study = Samplers if name == "sets" else ablation.Ablation
    with pytest.raises(ConfigError, match=f"--{name}"):
        study(**{name: 0})


def test_variants_are_settings_of_the_preset_and_shares_are_of_variants():
    for settings in ablation.VARIANTS.values():
        PRESETS["fast"].replace(**settings)
    assert ablation.SHARES.keys() <= ablation.VARIANTS.keys()
    for name, share in ablation.SHARES.items():
        words = {"half": 1 / 2, "quarter": 1 / 4}
        assert share == words[re.search("half|quarter", name).group()]


def test_the_floor_of_points_off_the_data_is_that_of_points_left_out():
    real = np.array([[0.0, 0.0], [0.0, 0.001], [1.0, 1.0]])  # of a radius of 0.005, one is alone
    assert floor(real, 100, 2)["off"] == pytest.approx(1 / 3)


def test_the_rose_lies_on_its_curve_to_within_its_pen():
    x, y = rose(0, 2000).T
    theta = np.linspace(0, 2 * np.pi, 20_001)
    curve = 0.9 * np.cos(4 * theta) * np.exp(1j * theta)
    gaps = [np.abs(curve - z).min() for z in x + 1j * y]
    # Half of the widest pen, 0.08, and a step of the curve of at most 4 x 0.9 x 2π / 20,000.
    assert max(gaps) < 0.04 + 0.0012
    assert max(gaps) > 0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", ["density.png", "table.json"])
def test_nothing_that_is_there_is_overwritten_unasked_or_worked_for(tmp_path, name):
    (tmp_path / name).write_text("old")
    output = ["--images", tmp_path, "--json", tmp_path / "table.json"]
    command = [sys.executable, SCRIPT, "density", tmp_path / "no run", *output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{name} exists" in done.stderr  # before it is seen that there is no run
    assert "--overwrite" in done.stderr
    assert (tmp_path / name).read_text() == "old"
    done = subprocess.run([*command, "--overwrite"], capture_output=True, text=True, check=False)
    assert "no run" in done.stderr


@pytest.mark.medium
def test_processes_return_what_one_does_in_order():
    tasks = [(3, 4), (5, 12), (8, 15)]
    assert in_processes(math.hypot, tasks, 2) == in_processes(math.hypot, tasks, 1) == [5, 13, 17]


def test_means_over_rows():
    row = over([{"TV": 1.0}, {"TV": 2.0}])
    assert row["TV"].values == [1.0, 2.0]
    assert float(row["TV"]) == 1.5
