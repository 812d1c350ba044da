"""How far samples are from data: each metric is a number that means little without its floor.

Every metric is a function (real [N, D], fake [M, D], ...) -> float, computed on the host in
float64. Finite samples never match the data, nor do other real points: what those score is the
metric's floor, and the module `evaluation` puts it beside each metric. Distances are in the units
of the coordinates given: scale columns of unlike units first. They are Euclidean, or sums over the
columns where `norm` is 1. All raise InputError unless both sets
are finite, [N, D] with the same D, and hold two points.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float, Num
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist, pdist

from ddpm_jax.errors import InputError

Points = Float[np.ndarray, "_ _"]
Steps = Num[np.ndarray, " {n}+{m}"]
MAX_ASSIGNED = 10_000
"""Points a side of an assignment: as many take a minute or two and 2.4 GB."""
_BLOCK_ENTRIES = 2**20  # of a block of pairwise distances: 8 MiB


def wasserstein2(real: ArrayLike, fake: ArrayLike, norm: int = 2) -> float:
    """Exact 2-Wasserstein distance, W₂² = min over couplings of E‖X − Y‖², symmetric, >= 0.

    D = 1 sorts. D > 1 finds the best assignment, of n³ operations and n² memory, of sets of one
    size n; other sizes are brought to their least common multiple by repeating points, which
    changes no distance. The floor falls only as n^(-1/D): compare values at equal n. Source: Peyré
    & Cuturi 2019, proposition 2.1 and section 2.4.
    Raises: InputError if D > 1 and that size is over 10,000.
    """
    real, fake = checked(real, fake)
    if real.shape[1] == 1:  # in which all norms are one
        return sliced_wasserstein(real, fake)
    n, m = len(real), len(fake)
    size = math.lcm(n, m)
    if size > MAX_ASSIGNED:
        raise InputError(
            f"{n:,} and {m:,} points would take an assignment of {size:,}, above "
            f"{MAX_ASSIGNED:,}: take equally many points of both sets, a few thousand"
        )
    repeated = np.repeat(real, size // n, 0), np.repeat(fake, size // m, 0)
    return math.sqrt(_assignment(*repeated, norm))


def sliced_wasserstein(
    real: ArrayLike, fake: ArrayLike, num_projections: int = 256, seed: int = 0
) -> float:
    """Sliced 2-Wasserstein distance, SW₂² = E_θ W₂²(θ·X, θ·Y), θ uniform on the sphere, symmetric.

    A shift by s has SW₂ = ‖s‖/√D. Each projection is solved exactly, whatever the two sizes. D = 1
    needs one direction; D = 2 takes equally spaced angles; D > 2 takes random orthonormal frames
    from `seed`, which spread more evenly than independent directions (Rowland et al. 2019).
    Source: Bonneel et al. 2015.
    """
    real, fake = checked(real, fake)
    directions = _directions(real.shape[1], at_least(1, num_projections=num_projections), seed)
    i, j, widths = _common_steps(len(real), len(fake))
    gaps = (np.sort(real @ u)[i] - np.sort(fake @ u)[j] for u in directions)
    return float(np.sqrt(np.mean([np.sum(widths * gap**2) for gap in gaps])))


def energy_distance(real: ArrayLike, fake: ArrayLike, norm: int = 2) -> float:
    """Energy distance 2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖, no square root, symmetric, >= 0.

    The V-statistic: means over all pairs, each point with itself included. It is never negative
    and its floor never 0, so that their ratio has a meaning. Source: Székely & Rizzo 2013.
    """
    across, in_real, in_fake = _pair_means(*checked(real, fake), np.sqrt, norm)
    return max(0.0, 2 * across - in_real - in_fake)


def mmd_rbf(real: ArrayLike, fake: ArrayLike, bandwidths: Sequence[float] | None = None) -> float:
    """Unbiased squared MMD, E k(X, X') + E k(Y, Y') − 2 E k(X, Y), of the mean of Gaussian kernels.

    k(x, y) = mean over h of exp(−‖x − y‖² / 2h²), h in `bandwidths`, > 0, in units of the
    coordinates; by default 1, 1/4 and 1/16 of the median distance between real points that differ.
    Mean 0, so often negative, if the distributions are equal. Source: Gretton et al. 2012, Lemma 6.
    """
    real, fake = checked(real, fake)
    if bandwidths is None:
        # Strided, because files of points are often sorted; 2,000 fix a median well enough.
        distances = pdist(real[:: -(-len(real) // 2000)])
        apart = distances[distances > 0]
        median = float(np.median(apart)) if apart.size else 1.0
        bandwidths = [median / k for k in (1, 4, 16)]
    if len(bandwidths) == 0 or not all(0 < h < np.inf for h in bandwidths):
        raise InputError(f"bandwidths must be positive and finite, got {bandwidths}: pass others")
    means = [_pair_means(real, fake, lambda r2, h=h: np.exp(r2 / (-2 * h * h))) for h in bandwidths]
    across, in_real, in_fake = np.mean(means, axis=0)
    # k(x, x) = 1: leave a point's pair with itself out, which is what removes the bias.
    n, m = len(real), len(fake)
    return float((n * in_real - 1) / (n - 1) + (m * in_fake - 1) / (m - 1) - 2 * across)


def total_variation(
    real: ArrayLike, fake: ArrayLike, bins: int = 100, extent: ArrayLike | None = None
) -> float:
    """Total variation ½ Σ |p − q| of two histograms on one grid of `bins` cells an axis, in [0, 1].

    D > 2 takes the mean over the pairs of the first 10 columns. `extent` [D, 2] is (low, high) of
    each column, by default the real points' box widened by 5 % of its width on each side. All that
    lies outside makes one more cell: dropping it would reward samples for straying. Source: Levin &
    Peres, Markov Chains and Mixing Times, section 4.1, of the distance.
    """
    real, fake = checked(real, fake)
    dim, low, high = real.shape[1], real.min(axis=0), real.max(axis=0)
    margin = np.where(high > low, 0.05 * (high - low), 0.5)  # a constant column has no width
    box = np.stack([low - margin, high + margin], axis=1) if extent is None else np.asarray(extent)
    if box.shape != (dim, 2) or not np.all(box[:, 0] < box[:, 1]):
        raise InputError(f"extent must be {dim} pairs (low, high), low < high, got {extent}")
    variations = []
    for pair in combinations(range(min(dim, 10)), min(dim, 2)):
        grid = {"bins": at_least(1, bins=bins), "range": box[list(pair)].tolist()}
        p, q = (np.histogramdd(x[:, pair], **grid)[0] / len(x) for x in (real, fake))
        variations.append((np.abs(p - q).sum() + abs(p.sum() - q.sum())) / 2)
    return float(np.mean(variations))


def far_fraction(
    real: ArrayLike, fake: ArrayLike, radius: float | None = None, norm: int = 2
) -> float:
    """Share of samples farther than `radius` from every data point ("off"), in [0, 1].

    `radius` is by default `default_radius`. This is 1 - precision of Kynkäänniemi et al. 2019
    (arXiv 1904.06991), with one radius where theirs is the distance of a point's k-th neighbour.
    """
    real, fake = checked(real, fake)
    radius = default_radius(real) if radius is None else radius
    return _share_farther(fake, real, radius, norm=norm)


def isolated_fraction(real: ArrayLike, radius: float | None = None) -> float:
    """Share of data points farther than `radius` from every other: the floor of far_fraction.

    What one more real point would score, by leaving each out in turn. Radius as in far_fraction.
    """
    real, _ = checked(real, real)
    return _share_farther(real, real, default_radius(real) if radius is None else radius, 2)


def uncovered_fraction(
    real: ArrayLike, fake: ArrayLike, radius: float | None = None, norm: int = 2
) -> float:
    """Share of data points with no sample within `radius`, in [0, 1]; radius as in far_fraction.

    It falls with the number of samples: compare values at equal M. This is their 1 - recall.
    """
    real, fake = checked(real, fake)
    radius = default_radius(real) if radius is None else radius
    return _share_farther(real, fake, radius, norm=norm)


def default_radius(real: ArrayLike) -> float:
    """0.01 of half the widest column's range: 0.01 for data in [-1, 1]."""
    return 0.01 * float(np.ptp(np.asarray(real), axis=0).max()) / 2


