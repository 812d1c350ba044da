"""Every figure of a diffusion experiment on points; the animation is in `animation`.

Each function takes NumPy arrays and a path, writes that one file (a .png) whole or not at all, and
returns nothing. Points are [N, D]: D = 1 is drawn as a histogram, D = 2 as a picture,
D > 2 as the picture of the first two columns. Pictures are framed by `limits` of the data, never of
samples: a bad model's outliers cannot shrink them. Shapes that do not fit raise InputError.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations, cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image

from ddpm_jax import files
from ddpm_jax.errors import InputError
from ddpm_jax.figures import rasters
from ddpm_jax.figures.rasters import Frame, Points, Series, as_points, as_series, limits, some


class Axis(NamedTuple):
    """A column's name, and ticks: where in the picture's coordinates, and what they say."""

    name: str
    ticks: Sequence[float]
    labels: Sequence[str]


Names = Sequence[str | Axis] | None
Words = Mapping[str, tuple[Sequence[str], Series, Series]]
"""Of each column of words: the words, and their shares in the data and in the samples."""
StrPath = str | Path
Lines = Mapping[str, tuple[Series, Series]]
Panels = Mapping[str, tuple[Lines, float]]

# The colours of Okabe and Ito, safe for the colour-blind, on an opaque paper that neither glares on
# a dark page nor looks grey on a light one. Text is legible where 8 inches are shown 800 px wide.
PAPER, INK, MUTED, BLUE, ORANGE = "#fbfaf7", "#1d2733", "#6b6f76", "#0072b2", "#d55e00"
BLUES, ORANGES, DIVERGING = (
    LinearSegmentedColormap.from_list("", colors, steps)
    for steps, *colors in (
        (256, PAPER, "#a5cbe0", "#3f8abb", "#14507f", "#0b2440"),
        (256, PAPER, "#f3c6a3", "#dd7a35", "#9c4408", "#421b00"),
        (11, "#002f52", BLUE, "#6db0da", PAPER, "#f09d62", ORANGE, "#6b2b00"),
    )
)
STYLE = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER),
    **dict.fromkeys(("axes.labelcolor", "text.color"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 9.5),
    "axes.axisbelow": True,
    "axes.edgecolor": "#b4b4ae",
    "axes.prop_cycle": cycler(
        color=(BLUE, ORANGE, "#009e73", "#aa4499", "#e69f00", "#56b4e9", MUTED)
    ),
    "axes.titlelocation": "left",
    "grid.color": "#e9e7e1",
    "image.interpolation": "bicubic",
    "lines.linewidth": 1.8,
}


def data(path: StrPath, points: Points, title: str = "Data", names: Names = None) -> None:
    """The data [N, D], or 30,000 random points of it, as the original experiment draws it."""
    shown = some(points, 30_000)
    total = f" of {len(points):,}" if len(points) > len(shown) else ""
    snapshot(path, shown, limits(points), f"{title}: {len(shown):,}{total} points", names)


def snapshot(path: StrPath, points: Points, frame: Frame, title: str, names: Names = None) -> None:
    """Samples [N, D] of one epoch, in the frame `limits(data)`."""
    with _figure(path, 5, 5) as axes:
        _picture(axes[0, 0], points, frame, title, names)


def montage(
    path: StrPath, data: Points, stages: Sequence[tuple[str, Points]], names: Names = None
) -> None:
    """The data beside the samples of milestone epochs, (title, [N, D]) each, all of one count."""
    panels = [("data", data), *stages]
    count = min(map(len, as_points("montage", *(points for _, points in panels))))
    rows, columns = -(-len(panels) // 2), min(len(panels), 2)
    with _figure(path, 8, 8 * rows / columns + 0.1, rows, columns) as axes:
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, (title, points) in zip(axes.flat, panels, strict=False):
            _picture(ax, some(points, count), limits(data), title, names)
            ax.label_outer()


def forward(
    path: StrPath, rows: Mapping[str, Sequence[Points]], steps: Sequence[int], names: Names = None
) -> None:
    """The forward process, [N, D] after each number of `steps`: a row a schedule."""
    if not rows or not steps or any(len(row) != len(steps) for row in rows.values()):
        found = {name: len(row) for name, row in rows.items()}
        raise InputError(f"forward: pictures {found}; give every schedule one a step, {len(steps)}")
    height = 7.65 / len(steps) * len(rows) + 0.3
    with _figure(path, 8, height, len(rows), len(steps)) as axes:
        for line, (name, row) in zip(axes, rows.items(), strict=True):
            frame = limits(row[0], margin=0.45)
            for ax, points, step in zip(line, as_points(name, *row), steps, strict=True):
                title = f"{step} steps" if step == steps[0] else str(step)
                _picture(ax, points, frame, title * (ax in axes[0]), names, pixels=300)
                ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
            line[0].set_ylabel(name.replace(", ", "\n"))


def schedules(path: StrPath, curves: Mapping[str, Series]) -> None:
    """What each schedule leaves of the signal: alpha_bars [T], log SNR = log ᾱ − log(1 − ᾱ)."""
    with _figure(path, 8, 3.2, 1, 2) as axes:
        for name, alpha_bars in curves.items():
            t, alpha_bars = as_series(name, np.arange(alpha_bars.size), alpha_bars)
            inside = (alpha_bars > 0) & (alpha_bars < 1)
            log_snr = np.log(alpha_bars[inside]) - np.log1p(-alpha_bars[inside])
            axes[0, 0].plot(t, alpha_bars, label=name)
            axes[0, 1].plot(t[inside], log_snr, label=name)
        _lines(axes[0, 0], "t", "", title="ᾱ: the signal's share of the variance")
        _lines(axes[0, 1], "t", "", title="log SNR")
        _label_ends(axes[0, 1])


def loss(
    path: StrPath,
    curves: Lines,
    floor: float | None = None,
    memoriser: float | None = None,
    title: str = "Loss",
) -> None:
    """Losses by name, (epochs [E], losses [E]), over the ideal denoiser's `floor`, and the excess.

    The excess is that of the first curve. `memoriser` is what a model that only repeats the
    training rows would score on rows held out: a line, or an arrow where that is far above.
    """
    known = {name: as_series(name, *pair) for name, pair in curves.items()}
    with _figure(path, 8, 3.2, 1, 1 if floor is None else 2) as axes:
        for (name, (epochs, losses)), color in zip(known.items(), (BLUE, ORANGE), strict=False):
            _smoothed(axes[0, 0], epochs, losses, color, name)
        top = max(float(losses.max()) for _, losses in known.values())
        _lines(axes[0, 0], "epoch", "mean squared error of the noise", logx=True, title=title)
        if memoriser is not None and memoriser <= 1.5 * top:
            _floor(axes[0, 0], memoriser, "memoriser, on held-out rows", side=1)
        elif memoriser is not None:
            at = (1, 1), (-4, -4), "axes fraction", "offset points"
            text = f"memoriser, on held-out rows: {memoriser:.3g} ↑"
            axes[0, 0].annotate(text, *at, color=MUTED, ha="right", va="top")
        if len(known) > 1:
            axes[0, 0].legend(frameon=False, loc="best")
        if floor is not None:
            _floor(axes[0, 0], floor, "ideal denoiser")
            epochs, losses = next(iter(known.values()))
            _smoothed(axes[0, 1], epochs, losses - floor, BLUE)
            logy = bool(np.any(losses > floor))
            _lines(axes[0, 1], "epoch", "", True, logy, "Excess over the ideal denoiser")


def curves(
    path: StrPath,
    series: Lines,
    xlabel: str,
    ylabel: str,
    logx: bool = False,
    logy: bool = False,
    title: str = "",
) -> None:
    """Lines (x [M], y [M]) by name, labelled at their ends."""
    with _figure(path, 8, 4.2) as axes:
        _curves(axes[0, 0], series)
        _lines(axes[0, 0], xlabel, ylabel, logx, logy, title)
        _label_ends(axes[0, 0])


def panels(path: StrPath, panels: Panels, xlabel: str, floor_label: str, title: str) -> None:
    """Lines as those of `curves`, over a floor, by the name of y; all axes are logarithmic."""
    with _figure(path, 8, 3.6 * len(panels), len(panels)) as axes:
        for ax, (ylabel, (series, floor)) in zip(axes[:, 0], panels.items(), strict=True):
            _curves(ax, series)
            _floor(ax, floor, floor_label)
            _lines(ax, "", ylabel, logx=True, logy=True)
            _label_ends(ax)
        axes[0, 0].set_title(title)
        axes[-1, 0].set_xlabel(xlabel)


def density(path: StrPath, data: Points, log_p: Points, frame: Frame, names: Names = None) -> None:
    """The data [N, 2] beside log p [n, n], a row an x, at the centres of the frame's equal cells.

    What is more than ten nats below the peak is blank.
    """
    (log_p,) = as_points("density", log_p)
    with _figure(path, 8, 4.5, 1, 2) as axes:
        _picture(axes[0, 0], data, frame, "data", names)
        peak = log_p.max()
        image = axes[0, 1].imshow(log_p.T[::-1], BLUES, vmin=peak - 10, vmax=peak, extent=frame)
        axes[0, 1].set(title="learned density", xlabel=_labels(names, 2)[0], yticklabels=[])
        axes[0, 1].locator_params(nbins=5)
        _bar(axes, image, "log p, nats")


def comparison(
    path: StrPath, data: Points, samples: Points, zooms: int = 2, names: Names = None
) -> None:
    """Data [N, D] (blue), samples [M, D] (orange), and where the one or the other is denser.

    D = 2 enlarges the `zooms` windows of finest detail; D > 2 pairs the first four columns.
    """
    data, samples = as_points("comparison", data, samples)
    width, count = data.shape[1], min(len(data), len(samples))
    labels = _labels(names, width)
    if width == 1:
        return _compare_histograms(path, data, samples, labels[0])
    windows = list(rasters.details(data, limits(data), zooms)) if width == 2 else []
    rows = [(pair, limits(data[:, pair])) for pair in combinations(range(min(width, 4)), 2)]
    rows += [((0, 1), window) for window in windows]
    with _figure(path, 8, 2.95 * len(rows) + 0.5, len(rows), 3) as axes:
        for line, (pair, view) in zip(axes, rows, strict=True):
            two, pair_names = (data[:, pair], samples[:, pair]), [labels[i] for i in pair]
            if names and all(isinstance(names[i], Axis) for i in pair):
                pair_names = [names[i] for i in pair]
            for ax, points, ramp in zip(line, two, (BLUES, ORANGES), strict=False):
                _picture(ax, some(points, count), view, "", pair_names, ramp, pixels=500)
            frame = limits(two[0])
            grid = rasters.difference(*two, frame)
            image = line[2].imshow(grid, DIVERGING, vmin=-1, vmax=1, extent=frame)
            _frame(line[2], view, pair_names)
            line[2].set_xlabel(line[1].get_xlabel())
            for ax in line[1:]:
                ax.set(ylabel="", yticklabels=[])
        for ax, title in zip(axes[0], ("data", "samples", "samples − data"), strict=True):
            ax.set_title(title)
        for letter, line, view in zip("abcdef", axes[1:], windows, strict=False):
            line[0].set_title(letter)
            for ax in axes[0]:
                corner, side = (view[0], view[2]), view[1] - view[0]
                ax.indicate_inset((*corner, side, side), edgecolor=INK, alpha=0.8)
                box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
                ax.annotate(letter, corner, (3, 4), textcoords="offset points", bbox=box)
        _bar(axes, image, "samples − data, in units of the data's mean density")


def words(path: StrPath, shares: Words) -> None:
    """Bars of how often each word occurs, in the data (blue) and in the samples (orange)."""
    if not shares:
        raise InputError("words: no column of words; give one")
    rows, columns = -(-len(shares) // 3), min(len(shares), 3)
    with _figure(path, 8, 2.6 * rows + 0.3, rows, columns) as axes:
        for ax in axes.flat[len(shares) :]:
            ax.set_axis_off()
        for ax, (name, (levels, data, samples)) in zip(axes.flat, shares.items(), strict=False):
            as_series(name, data, samples)
            places = np.arange(len(levels))
            for shift, values, color, label in (
                (-0.2, data, BLUE, "data"),
                (0.2, samples, ORANGE, "samples"),
            ):
                ax.bar(places + shift, values, 0.4, color=color, label=label)
            ax.set(title=_as_it_is(name), ylabel="share of rows" * (ax in axes[:, 0]))
            shown = [_as_it_is(str(level)) for level in levels]
            shown = [text if len(text) <= 12 else text[:11] + "…" for text in shown]
            turn = {"rotation": 40, "ha": "right"} if sum(map(len, shown)) > 24 else {}
            ax.set_xticks(places, shown, **turn)
            ax.spines[["top", "right"]].set_visible(False)
        handles = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(*handles, frameon=False, ncols=2, loc="outside upper right")


def _compare_histograms(path, data, samples, label):
    frame = limits(data)
    edges = np.linspace(frame[0], frame[1], rasters.BINS + 1)
    density, found = rasters.histogram(data, frame), rasters.histogram(samples, frame)
    with _figure(path, 8, 5, 2) as ((above,), (below,)):
        above.stairs(density, edges, fill=True, color=BLUES(0.25), label="data")
        above.stairs(found, edges, color=ORANGE, label="samples", linewidth=1.5)
        above.legend(frameon=False)
        below.stairs(np.minimum(found - density, 0), edges, fill=True, color=BLUE)
        below.stairs(np.maximum(found - density, 0), edges, fill=True, color=ORANGE)
        _lines(above, "", "density", title="Data and samples")
        _lines(below, label, "", title="samples − data")


def _labels(names, width):
    names = names or ("xy"[:width] if width < 3 else [f"x{i + 1}" for i in range(width)])
    if len(names) != width:
        raise InputError(f"names: {len(names)} of them; give one for each of {width} columns")
    known = [_as_it_is(n.name if isinstance(n, Axis) else n) for n in names]
    if any(isinstance(n, Axis) for n in names):
        return known
    return [f"{n} (column {i} of {width})" if width > 2 else n for i, n in enumerate(known, 1)]


def _frame(ax, frame, names):
    """What is in view, and ticks: in the units of the first two columns, where these are known."""
    ax.locator_params(nbins=5)
    for axis, name in zip((ax.xaxis, ax.yaxis), names or (), strict=False):
        if isinstance(name, Axis):
            axis.set_ticks(name.ticks, name.labels)
    ax.set(xlim=frame[:2], ylim=frame[2:])  # which ticks beyond it would widen


def _as_it_is(text):
    """A name of a file or column as it is: no mathematics in it, every character one of Unicode."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("$", r"\$")


