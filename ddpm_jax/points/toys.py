"""Toy distributions in the plane, as the field defines them, by name and seed.

Rows come in random order: any slice of them is a fair sample of the distribution.
"""

from collections.abc import Callable
from importlib import resources

import numpy as np
from jaxtyping import Float64

from ddpm_jax.errors import ConfigError


def toy(name: str, seed: int, *, n: int = 50_000) -> Float64[np.ndarray, "n 2"]:
    """Draw n ≥ 2 points from `TOYS[name]`; the same seed gives the same points.

    Raises:
        ConfigError: for an unknown name, n < 2 or a negative seed.
    """
    if name not in TOYS:
        raise ConfigError(f"unknown toy distribution {name!r}: use one of {', '.join(TOYS)}.")
    if n < 2 or seed < 0:
        raise ConfigError(f"toy distribution: n = {n} must be at least 2, seed = {seed} at least 0")
    return TOYS[name](np.random.default_rng(seed), n)


def _dino(rng: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
    """Alberto Cairo's Datasaurus, blurred: rows drawn with replacement, plus N(0, 0.15² I).

    Coordinates then go from [0, 108] × [0, 96] to [-4, 4]², as in tanelp/tiny-diffusion,
    datasets.py. The 142 points (dino.csv) are those of data-morph-ai, MIT licence, © 2017
    jmatejka, © 2023 Stefanie Molin (data_morph/data/starter_shapes/dino.csv).
    """
    with resources.files("ddpm_jax.points").joinpath("dino.csv").open() as file:
        outline = np.loadtxt(file, delimiter=",", skiprows=1)
    blurred = rng.choice(outline, n) + 0.15 * rng.standard_normal((n, 2))
    return 4 * (blurred / [54, 48] - 1)


def _moons(rng: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
    """Two half circles of radius 2, blurred: 2 make_moons(noise=0.05), then x₁ less 1.

    Evenly spaced along each, as scikit-learn does it; scaled as in Tong et al.,
    arXiv 2307.03672 (SKLearnDataModule of their code).
    """
    upper = n // 2
    angle = np.concatenate([np.linspace(0, np.pi, upper), np.linspace(0, -np.pi, n - upper)])
    centre = np.where(np.arange(n)[:, None] < upper, [0.0, 0.0], [1.0, 0.5])
    arcs = centre + np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return 2 * (rng.permutation(arcs) + 0.05 * rng.standard_normal((n, 2))) - [1, 0]


def _eight_gaussians(rng: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
    """Eight Gaussians N(m, I), m on a ring of radius 5, as many points from each (± 1).

    Tong et al., arXiv 2307.03672, Table 2 (TorchDynDataModule of their code). The function of
    that name in torchcfm has covariance √0.1 I; FFJORD's has radius 2.83 and std 0.35.
    """
    angle = rng.permutation(np.arange(n) % 8) * (np.pi / 4)
    return 5 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.standard_normal((n, 2))


def _swissroll(rng: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
    """(t cos t, t sin t) / 5, t uniform on [3π/2, 9π/2], plus N(0, 0.2² I).

    Axes 0 and 2 of make_swiss_roll(noise=1) / 5, as in FFJORD (arXiv 1810.01367), toy_data.py.
    """
    t = rng.uniform(1.5 * np.pi, 4.5 * np.pi, (n, 1))
    return (t * np.hstack([np.cos(t), np.sin(t)]) + rng.standard_normal((n, 2))) / 5


def _checkerboard(rng: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
    """Uniform on the eight cells, 2 × 2 each, of one colour of a 4 × 4 board on [-4, 4]².

    As in FFJORD (arXiv 1810.01367), toy_data.py.
    """
    x = rng.uniform(-2, 2, n)
    y = rng.uniform(0, 1, n) - 2 * rng.integers(0, 2, n) + np.floor(x) % 2
    return 2 * np.stack([x, y], axis=1)


def _spirals(rng: np.random.Generator, n: int) -> Float64[np.ndarray, "n 2"]:
    """± ((-r cos r, r sin r) + u) / 3 + N(0, 0.1² I), r = 3π √v; u in [0, ½]², v in [0, 1] uniform.

    FFJORD's 2spirals (arXiv 1810.01367), toy_data.py; each point takes its arm at random here,
    there the second arm is the mirror image of the first, point by point.
    """
    r = 3 * np.pi * np.sqrt(rng.uniform(size=(n, 1)))
    arm = np.hstack([-r * np.cos(r), r * np.sin(r)]) + rng.uniform(0, 0.5, (n, 2))
    return rng.choice([-1, 1], (n, 1)) * arm / 3 + 0.1 * rng.standard_normal((n, 2))


TOYS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "dino": _dino,
    "moons": _moons,
    "8gaussians": _eight_gaussians,
    "swissroll": _swissroll,
    "checkerboard": _checkerboard,
    "spirals": _spirals,
}