def neighbour_radius(real: ArrayLike, norm: int = 2) -> float:
    """The distance within which nine in ten real points have another: then about a tenth is "far".

    One radius that fits the number of points and of columns, for points that are compared with
    others of their law.
    """
    real, _ = checked(real, real)
    return float(np.quantile(KDTree(real).query(real, k=2, p=norm)[0][:, 1], 0.9))


def bins_for(n: int, dim: int) -> int:
    """Cells an axis so that n points of a square fill them two each, from 2 to 100.

    Then the total variation of two such sets of one law is about √(1 / 2π) = 0.4, whatever n is:
    of far fewer points a cell it would be near 1, and tell nothing.
    """
    return int(np.clip((n / 2) ** (1 / min(dim, 2)), 2, 100))


def classifier_two_sample(real: ArrayLike, fake: ArrayLike, seed: int = 0) -> float:
    """Classifier two-sample test: held-out accuracy at telling fake from real, 0.5 if equal, to 1.

    Gradient-boosted trees, 5-fold cross-validated; the larger set is thinned to the smaller's size.
    The standard error at equality is about 0.5/√(2n). Samples that repeat the very points which
    they are compared with score below 0.5. Source: Lopez-Paz & Oquab 2017, section 3.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    real, fake = checked(real, fake)
    size, rng = min(len(real), len(fake)), np.random.default_rng(seed)
    points = np.concatenate([rng.permutation(real)[:size], rng.permutation(fake)[:size]])
    labels = np.repeat([0, 1], size)
    # Of few points a leaf must hold few, or no tree ever splits.
    leaf = min(20, 1 + size // 10)
    trees = HistGradientBoostingClassifier(random_state=seed, min_samples_leaf=leaf)
    trees.set_params(early_stopping=False)
    folds = StratifiedKFold(min(5, size), shuffle=True, random_state=seed)
    # The trees' threads spin while they wait: on busy cores far slower than one thread.
    with threadpool_limits(1):
        predicted = cross_val_predict(trees, points, labels, cv=folds)
    return float(np.mean(predicted == labels))


def quick(
    real: ArrayLike, fake: ArrayLike, seed: int = 0, projections: int = 64
) -> dict[str, float]:
    """Sliced W₂ (64 projections do) and total variation: cheap enough to follow training by."""
    sliced = sliced_wasserstein(real, fake, projections, seed)
    return {"sliced_wasserstein": sliced, "total_variation": total_variation(real, fake)}


def quick_floor(real: ArrayLike, n: int, seed: int = 0) -> dict[str, float]:
    """What `quick` gives a perfect model: n >= 2 points redrawn from the data, with replacement."""
    real, _ = checked(real, real)
    return quick(real, np.random.default_rng(seed).choice(real, at_least(2, n=n)), seed)


def checked(real: ArrayLike, fake: ArrayLike) -> tuple[Points, Points]:
    """Both in float64; InputError says which of them is not as the module's docstring asks."""
    x, y = points("real", real), points("fake", fake)
    if x.shape[1] != y.shape[1]:
        raise InputError(f"real {x.shape} and fake {y.shape} must have as many columns")
    return x, y


