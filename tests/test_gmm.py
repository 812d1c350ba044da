"""The Gaussian mixture by BIC, against what Gaussians of known number and shape must give."""

import numpy as np
import pytest
import sklearn
import sklearn.covariance

from ddpm_jax import gmm


def test_well_separated_components_are_counted_and_found(rng):
    means = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    which = rng.choice(3, 600, p=[0.5, 0.3, 0.2])
    rows = means[which] + rng.normal(size=(600, 2))
    found = gmm.least_bic(rows)
    order = np.argsort(-found.weights)
    assert len(found.weights) == 3
    # Ten deviations apart, every row's component is certain: what is left are sample means of at
    # least 100 rows, whose standard error is 0.1, and shares of 600, 0.02: four of each.
    np.testing.assert_allclose(found.means[order], means, atol=0.4)
    np.testing.assert_allclose(found.weights[order], [0.5, 0.3, 0.2], atol=0.08)


@pytest.mark.parametrize(
    ("covariances", "kind"),
    [
        # BIC charges log(400) / 2 = 3.0 nats a parameter and pays for what the likelihood gains:
        # hundreds of nats where the shapes differ, or the correlation is there in two dimensions.
        ([[[1, 0.95], [0.95, 1]], [[1, -0.95], [-0.95, 1]]], "full"),
        ([[[1, 0.95], [0.95, 1]], [[1, 0.95], [0.95, 1]]], "tied"),
        ([[[1, 0], [0, 0.01]], [[0.01, 0], [0, 1]]], "diag"),
    ],
)
def test_the_kind_of_covariances_is_found(rng, covariances, kind):
    halves = [
        rng.multivariate_normal(mean, covariance, 200)
        for mean, covariance in zip(([0, 0], [20, 0]), covariances, strict=True)
    ]
    found = gmm.least_bic(np.concatenate(halves), counts=(1, 2))
    assert found.kind == kind
    assert found.covariances.shape == (2, 2, 2)


def test_fewer_rows_than_two_a_column_give_one_shrunk_gaussian(rng):
    rows = rng.normal(size=(12, 20))
    found = gmm.least_bic(rows)
    np.testing.assert_array_equal(found.means, rows.mean(axis=0)[None])
    expected = sklearn.covariance.ledoit_wolf(rows)[0]
    expected = expected + gmm.LEAST_VARIANCE * rows.var(axis=0).mean() * np.eye(20)
    np.testing.assert_allclose(found.covariances[0], expected)
    assert found.kind == "shrunk"


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((2, 2)),
        np.array([[0.0, 1.0], [1.0, 1.0]]),
        np.tile([[3.0, 4.0]], (50, 1)),
        np.stack([np.arange(50.0), np.ones(50)], axis=1),  # a constant column
        np.repeat(np.eye(3), 20, axis=0),  # three distinct rows
    ],
)
def test_degenerate_rows_give_densities(rows):
    found = gmm.least_bic(rows)
    assert len(found.weights) <= len(np.unique(rows, axis=0))
    assert np.isclose(found.weights.sum(), 1)
    assert np.linalg.eigvalsh(found.covariances).min() > 0


