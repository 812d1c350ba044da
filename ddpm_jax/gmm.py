"""A Gaussian mixture by BIC, on the host: a model's simplest rival, and what it may start from.

scikit-learn fits it; here is the choice among sizes and kinds, in bounded time.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import softmax

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

COUNTS = (1, 2, 3, 5, 8, 12, 20, 30)
"""Numbers of components that are tried."""
KINDS = ("full", "tied", "diag")
"""Kinds of covariances that are tried: one each, one for all, one each without correlations."""
MAX_ROWS = 10_000
"""Of more rows, as many decide: they fix a few hundred parameters well enough."""
LEAST_VARIANCE = 1e-4
"""Added to every variance, as a share of the columns' mean variance: no component is a point."""

UNSEEN = 0.05
"""Rows that every word counts more in each component: none is impossible for not having been seen.
More of them would put strangers among the samples of a word, which lie far out."""


@dataclass(frozen=True)
class Gaussians:
    """p(x) = Σ_k w_k N(x; m_k, S_k), and the kind of covariances that it was fitted with."""

    weights: Float[np.ndarray, " K"]
    means: Float[np.ndarray, "K D"]
    covariances: Float[np.ndarray, "K D D"]
    kind: str


def least_bic(
    rows: Float[np.ndarray, "N D"], seed: int = 0, counts: tuple[int, ...] = COUNTS
) -> Gaussians:
    """The mixture of least BIC (Schwarz 1978) among `counts` components of the three `KINDS`.

    Where rows are fewer than two a column, no covariance can be estimated: then one Gaussian, its
    covariance shrunk (Ledoit & Wolf 2004). The search of a kind ends when more components have made
    BIC worse twice. Equal seeds give equal bits. Takes two rows or more, equal ones and constant
    columns among them; `rows` of columns of unlike units should be scaled first.
    """
    from sklearn.covariance import ledoit_wolf
    from threadpoolctl import threadpool_limits

    rows = np.asarray(rows, np.float64)
    if len(rows) > MAX_ROWS:
        rows = np.random.default_rng(seed).choice(rows, MAX_ROWS, replace=False)
    n, dim = rows.shape
    least = LEAST_VARIANCE * max(float(rows.var(axis=0).mean()), 1e-12)
    # On several threads the sums, and with them the bits, would depend on how many there are.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of no convergence: BIC judges what came out
        if n < 2 * dim or n < 4:
            covariance = ledoit_wolf(rows)[0] + least * np.eye(dim)
            return Gaussians(np.ones(1), rows.mean(axis=0)[None], covariance[None], "shrunk")
        _, found = min(_candidates(rows, seed, counts, least), key=lambda pair: pair[0])
    kind = str(found.covariance_type)
    weights, means, covariances = map(
        np.asarray, (found.weights_, found.means_, found.covariances_)
    )
    if kind == "tied":
        covariances = np.broadcast_to(covariances, (len(weights), dim, dim))
    elif kind == "diag":
        covariances = covariances[:, :, None] * np.eye(dim)
    return Gaussians(weights, means, covariances, kind)


def _candidates(
    rows: np.ndarray, seed: int, counts: tuple[int, ...], least: float
) -> Iterator[tuple[float, "GaussianMixture"]]:
    from sklearn.mixture import GaussianMixture

    n, dim = rows.shape
    distinct = len(np.unique(rows, axis=0))
    for kind in KINDS:
        best, worse = np.inf, 0
        for count in counts:
            # Fewer than two rows a column leave a full covariance to what is added to it.
            if count > distinct or (kind == "full" and n < 2 * dim * count):
                break
            found = GaussianMixture(
                count, covariance_type=kind, random_state=seed, reg_covar=least
            ).fit(rows)
            bic = float(found.bic(rows))
            yield bic, found
            best, worse = min(best, bic), worse + 1 if bic > best else 0
            if worse == 2:
                break


def with_conditions(
    rows: Float[np.ndarray, "N D"],
    given: Float[np.ndarray, "N C"],
    widths: Sequence[int],
    seed: int = 0,
    counts: tuple[int, ...] = COUNTS,
) -> tuple[Gaussians, Float[np.ndarray, "3 C K"]]:
    """A mixture of the rows whose weights are told by conditions: p(x | c) ∝ Σ_k w_k p(c | k) N_k.

    It is fitted to rows and conditions together, so that words that tell rows apart have components
    of their own, and within a component they are taken for independent. `given` has NaN where
    unknown: the fit then takes what the nearest row has, and p(c | k) does without. `widths` are
    its numbers of columns for each condition. Returns beside the mixture of the rows a, b and q
    [C, K] of log p(c | k) = Σ_j a_j + b_j c_j + q_j c_j², over entries that are known: a Gaussian's
    of a number, and of a word, whose codes are ±1/2, the logarithms of its levels' shares.
    """
    parts = np.split(np.asarray(given, np.float64), np.cumsum(widths)[:-1], axis=1)
    known = [~np.isnan(part[:, 0]) for part in parts]
    codes = [_borrowed(rows, part, its) for part, its in zip(parts, known, strict=True)]
    dim, both = rows.shape[1], np.concatenate([rows, *codes], axis=1)
    joint = least_bic(both, seed, counts)
    share = _responsibilities(joint, both)
    told = [_log_conditions(part[its], share[its]) for part, its in zip(parts, known, strict=True)]
    marginal = Gaussians(
        joint.weights, joint.means[:, :dim], joint.covariances[:, :dim, :dim], joint.kind
    )
    return marginal, np.concatenate(told, axis=1)


