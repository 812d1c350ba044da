"""What pictures and the page show of a table: names, units, words."""

import numpy as np
import pandas as pd
import pytest

from ddpm_jax.cli.views import View
from ddpm_jax.config import Config
from ddpm_jax.judging import completed, judge
from ddpm_jax.runs.record import Run

TABLE = pd.DataFrame(
    {
        "kind": ["a", "b", "b", "c"] * 10,
        "length": np.tile([1.5, 2.0, 2.5, 9.0], 10) + np.arange(40) / 10,
        "day": np.datetime64("2020-01-01") + np.arange(40),
        "rain": np.tile([0.0, 0.0, 0.31, 4.7], 10) * np.linspace(1, 2, 40),
    }
)


@pytest.fixture(scope="module")
def shown():
    run = Run.of(Config().replace(base="none", hold_out=0.0), TABLE)
    return run, View.of(run), completed(run, run.encode(TABLE))


def test_numbers_have_their_names_and_ticks_in_their_units(shown):
    _, view, scaled = shown
    assert [axis.name for axis in view.axes] == ["length", "day", "rain"]
    for axis, name, column in zip(
        view.axes, ("length", "day", "rain"), view(scaled).T, strict=True
    ):
        raw = TABLE[name].to_numpy()
        assert axis.labels
        for at, label in zip(axis.ticks, axis.labels, strict=True):
            value = np.datetime64(label) if name == "day" else float(label)
            below, above = raw <= value, raw >= value
            assert (column[below] <= at + 1e-5).all()
            assert (column[above] >= at - 1e-5).all()
            if (same := raw == value).any():
                np.testing.assert_allclose(column[same], at, atol=1e-5)


def test_words_are_counted_in_both(shown):
    _, view, scaled = shown
    levels, data, samples = view.words(scaled, scaled[1:2])["kind"]
    assert levels == ["a", "b", "c"]
    np.testing.assert_allclose(data, [0.25, 0.5, 0.25])
    np.testing.assert_allclose(samples, [0, 1, 0])


def test_the_page_gets_the_columns_as_they_were(shown):
    _, view, scaled = shown
    found = view.readable(scaled)
    assert view.names == tuple(TABLE)
    assert view.levels == {0: ["a", "b", "c"]}
    np.testing.assert_array_equal(found[:, 0], np.tile([0, 1, 1, 2], 10))
    np.testing.assert_allclose(found[:, 1], TABLE["length"], rtol=1e-6)
    days = TABLE["day"].to_numpy().astype("datetime64[D]").astype(int)
    np.testing.assert_array_equal(found[:, 2] / (found[0, 2] / days[0]), days)


def test_points_of_the_plane_are_shown_as_they_are(rng):
    run = Run.of(Config().replace(base="none", hold_out=0.0), rng.normal(size=(30, 2)))
    view, scaled = View.of(run), rng.normal(size=(5, 2))
    assert view.axes is None
    assert view(scaled) is scaled
    assert view.words(scaled, scaled) == {}


def test_a_table_with_words_is_judged_by_gowers_distance(shown):
    run, _, scaled = shown
    found = judge(run, scaled[:20], scaled[20:], scaled[:20], without=("classifier_two_sample",))
    assert any("Gower" in note for note in found.notes)
    assert all(c.log_prob is None for c in found.contenders)
    assert len(found.contenders) == 3
    assert {c.name.split(" (")[0] for c in found.contenders} == {
        "model",
        "Gaussian mixture",
        "kernel density",
    }