@contextmanager
def _figure(path, width, height, rows=1, columns=1):
    with matplotlib.rc_context(matplotlib.RcParams(STYLE)), warnings.catch_warnings():
        # A name may be in any script; a box for a letter says as much as a warning for each.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = Figure((width, height), dpi=200, layout="compressed")
        canvas = FigureCanvasAgg(figure)
        yield figure.subplots(rows, columns, squeeze=False)
        canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    # 256 colours look the same here, and make a sixth of the bytes.
    image = image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    with files.replacing(path) as temporary:
        image.save(temporary, "PNG")


def _picture(ax, points, frame, title, names, ramp=BLUES, pixels=800):
    image, width = rasters.tones(points, frame, pixels), points.shape[1]
    ax.imshow(image, ramp, aspect="auto" if width == 1 else "equal", vmin=0, vmax=1, extent=frame)
    xlabel, ylabel = [*_labels(names, width), "density"][:2]
    ax.set(title=_as_it_is(title), xlabel=xlabel, ylabel=ylabel)
    _frame(ax, frame, names)


def _bar(axes, image, label):
    place = {"location": "bottom", "shrink": 0.6, "aspect": 45, "pad": 0.02}
    axes[0, 0].figure.colorbar(image, ax=axes, label=label, **place)


def _curves(ax, series):
    for (name, (x, y)), marker in zip(series.items(), cycle("osD^vPX"), strict=False):
        x, y = as_series(name, x, y)
        ax.plot(x, y, marker=marker, markeredgecolor=PAPER, label=name)


