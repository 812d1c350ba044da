"""Draw bicycle.txt: a city bicycle, as all the points of a square lattice that its ink covers.

Curves are lists of complex numbers x + iy, shapes are masks on the lattice, combined by union and
subtraction, and parts are layers, painted from back to front. The file must come out byte for byte
the same everywhere: every mask first snaps its curve to multiples of 2^-20, which absorbs the last
digits of a machine's sine and cosine, and from there on uses + - * / alone, which IEEE 754 rounds
the same way on every machine.
"""

import argparse
import cmath
import math
import os
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

PER_UNIT = 256  # the lattice spacing is 1/256 = 0.00390625, exact in binary and in decimals
GAP = 2  # pixels of white that set a part off from what lies behind it
AXIS = np.arange(-PER_UNIT, PER_UNIT + 1) / PER_UNIT
BLANK = np.zeros((AXIS.size, AXIS.size), bool)  # rows from y = -1, columns from x = -1 upwards

Curve = list[complex]
Layer = tuple[np.ndarray, np.ndarray]  # ink, and the area to clear before it is laid

# ----------------------------------------------------------------------- curves, masks, layers


def polar(radius: float, degrees: float) -> complex:
    """Return the point at a radius and an angle."""
    return cmath.rect(radius, math.radians(degrees))


def arc(centre: complex, radius: float, start: float, stop: float, n: int = 60) -> Curve:
    """Return the part of a circle from one angle to another, in n equal steps."""
    return [centre + polar(radius, start + (stop - start) * i / n) for i in range(n + 1)]


def bezier(control: Curve, n: int = 20) -> Curve:
    """Return a Bézier curve of any degree, by de Casteljau's algorithm."""
    rows = [[p] * (n + 1) for p in control]
    while len(rows) > 1:
        rows = [[p[i] + i / n * (q[i] - p[i]) for i in range(n + 1)] for p, q in pairwise(rows)]
    return rows[0]


def smooth(p: Curve) -> Curve:
    """Return the closed Catmull-Rom curve through some points."""
    around = zip(p, p[1:] + p[:1], p[2:] + p[:2], p[3:] + p[:3], strict=True)
    arcs = [bezier([b, b + (c - a) / 6, c - (d - b) / 6, c], n=6) for a, b, c, d in around]
    return [arcs[-1][-1]] + [z for piece in arcs for z in piece[1:]]


def snap(values: Iterable[float]) -> list[float]:
    """Return the nearest multiples of 2^-20."""
    return [round(v * 2**20) / 2**20 for v in values]


def stroke(curve: Curve, width: float, end: float | None = None) -> np.ndarray:
    """Return a round-ended line whose width changes evenly to `end`."""
    mask, xs, ys = BLANK.copy(), snap(z.real for z in curve), snap(z.imag for z in curve)
    start, stop = snap([width / 2, (width if end is None else end) / 2])
    radii = np.linspace(start, stop, len(curve))
    for (px, qx), (py, qy), (r, s) in zip(*map(pairwise, (xs, ys, radii)), strict=True):
        margin, ux, uy = max(r, s) + 1 / PER_UNIT, qx - px, qy - py
        cols = slice(*np.searchsorted(AXIS, (min(px, qx) - margin, max(px, qx) + margin)))
        rows = slice(*np.searchsorted(AXIS, (min(py, qy) - margin, max(py, qy) + margin)))
        x, y = AXIS[None, cols] - px, AXIS[rows, None] - py
        t = np.clip((x * ux + y * uy) / (ux * ux + uy * uy or 1.0), 0, 1)
        dx, dy, radius = x - t * ux, y - t * uy, r + t * (s - r)
        mask[rows, cols] |= dx * dx + dy * dy <= radius * radius
    return mask


def polygon(curve: Curve) -> np.ndarray:
    """Return the inside of a closed curve (even-odd rule)."""
    mask, xs, ys = BLANK.copy(), snap(z.real for z in curve), snap(z.imag for z in curve)
    for (px, qx), (py, qy) in zip(pairwise(xs), pairwise(ys), strict=True):
        rows = slice(*np.searchsorted(AXIS, sorted((py, qy))))
        mask[rows] ^= px + (AXIS[rows, None] - py) * (qx - px) / (qy - py or 1.0) > AXIS
    return mask


def union(masks: Iterable[np.ndarray]) -> np.ndarray:
    """Return the union of masks."""
    return np.logical_or.reduce(list(masks))


