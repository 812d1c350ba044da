"""How far samples are from data: each metric is a number that means little without its floor.

Every metric is a function (real [N, D], fake [M, D], ...) -> float, evaluated on the host in
float64. Finite samples are never at distance 0 from the data, even when they come from the data:
that value is the metric's real-vs-real floor, and `evaluate` puts it beside each metric. Distances
are in the units of the coordinates given: scale columns of unlike units first.
All raise InputError unless both sets are finite, [N, D] with the same D, and hold two points.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist, pdist

from ddpm_jax.errors import InputError

Points = Float[np.ndarray, "_ _"]

_MAX_TRANSPORT_POINTS = 20_000
_MAX_PAIRED_COLUMNS = 10
_BLOCK_ENTRIES = 2**20  # of a block of pairwise distances: 8 MiB


def wasserstein2(real: ArrayLike, fake: ArrayLike) -> float:
    """Exact 2-Wasserstein distance, W₂² = min over couplings of E‖X − Y‖², symmetric, >= 0.

    D = 1 sorts; D > 1 solves the linear program by the network simplex, in memory n². The floor
    falls only as n^(-1/D): compare values at equal n. Source: Peyré & Cuturi 2019, section 2.4.
    Raises: InputError over 20,000 points a side when D > 1.
    """
    real, fake = _checked(real, fake)
    if real.shape[1] == 1:
        return float(np.sqrt(_squared_wasserstein2_1d(real[:, 0], fake[:, 0])))
    n, m = len(real), len(fake)
    if max(n, m) > _MAX_TRANSPORT_POINTS:
        raise InputError(
            f"wasserstein2 got {n:,} and {m:,} points: over {_MAX_TRANSPORT_POINTS:,} the exact "
            "plan takes gigabytes and hours; subsample both, or use sliced_wasserstein"
        )
    # POT imports every array library that it finds (seconds, and PyTorch), unless told not to.
    for backend in ("PYTORCH", "JAX", "TENSORFLOW", "CUPY"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{backend}", "1")
    import ot

    cost = cdist(real, fake, "sqeuclidean")
    plan = ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), cost, numItermax=10**9, log=True)
    if plan[1]["warning"] is not None:
        raise InputError(f"no optimal plan found: {plan[1]['warning']}; rescale the points")
    return float(np.sqrt(plan[0]))


def sliced_wasserstein(
    real: ArrayLike, fake: ArrayLike, num_projections: int = 256, seed: int = 0
) -> float:
    """Sliced 2-Wasserstein distance, SW₂² = E_θ W₂²(θ·X, θ·Y), θ uniform on the sphere, symmetric.

    A shift by s has SW₂ = ‖s‖/√D. Each projection is solved exactly, whatever the two sizes. D = 1
    needs one direction; D = 2 takes equally spaced angles; D > 2 takes random orthonormal frames
    from `seed`, which spread more evenly than independent directions (Rowland et al. 2019).
    Source: Bonneel et al. 2015.
    """
    real, fake = _checked(real, fake)
    directions = _directions(real.shape[1], _at_least(1, num_projections=num_projections), seed)
    squares = [_squared_wasserstein2_1d(real @ u, fake @ u) for u in directions]
    return float(np.sqrt(np.mean(squares)))


def energy_distance(real: ArrayLike, fake: ArrayLike) -> float:
    """Energy distance 2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖, no square root, symmetric, >= 0.

    The V-statistic: means over all pairs, each point with itself included. It is never negative
    and its floor never 0, so that their ratio has a meaning. Source: Székely & Rizzo 2013.
    """
    across, in_real, in_fake = _pair_means(*_checked(real, fake), np.sqrt)
    return 2 * across - in_real - in_fake


def mmd_rbf(real: ArrayLike, fake: ArrayLike, bandwidths: Sequence[float] | None = None) -> float:
    """Unbiased squared MMD, E k(X, X') + E k(Y, Y') − 2 E k(X, Y), of the mean of Gaussian kernels.

    k(x, y) = mean over h of exp(−‖x − y‖² / 2h²), h in `bandwidths` (> 0, in units of the
    coordinates), by default 1, 1/4 and 1/16 of the median distance between real points: the median
    heuristic and two finer scales. Mean 0, so often negative, if the distributions are equal.
    Source: Gretton et al. 2012, Lemma 6.
    """
    real, fake = _checked(real, fake)
    if bandwidths is None:
        # Strided, because files of points are often sorted; 2,000 fix a median well enough.
        median = float(np.median(pdist(real[:: -(-len(real) // 2000)])))
        bandwidths = [median, median / 4, median / 16]
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
    lies outside makes one more cell: dropping it would reward samples for straying.
    """
    real, fake = _checked(real, fake)
    dim = real.shape[1]
    box = _widened_box(real) if extent is None else np.asarray(extent, dtype=np.float64)
    if box.shape != (dim, 2) or not np.all(box[:, 0] < box[:, 1]):
        raise InputError(f"extent must be {dim} pairs (low, high), low < high, got {extent}")

    def histogram(points: Points, columns: list[int]) -> Float[np.ndarray, "..."]:
        counts, _ = np.histogramdd(points[:, columns], bins, box[columns].tolist())
        return counts / len(points)

    _at_least(1, bins=bins)
    pairs = list(combinations(range(min(dim, _MAX_PAIRED_COLUMNS)), 2))
    variations = []
    for columns in pairs or [(0,)]:
        p, q = histogram(real, list(columns)), histogram(fake, list(columns))
        variations.append((np.abs(p - q).sum() + abs(p.sum() - q.sum())) / 2)
    return float(np.mean(variations))


