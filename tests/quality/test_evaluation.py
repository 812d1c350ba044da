"""The table of samples against held-out rows: what copies, fresh rows and odd data get."""

import json
import math
from collections import defaultdict

import numpy as np
import pytest

from ddpm_jax.errors import InputError
from ddpm_jax.quality import metrics
from ddpm_jax.quality.evaluation import Evaluation, evaluate, format_table
from ddpm_jax.quality.hands import Hands, Measurement
from ddpm_jax.quality.rivals import fit_rivals
from exact import exactly

DISTANCES = [
    "energy_distance",
    "sliced_wasserstein",
    "wasserstein2",
    "mmd_rbf",
    "total_variation",
    "far_fraction",
    "uncovered_fraction",
]
TREES = ["classifier_two_sample"]  # which takes a second or two a call
METRICS = [*DISTANCES, *TREES, "nearest_training_row", "copies"]


def quickly(*args, **settings) -> Evaluation:
    return evaluate(*args, **{"rivals": False, "without": TREES, "size": 200} | settings)


@pytest.mark.medium
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_no_metric_beside_its_floor_judges_fresh_rows_worse_than_copies(rng, dim):
    found = defaultdict(list)
    for seed in range(8):
        train, held_out, fresh = (rng.normal(size=(n, dim)) for n in (300, 60, 600))
        copied, new = (
            quickly(x, held_out, train, seed=seed) for x in (rng.choice(train, 600), fresh)
        )
        assert copied.copies
        assert not new.copies
        assert not copied.far
        assert not new.far
        for name in DISTANCES:
            found[name].append(new[name].value - copied[name].value)
    for name, differences in found.items():
        # Differences of one law's draws have mean 0: a t statistic of 7 degrees below 5.
        error = np.std(differences, ddof=1) / math.sqrt(8)
        assert np.mean(differences) < 5 * error, name


def test_spreads_are_those_of_independent_draws(rng):
    # A hand's share of far points is binomial, given the rows that it is compared with: the mean
    # square of the spreads is p (1 - p) / m. Hands that shared rows would vary less.
    against = rng.normal(size=(40, 1))
    size, squares, shares = 30, [], []
    rest = [name for name in METRICS if name != "far_fraction"]
    for _ in range(150):
        others = rng.normal(size=(5 * size, 1))
        hands = Hands(against, others, 5 * size, repeats=5, size=10, seed=0, without=rest)
        assert (hands.count, hands.size) == (5, size)
        row = hands.measure(others, ["far_fraction"])[0]
        squares.append(row.floor_spread**2)
        shares.append(row.floor)
    p = np.mean(shares)
    # A variance of five draws varies by √(2/4) of itself: 0.7/√150 = 6 %; four of those.
    assert np.mean(squares) == pytest.approx(p * (1 - p) / size, rel=0.24)


@pytest.mark.medium
def test_every_metric_has_its_row_and_its_size(rng):
    train, held_out, fresh = (rng.normal(size=(n, 2)) for n in (500, 50, 400))
    found = evaluate(fresh, held_out, train, rivals=False, size=60)
    assert [row.name for row in found.rows] == METRICS
    assert {row.name: row.size for row in found.rows} == dict.fromkeys(METRICS, 80) | {
        "energy_distance": 60,
        "wasserstein2": 30,
        "mmd_rbf": 30,
        "nearest_training_row": 400,
        "copies": 400,
    }
    for row in found.rows:
        assert row.spread is not None
        assert row.floor_spread is not None
    # Three hands of 100 labels: 0.5/√300 = 0.03; eight of them, as labels share points and folds.
    assert found["classifier_two_sample"].floor == pytest.approx(0.5, abs=0.23)
    with pytest.raises(KeyError):
        found["no such metric"]


def test_a_floor_is_what_the_training_rows_score(rng):
    train, held_out = rng.normal(size=(100, 2)), rng.normal(size=(20, 2))
    found = quickly(rng.normal(5, 1, (100, 2)), held_out, train, repeats=1)
    # One hand is all the training rows, or their first rows in some order.
    expected = metrics.energy_distance(held_out, train)
    assert found["energy_distance"].floor == exactly(expected)
    assert found["energy_distance"].floor_spread is None
    assert found.far


@pytest.mark.medium
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_shift_is_far_and_its_classifier_says_so(rng, shift):
    train, held_out, fresh = (rng.normal(size=(n, 3)) for n in (600, 200, 600))
    found = evaluate(fresh + 3 * shift, held_out, train, rivals=False, size=100)
    assert found.far == bool(shift)
    text = str(found)
    assert ("far from the data" in text) == bool(shift)
    assert ("cases of 100" in text) == bool(shift)
    assert not found.copies


def test_without_held_out_rows_the_table_says_what_it_means(rng):
    train, fresh = rng.normal(size=(200, 2)), rng.normal(size=(200, 2))
    found = quickly(fresh, None, train)
    assert "No rows were held out" in found.notes[0]
    assert not found.copies
    assert "No copies to be seen" in found.notes[1]
    assert "as training rows are from each other" in found.notes[1]
    assert [row.name for row in found.rows] == [n for n in METRICS if "classifier" not in n]
    copied = quickly(rng.choice(train, 200), None, train)
    assert copied.copies
    assert "of training rows, beside another one, " in copied.warnings[0]
    assert "No copies" not in str(copied)


def test_without_training_rows_copies_cannot_be_seen(rng):
    held_out, fresh = rng.normal(size=(200, 2)), rng.normal(size=(200, 2))
    found = quickly(fresh, held_out)
    assert "cannot be seen" in found.notes[0]
    assert [row.name for row in found.rows] == DISTANCES
    assert not found.copies