def test_a_seed_decides_which_rows_are_used_and_repeats(rng, monkeypatch):
    monkeypatch.setattr(gmm, "MAX_ROWS", 100)
    rows = rng.normal(size=(300, 2))
    one, same, other = (gmm.least_bic(rows, seed, counts=(1,)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.means, same.means)
    assert not np.array_equal(one.means, other.means)


def test_rows_of_unknown_word_are_not_drawn_for_every_word(rng):
    """Kind a is N(0, 1), kind b N(10, 1), and ten rows at 0 do not say of which kind they are."""
    word = np.repeat([False, True], 60)
    rows = (10 * word + rng.normal(size=120))[:, None]
    given = np.where(word, 0.5, -0.5)[:, None]
    given[:10] = np.nan
    found, (a, b, _) = gmm.with_conditions(rows, given, (1,), counts=(1, 2, 3, 4))
    weights = found.weights * np.exp(a[0] + b[0] / 2)  # given b
    at_0 = found.means[:, 0] < 5
    # Ten rows of 130 in a component of their own, of either kind, would be 8 % of all b.
    assert weights[at_0].sum() / weights.sum() < 0.01


def test_conditions_choose_the_components(rng):
    """Kind b is N(8, 1), kind a N(0, 1); the number that goes with them has means -1 and 1."""
    word = rng.permutation(400) < 100
    rows = (8 * word + rng.normal(size=400))[:, None]
    number = np.where(word, 1, -1) + 0.3 * rng.normal(size=400)
    given = np.stack([word - 0.5, number], axis=1)
    given[::10, 0] = np.nan
    found, (a, b, q) = gmm.with_conditions(rows, given, (1, 1), counts=(1, 2))
    order = np.argsort(-found.weights)
    assert found.means.shape == (2, 1)
    # 3 standard errors of 100 rows.
    np.testing.assert_allclose(found.means[order, 0], [0, 8], atol=0.3)

    def log_given(j, value):
        return (a[j] + b[j] * value + q[j] * value**2)[order]

    # Of 90 and 270 rows that have it, every one's word is its component's: half a row is added.
    np.testing.assert_allclose(np.exp(log_given(0, -0.5)), [1, 0], atol=0.01)
    np.testing.assert_allclose(np.exp(log_given(0, 0.5)), [0, 1], atol=0.01)
    np.testing.assert_allclose(
        np.exp(log_given(0, -0.5)) + np.exp(log_given(0, 0.5)), [1, 1], rtol=1e-12
    )
    # A Gaussian's, up to log 2π: the logarithm falls by 1/2 at one deviation from its mean.
    for mean in (-1, 1):
        mine = log_given(1, mean)[int(mean > 0)]
        off = log_given(1, mean + 0.3)[int(mean > 0)]
        # Means of 100 rows are off by 0.03, a tenth of the deviation; half a row widens it by 7 %.
        assert abs(mine - off - 0.5) < 0.35
    # And it is a density of the number in each, up to √(2π): components may be compared.
    values = np.linspace(-10, 10, 20_001)[:, None]
    total = 1e-3 * np.exp(a[1] + b[1] * values + q[1] * values**2).sum(axis=0)
    np.testing.assert_allclose(total, np.sqrt(2 * np.pi), rtol=1e-6)


def test_levels_of_a_word_have_their_shares_of_the_rows(rng):
    counts = np.array([50, 30, 20])
    codes = np.eye(3) - 0.5
    given = np.repeat(codes, counts, axis=0)
    _, (a, b, q) = gmm.with_conditions(rng.normal(size=(100, 1)), given, (3,), counts=(1,))
    found = [np.exp(a + b * c[:, None] + q * c[:, None] ** 2).prod() for c in codes]
    expected = (counts + gmm.UNSEEN) / (100 + 3 * gmm.UNSEEN)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_missing_cells_are_drawn_as_the_others_of_their_rows_say(rng):
    """Filled with means, a third of the cells would shrink every variance by a third."""
    mean, covariance = [3, -1], [[1, 1.6], [1.6, 4]]
    rows = rng.multivariate_normal(mean, covariance, 4000)
    gone = rng.random((4000, 2)) < 1 / 3
    filled = gmm.completed(np.where(gone, np.nan, rows))
    np.testing.assert_array_equal(filled[~gone], rows[~gone])
    # 4 standard errors of the 2667 rows that know a cell; a covariance, like a variance, is off by
    # √((σ₁² σ₂² + σ₁₂²) / n).
    np.testing.assert_allclose(filled.mean(axis=0), mean, atol=0.16)
    np.testing.assert_allclose(np.cov(filled.T), covariance, rtol=0.13)
    np.testing.assert_array_equal(gmm.completed(np.where(gone, np.nan, rows)), filled)
    assert not np.array_equal(gmm.completed(np.where(gone, np.nan, rows), seed=1), filled)
