"""Columns: every kind there and back, with its Jacobian; plain numbers bit for bit as ever."""

import datetime as dt
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from polars.testing import assert_frame_equal

from ddpm_jax.errors import ConfigError, DataError
from ddpm_jax.points.columns import Columns, lines
from ddpm_jax.points.kinds import Number
from ddpm_jax.points.mapped import MappedPoints
from ddpm_jax.points.reading import phrase
from ddpm_jax.points.scaler import Scaler

N = 2000
EXACT = ["steps", "whole", "rain", "price", "word", "many", "wet", "day", "time", "always", "hole"]
EXACT += ["dose"]


def frame(n=N):
    """A column of each kind."""
    rng = np.random.default_rng(0)
    wild = rng.normal(size=n)
    wild[7] = 1000
    start = np.datetime64("2024-01-01")
    return pl.DataFrame(
        {
            "real": rng.normal(5, 2, n),
            "steps": np.round(rng.normal(5, 2, n), 1),
            "whole": rng.integers(-500, 500, n),
            "rain": np.where(rng.random(n) < 0.6, 0, np.round(0.1 + rng.gamma(0.7, 8, n), 1)),
            "drizzle": np.where(rng.random(n) < 0.6, 0, rng.gamma(0.7, 8, n)),
            "share": np.where(rng.random(n) < 0.2, 0, np.minimum(rng.uniform(0.01, 1.2, n), 1)),
            "tail": 1 + rng.pareto(1.5, n),
            "price": np.round(rng.lognormal(3, 1.5, n), 2),
            "wild": wild,
            "sentinel": np.where(rng.random(n) < 0.03, -999, rng.normal(10, 2, n)),
            "word": rng.choice(["ash", "elm", "oak"], n),
            "many": rng.choice([f"w{i}" for i in range(40)], n),
            "wet": rng.random(n) < 0.3,
            "day": (start + rng.integers(0, 400, n)).astype("datetime64[D]"),
            "time": (start + rng.integers(0, 10**7, n).astype("timedelta64[s]")).astype("M8[us]"),
            "always": np.full(n, 0.1),
            "hole": pl.Series([None if k % 5 == 0 else k for k in rng.integers(0, 9, n).tolist()]),
            "dose": np.log([1, 2, 5, 10])[rng.integers(0, 4, n)],
        }
    )


FRAME = frame()
COLUMNS = Columns.fit(FRAME)


def test_every_kind_comes_back():
    z = COLUMNS.encode(FRAME)
    assert z.shape == (N, COLUMNS.dim)
    back = COLUMNS.decode(z).to_data()
    assert back.schema == FRAME.schema
    assert_frame_equal(back[EXACT], FRAME[EXACT], check_exact=True)
    for name in set(FRAME.columns) - set(EXACT):
        x, y = FRAME[name].to_numpy(), back[name].to_numpy()
        kind = COLUMNS.kinds[FRAME.columns.index(name)]
        # Half a unit of float32 in z, 2^-24 |z|, times dx/dz, for which log_det is there.
        z_error = 2.0**-23 * np.abs(kind.encode(x)[:, 0]) + 1e-30
        bound = z_error * np.exp(-kind.log_det(x)) + 1e-12 * np.abs(x)
        assert (np.abs(x - y) <= bound).all(), name


def test_the_scale_is_that_of_the_bulk():
    z = COLUMNS.encode(FRAME)
    for label, kind, part in zip(COLUMNS.labels, COLUMNS.kinds, COLUMNS.slices, strict=True):
        if isinstance(kind, Number) and kind.scale > 0:
            shared = np.isin(FRAME[label], [value for value, *_ in kind.masses])
            low, high = np.nanquantile(z[~shared, part], [0.1, 0.9])
            assert -2 < low < high < 2, label
            assert high - low > 0.8, label


def test_masses_come_back_as_often_and_nothing_in_between():
    """Of z that a model got a little wrong: as many zeros, and no rain below zero."""
    rng = np.random.default_rng(1)
    z = COLUMNS.encode(FRAME) + rng.normal(scale=0.05, size=(N, COLUMNS.dim)).astype(np.float32)
    back = COLUMNS.decode(z).to_data()
    for name in ("rain", "drizzle", "share"):
        assert back[name].min() == 0
        # Noise of 0.05 moves nothing over GAP / 2 = 0.5, ten of its standard deviations.
        assert ((back[name] == 0) == (FRAME[name] == 0)).all(), name
    assert back["rain"].filter(back["rain"] > 0).min() >= 0.1
    assert back["share"].max() == 1
    at = back["sentinel"] < -100
    assert (at == (FRAME["sentinel"] == -999)).all()
    assert (back["sentinel"].filter(at) == -999).all()
    assert back["price"].min() > 0
    assert back["tail"].min() > 0.9


