"""Charts of the page about a run: what their axes say."""

import re

import numpy as np
import pytest

from ddpm_jax.figures import charts


@pytest.mark.parametrize("losses", [(0.3452, 0.3432), (1.0, 0.1), (0.5, 0.5), (0.50001, 0.5)])
def test_the_marks_of_the_losses_are_told_apart(losses):
    series = np.array([1, 2]), np.array(losses)
    svg = charts.losses({"training": series}, None)
    marks = re.findall(r'text-anchor="end">([\d.]+)</text>', svg)[:4]
    values = [float(mark) for mark in marks]
    assert values == sorted(values)
    if losses[0] != losses[1]:
        assert len(set(values)) == 4


def test_a_curve_is_said_to_end_where_it_ends_though_it_is_drawn_smoothed():
    series = np.arange(1.0, 41), np.linspace(1, 0.2, 40)
    svg = charts.losses({"training": series}, None)
    assert "training, 0.2 at the end" in svg
    assert "training ends at 0.2" in svg


def test_each_of_few_words_stands_below_its_bar_and_is_cut_to_fit():
    labels = ["an apple that is red", "b", "c"]
    svg = charts.histograms("kind", [np.full(3, 1 / 3)] * 2, labels)
    found = re.findall(r'<text x="([\d.]+)" y="112" text-anchor="middle">(.*?)</text>', svg)
    assert [float(x) for x, _ in found] == [40, 120, 200]  # thirds of 240, each at its middle
    assert [text for _, text in found[1:]] == ["b", "c"]
    assert labels[0].startswith(found[0][1].rstrip("…"))
    assert found[0][1].endswith("…")


def test_of_numbers_the_ends_of_the_axis_are_given():
    svg = charts.histograms("x", [np.full(40, 1 / 40)] * 2, ("-1", "2.5"))
    assert re.findall(r">([-\d.]+)</text>", svg) == ["-1", "2.5"]