def layer(ink: np.ndarray, body: np.ndarray | None = None) -> Layer:
    """Return ink that clears its body (itself, if not given) and GAP pixels around it."""
    padded, n, reach = np.pad(ink if body is None else body, GAP), AXIS.size, range(-GAP, GAP + 1)
    near = [(GAP + i, GAP + j) for i in reach for j in reach if i * i + j * j <= GAP * GAP + 1]
    return ink, union(padded[i : i + n, j : j + n] for i, j in near)


def sketch(name: str, at: complex = 0, by: complex = 1) -> Iterator[Layer]:
    """Yield the layers of a part in DRAWINGS, every point z of it placed at `at` + `by` z.

    Rows end at semicolons and read "[copies*] kind [@beads] sizes points". The kinds line, ink (a
    line that clears nothing), cut (a line of white) and tube (a line and a cut) follow a Bézier
    curve, or are beads on it; fill and shape (an outline) follow a smooth closed curve; any other
    is a part, its sizes a scale and an angle. Copies are turned about the origin.
    """
    for words in (row.split() for row in PARTS[name].split(";")):
        copies = int(words.pop(0)[:-1]) if words[0][-1] == "*" else 1
        kind, beads = words[0], int(words.pop(1)[1:]) if words[1][0] == "@" else 0
        sizes = [float(w) for w in words[1:] if "," not in w]
        points = [complex(*map(float, w.split(","))) for w in words[1:] if "," in w]
        turns = [by * polar(1, 360 * i / copies) for i in range(copies)]
        curves = [[at + turn * z for z in points] for turn in turns]
        widths = [size * abs(by) for size in sizes]
        if kind in PARTS:
            for turn, curve in zip(turns, curves, strict=True):
                yield from sketch(kind, curve[0], turn * polar(*sizes))
        elif kind in ("fill", "shape"):
            curves = [smooth(curve) for curve in curves]
            inside = union(polygon(curve) for curve in curves)
            edge = union(stroke(curve, *widths) for curve in curves) if widths else inside
            yield layer(edge, edge | inside)
        else:
            curves = [bezier(z, beads or (20 if len(z) > 2 else 1)) for z in curves]
            curves = [[z, z] for curve in curves for z in curve] if beads else curves
            if kind == "tube":
                yield layer(union(stroke(curve, widths.pop(0)) for curve in curves))
            ink = union(stroke(curve, *widths) for curve in curves)
            yield layer(ink) if kind == "line" else (ink, BLANK) if kind == "ink" else (BLANK, ink)


# -------------------------------------------------------------------------------------- parts

