"""One page about a run, to be opened by double-click: `report.html`, which fetches nothing.

The page is a function of plain values, `page(...) -> str`; its words, looks and behaviour are those
of report_page.html, its numbers are filled in here. Points travel as 16-bit numbers and are drawn
by the page itself, so that they stay sharp at any zoom and change colour with the reader's theme.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template

import numpy as np

from ddpm_jax.errors import InputError
from ddpm_jax.figures import charts
from ddpm_jax.figures.rasters import Points, Series, as_points, limits, some

MOVIE_POINTS = 4_000
MOVIE_FRAMES = 64
PAIR_POINTS = 12_000
SCATTERED, DRAWN = 8, 24
"""Columns that can be chosen for the picture of points, and those that get one of their own."""
_FULL, _MISSING = 65_534, 65_535


@dataclass(frozen=True)
class Table:
    """A table as it is to be read: a heading for each column, cells as text, a note below."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise InputError(f"table: each row needs {len(self.header)} cells, as the header has")


def page(
    title: str,
    data: Points,
    samples: Points,
    *,
    command: str,
    subtitle: str = "",
    facts: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    frames: Sequence[Points] = (),
    left: Sequence[int] = (),
    losses: Mapping[str, tuple[Series, Series]] | None = None,
    floor: float | None = None,
    table: Table | None = None,
    names: Sequence[str] | None = None,
    words: Mapping[int, Sequence[str]] | None = None,
) -> str:
    """The whole page as text, at most 6 MB whatever it is given.

    `data` [N, D] and `samples` [M, D] are in the data's own units; NaN is an empty cell. A column
    of words holds the index of each word, and `words[column]` lists them. `frames`, [n, D] each,
    are one set of points with `left` steps to go, down to 0. `losses` are curves (step or epoch,
    loss) by name, over the ideal denoiser's `floor`. `facts`, `warnings` and `command` are shown as
    they are. Raises InputError for shapes that do not fit.
    """
    data, samples = as_points("report", data, samples)
    names = list(names or ("xy"[: data.shape[1]] if data.shape[1] < 3 else _numbered(data)))
    if len(names) != data.shape[1]:
        raise InputError(f"names: {len(names)}; give one for each of {data.shape[1]} columns")
    if len(frames) != len(left) or any(len(f) != len(frames[0]) for f in frames):
        raise InputError(
            f"frames: {len(frames)} of them and {len(left)} numbers of steps left; give one of "
            "each, and the same points in every frame"
        )
    words = words or {}
    numbers = [i for i in range(data.shape[1]) if i not in words]
    plane = (numbers + list(words))[:2]  # noise is seen best in columns of numbers
    held = {
        "movie": _movie([f[:, plane] for f in frames], left, data[:, plane]) if frames else None,
        "pair": _pair(data, samples, names, plane, _boxes(data, words)),
    }
    text = resources.files("ddpm_jax.figures").joinpath("report_page.html").read_text("utf-8")
    return Template(text).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        warnings=_warnings(warnings),
        facts=_definitions(facts or {}),
        movie=_MOVIE.format(last=len(held["movie"]["frames"]) - 1) if held["movie"] else "",
        pair=_pair_section(names[:SCATTERED], held["pair"]["axes"]),
        columns=_columns(data, samples, names, words) if data.shape[1] != 2 else "",
        losses=_losses(charts.losses(losses or {}, floor)),
        table=_table(table) if table else "",
        command=" ".join(f"<span>{escape(word)}</span>" for word in command.split(" ")),
        # A script's text ends at the first "</": in JSON a "<" may be written otherwise.
        points=json.dumps(held).replace("<", "\\u003c"),
    )


def _numbered(data: Points) -> list[str]:
    return [f"x{i + 1}" for i in range(data.shape[1])]