def test_numbers_of_few_values_come_back_as_these_unless_told():
    rng = np.random.default_rng(1)
    # Neighbours are 0.39 apart: half of that is six standard deviations of the noise.
    z = COLUMNS.encode(FRAME) + rng.normal(scale=0.03, size=(N, COLUMNS.dim)).astype(np.float32)
    assert_frame_equal(COLUMNS.decode(z).to_data()[["dose"]], FRAME[["dose"]], check_exact=True)
    real = Columns.fit(FRAME[["dose"]], {"dose": "real"})
    assert real.decode(z[:, -1:]).to_data()["dose"].n_unique() == N


def test_jacobian_is_the_numerical_one():
    table = FRAME.select(pl.selectors.numeric().exclude("hole", "always"))
    columns = Columns.fit(table)
    total = np.zeros(N)
    for name, kind in zip(table.columns, columns.kinds, strict=True):
        x = table[name].to_numpy().astype(np.float64)
        masses = np.isin(x, [value for value, *_ in kind.masses])
        h = 1e-6 * np.minimum(kind.scale, np.abs(x) + (kind.warp is None) * kind.scale)
        h[masses] = 1
        slope = (kind.encode(x + h) - kind.encode(x - h))[:, 0] / (2 * h)
        total += np.where(masses, 0, np.log(np.where(masses, 1, slope)))
    # Differences at 1e-6 are off by 1e-10 / 1e-6, relative, in each of the columns.
    np.testing.assert_allclose(columns.log_det(table), total, atol=5e-3)


def test_what_no_sample_can_be_has_no_density():
    rain = FRAME.select("rain")
    columns = Columns.fit(rain)
    other = pl.DataFrame({"rain": [-1.0, 0.0, 5.0]})
    below, at, above = columns.log_det(other)
    assert below == -np.inf
    assert at == 0
    assert np.isfinite(above)
    assert columns.decode(columns.encode(other)).to_data()["rain"].to_list() == [0, 0, 5]


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8),
        elements=st.floats(-1e30, 1e30),
    )
)
@settings(deadline=None, max_examples=100)
def test_real_columns_are_the_scalers_bit_for_bit(x):
    scaler, columns = Scaler.fit(x), Columns.fit(x, "real")
    assert columns.scaler == scaler
    z = scaler.apply(x)
    assert columns.encode(x).tobytes() == z.tobytes()
    assert columns.decode(z).to_array().tobytes() == scaler.invert(z).tobytes()
    mixed = Columns.fit(x)  # too few rows to tell anything but lattices
    if mixed.scaler:
        assert mixed.scaler == scaler


def test_plain_numbers_are_the_scalers_unasked():
    rng = np.random.default_rng(0)
    for x in (rng.uniform(-1, 1, (500, 2)), rng.normal(3, [1, 5, 0], (500, 3))):
        assert Columns.fit(x).scaler == Scaler.fit(x)
    assert Columns.fit(rng.uniform(-1, 1, (500, 2))).scaler.is_identity
    disk = MappedPoints([x[:200], x[200:]])
    assert Columns.fit(disk).scaler == Scaler.fit(disk)
    np.testing.assert_array_equal(Columns.fit(disk).encode(x), Scaler.fit(x).apply(x))


def test_missing_cells_are_nan_and_come_back_missing():
    day = [dt.date(2024, 1, 1), None, dt.date(2024, 1, 3)]
    table = pl.DataFrame(
        {"x": [1.5, None, 2.5], "w": ["a", "b", None], "v": [None, "p", "q"], "day": day}
    )
    columns = Columns.fit(table)
    np.testing.assert_array_equal(
        np.isnan(columns.encode(table)), [[0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0]]
    )
    assert_frame_equal(columns.decode(columns.encode(table)).to_data(), table)
    np.testing.assert_array_equal(columns.log_det(table)[1:2], [0])


@given(st.floats(-180, 180, exclude_max=True))
@settings(deadline=None)
def test_angles_come_back_from_any_radius(x):
    x = np.array([[x], [-180.0], [179.0], [0.5]])
    columns = Columns.fit(x, {"1": "periodic:360"})
    z = columns.encode(x)
    assert columns.dim == 2
    # cos and sin in float32: 2^-24 of the circle's radius, 57 degrees a radian.
    back = columns.decode(3 * z).to_array()
    off = np.abs(back - x)
    assert np.minimum(off, 360 - off).max() < 2e-5
    assert (back < 180).all()


def test_kinds_may_be_told():
    x = np.random.default_rng(0).integers(1, 4, (100, 3)).astype(float)
    columns = Columns.fit(x, {"1": "word", "column 2": "positive", "3": "real"})
    assert columns.dim == 5
    np.testing.assert_array_equal(columns.decode(columns.encode(x)).to_data()[:, :2], x[:, :2])
    z = np.random.default_rng(1).normal(scale=5, size=(1000, 5))
    drawn = columns.decode(z).to_array()
    assert set(drawn[:, 0]) == {1, 2, 3}
    assert (drawn[:, 1] >= 0).all()
    assert not (drawn[:, 2] == np.rint(drawn[:, 2])).any()


