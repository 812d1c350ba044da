"""Denoising diffusion for points: fit a model to a file, a table or an array, and draw from it.

    import ddpm_jax
    model = ddpm_jax.fit(ddpm_jax.load_points("points.csv"), seed=0)
    new = model.sample(1000, seed=1)

Below the front door everything is pure functions, by subject: `diffusion.schedules` states the
notation; read it first, then `diffusion.process`, `networks.denoiser`, `training.steps` and
`diffusion.sampling`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_jax.config import PRESETS, Config
    from ddpm_jax.model import Model, fit
    from ddpm_jax.points.sources import load_points

__version__ = "0.2.0.dev0"
__all__ = ["PRESETS", "Config", "Model", "fit", "load_points"]

_HOMES = {
    "fit": "ddpm_jax.model",
    "Model": "ddpm_jax.model",
    "load_points": "ddpm_jax.points.sources",
    "Config": "ddpm_jax.config",
    "PRESETS": "ddpm_jax.config",
}


def __getattr__(name: str) -> Any:
    # Looked up when first used, so that a program which needs schedules only does not import the
    # metrics, and `--help` appears at once.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
