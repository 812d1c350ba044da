"""Small charts as SVG inside a page: text that scales, in the page's own colours.

The classes that they use (curve, axis, floor, c0, c1, data, samples) are those of report_page.html.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from ddpm_jax.figures.rasters import Series, smooth


def histograms(name: str, shares: Sequence[Series], labels: Sequence[str]) -> str:
    """Shares [bins] of two sets of rows as outlines; what stands at either end, or below each bin.

    A label that is wider than its bin is cut short.
    """
    top = max(float(np.max(s)) for s in shares) or 1.0
    lines = []
    for index, share in enumerate(shares):
        x = np.repeat(np.arange(len(share) + 1) / len(share) * 240, 2)
        y = np.concatenate([[0.0], np.repeat(share, 2), [0.0]]) / top
        lines.append(f'<path class="curve c{index}" d="{_path(x, 92 - 84 * y)}"/>')
    below = ""
    if len(labels) == len(shares[0]):
        room = 240 / len(labels)
        for index, label in enumerate(labels):
            most = max(int(room / 7.5), 2)
            short = label if len(label) <= most else label[: most - 1] + "…"
            place = f'x="{(index + 0.5) * room:.1f}" y="112" text-anchor="middle"'
            below += f"<text {place}>{escape(short)}</text>"
    else:
        below += f'<text x="0" y="112">{escape(labels[0])}</text>'
        below += f'<text x="240" y="112" text-anchor="end">{escape(labels[-1])}</text>'
    worst = float(np.max(np.abs(shares[0] - shares[1])))
    alt = f"{name}: the two histograms differ by at most {100 * worst:.1f} % of the rows in a bin"
    return (
        f'<figure><figcaption>{escape(name)}</figcaption><svg viewBox="0 0 240 118" role="img" '
        f'aria-label="{escape(alt)}"><path class="axis" d="M0 92H240"/>'
        f"{''.join(lines)}{below}</svg></figure>"
    )


def losses(curves: Mapping[str, tuple[Series, Series]], floor: float | None) -> str:
    """Losses by name, (step or epoch, loss), and the dashed `floor`; "" where there is none.

    The axis is logarithmic, and each curve is smoothed over a tenth of what came before.
    """
    known, ends = {}, {}
    for name, (x, y) in curves.items():
        keep = np.isfinite(y) & (x > 0)
        if keep.any():
            known[name] = x[keep].astype(float), smooth(y[keep].astype(float))
            ends[name] = float(y[keep][-1])
    if not known:
        return ""
    every = np.concatenate([y for _, y in known.values()] + [[] if floor is None else [floor]])
    low, high = float(every.min()), float(every.max())
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - margin, high + margin
    first = min(float(x[0]) for x, _ in known.values())
    last = max(float(x[-1]) for x, _ in known.values())
    width, height, edge = 560, 280, 76

    def across(x):
        if last == first:
            return np.full(np.shape(x), edge + width / 2)
        return edge + width * np.log(np.asarray(x) / first) / np.log(last / first)

    def up(y):
        return 10 + height * (1 - (np.asarray(y) - low) / (high - low))

    parts, legend = [], []
    marks = np.linspace(low + margin, high - margin, 4)
    for value, text in zip(marks, _told_apart(marks), strict=True):
        y = float(up(value))
        parts.append(f'<path class="axis" d="M{edge} {y:.1f}H{edge + width}"/>')
        parts.append(f'<text x="{edge - 8}" y="{y + 5:.1f}" text-anchor="end">{text}</text>')
    for value in dict.fromkeys((first, last)):
        anchor = "end" if value == last > first else "start"
        place = f'x="{float(across(value)):.1f}" y="{height + 34}" text-anchor="{anchor}"'
        parts.append(f"<text {place}>{value:g}</text>")
    for index, (name, (x, y)) in enumerate(known.items()):
        few = np.unique(np.geomspace(1, len(x), min(len(x), 500)).astype(int)) - 1
        parts.append(f'<path class="curve c{index % 2}" d="{_path(across(x[few]), up(y[few]))}"/>')
        kind = ("data", "samples")[index % 2]
        legend.append(f'<span class="{kind}">— {escape(name)}, {ends[name]:.4g} at the end</span>')
    if floor is not None:
        parts.append(f'<path class="floor" d="M{edge} {float(up(floor)):.1f}H{edge + width}"/>')
        legend.append(f"<span>- - ideal denoiser, {floor:.4g}</span>")
    middle = f'x="{edge + width / 2:.1f}" y="{height + 34}" text-anchor="middle"'
    parts.append(f"<text {middle}>epochs, logarithmic</text>")
    said = ", ".join(f"{name} ends at {value:.4g}" for name, value in ends.items())
    said += "" if floor is None else f"; the ideal denoiser's is {floor:.4g}"
    return (
        f'<p class="legend">{" ".join(legend)}</p>'
        f'<svg class="loss" viewBox="0 0 {edge + width + 4} {height + 42}" role="img" '
        f'aria-label="{escape(said)}">{"".join(parts)}</svg>'
    )


def _told_apart(values: Series) -> list[str]:
    """The values in as few digits, three or more, as tell them apart."""
    for digits in range(3, 17):
        texts = [f"{value:.{digits}g}" for value in values]
        if len(set(texts)) == len(np.unique(values)):
            break
    return texts


def _path(x: Series, y: Series) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