def _boxes(data: Points, words: Mapping[int, Sequence[str]]) -> list[tuple[float, float]]:
    """What the picture of points shows of each column: of two columns in one unit, a square."""
    if data.shape[1] == 2 and not words:
        xmin, xmax, ymin, ymax = limits(_whole_rows(data))
        return [(xmin, xmax), (ymin, ymax)]
    boxes = []
    for i, column in enumerate(data.T):
        known = column[np.isfinite(column)]
        low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
        margin = 0.5 if i in words or low == high else 0.05 * (high - low)
        boxes.append((float(low - margin), float(high + margin)))
    return boxes


def _whole_rows(points: Points) -> Points:
    """The rows without an empty cell, or one row of zeros where there is none."""
    whole = points[np.isfinite(points).all(axis=1)]
    return whole if len(whole) else np.zeros((1, points.shape[1]))


def _packed(values: Series, low: float, high: float) -> str:
    """Numbers from low to high as 16 bits each, those beyond at the edge; NaN has its own code."""
    known = np.isfinite(values)
    part = np.clip((np.where(known, values, low) - low) / (high - low), 0, 1)
    codes = np.where(known, np.round(part * _FULL), _MISSING).astype("<u2")
    return base64.b64encode(codes.tobytes()).decode()


def _in_plane(points: Points) -> Points:
    """The first two columns; a lone one is spread by chance, always the same, across the other."""
    if points.shape[1] > 1:
        return points[:, :2]
    return np.column_stack([points[:, 0], np.random.default_rng(0).uniform(size=len(points))])


def _movie(frames: Sequence[Points], left: Sequence[int], data: Points) -> dict:
    """The frames as numbers, at most MOVIE_FRAMES of MOVIE_POINTS points, and what is in view."""
    kept = np.unique(np.linspace(0, len(frames) - 1, MOVIE_FRAMES).round().astype(int))
    count = min(len(frames[0]), MOVIE_POINTS)
    seen = _boxes(_whole_rows(_in_plane(data)), {})
    if data.shape[1] == 1:
        seen[1] = (-0.25, 1.25)
    # Noise reaches far beyond the data: numbers are kept for three times the view each way.
    (x, xx), (y, yy) = ((low - (high - low), high + (high - low)) for low, high in seen)
    packed = []
    for points in (_in_plane(frames[i][:count]) for i in kept):
        part = np.clip((points - [x, y]) / [xx - x, yy - y], 0, 1)
        packed.append(_packed(part.ravel(), 0.0, 1.0))
    return {"frames": packed, "left": [int(left[i]) for i in kept], "view": [1 / 3, 1 / 3, 1 / 3]}


def _pair(
    data: Points,
    samples: Points,
    names: Sequence[str],
    plane: Sequence[int],
    boxes: list[tuple[float, float]],
) -> dict:
    """Columns of as many points of both, what is in view of each, and the two shown at first."""
    count = min(len(data), len(samples), PAIR_POINTS)
    shown = {"data": some(data, count), "samples": some(samples, count)}
    if data.shape[1] == 1:
        shown = {name: _in_plane(points) for name, points in shown.items()}
        names, boxes, plane = [names[0], "height, by chance"], [*boxes, (-0.25, 1.25)], (0, 1)
    kept = range(min(len(names), SCATTERED))
    columns = {
        name: [_packed(points[:, i], *boxes[i]) for i in kept] for name, points in shown.items()
    }
    axes = plane if max(plane) < SCATTERED else (0, 1)
    shown_of = {"names": [names[i] for i in kept], "box": [boxes[i] for i in kept]}
    return shown_of | {"axes": list(axes)} | columns


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return (
        '<section class="warnings" aria-labelledby="careful"><h2 id="careful">Careful</h2>'
        f"<ul>{items}</ul></section>"
    )