ROW = np.array([[1.0, 2.0]])


@pytest.mark.parametrize(
    ("held_out", "train", "sentence", "measured"),
    [
        (None, np.array([[0.0, 1.0], [1.0, 0.0]]), "too few for distances between sets", 2),
        (None, np.repeat(ROW, 2, axis=0), "Every column of the data is constant", 0),
        (np.repeat(ROW, 5, axis=0), np.repeat(ROW, 50, axis=0), "is constant", 0),
        (ROW, np.array([[0.0, 1.0], [1.0, 0.0]]), "too few for distances", 2),
        (ROW, None, "is constant", 0),
        (np.eye(2), None, "too few", 0),
        (None, np.eye(3)[:, :2], "too few", 2),
        (np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]]), "Only 2 rows were held out", 9),
        (None, np.array([[0.0, 1.0]] * 10 + [[1.0, 0.0]] * 10), "No rows were held out", 9),
    ],
)
def test_odd_data_get_a_table_or_a_sentence(rng, held_out, train, sentence, measured):
    for samples in (np.tile(ROW, (50, 1)), np.tile(ROW, (2, 1)), ROW):
        found = quickly(samples, held_out, train)
        assert sentence in str(found) or len(samples) == 1
        assert len(found.rows) == measured or len(samples) == 1
        assert all(math.isfinite(row.value) and math.isfinite(row.floor) for row in found.rows)
        json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(("n", "dim"), [(3, 1), (3, 40), (4, 1), (7, 40), (25, 1), (25, 40)])
def test_few_rows_of_one_and_of_many_columns(rng, n, dim):
    train, held_out, fresh = (rng.normal(size=(k, dim)) for k in (n, max(1, n // 5), 100))
    found = evaluate(fresh, held_out, train, size=50, without=TREES if n == 25 else [])
    assert "held out" in str(found) or "too few" in str(found)
    json.dumps(found.to_json(), allow_nan=False)
    assert not found.copies
    assert not found.far


def test_constant_columns_are_not_measured_but_must_be_repeated(rng):
    def with_constant(n, value=7.0):
        x = rng.normal(size=(n, 3))
        x[:, 1] = value
        return x

    train, held_out, fresh = with_constant(200), with_constant(40), with_constant(200)
    found = quickly(fresh, held_out, train)
    rest = quickly(*(x[:, [0, 2]] for x in (fresh, held_out, train)))
    assert found == rest
    other = quickly(with_constant(200, 8.0), held_out, train)
    assert other.warnings == ("The data are constant in column 2, the samples are not.",)
    # Drawn in float32, a 7 may come back as its neighbour.
    fresh[:, 1] = np.nextafter(np.float32(7), np.float32(8))
    assert quickly(fresh, held_out, train) == rest


def test_the_rivals_stand_beside_the_model(rng):
    train, held_out, fresh = (rng.normal(size=(n, 2)) for n in (300, 60, 300))
    found = evaluate(
        fresh,
        held_out,
        train,
        without=TREES,
        log_prob=lambda rows: np.arange(60.0),
        size=100,
        seed=2,
    )
    model, *rivals = found.contenders
    assert model.name == "model"
    assert model.energy_distance == (
        found["energy_distance"].value,
        found["energy_distance"].spread,
    )
    assert model.nearest_training_row == exactly(found["nearest_training_row"].ratio)
    assert model.log_prob[0] == 29.5
    assert model.log_prob[1] == exactly(math.sqrt(60 * 61 / 12 / 60))  # of 0, 1, .., 59: n(n+1)/12
    for rival, fitted in zip(rivals, fit_rivals(train, 2), strict=True):
        assert rival.name == fitted.name
        assert rival.log_prob[0] == exactly(fitted.log_prob(held_out).mean())
        assert rival.nearest_training_row > 0.5
        assert rival.energy_distance[0] < 3 * found["energy_distance"].floor
    table = str(found)
    assert "kernel density" in table
    assert "Gaussian mixture" in table


def test_a_seed_decides(rng):
    train, held_out, fresh = (rng.normal(size=(n, 2)) for n in (100, 30, 100))
    one, same, other = (quickly(fresh, held_out, train, seed=s) for s in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: evaluate(x, None), "held_out and train are both None"),
        (lambda x: evaluate(x, x[:, :1]), "as many columns"),
        (lambda x: evaluate(x, x, x[0]), "train has shape"),
        (lambda x: evaluate(x, np.full((2, 2), np.nan)), "held_out must be finite"),
        (lambda x: evaluate(x[:0], x), "samples has shape"),
        (lambda x: evaluate(x, x, size=1), "size"),
        (lambda x: evaluate(x, x, repeats=0), "repeats"),
        (
            lambda x: evaluate(x, x, x, log_prob=lambda r: r, without=TREES),
            "one number of each of 20",
        ),
    ],
)
def test_bad_arguments_are_named(rng, call, message):
    with pytest.raises(InputError, match=message):
        call(rng.normal(size=(20, 2)))


def test_the_table():
    far = Measurement("far_fraction", 0.25, None, 0.0, None, 20_000)
    w2 = Measurement("wasserstein2", 0.084, 0.003, 0.056, 0.002, 2000)
    assert math.isnan(far.ratio)
    assert w2.ratio == exactly(1.5)
    header, first, second, *reading = format_table([far, w2]).split("\n")
    assert " ".join(first.split()) == "far_fraction 0.25 0 - 20,000"
    assert " ".join(second.split()) == "wasserstein2 0.084 ± 0.003 0.056 ± 0.002 1.50 2,000"
    assert len(header) == len(first) == len(second)
    assert reading[0].startswith("Lower is better")
    assert max(map(len, reading)) <= 100
