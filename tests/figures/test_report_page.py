"""The page about a run, as text: complete, small, escaped, legible; its numbers are the points'."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from ddpm_jax.errors import InputError
from ddpm_jax.figures import report

VOID = {"meta", "input", "path"}


class Page(HTMLParser):
    """Elements in order with their attributes, after a check that they close as they opened."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def headings(self):
        return [text for tag, text in self.texts if tag == "h2"]

    def points(self):
        (text,) = (
            text
            for (tag, text) in self.texts
            if tag == "script" and text.lstrip().startswith('{"movie"')
        )
        return json.loads(text)


def decoded(text):
    return np.frombuffer(base64.b64decode(text), "<u2")


def made(rng, dim=2, n=300, **given):
    data, samples = rng.normal(size=(2, n, dim))
    return report.page("a run", data, samples, command="train", **given)


def test_every_part_that_is_given_is_on_the_page(rng):
    curve = np.arange(1.0, 4.0), np.array([3.0, 2.0, 1.5])
    text = made(
        rng,
        facts={"Rows": "300"},
        warnings=["few rows"],
        frames=list(rng.normal(size=(3, 50, 2))),
        left=[2, 1, 0],
        losses={"training": curve, "held out": curve},
        floor=1.25,
        table=report.Table(["metric", "samples"], [["total_variation", "0.1"]], "Lower is better."),
    )
    assert Page(text).headings() == [
        "Careful",
        "What was learnt from",
        "From noise to points",
        "Data and samples",
        "Loss",
        "How good the samples are",
        "Do it again",
    ]
    for shown in ("300", "few rows", "ideal denoiser, 1.25", "total_variation", "0.1", "train"):
        assert shown in text


def test_what_is_not_given_leaves_no_empty_part(rng):
    assert Page(made(rng)).headings() == ["Data and samples", "Do it again"]


@pytest.mark.parametrize("dim", [1, 2, 3, 30])
def test_every_picture_has_a_text_and_every_control_a_name(rng, dim):
    frames = list(rng.normal(size=(3, 50, dim)))
    page = Page(made(rng, dim, frames=frames, left=[2, 1, 0]))
    pictures = [attrs for tag, attrs in page.elements if tag in ("canvas", "svg")]
    # 24 columns at most have a picture of their own; two columns are seen whole in that of points.
    assert len(pictures) == 3 + (0 if dim == 2 else min(dim, 24))
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in pictures)
    assert all(attrs["aria-label"] for tag, attrs in page.elements if tag == "input")


def test_what_comes_from_outside_is_shown_and_never_run(rng):
    evil = "</script><script>alert(1)</script>&<b>"
    text = report.page(
        evil,
        rng.normal(size=(9, 3)),
        rng.normal(size=(9, 3)),
        command=evil,
        subtitle=evil,
        facts={evil: evil},
        warnings=[evil],
        table=report.Table([evil, evil], [[evil, evil]], evil),
        losses={evil: (np.arange(1.0, 3.0), np.arange(2.0))},
        names=[evil, "b", "c"],
        words={0: [evil, evil]},
    )
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert "b" not in [tag for tag, _ in page.elements]
    assert page.points()["pair"]["names"][0] == evil


def test_nothing_is_fetched_and_the_page_says_so_to_the_browser(rng):
    text = made(rng)
    assert not re.search(r"https?:|src=|@import|url\(", text)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none';")


def test_the_points_are_those_given(rng):
    data, samples = rng.normal(size=(2, 40, 2))
    pair = Page(report.page("a", data, samples, command="c")).points()["pair"]
    for name, points in (("data", data), ("samples", samples)):
        for column, (low, high), expected in zip(pair[name], pair["box"], points.T, strict=True):
            found = low + decoded(column) / 65534 * (high - low)
            # Rounded to one of 65535 levels; what is beyond the data's frame lies on its edge.
            expected = np.clip(expected, low, high)
            np.testing.assert_allclose(found, expected, atol=0.5001 * (high - low) / 65534)


def test_the_movie_is_that_of_the_frames(rng):
    data = rng.uniform(-1, 1, (100, 2))
    frames = [2 * data, data]
    text = report.page("a", data, data, command="c", frames=frames, left=[7, 0])
    movie, pair = (Page(text).points()[part] for part in ("movie", "pair"))
    assert movie["left"] == [7, 0]
    # What is in view is the middle third, each way, of what is kept.
    low, high = np.array(pair["box"]).T
    for packed, expected in zip(movie["frames"], frames, strict=True):
        found = low + (high - low) * (decoded(packed).reshape(-1, 2) / 65534 * 3 - 1)
        # Rounded to one of 65535 levels across three times the view.
        np.testing.assert_allclose(found, expected, atol=1.5001 * np.max(high - low) / 65534)


def test_an_empty_cell_is_not_drawn(rng):
    data = rng.normal(size=(60, 3))
    data[::7, 1] = np.nan
    pair = Page(report.page("a", data, data, command="c")).points()["pair"]
    # Both are the same rows, so the same cells are empty.
    assert np.array_equal(np.flatnonzero(decoded(pair["data"][1]) == 65535), np.arange(0, 60, 7))
    assert not np.any(decoded(pair["data"][0]) == 65535)


def test_the_first_view_is_of_columns_of_numbers(rng):
    data = np.column_stack([rng.integers(0, 2, 50), rng.normal(size=(50, 2))])
    pair = Page(report.page("a", data, data, command="c", words={0: ["no", "yes"]})).points()[
        "pair"
    ]
    assert pair["axes"] == [1, 2]


def test_a_large_run_stays_under_six_megabytes(rng):
    data = rng.normal(size=(50_000, 40))
    frames = [data[:5000]] * 200
    text = report.page("a", data, data, command="c", frames=frames, left=range(199, -1, -1))
    assert len(text.encode()) < 6_000_000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": ["x"]}, "names: 1; give one for each of 2"),
        ({"frames": [np.zeros((3, 2))]}, "1 of them and 0 numbers"),
        ({"frames": [np.zeros((3, 2)), np.zeros((4, 2))], "left": [1, 0]}, "same points"),
    ],
)
def test_shapes_that_do_not_fit_are_named(rng, given, message):
    with pytest.raises(InputError, match=message):
        made(rng, **given)
    with pytest.raises(InputError, match="each row needs 2 cells"):
        report.Table(["a", "b"], [["1"]])


def luminance(color):
    """WCAG 2.2's relative luminance of #rrggbb."""
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_background(rng, theme):
    colors = dict(
        re.findall(r"--([\w-]+): (#\w{6});", re.findall(r":root \{[^}]*\}", made(rng))[theme])
    )
    pairs = [
        (ink, paper) for ink in ("ink", "muted", "data", "samples") for paper in ("paper", "card")
    ]
    for ink, paper in [*pairs, ("warn", "warn-paper"), ("ink", "warn-paper")]:
        dark, light = sorted((luminance(colors[ink]), luminance(colors[paper])))
        # WCAG 2.2, criterion 1.4.3, level AA.
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, paper)