def _lines(ax, xlabel, ylabel, logx=False, logy=False, title=""):
    xscale, yscale = ("log" if log else "linear" for log in (logx, logy))
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, xscale=xscale, yscale=yscale)
    ax.grid(True)
    ax.spines[["top", "right"]].set_visible(False)
    for axis in (axis for axis, log in ((ax.xaxis, logx), (ax.yaxis, logy)) if log):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1,) if high > 200 * low else (1, 2, 5)))
        axis.set_major_formatter("{x:g}")
    ax.minorticks_off()


def _smoothed(ax, x, y, color, label=None):
    ax.plot(x, y, color=color, alpha=0.3, linewidth=1)
    ax.plot(x, rasters.smooth(y), color=color, label=label)


def _floor(ax, floor, label, side=0):
    """A dashed line, named at its left end, or at its right one."""
    ax.axhline(floor, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    at = (side, floor), (4 - 8 * side, 4), ax.get_yaxis_transform(), "offset points"
    ax.annotate(f"{label}, {floor:.4g}", *at, color=MUTED, ha=("left", "right")[side])


def _label_ends(ax):
    """Each line's name right of the axes, in its colour, level with its end where there is room."""
    ax.autoscale_view()
    to_axes, level = ax.transData + ax.transAxes.inverted(), -1.0
    lines = [line for line in ax.lines if line.get_label()[0] != "_" and line.get_xydata().size]
    for line in sorted(lines, key=lambda line: to_axes.transform(line.get_xydata()[-1])[1]):
        end, color = line.get_xydata()[-1], line.get_color()
        level = max(to_axes.transform(end)[1], level + 0.07)
        thin = {"arrowstyle": "-", "color": color, "alpha": 0.4, "relpos": (0, 0.5)}
        at = end, (1.04, level), "data", "axes fraction", thin
        ax.annotate(line.get_label(), *at, color=color, va="center")
