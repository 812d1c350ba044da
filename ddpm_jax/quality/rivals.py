"""What a model must beat to be worth its training: a Gaussian mixture and a kernel density.

Both are fitted in seconds, on the host, in columns standardised by the training rows; densities
are those of the rows as given. Constant columns have no density: drop them first.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from ddpm_jax import gmm
from ddpm_jax.errors import InputError

Rows = Float[np.ndarray, "N D"]

MAX_KERNELS = 10_000
"""Of more training rows, as many drawn at random carry the kernels."""
MAX_JUDGES = 500
"""Left-out rows by which a kernel's width is chosen."""
_BLOCK = 1000  # rows whose distances to all kernels are held at once: 80 MB


@runtime_checkable
class Rival(Protocol):
    """A density that can be drawn from."""

    @property
    def name(self) -> str:
        """What it is, with what was chosen for it."""
        ...

    def sample(self, n: int, seed: int = 0) -> Rows:
        """Rows [n, D]; equal seeds give equal rows."""
        ...

    def log_prob(self, rows: Rows) -> Float[np.ndarray, " N"]:
        """log p of each row, in nats."""
        ...


def fit_rivals(train: Rows, seed: int = 0) -> tuple[Rival, ...]:
    """The rivals of any model of the training rows [N >= 2, D], none of whose columns is constant.

    Raises: InputError for a constant column.
    """
    train = np.asarray(train, np.float64)
    shift, scale = train.mean(axis=0), train.std(axis=0)
    if not np.all(scale > 0):
        column = int(np.argmin(scale))
        raise InputError(f"column {column} of the training rows is constant: leave it out")
    rows = (train - shift) / scale
    fitted = Mixture(gmm.least_bic(rows, seed)), fit_kernel_density(rows, seed)
    return tuple(_Standardised(rival, shift, scale) for rival in fitted)


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture, p(x) = Σ_k w_k N(x; m_k, S_k)."""

    gaussians: gmm.Gaussians

    @property
    def name(self) -> str:
        """The number of components and the kind of their covariances."""
        return f"Gaussian mixture ({len(self.gaussians.weights)} {self.gaussians.kind})"

    def sample(self, n: int, seed: int = 0) -> Rows:
        """Rows [n, D], each of a component drawn by its weight."""
        rng, g = np.random.default_rng(seed), self.gaussians
        chosen = rng.choice(len(g.weights), n, p=g.weights / g.weights.sum())
        noise = rng.standard_normal((n, g.means.shape[1]))
        roots = np.linalg.cholesky(g.covariances)
        rows = np.empty_like(noise)
        for k, root in enumerate(roots):
            rows[chosen == k] = g.means[k] + noise[chosen == k] @ root.T
        return rows

    def log_prob(self, rows: Rows) -> Float[np.ndarray, " N"]:
        """log Σ_k w_k N(x; m_k, S_k), by the Cholesky factors of the covariances."""
        g, terms = self.gaussians, []
        for weight, mean, covariance in zip(g.weights, g.means, g.covariances, strict=True):
            root = np.linalg.cholesky(covariance)
            standard = solve_triangular(root, (rows - mean).T, lower=True)
            volume = np.log(np.diag(root)).sum() + len(mean) / 2 * np.log(2 * np.pi)
            terms.append(np.log(weight) - volume - (standard**2).sum(axis=0) / 2)
        return np.asarray(logsumexp(terms, axis=0))


@dataclass(frozen=True)
class KernelDensity:
    """p(x) = mean over centres c of N(x; c, h² I)."""

    centres: Rows
    width: float

    @property
    def name(self) -> str:
        """With the width h that was chosen, in standard deviations."""
        return f"kernel density (width {self.width:.2g})"

    def sample(self, n: int, seed: int = 0) -> Rows:
        """Rows [n, D]: centres drawn with replacement, and noise of the kernels' width."""
        rng = np.random.default_rng(seed)
        centres = rng.choice(self.centres, n)
        return centres + self.width * rng.standard_normal(centres.shape)

    def log_prob(self, rows: Rows) -> Float[np.ndarray, " N"]:
        """log of the mean of the kernels at each row."""
        blocks = [rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK)]
        squares = (cdist(block, self.centres, "sqeuclidean") for block in blocks)
        return np.concatenate([_log_mean_kernel(s, self.width, rows.shape[1]) for s in squares])


def fit_kernel_density(rows: Rows, seed: int = 0) -> KernelDensity:
    """A kernel density whose width makes left-out rows the most likely.

    Each of at most `MAX_JUDGES` rows is left out in turn. Widths from 0.001 to 3, in the units of
    the coordinates, which should be standardised; the best of 16, then the best of 9 about it.
    """
    shuffled = np.random.default_rng(seed).permutation(rows)[:MAX_KERNELS]
    judges = shuffled[:MAX_JUDGES]
    squares = cdist(judges, shuffled, "sqeuclidean")
    squares[np.arange(len(judges)), np.arange(len(judges))] = np.inf

    def best(widths: np.ndarray) -> float:
        likely = [_log_mean_kernel(squares, h, rows.shape[1]).mean() for h in widths]
        return float(widths[np.argmax(likely)])

    step = (3 / 0.001) ** (1 / 15)
    coarse = best(np.geomspace(0.001, 3, 16))
    return KernelDensity(shuffled, best(coarse * np.geomspace(1 / step, step, 9)))


def _log_mean_kernel(squares: np.ndarray, width: float, dim: int) -> Float[np.ndarray, " N"]:
    """log of the mean over the last axis of N(.; 0, h² I) at these squared distances; inf counts 0.

    Subtracting each row's least square first keeps the exponentials from all underflowing.
    """
    least = squares.min(axis=1)
    sums = np.exp((squares - least[:, None]) / (-2 * width**2)).sum(axis=1)
    kernels = np.isfinite(squares).sum(axis=1)
    volume = dim * (np.log(width) + np.log(2 * np.pi) / 2)
    return np.log(sums / kernels) - least / (2 * width**2) - volume


@dataclass(frozen=True)
class _Standardised:
    """A rival of standardised columns, in the rows' own units."""

    rival: Mixture | KernelDensity
    shift: np.ndarray
    scale: np.ndarray

    @property
    def name(self) -> str:
        return self.rival.name

    def sample(self, n: int, seed: int = 0) -> Rows:
        return self.rival.sample(n, seed) * self.scale + self.shift

    def log_prob(self, rows: Rows) -> Float[np.ndarray, " N"]:
        scaled = (np.asarray(rows, np.float64) - self.shift) / self.scale
        return self.rival.log_prob(scaled) - np.log(self.scale).sum()