def _definitions(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    entries = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return (
        '<section aria-labelledby="learnt"><h2 id="learnt">What was learnt from</h2>'
        f"<dl>{''.join(entries)}</dl></section>"
    )


_MOVIE = """<section aria-labelledby="reverse"><h2 id="reverse">From noise to points</h2>
<div class="movie"><canvas id="movie" role="img" aria-label="The points on their way from noise to \
the result; the slider below chooses the step">The points on their way from noise to the \
result.</canvas>
<div class="controls"><button type="button" id="play">Play</button>
<input type="range" id="time" min="0" max="{last}" step="any" value="{last}" \
aria-label="Step of the reverse process"><output id="shown" for="time"></output></div></div>
</section>"""


def _pair_section(names: Sequence[str], axes: Sequence[int]) -> str:
    choices = ""
    if len(names) > 2:
        for axis, label in zip(axes, ("across", "up"), strict=True):
            options = "".join(
                f'<option value="{i}"{" selected" if i == axis else ""}>{escape(name)}</option>'
                for i, name in enumerate(names)
            )
            choices += f'<label>{label} <select id="{label}">{options}</select></label>\n'
    panes = "".join(
        f'<figure><canvas id="pane-{name}" tabindex="0" role="img" aria-label="{title}, as points; '
        f'plus and minus zoom, arrows move, 0 shows all">{title}, as points.</canvas>'
        f'<figcaption class="{name}">{title}</figcaption></figure>'
        for name, title in (("data", "Data"), ("samples", "Samples"))
    )
    return f"""<section aria-labelledby="side"><h2 id="side">Data and samples</h2>
<div class="pair">{panes}</div>
<div class="controls"><button type="button" id="nearer" aria-label="Zoom in">+</button>
<button type="button" id="farther" aria-label="Zoom out">−</button>
<button type="button" id="whole">Show all</button>
{choices}<span class="muted" id="view" role="status"></span></div>
<p class="muted">As many of each. Both follow when one is moved: drag, double-click or pinch, or use
the keys +, −, 0 and the arrows.</p></section>"""


def _columns(
    data: Points, samples: Points, names: Sequence[str], words: Mapping[int, Sequence[str]]
) -> str:
    """Each column by itself: shares of the data and of the samples, in bins or by word."""
    figures = []
    for i in range(min(data.shape[1], DRAWN)):
        sets = [points[:, i][np.isfinite(points[:, i])] for points in (data, samples)]
        low, high = sets[0].min(initial=np.inf), sets[0].max(initial=-np.inf)
        low, high = (
            (0.0, 1.0) if low > high else (low - 0.5, high + 0.5) if low == high else (low, high)
        )
        bins, span = (
            (len(words[i]), (-0.5, len(words[i]) - 0.5)) if i in words else (40, (low, high))
        )
        shares = [np.histogram(x, bins, span)[0] / max(len(x), 1) for x in sets]
        labels = (f"{low:.4g}", f"{high:.4g}")
        if i in words:  # of many, there is room for the first and the last
            labels = words[i] if len(words[i]) <= 6 else (words[i][0], words[i][-1])
        figures.append(charts.histograms(names[i], shares, labels))
    more = data.shape[1] - len(figures)
    note = f'<p class="muted">The first {DRAWN} of {data.shape[1]} columns.</p>' if more else ""
    return (
        '<section aria-labelledby="each"><h2 id="each">Column by column</h2>'
        '<p class="muted">How often each value occurs: <span class="data">data</span> and '
        f'<span class="samples">samples</span>.</p><div class="columns">{"".join(figures)}</div>'
        f"{note}</section>"
    )


def _losses(chart: str) -> str:
    if not chart:
        return ""
    return (
        f'<section aria-labelledby="loss"><h2 id="loss">Loss</h2>{chart}<p class="muted">Mean '
        "squared error of the predicted noise, along training. No denoiser falls below "
        " the ideal one's on the rows learnt from.</p></section>"
    )


def _table(table: Table) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    body = ""
    for first, *rest in table.rows:
        cells = "".join(
            f'<td data-label="{escape(name)}">{escape(cell)}</td>'
            for name, cell in zip(table.header[1:], rest, strict=True)
        )
        body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
    return (
        '<section aria-labelledby="quality"><h2 id="quality">How good the samples are</h2>'
        f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
        f'<p class="muted">{escape(table.note)}</p></section>'
    )