def _borrowed(
    rows: Float[np.ndarray, "N D"], part: Float[np.ndarray, "N width"], known: Bool[np.ndarray, "N"]
) -> Float[np.ndarray, "N width"]:
    """One condition, and where it is unknown, that of the nearest row that knows it.

    A code between all words would set such rows apart, in a component that any word may choose.
    """
    if known.all() or not known.any():
        return np.nan_to_num(part)
    from scipy.spatial import KDTree  # which few need

    filled = part.copy()
    filled[~known] = part[known][KDTree(rows[known]).query(rows[~known])[1]]
    return filled


def completed(
    rows: Float[np.ndarray, "N D"], seed: int = 0, rounds: int = 30
) -> Float[np.ndarray, "N D"]:
    """The rows with each missing cell (NaN) drawn, given the rest of its row, from one Gaussian.

    The Gaussian is that of greatest likelihood, by `rounds` of EM (Dempster, Laird & Rubin 1977),
    so that neither spreads nor correlations shrink, as they would with means in place of what is
    missing. Rows that are whole stay as they are; equal seeds give equal bits.
    """
    gone = np.isnan(rows)
    if not gone.any():
        return rows
    x, dim = np.asarray(rows, np.float64), rows.shape[1]
    filled = np.where(gone, np.nan_to_num(np.nanmean(x, axis=0)), x)
    mean, covariance = filled.mean(axis=0), np.atleast_2d(np.cov(filled.T, bias=True))
    least = LEAST_VARIANCE * max(float(np.trace(covariance)) / dim, 1e-12) * np.eye(dim)
    patterns, which = np.unique(gone, axis=0, return_inverse=True)
    parts = [(p, np.flatnonzero(which.reshape(-1) == k)) for k, p in enumerate(patterns) if p.any()]

    def law(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the missing coordinates: their regression on the others, and what is left."""
        total = covariance + least
        slope = np.linalg.solve(total[~p][:, ~p], total[~p][:, p]).T
        return slope, total[p][:, p] - slope @ total[~p][:, p]

    for _ in range(rounds):
        left = np.zeros((dim, dim))
        for p, mine in parts:
            slope, rest = law(p)
            filled[np.ix_(mine, p)] = mean[p] + (x[mine][:, ~p] - mean[~p]) @ slope.T
            left[np.ix_(p, p)] += len(mine) * rest
        mean = filled.mean(axis=0)
        covariance = ((filled - mean).T @ (filled - mean) + left) / len(filled)
    rng = np.random.default_rng(seed)
    for p, mine in parts:
        slope, rest = law(p)
        noise = rng.multivariate_normal(np.zeros(p.sum()), rest, len(mine), method="eigh")
        filled[np.ix_(mine, p)] = mean[p] + (x[mine][:, ~p] - mean[~p]) @ slope.T + noise
    return filled.astype(rows.dtype)


def _responsibilities(mixture: Gaussians, rows: np.ndarray) -> Float[np.ndarray, "N K"]:
    """p(k | row) of each component."""
    logs = np.empty((len(rows), len(mixture.weights)))
    parts = zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    for k, (weight, mean, covariance) in enumerate(parts):
        root = np.linalg.cholesky(covariance)
        z = np.linalg.solve(root, (rows - mean).T)
        logs[:, k] = np.log(weight) - 0.5 * (z**2).sum(axis=0) - np.log(np.diag(root)).sum()
    return softmax(logs, axis=1)


def _log_conditions(part: np.ndarray, share: np.ndarray) -> Float[np.ndarray, "3 width K"]:
    """a, b and q of one condition in every component, from the rows that have it."""
    if np.isin(part, (-0.5, 0.5)).all():
        ups = (part + 0.5).T @ share + UNSEEN
        total = share.sum(axis=0) + UNSEEN * max(len(ups), 2)
        if len(ups) > 1:
            logs = np.log(ups / total)
            return np.stack([logs / 2, logs, 0 * logs])
        up, down = np.log(ups / total), np.log(1 - ups / total)
        return np.stack([(up + down) / 2, up - down, 0 * up])
    # Each component is half a row of the whole's mean and variance more.
    total = share.sum(axis=0) + 0.5
    mean = (part.T @ share + 0.5 * part.mean()) / total
    square = ((part**2).T @ share + 0.5 * (part**2).mean()) / total
    variance = np.maximum(square - mean**2, LEAST_VARIANCE)
    return np.stack(
        [-0.5 * (mean**2 / variance + np.log(variance)), mean / variance, -0.5 / variance]
    )
