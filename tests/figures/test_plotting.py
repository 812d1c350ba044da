"""Files are whole, of the right size and the right way up; bad input says so; nothing leaks."""

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.errors import InputError
from ddpm_jax.figures import animation, plotting, rasters

FRAME = (0.0, 4.0, 0.0, 4.0)
STEPS = [0, 10, 999]


def points(d=2, n=500, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def blueness(path):
    """Blue less red, [height, width]: high for points, low for paper and text."""
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB")).astype(int)
    return rgb[..., 2] - rgb[..., 0]


def point_figures(d):
    x, y = points(d), points(d, 300, seed=1)
    frame = plotting.limits(x)
    return {
        "data": ((x,), (1000, 1000)),
        "snapshot": ((y, frame, "epoch 1"), (1000, 1000)),
        "montage": ((x, [("epoch 1", y), ("epoch 2", x)]), (1600, None)),
        "forward": (({"linear": [x, y, y], "cosine": [x, x, y]}, STEPS), (1600, None)),
        "comparison": ((x, y), (1600, None)),
    }


def line_figures():
    t, bars = np.arange(20), np.linspace(1.0, 0.0, 20)  # log SNR is infinite at both ends
    lines = {"a": (t + 1, bars + 0.1), "b": (t[:1] + 9, bars[:1])}
    return {
        "schedules": (({"linear": bars, "constant": np.full(20, 0.5)},), (1600, 640)),
        "loss": (({"training": (t + 1, 1 / (t + 1))}, 0.05, 0.5, "Loss"), (1600, 640)),
        "curves": ((lines, "x", "y", True), (1600, 840)),
        "panels": (({"y": (lines, 0.5), "z": (lines, 0.1)}, "x", "floor", "title"), (1600, 1440)),
        "density": ((points(), np.zeros((9, 9)), FRAME), (1600, 900)),
    }


CASES = [
    pytest.param(name, *case, id=f"{name}-{d}")
    for d, figures in [(d, point_figures(d)) for d in (1, 2, 3)] + [("lines", line_figures())]
    for name, case in figures.items()
]


def flatten(tree):
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from flatten(branch)


@pytest.mark.parametrize(("name", "arguments", "size"), CASES)
def test_figure_is_one_whole_image_and_leaves_all_else_alone(tmp_path, name, arguments, size):
    before, style = [array.copy() for array in flatten(arguments)], dict(matplotlib.rcParams)
    assert getattr(plotting, name)(tmp_path / "figure.png", *arguments) is None
    with Image.open(tmp_path / "figure.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width == size[0]  # inches of the layout x 200 dpi
        assert image.height == size[1] or size[1] is None
    assert os.listdir(tmp_path) == ["figure.png"]
    assert dict(matplotlib.rcParams) == style
    for array, copy in zip(flatten(arguments), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_gif_has_a_frame_a_label_and_a_duration_each(tmp_path, d):
    frames, durations = [points(d, seed=i) for i in range(5)], [40, 50, 60, 70, 2000]
    labels = [f"steps left: {i}" for i in range(5)]
    animation.reverse_gif(tmp_path / "a.gif", frames, labels, plotting.limits(frames[0]), durations)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.format, image.size, image.info["loop"]) == ("GIF", (480, 480), 0)
        found = []
        for i in range(image.n_frames):
            image.seek(i)
            found.append(image.info["duration"])
    assert found == durations
    assert os.listdir(tmp_path) == ["a.gif"]


def test_gif_of_a_whole_run_is_small(tmp_path):
    noise = [points(n=10_000, seed=i) for i in range(10)] * 9
    labels, frame = [f"t = {i}" for i in range(90)], (-1.1, 1.1, -1.1, 1.1)
    animation.reverse_gif(tmp_path / "a.gif", noise, labels, frame, [50] * 90)
    assert (tmp_path / "a.gif").stat().st_size < 6e6  # noise is the worst case: nothing to compress


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_up_is_up_and_right_is_right(tmp_path, kind):
    path, corner = tmp_path / f"a.{kind}", points().clip(-3, 3) / 10 + [3.5, 1.0]
    if kind == "png":
        plotting.snapshot(path, corner, FRAME, "")
    else:
        animation.reverse_gif(path, [corner], [""], FRAME, [100])
    row, column = np.nonzero(blueness(path) > 60)
    height, width = blueness(path).shape
    # The points reach from 3.2 to 3.8 and from 0.7 to 1.3 of 4; a PNG's axes are inset a little.
    assert row.min() > height * 0.55
    assert column.min() > width * 0.75


def test_density_shows_x_by_row_to_the_right_and_y_upwards(tmp_path):
    log_p = np.full((20, 20), -50.0)
    log_p[16:19, 4:7] = 0.0  # x from 3.2 to 3.8 and y from 0.8 to 1.4 of 4
    plotting.density(tmp_path / "a.png", np.array([[1.0, 3.0]]), log_p, FRAME)
    # The panel on the right, less the colour bar below; axes are inset a little.
    panel = blueness(tmp_path / "a.png")[:670, 850:]
    row, column = np.nonzero(panel > 60)
    assert 0.55 * 670 < row.min() < row.max() < 670
    assert column.min() > 0.7 * 750


@pytest.mark.parametrize(
    ("point", "pixel"), [((0.5, 3.5), (0, 0)), ((3.5, 3.5), (0, 3)), ((0.5, 0.5), (3, 0))]
)
def test_raster_puts_a_pixel_centre_into_its_pixel(point, pixel):
    expected = np.zeros((4, 4))
    expected[pixel] = 1
    np.testing.assert_array_equal(rasters.raster(np.array([point]), FRAME, 4), expected)


def test_raster_of_pixel_centres_is_their_histogram_and_shares_what_lies_between():
    centres = np.random.default_rng(0).integers(0, 8, (200, 2)) / 2 + 0.25
    counts = np.histogram2d(*centres.T, bins=8, range=[[0, 4], [0, 4]])[0].T[::-1]
    np.testing.assert_array_equal(rasters.raster(centres, FRAME, 8), counts)
    quarters = rasters.raster(np.array([[2.0, 2.0]]), FRAME, 4)
    np.testing.assert_array_equal(quarters[1:3, 1:3], np.full((2, 2), 0.25))


def test_outliers_change_nothing(tmp_path):
    wild = np.array([[9.0, 1.0], [-1e30, 1.0], [np.nan, 1.0], [1.0, np.inf]])
    inside = 2 + points() / 4
    for name, samples in {"a": inside, "b": np.concatenate([inside, wild])}.items():
        plotting.snapshot(tmp_path / f"{name}.png", samples, FRAME, "")
    np.testing.assert_array_equal(blueness(tmp_path / "a.png"), blueness(tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([[0.0, 0.0], [2.0, 1.0]], (-0.1, 2.1, -0.6, 1.6)),  # square; 10 % more than [0, 2]
        ([[0.0, 0.0, 99.0], [2.0, 1.0, -99.0]], (-0.1, 2.1, -0.6, 1.6)),
        ([[3.0, 3.0]], (2.45, 3.55, 2.45, 3.55)),  # a point is given one unit
        # Half of the mass in one of the 80 bins of 2.2: a density of 0.5 x 80 / 2.2, and 10 % more.
        ([[0.0], [2.0]], (-0.1, 2.1, 0.0, 20.0)),
    ],
)
def test_limits(data, expected):
    np.testing.assert_allclose(plotting.limits(np.array(data)), expected, rtol=1e-12)  # rounding


def test_histogram_integrates_to_the_share_inside():
    data = np.linspace(0, 10, 1000)[:, None]
    total = rasters.histogram(data, (0.0, 5.0, 0.0, 1.0)).sum() * 5 / rasters.BINS
    np.testing.assert_allclose(total, 0.5, rtol=1e-12)  # rounding


def test_smooth_keeps_lines_and_shrinks_noise():
    line, noise = 3.0 * np.arange(400), points(n=400)[:, 0]
    whole = np.arange(400) * 1.1 < 399  # the windows that do not reach the end
    np.testing.assert_allclose(rasters.smooth(line)[whole], line[whole], rtol=1e-12)  # rounding
    # The last windows average 40 values or more, so their deviation is under 1 / sqrt(40) = 0.16.
    assert np.abs(rasters.smooth(noise)[-40:]).max() < 4 * 0.16


def test_difference_is_zero_for_the_data_and_minus_one_where_nothing_is_found():
    data = 2 + points() / 4
    np.testing.assert_array_equal(rasters.difference(data, data, FRAME), 0)
    missing = rasters.difference(data, data + 100, FRAME)
    density = rasters.raster(data, FRAME, 240, 2.5) / len(data)
    # By its definition, the data's mean of -p / E_data[p] is -1, up to rounding.
    np.testing.assert_allclose((density * missing).sum(), -1, rtol=1e-12)


def test_details_finds_the_stripes_beside_a_blob():
    blob = np.array([1.0, 1.0]) + points(n=5000) * 0.2
    y, x = np.divmod(np.arange(5000), 500)
    stripes = np.stack([3 + x / 625, 3 + y / 12.5], axis=1)  # [3, 3.8] x [3, 3.72], ten lines
    first, second = rasters.details(np.concatenate([blob, stripes]), FRAME, 2)
    assert first[0] < 3.4 < first[1]
    assert first[2] < 3.4 < first[3]
    for xmin, xmax, ymin, ymax in (first, second):
        assert (xmax - xmin, ymax - ymin) == (1, 1)  # a quarter of the frame
        assert min(xmin, ymin) >= 0
        assert max(xmax, ymax) <= 4
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) >= 1  # no overlap


P, Q, F = points(2), points(3), FRAME
BAD = {
    "a vector": lambda path: plotting.data(path, P[:, 0]),
    "no points": lambda path: plotting.snapshot(path, P[:0], F, ""),
    "no columns": lambda path: plotting.snapshot(path, P[:, :0], F, ""),
    "an image": lambda path: plotting.snapshot(path, P[None], F, ""),
    "data with a NaN": lambda path: plotting.data(path, np.where(P > 1, np.nan, P)),
    "names": lambda path: plotting.data(path, P, names=["only one"]),
    "D of a stage": lambda path: plotting.montage(path, P, [("epoch 1", Q)]),
    "D of the samples": lambda path: plotting.comparison(path, P, Q),
    "D of a step": lambda path: plotting.forward(path, {"linear": [P, P, Q]}, STEPS),
    "missing step": lambda path: plotting.forward(path, {"linear": [P, P]}, STEPS),
    "no schedule": lambda path: plotting.forward(path, {}, STEPS),
    "missing label": lambda path: animation.reverse_gif(path, [P, P], ["t = 0"], F, [9, 9]),
    "no frames": lambda path: animation.reverse_gif(path, [], [], F, []),
    "lengths": lambda path: plotting.loss(path, {"a": (np.arange(3), np.zeros(4))}),
    "matrix": lambda path: plotting.schedules(path, {"linear": P}),
    "a density of one row": lambda path: plotting.density(path, P, P[0], F),
    "no words": lambda path: plotting.words(path, {}),
    "series": lambda path: plotting.curves(path, {"a": (np.arange(3), np.zeros(2))}, "x", "y"),
}


@pytest.mark.parametrize("draw", BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_and_writes_nothing(tmp_path, draw):
    with pytest.raises(InputError, match="give"):
        draw(tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"a\.png: no space left"):
        plotting.snapshot(path, P, F, "")
    assert os.listdir(tmp_path) == ["a.png"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("floor", [None, 2.0])
def test_loss_without_an_excess_to_draw(tmp_path, floor):
    curves = {"training": (np.arange(1, 9), np.ones(8)), "held out": (np.array([3]), np.ones(1))}
    for mark in (None, 1.2, 50.0):
        plotting.loss(tmp_path / "a.png", curves, floor, mark)
    assert (tmp_path / "a.png").exists()


def test_pyplot_is_never_imported(tmp_path):
    script = f"""
import sys, numpy as np
from ddpm_jax.figures import plotting
plotting.data({str(tmp_path / "a.png")!r}, np.eye(2))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "a.png").exists()


@pytest.mark.medium
@pytest.mark.parametrize("name", ["a$b^^c$d", "a$b", r"\$a$", "_x", "b\udcff", "点", "a\nb", ""])
def test_any_name_of_a_file_or_column_is_drawn(tmp_path, name):
    """Not as mathematics; a byte that is no UTF-8, and a letter that the font lacks, as a box."""
    three = points(3, 50)
    plotting.data(tmp_path / "data.png", points(n=50), title=name, names=[name, "y"])
    plotting.comparison(tmp_path / "comparison.png", three, three, names=[name, "y", "z"])