DRAWINGS = """
wheel: line .744 0,0; 90* cut .005 .366,0 .375,.006; cut .711 0,0; ink .704 0,0; cut .69 0,0;
    ink .682 0,0; cut .67 0,0; ink .658 0,0; cut .644 0,0; ink .0125 -.041,-.337 -.036,-.288;
    14* ink .0058 .325,0 .009,.042; 14* ink .0058 .317,.072 .018,-.039; 28* line .013 .317,0;
    line .096 0,0; 12* cut .0095 .034,0; cut .046 0,0; ink .032 0,0; cut .012 0,0
chainring: line .184 0,0; 28* ink .0135 .094,0; 8* cut .033 .058,0; 20* cut .009 .083,0
sprocket: line .066 0,0; 12* ink .0115 .037,0; cut .052 0,0; ink .032 0,0; cut .012 0,0
crank: tube .027 .0085 0,0 0,-.187; line .05 0,0; cut .022 0,0
pedal: line .0195 -.05,.0155 .05,.0155; line .0195 -.05,-.0155 .05,-.0155; line .03 0,0;
    cut @5 .0075 -.046,.0155 .046,.0155; cut @5 .0075 -.046,-.0155 .046,-.0155; cut .01 0,0
frame: tube .02 .006 -.27,-.45 -.372,-.785; line .02 -.402,-.789 -.348,-.789;
    tube .028 .009 .396,-.015 .52,-.32 .555,-.42 .6285,-.428;
    tube .019 .006 -.595,-.428 -.322,.087; tube .024 .008 -.595,-.428 -.1,-.462;
    tube .03 .009 .332,.14 .2,-.14 0,-.29 -.19,-.24;
    tube .034 .01 .378,.03 .24,-.3 .06,-.44 -.1,-.462;
    tube .036 .011 -.1,-.462 -.322,.087; line .02 -.322,.087 -.37,.21;
    line .016 -.345,.083 -.298,.093; line .046 .392,-.005 .31,.198; cut .009 .376,.055 .34,.143;
    cut .006 .356,.005 .415,.028; cut .006 .296,.15 .355,.174
coil: ink .0075 -.016,0 .016,-.012; ink .0075 .016,-.012 -.016,-.024
saddle: coil 1 0 -.488,.168; coil 1 0 -.488,.144; coil 1 0 -.488,.12; coil 1 0 -.44,.163;
    coil 1 0 -.44,.139; coil 1 0 -.44,.115; line .009 -.5,.09 -.4,.08 -.36,.15 -.25,.215;
    fill -.515,.262 -.47,.268 -.4,.248 -.32,.246 -.24,.246 -.222,.23 -.245,.218 -.31,.21
    -.36,.19 -.41,.165 -.47,.168 -.51,.2 -.525,.235;
    cut @18 .0075 -.505,.222 -.42,.2 -.36,.232 -.25,.232
cables: line .006 .2,.42 .39,.38 .33,.2 .43,.03 .455,-.09; line .006 .15,.4 .17,.2 .24,.22 .29,.06
handlebar: line .026 .31,.198 .247,.355; ink .028 .247,.357 .29,.385; line .01 .17,.41 .14,.36
    .1,.345 .03,.305; line .021 .29,.4 .31,.475 .16,.45 .005,.36; line .036 .13,.423 .09,.408
    .05,.388 .005,.36; cut @9 .0085 .13,.423 .09,.408 .05,.388 .005,.36; line .032 .29,.39;
    cut .01 .29,.39; fill .2,.452 .176,.456 .186,.485 .208,.496 .23,.485 .24,.456 .216,.452;
    cut .006 .19,.47 .2,.485
carriers: line .01 -.6,-.4 -.87,.025; line .01 -.6,-.4 -.68,.025; line .014 -.945,.005 -.945,.06;
    tube .024 .009 -.325,.03 -.94,.03; fill -.968,-.01 -.99,.03 -.968,.072 -.951,.072 -.951,-.01;
    cut .008 -.968,.01 -.968,.05; line .01 .63,-.4 .57,.02; line .01 .63,-.4 .74,.02;
    tube .024 .009 .42,.01 .9,.01; fill .945,.015 .915,.013 .875,-.005 .86,-.035 .875,-.065
    .915,-.083 .945,-.085; cut .008 .9,-.004 .87,-.03 .885,-.055; line .012 .965,-.085 .965,.015
daisy: 13* line .1 .28 .36,0 .88,0; line .6 0,0; cut .38 0,0; ink .16 0,0
aster: 16* line .08 .22 .36,0 .9,0; line .6 0,0; 9* cut .07 .2,0; cut .16 0,0
cosmos: 8* line .14 .46 .36,0 .78,0; 8* cut .08 .5,0 .78,0; line .56 0,0; cut .36 0,0; ink .16 0,0
petal: line .92 0,0; cut .74 0,0; ink .07 .05,.28 .25,0 .05,-.28
rose: 6* petal 1 0 .56,.1; line 1.2 0,0; cut .09 -.52,.1 -.3,.75 .6,.5 .45,-.1;
    cut .09 .5,-.1 .3,-.7 -.5,-.55 -.4,.05; cut .08 -.25,.1 -.2,.45 .45,.4 .2,-.1 -.1,-.3 -.2,.15
tulip: fill 0,0 -.32,.08 -.5,.4 -.52,.75 -.6,1.1 -.3,.9 -.05,.6; fill 0,0 .32,.08 .5,.4 .52,.75
    .6,1.1 .3,.9 .05,.6; shape .07 0,0 -.26,.15 -.34,.55 0,1.1 .34,.55 .26,.15;
    ink .05 0,.1 -.25,.45 -.08,.8; ink .05 0,.1 .25,.45 .08,.8; ink .05 0,.1 0,.85
leaf: fill .08,0 .08,0 .45,.24 1,0 1,0 .45,-.24
pair: leaf 1 45 0,0; leaf 1 135 0,0
sprig: line .03 0,-.6 0,1; pair .4 0 0,-.1; pair .4 0 0,.1; pair .38 0 0,.3; pair .36 0 0,.5;
    pair .32 0 0,.7; leaf .3 90 0,.92
lavender: line .02 0,-1 0,1; pair .19 0 0,.02; pair .19 0 0,.14; pair .19 0 0,.26;
    pair .19 0 0,.38; pair .18 0 0,.5; pair .17 0 0,.62; pair .16 0 0,.74; leaf .16 90 0,.86
bunch: lavender .25 27 .4,.56; lavender .26 5 .6,.64; lavender .26 -8 .765,.64;
    lavender .22 -26 .88,.54; sprig .2 50 .45,.43; sprig .24 22 .5,.62; sprig .21 -18 .83,.67;
    sprig .2 -50 .855,.43; line .009 .54,.3 .5,.5 .49,.74; line .009 .66,.3 .67,.66;
    line .009 .53,.3 .44,.4 .41,.52; line .009 .74,.3 .82,.4 .83,.63; cosmos .1 0 .49,.74;
    tulip .13 -4 .67,.66; tulip .12 14 .41,.52; aster .105 0 .83,.63; rose .09 0 .725,.465;
    daisy .105 9 .56,.5; daisy .07 0 .89,.43; daisy .065 5 .42,.4
cat: line .09 -.12,.05 -.5,0 -.62,.35 -.42,.75 -.62,.8; fill -.12,0 .3,0 .34,.04 .24,.07 .22,.3
    .27,.48 .25,.6 .36,.64 .43,.69 .42,.75 .36,.83 .34,1.01 .33,1.01 .25,.9 .18,.91 .12,1.01
    .11,1.01 .1,.78 0,.62 -.14,.42 -.22,.2 -.2,.04; cut .035 .31,.77 .335,.765;
    cut .025 .1,.02 .05,.2 -.06,.3
balloon: fill 0,-1.25 -.6,-.8 -.98,0 -.7,.72 0,1 .7,.72 .98,0 .6,-.8; cut .1 -.7,.1 -.65,.5 -.3,.75;
    ink .18 0,-1.33
gores: shape .09 0,-1.25 -.6,-.8 -.98,0 -.7,.72 0,1 .7,.72 .98,0 .6,-.8; ink .18 0,-1.33;
    ink .07 0,1 -1.3,.3 0,-1.2; ink .07 0,1 -.5,.3 0,-1.2; ink .07 0,1 .5,.3 0,-1.2;
    ink .07 0,1 1.3,.3 0,-1.2
butterfly: fill 0,0 .15,.55 .6,1 .95,.95 .9,.5 .5,.1; fill 0,0 .5,.05 .75,-.25 .6,-.6 .25,-.55
    .05,-.2; cut .17 .7,.72; cut .11 .5,.45 .3,.25; cut .13 .45,-.3; line .12 -.1,.15 .02,-.4;
    line .05 -.1,.15 -.15,.5 -.4,.6; line .05 -.1,.15 -.3,.35 -.5,.3
sky: line .0055 -.62,.7 -.62,.4 -.45,.4 -.39,.21; line .0055 -.25,.62 -.25,.32 -.42,.4 -.39,.21;
    line .0055 -.42,.78 -.42,.48 -.42,.4 -.39,.21; gores .1 0 -.62,.7; gores .095 0 -.25,.62;
    balloon .105 0 -.42,.78; butterfly .11 8 .03,.66; butterfly .07 -25 .17,.8
"""
NAMES, ROWS = (re.split(r"^(\w+):", DRAWINGS, flags=re.M)[k::2] for k in (1, 2))
PARTS = dict(zip(NAMES, ROWS, strict=True))
REAR, FRONT, BRACKET = -0.595 - 0.428j, 0.6285 - 0.428j, -0.1 - 0.462j  # axles
MUDGUARD, RING, SPROCKET, CRANK = 0.397, 0.103, 0.044, 0.187  # radii
BASKET = (0.445 + 0.045j, 0.865 + 0.045j, 0.385 + 0.335j, 0.93 + 0.335j)  # corners


