"""The arithmetic of figures: points as images, and the frames and densities they are made of.

Points are [N, D]; of D > 2 columns an image shows the first two. A frame is (xmin, xmax, ymin,
ymax); what lies outside it, or is not finite, is left out.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Num
from scipy.ndimage import gaussian_filter, uniform_filter

from ddpm_jax.errors import InputError

Points = Num[np.ndarray, "..."]  # any shape here: InputError says more than a type checker
Series = Num[np.ndarray, "..."]
Frame = tuple[float, float, float, float]
BINS = 80


def as_points(what: str, *sets: Points) -> list[Float[np.ndarray, "_ d"]]:
    """Each set of points in float64; raises InputError unless all are [N, D] with one D, N >= 1."""
    for points in sets:
        if points.ndim != 2 or 0 in points.shape or points.shape[1] != sets[0].shape[1]:
            shapes = ", ".join(str(points.shape) for points in sets)
            raise InputError(
                f"{what}: shapes {shapes}; give points as [N, D], N, D >= 1, all of one D"
            )
    return [points.astype(np.float64, copy=False) for points in sets]


def as_series(what: str, x: Series, y: Series) -> list[Float[np.ndarray, "_"]]:
    """Both in float64; raises InputError unless they are vectors of one length."""
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"{what}: shapes {x.shape}, {y.shape}; give two vectors of one length")
    return [x.astype(np.float64), y.astype(np.float64)]


def some(points: Points, count: int) -> Points:
    """At most `count` of the points [N, D], at random but always the same."""
    if len(points) <= count:
        return points
    return np.random.default_rng(0).choice(points, count, replace=False)


def smooth(values: Series) -> Float[np.ndarray, "_"]:
    """The mean over a tenth of the series so far on either side: even along a logarithmic axis."""
    index, total = np.arange(len(values)), np.append(0.0, np.cumsum(values))
    low, high = index - index // 10, np.minimum(index + index // 10 + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def limits(points: Points, margin: float = 0.1) -> Frame:
    """The frame of pictures of points [N, D]: their range, wider by the fraction `margin`.

    Square, so that both axes have one unit; for D = 1, y is the density of `histogram`. Raises
    InputError for a bad shape or points that are not finite.
    """
    (points,) = as_points("limits", points)
    if not np.isfinite(points).all():
        raise InputError("limits: some points are not finite; give the data, not samples")
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    half = (1 + margin) / 2 * (np.max(high - low) or 1.0)
    frame = [float(end) for middle in (low + high) / 2 for end in (middle - half, middle + half)]
    if len(frame) == 2:
        peak = histogram(points, (frame[0], frame[1], 0.0, 1.0)).max()
        frame += [0.0, (1 + margin) * float(peak)]
    return frame[0], frame[1], frame[2], frame[3]


def histogram(points: Points, frame: Frame) -> Float[np.ndarray, "bins"]:
    """The density of the first column in BINS bins, out of all points, inside the frame or not."""
    counts, edges = np.histogram(points[:, 0], BINS, frame[:2])
    return counts / (len(points) * np.diff(edges))


def raster(points: Points, frame: Frame, size: int, blur: float = 0.0) -> Float[np.ndarray, "h w"]:
    """Points a pixel, [size, size], y up (row 0 on top), of the first two columns of [N, D].

    Each is shared bilinearly among four pixel centres, which keeps data on a lattice free of moiré,
    and spread by a Gaussian of `blur` pixels.
    """
    points = as_points("raster", points)[0][:, :2]
    low, high = np.reshape(frame, (2, 2)).T
    inside = points[np.all((points > low) & (points < high), axis=1)]
    place = (inside - low) / (high - low) * size + 0.5
    column, row = place.astype(np.int64).T
    right, up = (place % 1).T
    image = np.zeros((size + 2) ** 2)
    for dx, dy in np.ndindex(2, 2):
        share = np.abs(1 - dx - right) * np.abs(1 - dy - up)
        image += np.bincount((row + dy) * (size + 2) + column + dx, share, len(image))
    image = image.reshape(size + 2, size + 2)[-2:0:-1, 1:-1]
    return gaussian_filter(image, blur, mode="constant") if blur else image


def tones(points: Points, frame: Frame, size: int) -> Float[np.ndarray, "h w"]:
    """How dark each pixel of a picture is, in [0, 1]; for D = 1, the bars of a histogram.

    The square root of the density, so that thin parts stay visible; fewer points make bigger dots.
    """
    (points,) = as_points("points", points)
    if points.shape[1] == 1:
        rising = np.linspace(frame[3], frame[2], size)[:, None]
        return 0.5 * (histogram(points, frame)[np.arange(size) * BINS // size] > rising)
    image = raster(points, frame, size)
    image = gaussian_filter(image, np.clip(size / 12 / (image.sum() + 1) ** 0.5, 0.6, 4))
    full = 1.3 * np.quantile(image[image >= 0.05 * image.max()], 0.9)
    return np.sqrt(np.clip(image / (full or 1.0), 0, 1))


def difference(data: Points, samples: Points, frame: Frame) -> Float[np.ndarray, "h w"]:
    """The samples' density less the data's, over the data's mean density E_data[p] = Σp².

    −1: as much is missing as the data has on average. Both are spread by a Gaussian of about 1 % of
    the frame, wide enough that 20,000 points drawn from the data itself leave it nearly blank.
    """
    density, found = (raster(points, frame, 240, 2.5) / len(points) for points in (data, samples))
    return (found - density) / np.square(density).sum()


def details(data: Points, frame: Frame, count: int) -> Iterator[Frame]:
    """The `count` windows, apart, a quarter of the frame wide, where the density has most edges."""
    cells, side = 512, 128
    density = np.sqrt(raster(data, frame, cells, blur=1.0))
    edges = uniform_filter(np.hypot(*np.gradient(density)), side, mode="constant")
    unit, half = (frame[1] - frame[0]) / cells, side // 2
    for _ in range(count):
        row, column = np.clip(np.divmod(edges.argmax(), cells), half, cells - half).tolist()
        edges[max(row - side, 0) : row + side, max(column - side, 0) : column + side] = -1
        x, y = frame[0] + column * unit, frame[3] - row * unit
        yield x - half * unit, x + half * unit, y - half * unit, y + half * unit