def far_fraction(real: ArrayLike, fake: ArrayLike, radius: float | None = None) -> float:
    """Share of samples farther than `radius` from every data point ("off"), in [0, 1].

    `radius` is by default 0.01 of half the widest real column's range: 0.01 for data in [-1, 1].
    """
    real, fake = _checked(real, fake)
    return _share_farther(fake, real, _radius(real, radius))


def uncovered_fraction(real: ArrayLike, fake: ArrayLike, radius: float | None = None) -> float:
    """Share of data points with no sample within `radius`, in [0, 1]; radius as in far_fraction."""
    real, fake = _checked(real, fake)
    return _share_farther(real, fake, _radius(real, radius))


def classifier_two_sample(real: ArrayLike, fake: ArrayLike, seed: int = 0) -> float:
    """Classifier two-sample test: held-out accuracy at telling fake from real, 0.5 if equal, to 1.

    Gradient-boosted trees, 5-fold cross-validated; the larger set is thinned to the smaller's size.
    The standard error at equality is about 0.5/√(2n). Samples that repeat the very points which
    they are compared with score below 0.5. Source: Lopez-Paz & Oquab 2017, section 3.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    real, fake = _checked(real, fake)
    size, rng = min(len(real), len(fake)), np.random.default_rng(seed)
    points = np.concatenate([rng.permutation(real)[:size], rng.permutation(fake)[:size]])
    labels = np.repeat([0, 1], size)
    trees = HistGradientBoostingClassifier(random_state=seed).set_params(early_stopping=False)
    folds = StratifiedKFold(min(5, size), shuffle=True, random_state=seed)
    # The trees' threads spin while they wait: on busy cores far slower than one thread.
    with threadpool_limits(1):
        predicted = cross_val_predict(trees, points, labels, cv=folds)
    return float(np.mean(predicted == labels))


@dataclass(frozen=True)
class Measurement:
    """A metric of samples and its real-vs-real floor: means and standard deviations over draws."""

    name: str
    value: float
    spread: float
    floor: float
    floor_spread: float
    size: int

    @property
    def ratio(self) -> float:
        """value / floor, or nan where the floor cannot be told from 0."""
        return self.value / self.floor if self.floor > self.floor_spread else float("nan")


def evaluate(
    real: ArrayLike, fake: ArrayLike, *, seed: int = 0, repeats: int = 5, size: int = 2000
) -> list[Measurement]:
    """All metrics of samples against data, each beside the floor of the same estimator and sizes.

    total_variation, sliced_wasserstein, far_fraction and uncovered_fraction compare all the samples
    with all the data; their floor redraws as many points from the data with replacement, as a
    perfect model of the file would. The others compare random subsets of `size` points a side
    (5 size for classifier_two_sample; at most half the data); their floor compares two disjoint
    subsets of the data. Each is drawn `repeats` times.
    Raises: InputError if size or repeats is below 2, or the data below 4 points.
    """
    real, fake = _checked(real, fake)
    _at_least(2, size=size, repeats=repeats, half_the_number_of_real_points=len(real) // 2)
    # Points a side in units of `size`; 0 for all of them.
    multiples = dict.fromkeys((total_variation, sliced_wasserstein), 0)
    multiples |= dict.fromkeys((far_fraction, uncovered_fraction), 0)
    multiples |= dict.fromkeys((wasserstein2, energy_distance, mmd_rbf), 1)
    multiples |= {classifier_two_sample: 5}
    measurements = []
    for metric, multiple in multiples.items():
        n = min(multiple * size, len(real) // 2, len(fake)) or len(fake)
        values, floors = [], []
        for i in range(repeats):
            rng = np.random.default_rng((seed, i))
            if multiple:
                reference, redrawn = np.split(rng.permutation(real)[: 2 * n], 2)
                sample = rng.permutation(fake)[:n]
            else:
                reference, redrawn, sample = real, rng.choice(real, n), fake
            values.append(metric(reference, sample))
            floors.append(metric(reference, redrawn))
        means = fmean(values), stdev(values), fmean(floors), stdev(floors)
        measurements.append(Measurement(metric.__name__, *means, size=n))
    return measurements


def quick(real: ArrayLike, fake: ArrayLike, seed: int = 0) -> dict[str, float]:
    """Sliced W₂ and total variation, the two metrics cheap enough to follow training by."""
    return {
        "sliced_wasserstein": sliced_wasserstein(real, fake, seed=seed),
        "total_variation": total_variation(real, fake),
    }


def quick_floor(real: ArrayLike, n: int, seed: int = 0) -> dict[str, float]:
    """What `quick` gives a perfect model: n >= 2 points redrawn from the data, with replacement."""
    real, _ = _checked(real, real)
    return quick(real, np.random.default_rng(seed).choice(real, _at_least(2, n=n)), seed)


def format_table(measurements: Sequence[Measurement]) -> str:
    """A fixed-width table of measurements: value ± spread, floor ± spread, ratio, points a side."""

    def number(mean: float, spread: float) -> str:
        return f"{mean:.4g} ± {spread:.1g}" if spread else f"{mean:.4g}"

    lines = [f"{'metric':<22}{'samples':>20}{'real vs real':>20}{'ratio':>8}{'points':>9}"]
    for m in measurements:
        value, floor = number(m.value, m.spread), number(m.floor, m.floor_spread)
        ratio = "-" if np.isnan(m.ratio) else f"{m.ratio:.2f}"
        lines.append(f"{m.name:<22}{value:>20}{floor:>20}{ratio:>8}{m.size:>9,}")
    return "\n".join([*lines, "Lower is better; classifier_two_sample is best at 0.5, chance."])


def _checked(real: ArrayLike, fake: ArrayLike) -> list[Points]:
    sets = []
    for name, given in (("real", real), ("fake", fake)):
        try:
            points = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} is not an array of real numbers: {error}") from error
        if points.ndim != 2 or len(points) < 2 or points.shape[1] < 1:
            raise InputError(f"{name} has shape {points.shape}; need [N, D], N >= 2 and D >= 1")
        finite = np.isfinite(points).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise InputError(f"{name} must be finite, but row {row} is {points[row]}")
        sets.append(points)
    if sets[0].shape[1] != sets[1].shape[1]:
        raise InputError(f"real {sets[0].shape} and fake {sets[1].shape} need the same D")
    return sets


def _at_least(least: int, **settings: int) -> int:
    for name, value in settings.items():
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    return min(settings.values())


def _squared_wasserstein2_1d(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]) -> float:
    """∫₀¹ (F⁻¹(u) − G⁻¹(u))² du of the two quantile functions, steps of 1/n and 1/m."""
    x, y = np.sort(x), np.sort(y)
    if (n := len(x)) == (m := len(y)):
        return float(np.mean((x - y) ** 2))
    # u in integer units of 1/(n m): steps that end together then do so exactly.
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(ends, prepend=0)
    starts = ends - widths
    return float((x[starts // m] - y[starts // n]) ** 2 @ widths / (n * m))


def _directions(dim: int, count: int, seed: int) -> Float[np.ndarray, "k {dim}"]:
    if dim == 1:
        return np.ones((1, 1))
    if dim == 2:
        angles = np.pi * np.arange(count) / count
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    normal = np.random.default_rng(seed).standard_normal((-(-count // dim), dim, dim))
    return np.linalg.qr(normal).Q.reshape(-1, dim)[:count]


def _pair_means(real: Points, fake: Points, of: Callable[[Points], Points]) -> list[float]:
    """Means of of(squared distance) over the pairs real-fake, real-real and fake-fake, blocked."""
    means = []
    for x, y in ((real, fake), (real, real), (fake, fake)):
        rows = max(1, _BLOCK_ENTRIES // len(y))
        blocks = (x[i : i + rows] for i in range(0, len(x), rows))
        total = sum(of(cdist(block, y, "sqeuclidean")).sum() for block in blocks)
        means.append(float(total) / (len(x) * len(y)))
    return means


def _widened_box(points: Points) -> Float[np.ndarray, "d 2"]:
    low, high = points.min(axis=0), points.max(axis=0)
    # A constant column has no width to take a share of.
    margin = np.where(high > low, 0.05 * (high - low), 0.5)
    return np.stack([low - margin, high + margin], axis=1)


def _radius(real: Points, radius: float | None) -> float:
    if radius is None:
        return 0.01 * float(np.ptp(real, axis=0).max()) / 2
    if not 0 <= radius < np.inf:
        raise InputError(f"radius must be finite and at least 0, got {radius}")
    return radius


def _share_farther(points: Points, others: Points, radius: float) -> float:
    # The bound, twice the radius lest rounding decide, prunes the search; 0 would find nothing.
    nearest, _ = KDTree(others).query(points, distance_upper_bound=2 * radius or np.inf)
    return float(np.mean(nearest > radius))