def points(name: str, given: ArrayLike, least: int = 2) -> Points:
    """`given` in float64; InputError, with its name, unless it is `least` finite rows or more."""
    try:
        rows = np.asarray(given, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is not an array of real numbers: {error}") from error
    if rows.ndim != 2 or len(rows) < least or rows.shape[1] < 1:
        raise InputError(f"{name} has shape {rows.shape}; need [N, D], N >= {least} and D >= 1")
    tame = (np.abs(rows) < 1e100).all(axis=1)  # neither nan nor inf, nor with an infinite square
    if not tame.all():
        row = np.argmin(tame)
        raise InputError(f"{name} must be finite, below 1e100; row {row} is {rows[row]}")
    return rows


def at_least(least: int, **settings: int) -> int:
    """The least of the settings, or an InputError that names one below `least`."""
    for name, value in settings.items():
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    return min(settings.values())


def _directions(dim: int, count: int, seed: int) -> Float[np.ndarray, "k {dim}"]:
    if dim == 1:
        return np.ones((1, 1))
    if dim == 2:
        angles = np.pi * np.arange(count) / count
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    normal = np.random.default_rng(seed).standard_normal((-(-count // dim), dim, dim))
    return np.linalg.qr(normal).Q.reshape(-1, dim)[:count]


def _common_steps(n: int, m: int) -> tuple[Steps, Steps, Steps]:
    """Rank in x, rank in y and width of each step on which both quantile functions are constant."""
    # Counted in 1/(n m), so that steps which coincide do so exactly: those get width 0.
    starts = np.sort(np.concatenate([np.arange(n) * m, np.arange(m) * n]))
    return starts // m, starts // n, np.diff(starts, append=n * m) / (n * m)


def _assignment(real: Points, fake: Points, norm: int) -> float:
    """Mean squared distance of the best pairing of as many points.

    The solver's time depends on how far the costs are from their optimum: as potentials a row and
    a column change no assignment's rank, they are first reduced by approximate ones, of entropic
    transport (Cuturi 2013). The result is exact all the same, in a half to a third of the time.
    """
    cost = _squared(real, fake, norm)
    cost -= cost.min(axis=1, keepdims=True)
    cost -= cost.min(axis=0)
    entropy = 0.01 * float(cost.mean()) or 1.0
    # No entry of the kernel is below 1e-100, so that neither scaling ever leaves the numbers.
    kernel = np.exp(cost / -entropy)
    kernel += 1e-100
    columns = np.ones(len(cost))
    for _ in range(100):
        rows = 1 / (kernel @ columns)
        columns = 1 / (rows @ kernel)
    del kernel
    cost -= entropy * np.log(rows)[:, None]
    cost -= cost.min(axis=0)
    cost -= cost.min(axis=1, keepdims=True)
    i, j = linear_sum_assignment(cost)
    apart = np.abs(real[i] - fake[j])
    return float(np.mean(np.sum(apart**2, axis=1) if norm == 2 else apart.sum(axis=1) ** 2))


def _squared(real: Points, fake: Points, norm: int) -> Points:
    """Squared distances of all pairs, by the Euclidean norm, 2, or the sum of the columns', 1."""
    if norm == 2:
        return cdist(real, fake, "sqeuclidean")
    return cdist(real, fake, "cityblock") ** 2


def _pair_means(
    real: Points, fake: Points, of: Callable[[Points], Points], norm: int = 2
) -> list[float]:
    """Means of of(squared distance) over the pairs real-fake, real-real and fake-fake, blocked."""
    means = []
    for x, y in ((real, fake), (real, real), (fake, fake)):
        rows = max(1, _BLOCK_ENTRIES // len(y))
        blocks = (_squared(x[i : i + rows], y, norm) for i in range(0, len(x), rows))
        means.append(float(sum(of(block).sum() for block in blocks)) / (len(x) * len(y)))
    return means


def _share_farther(
    points: Points, others: Points, radius: float, neighbour: int = 1, norm: int = 2
) -> float:
    if not 0 <= radius < np.inf:
        raise InputError(f"radius must be finite and at least 0, got {radius}")
    # The bound, twice the radius lest rounding decide, prunes the search; 0 would find nothing.
    bound = 2 * radius or np.inf
    nearest = KDTree(others).query(points, k=neighbour, p=norm, distance_upper_bound=bound)[0]
    return float(np.mean(nearest.reshape(len(points), -1)[:, -1] > radius))