def mudguard(hub: complex, start: float, stop: float, *stays: float) -> Iterator[Layer]:
    """Yield a mudguard from one angle to another, and stays at some angles."""
    guard = arc(hub, MUDGUARD, start, stop)
    yield layer(union(stroke([hub, hub + polar(MUDGUARD, a)], 0.0055) for a in stays))
    yield layer(stroke(guard, 0.0195) & ~stroke(guard, 0.0065), stroke(guard, 0.0195))


def crank(degrees: float) -> Iterator[Layer]:
    """Yield a crank, turned from straight down, and its pedal."""
    yield from sketch("crank", BRACKET, polar(1, degrees))
    yield from sketch("pedal", BRACKET + polar(CRANK, degrees - 90))


def chain() -> Iterator[Layer]:
    """Yield the links of a chain around both sprockets, and the chain guard."""
    axis = math.degrees(cmath.phase(REAR - BRACKET))
    turn = math.degrees(math.acos((RING - SPROCKET) / abs(REAR - BRACKET)))
    front = arc(BRACKET, RING, axis + turn - 360, axis - turn, 13)
    back = arc(REAR, SPROCKET, axis - turn, axis + turn, 5)
    above, below = bezier([front[-1], back[0]])[1:-1], bezier([back[-1], front[0]])[1:-1]
    loop = [*front, *above, *back, *below, front[0]]
    band = stroke(loop, 0.0055) | union(stroke([z, z], 0.0185) for z in loop)
    yield layer(band & ~union(stroke([z, z], 0.0065) for z in loop))
    guard = [REAR + 0.077j, *arc(BRACKET, 0.133, axis - turn, -15)]
    yield layer(stroke(guard, 0.027) & ~stroke(guard, 0.0125), stroke(guard, 0.027))