@pytest.mark.parametrize(
    ("data", "told", "message"),
    [
        (np.array([[1.0], [-1.0]]), "positive", 'column 1: kind "positive", but its least'),
        (np.array([[1.0], [1.5]]), "integer", 'column 1: kind "integer", but some'),
        (np.array([[1.0], [400.0]]), "periodic:360", "whole turn"),
        (np.array([[1.0], [400.0]]), "periodic:x", "whole turn"),
        (np.array([[1.0], [2.0]]), "real number", '"positive", "integer", "word"'),
        (np.array([[1.0], [2.0]]), {"z": "word"}, "no column 'z'; there are column 1"),
        (np.array([[np.nan], [np.nan]]), None, "column 1: no value in any row"),
        (pl.DataFrame({"w": ["a", "b"]}), {"w": "real"}, 'w: words are not of kind "real"'),
        (
            pl.DataFrame({"id": [f"r{i}" for i in range(50)]}),
            None,
            "id: 50 different words in 50 rows, as names of rows are",
        ),
    ],
)
def test_kinds_that_do_not_fit(data, told, message):
    with pytest.raises(DataError, match=message):
        Columns.fit(data, told)


def test_other_tables_are_refused_by_name():
    with pytest.raises(DataError, match="word: 'fir' was never seen; seen were 'ash', 'elm'"):
        COLUMNS.encode(FRAME.with_columns(pl.lit("fir").alias("word")))
    with pytest.raises(DataError, match="a table of real, steps, where real, steps, whole"):
        COLUMNS.encode(FRAME[["real", "steps"]])
    with pytest.raises(DataError, match="real: cells of dtype object in a column"):
        COLUMNS.encode(FRAME.with_columns(pl.lit("fir").alias("real")))
    shuffled = FRAME.select(sorted(FRAME.columns), extra=pl.lit(1))
    np.testing.assert_array_equal(COLUMNS.encode(shuffled), COLUMNS.encode(FRAME))


@pytest.mark.parametrize(
    "columns",
    [
        COLUMNS,
        Columns.fit(np.random.default_rng(0).normal(size=(50, 2))),
        Columns.fit(2.0 * np.random.default_rng(0).integers(0, 500, (300, 1)) + 1),
        Columns.fit(np.random.default_rng(0).uniform(0, 360, (50, 1)), {"1": "periodic:360"}),
        Columns.fit(np.full((50, 2), 3.0)),
    ],
    ids=["a table", "plain", "odd", "periodic", "constant"],
)
def test_json_there_and_back(columns):
    assert Columns.from_json(json.loads(json.dumps(columns.to_json()))) == columns


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: v.pop("kinds"), "columns.kinds"),
        (lambda v: v["kinds"].pop(), "columns.names"),
        (lambda v: v["kinds"][0].update(scale=-1), r"columns.kinds\[0\].scale"),
        (lambda v: v["kinds"][3].update(masses=[[0]]), r"columns.kinds\[3\].masses"),
        (lambda v: v["kinds"][1]["lattice"].update(stride=0), r"columns.kinds\[1\].lattice"),
        (lambda v: v["kinds"][6]["warp"].update(kind="x"), r"columns.kinds\[6\].warp"),
        (lambda v: v["kinds"][10].update(levels=["a", "a"]), r"columns.kinds\[10\].levels"),
        (lambda v: v.update(origin=3), "columns.origin"),
        *[
            (lambda v, bad=bad: v["kinds"][-1]["lattice"].update(values=bad), "lattice.values")
            for bad in ([0.5], [1.0, 0.5], [0.5, 0.5], [0.5, None], [0.5, 1], 3, list(range(101)))
        ],
    ],
)
def test_json_that_is_wrong_is_refused_by_field(change, field):
    values = json.loads(json.dumps(COLUMNS.to_json()))
    change(values)
    with pytest.raises(ConfigError, match=field):
        Columns.from_json(values)


def test_lines_say_what_was_understood():
    said = [phrase(line, flags=True) for line in lines(COLUMNS, N)]
    text = "\n".join(said)
    assert said[0] == "2,000 rows"
    for part in (
        "steps: numbers in steps of 0.1, ",
        "whole: whole numbers, -500 to 499",
        "% exactly 0",
        "wild: numbers, -3.",
        "to 1000, with a heavy tail that reaches ",
        "word: 3 words (ash, elm, oak)",
        "many: 40 words (w0, w1, w10, w11, …)",
        "wet: true or false",
        "day: dates, 2024-01-01 to 2025-02-03",
        "always: always 0.1",
        "hole: whole numbers, 1 to 8, ",
        "% missing",
        "dose: numbers, 4 different ones, 0 to 2.30259",
        "sentinel: -999 is far from all others, and read as a number: --missing -999 takes it as",
    ):
        assert part in text, part
