"""The reverse process, animated."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddpm_jax import files
from ddpm_jax.errors import InputError
from ddpm_jax.figures import rasters
from ddpm_jax.figures.plotting import BLUES
from ddpm_jax.figures.rasters import Frame, Points, as_points


def reverse_gif(
    path: str | Path,
    frames: Sequence[Points],
    labels: Sequence[str],
    frame: Frame,
    durations_ms: Sequence[int],
) -> None:
    """The reverse process in a loop: points [N, D], a label and a duration in ms for each frame.

    Points are drawn as in `plotting`. The file is written whole or not at all.
    """
    if not len(frames) == len(labels) == len(durations_ms) > 0:
        counts = f"{len(frames)}, {len(labels)} and {len(durations_ms)}"
        raise InputError(f"reverse_gif: {counts} frames, labels and durations; give one of each")
    size, shades, font, at, images = 480, 10, ImageFont.load_default(22), (14, 14), []
    palette = BLUES(np.linspace(0, 1, shades), bytes=True)[:, :3].tobytes()
    for points, label in zip(as_points("reverse_gif", *frames), labels, strict=True):
        text, halo = Image.new("L", (size, size)), Image.new("L", (size, size))
        ImageDraw.Draw(text).text(at, label, 255, font, "lt")
        ImageDraw.Draw(halo).text(at, label, 255, font, "lt", stroke_width=6)
        tones = rasters.tones(points, frame, size)
        tones = np.where(np.asarray(halo), np.asarray(text) / 255, tones)
        images.append(Image.fromarray((tones * (shades - 1)).round().astype(np.uint8)))
        images[-1].putpalette(palette)
    options = {"append_images": images[1:], "duration": list(durations_ms), "loop": 0}
    # Frames of noise have nothing in common: Pillow's `optimize` makes the file a fifth larger.
    with files.replacing(path) as temporary:
        images[0].save(temporary, "GIF", save_all=True, optimize=False, **options)