def basket() -> Iterator[Layer]:
    """Yield a wicker basket: braids, two woven bands, and an open lattice between them."""

    def line(u: float, v: float, du: float, dv: float, width: float) -> np.ndarray:
        a, b, c, d = BASKET
        ends = [(u - du, v - dv), (u + du, v + dv)]
        return stroke([a + s * (b - a) + t * (c - a + s * (a - b - c + d)) for s, t in ends], width)

    rows = enumerate((0.1, 0.185, 0.27, 0.69, 0.78, 0.87))
    inside = [line((2 * i + k % 2) / 14, v, 0.046, 0, 0.016) for k, v in rows for i in range(8)]
    inside += [line(i / 14, 0.475, d, 0.13, 0.007) for i in range(15) for d in (-0.06, 0.06)]
    inside += [line(0.5, v, 0.5, 0, 0.008) for v in (0.335, 0.615)]
    braid = union(line((i + 0.5) / 18, v, 0.017, 0.022, 0.013) for i in range(18) for v in (0, 1))
    body = polygon([BASKET[i] for i in (0, 1, 3, 2, 0)])
    yield layer(union(inside) & body | braid, body | braid)


def picture() -> Iterator[Layer]:
    """Yield all layers, from back to front."""
    yield from (*sketch("sky"), *sketch("wheel", REAR), *sketch("wheel", FRONT))
    yield from (*mudguard(REAR, 8, 197, 150, 192), *mudguard(FRONT, 32, 210, 40, 172, 205))
    yield from (*sketch("carriers"), *sketch("cables"), *sketch("frame"), *crank(160))
    yield from (*sketch("chainring", BRACKET), *sketch("sprocket", REAR), *chain(), *crank(-20))
    yield from (*sketch("saddle"), *sketch("handlebar"), *sketch("bunch"), *basket())
    yield from sketch("cat", -0.76 + 0.047j, 0.34)


def points() -> np.ndarray:
    """Return the points [n, 2], by descending y, then ascending x."""
    ink = BLANK
    for mask, cleared in picture():
        ink = ink & ~cleared | mask
    rows, cols = np.nonzero(ink[::-1])
    return np.stack([AXIS[cols], AXIS[::-1][rows]], axis=1)


def text() -> str:
    """Return the file: x and y of a point on each line."""
    return "".join(f"{x:.8f} {y:.8f}\n" for x, y in points())


def main() -> None:
    """Write the file, whole or not at all."""
    parser = argparse.ArgumentParser(description="Draw the bicycle and write its points.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("bicycle.txt"))
    parser.add_argument("--overwrite", action="store_true", help="replace a file that differs")
    args = parser.parse_args()
    drawn = text().encode()
    if args.out.exists() and args.out.read_bytes() != drawn and not args.overwrite:
        parser.error(f"{args.out} exists and differs from the drawing; --overwrite replaces it")
    temporary = args.out.with_name(args.out.name + ".tmp")
    temporary.write_bytes(drawn)
    os.replace(temporary, args.out)


if __name__ == "__main__":
    main()
