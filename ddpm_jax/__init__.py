"""Denoising diffusion for points: pure functions on arrays and pytrees.

`schedules` states the notation that every other module uses. Start there, then read `diffusion`,
`models`, `training` and `sampling`.
"""

__version__ = "0.1.0"
