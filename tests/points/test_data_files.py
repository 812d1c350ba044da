"""The point file that ships is what its script draws, and is what its README says it is."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parents[2] / "data"
FILE, SCRIPT = DATA / "bicycle.txt", DATA / "draw_bicycle.py"
PER_UNIT = 256


def load_script():
    spec = importlib.util.spec_from_file_location("draw_bicycle", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def points():
    return np.loadtxt(FILE)


@pytest.fixture(scope="module")
def pixels(points):
    """The picture, True where there is ink, indexed [row, column] from the lower left."""
    image = np.zeros((2 * PER_UNIT + 1, 2 * PER_UNIT + 1), bool)
    column, row = np.rint((points + 1) * PER_UNIT).astype(int).T
    image[row, column] = True
    return image


def test_script_redraws_file_byte_for_byte():
    assert load_script().text().encode() == FILE.read_bytes()


def test_drawing_ignores_last_digits_of_sine_and_cosine(monkeypatch):
    module, rng = load_script(), np.random.default_rng(0)
    exact = module.polar

    def shaken(radius, degrees):
        # 4 units in the last place: more than the sine of any libm in use is off by.
        z, (a, b) = exact(radius, degrees), rng.integers(-4, 5, 2)
        return complex(z.real + a * math.ulp(z.real), z.imag + b * math.ulp(z.imag))

    monkeypatch.setattr(module, "polar", shaken)
    assert module.text().encode() == FILE.read_bytes()


def test_command_writes_keeps_and_overwrites(tmp_path):
    out = tmp_path / "drawn.txt"
    out.write_text("something else\n")
    refused = run_script("--out", out)
    assert refused.returncode != 0
    assert "--overwrite" in refused.stderr
    assert out.read_text() == "something else\n"
    assert run_script("--out", out, "--overwrite").returncode == 0
    assert out.read_bytes() == FILE.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.txt"]


def test_points_are_many_and_distinct(points):
    assert points.shape[1] == 2
    assert len(points) >= 50_000
    assert len(np.unique(points, axis=0)) == len(points)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_lie_exactly_on_lattice(points, dtype):
    scaled = points.astype(dtype) * PER_UNIT  # exact: 256 is a power of two
    np.testing.assert_array_equal(scaled, np.rint(scaled))


def test_points_fill_width_of_square(points):
    (left, low), (right, high) = points.min(axis=0), points.max(axis=0)
    assert (left, right) == (-1, 1)
    assert -1 <= low < -0.75
    assert 0.85 < high <= 1


def test_rows_are_sorted_by_descending_y_then_ascending_x(points):
    x, y = points.T
    np.testing.assert_array_equal(np.lexsort((x, -y)), np.arange(len(points)))


def test_lines_have_one_format():
    raw = FILE.read_bytes()
    assert b"\r" not in raw
    assert raw.endswith(b"\n")
    lines = raw.decode("ascii").splitlines()
    assert all(line == "{:.8f} {:.8f}".format(*map(float, line.split())) for line in lines)


def test_picture_is_mostly_lines_and_gaps(pixels):
    """At least half of the ink borders on white: fine structure, which a poor model fills in."""
    padded = np.pad(pixels, 1)
    inner = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2] & pixels
    assert inner.sum() < pixels.sum() / 2


@pytest.mark.parametrize("hub", [(-0.595, -0.428), (0.6285, -0.428)], ids=["rear", "front"])
def test_wheels_are_round(points, hub):
    """Low behind the hub the farthest ink at every angle is the tyre's edge, at 0.372."""
    offset = points - hub
    radius = np.hypot(*offset.T)
    angle = np.degrees(np.arctan2(*offset.T[::-1]))
    for start in range(-145, -95, 5):  # clear of kickstand and mudguards
        edge = radius[(angle >= start) & (angle < start + 5) & (radius < 0.385)].max()
        assert edge == pytest.approx(0.372, abs=1.5 / PER_UNIT)  # a pixel's diagonal
