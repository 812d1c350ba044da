"""Settings: the two presets, what is refused and how, and config.json there and back."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ddpm_jax.config import PRESETS, Config, from_json, to_json
from ddpm_jax.errors import ConfigError, InputError
from ddpm_jax.settings import differences, flat, sections
from ddpm_jax.training import recipe
from fuzz import json_values

FIELDS = [field.name for field in dataclasses.fields(Config)]
PLACES = sections(Config)
"""Every setting, and its section."""
pytestmark = pytest.mark.usefixtures("types_unchecked")
every_preset = pytest.mark.parametrize("preset", sorted(PRESETS))


def through_json(config):
    return from_json(json.loads(json.dumps(to_json(config), allow_nan=False)))


def test_the_reference_preset_is_the_original_experiment():
    config = PRESETS["reference"].for_points(50_468)
    original = {
        "data": "bicycle",
        "schedule": "sigmoid",
        "num_steps": 1000,
        "sigmoid_k": 10.0,
        "width": 128,
        "depth": 3,
        "time_width": 50,
        "tables": (),
        "epochs": 1000,
        "batch_size": 64,
        "learning_rate": 1e-4,
        "decay": "constant",
        "ema_decay": 0,
        "stratified": False,
        "points_per_time": 1,
        "snapshot_every": 10,
        "checkpoint_every": 10,
        "snapshot_steps": "all",
        "snapshot_points": 10_000,
        "milestones": (50, 500, 1000),
    }
    assert {name: flat(config)[name] for name in original} == original


@every_preset
def test_presets_are_named_and_survive_json(preset):
    config = PRESETS[preset]
    assert config.preset == preset
    assert through_json(config) == config
    filled = config.for_points(1234)
    assert through_json(filled) == filled


@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            "data": st.text(),
            "seed": st.integers(0, 2**32 - 1),
            "schedule": st.sampled_from(["linear", "sigmoid", "cosine"]),
            "sigmoid_k": st.floats(allow_nan=False, allow_infinity=False),
            "learning_rate": st.floats(1e-300, 1),
            "ema_decay": st.floats(0, 1, exclude_max=True),
            "stratified": st.booleans(),
            "epochs": st.none() | st.integers(100, 2**31 - 1),
            "snapshot_steps": st.just("all") | st.integers(1, 1000),
            "milestones": st.lists(st.integers(1, 100)).map(tuple),
        },
    )
)
def test_every_valid_configuration_survives_json(values):
    config = Config().replace(**values)
    assert through_json(config) == config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preset", "slow"),
        ("data", 1),
        *[("seed", value) for value in (-1, 2**32, 1.0, True, "1", None)],
        *[("schedule", value) for value in ("quadratic", ["linear"], None)],
        *[("num_steps", value) for value in (0, -1, 1000.0, True, 10**12)],
        *[("sigmoid_k", value) for value in (math.nan, math.inf, "10", True)],
        *[(name, value) for name in ("width", "depth") for value in (0, -1, 1.5, 10**9)],
        *[("time_width", value) for value in (0, 1, 51)],
        *[("tables", value) for value in ((1,), (64, 0), (64.0,), 64, (64, 64), (10**6,))],
        ("table_features", 0),
        *[("epochs", value) for value in (-1, 0, 1.5)],
        *[("batch_size", value) for value in (-1, 0, 64.0)],
        *[("learning_rate", value) for value in (0.0, -1e-3, 1.1, math.nan, math.inf)],
        pytest.param("learning_rate", 10**400, id="learning_rate-10**400"),
        ("decay", "linear"),
        *[("hold_out", value) for value in (-0.1, 1.0, math.nan)],
        *[(name, 0) for name in ("patience", "passes")],
        *[(name, "none of them") for name in ("base", "prediction")],
        *[("ema_decay", value) for value in (-0.1, 1.0, math.nan)],
        *[("stratified", value) for value in (1, "yes", None)],
        *[("points_per_time", value) for value in (0, 1.5)],
        *[(name, -1) for name in ("snapshot_every", "checkpoint_every", "snapshot_steps")],
        *[(name, 0) for name in ("snapshot_every", "checkpoint_every", "snapshot_steps")],
        ("snapshot_steps", "some"),
        ("snapshot_steps", 1001),
        ("snapshot_points", 99),
        *[("milestones", value) for value in ((0,), (1, -5), ("1",), (True,), 7)],
    ],
)
def test_what_is_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        Config().replace(**{name: value})
    values = to_json(Config())
    (values[PLACES[name]] if PLACES[name] else values)[name] = value
    with pytest.raises(ConfigError, match=f"^there/config.json: .*{name}"):
        from_json(values, "there/config.json")


@pytest.mark.parametrize("name", ["preset", "schedule", "decay"])
def test_a_wrong_choice_is_told_the_right_ones(name):
    with pytest.raises(ConfigError, match=flat(Config())[name]):
        Config().replace(**{name: "none of them"})


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"unknown setting 'learning_rat'.*learning_rate"):
        from_json({"training": {"learning_rat": 1e-3}})
    with pytest.raises(ConfigError, match=r"unknown setting 'learning_rat'.*learning_rate"):
        Config().replace(learning_rat=1e-3)


def test_no_two_settings_share_a_name():
    """As a name alone says which one is meant: a keyword of `fit`, a flag of the command."""
    parts = [getattr(Config(), name) for name in FIELDS]
    inner = [dataclasses.fields(part) for part in parts if dataclasses.is_dataclass(part)]
    assert len(PLACES) == len(flat(Config())) == len(FIELDS) - len(inner) + sum(map(len, inner))


def test_a_setting_is_replaced_where_it_is_and_nothing_else():
    config = Config().replace(width=8, seed=3, num_steps=30)
    changed = {k: v for k, v in flat(config).items() if v != flat(Config())[k]}
    assert changed == {"width": 8, "seed": 3, "num_steps": 30}


def test_a_list_or_a_word_alone_may_stand_for_a_tuple_of_words():
    config = Config().replace(condition="kind", columns="1-6", missing=["-9", "?"])
    assert (config.condition, config.reading.columns) == (("kind",), ("1-6",))
    assert config.reading.missing == ("-9", "?")
    assert Config().replace(delimiter=";").reading.delimiter == ";"


@given(
    values=json_values
    | st.dictionaries(
        st.sampled_from(FIELDS),
        json_values | st.dictionaries(st.sampled_from(sorted(PLACES)), json_values),
    )
)
@example({"training": {"learning_rate": 10**400}})
@example({"record": {"milestones": [10**400]}})
@example({"network": {"tables": [[]]}})
def test_from_json_raises_nothing_but_input_errors(values):
    try:
        config = from_json(values)
    except InputError:
        return
    assert through_json(config) == config


# --- what depends on the data ---


@pytest.mark.parametrize("num_points", [2, 3, 142, 255, 256, 257, 10_000, 50_468, 10**6])
def test_defaults_that_depend_on_the_data(num_points):
    config = Config().for_points(num_points)
    training, record = config.training, config.record
    assert training.batch_size == min(256, num_points)
    per_pass = num_points // training.batch_size
    # The fewest passes that make an epoch of a hundred steps.
    assert training.passes * per_pass >= 100 > (training.passes - 1) * per_pass
    steps_per_epoch = training.passes * per_pass
    promised = recipe.rule(num_points, 2, 0.0).steps
    # The fewest epochs that make the steps promised.
    steps = training.epochs * steps_per_epoch
    assert promised <= steps < promised + steps_per_epoch
    assert training.batch_size % training.points_per_time == 0
    tenth = math.ceil(training.epochs / 10)
    assert (record.snapshot_every, record.checkpoint_every) == (tenth, tenth)
    assert record.milestones[-1] == training.epochs
    assert config.for_points(num_points) == config


def test_what_is_given_is_kept():
    given_values = {
        "epochs": 7,
        "batch_size": 10,
        "snapshot_every": 3,
        "checkpoint_every": 2,
        "milestones": (2, 7),
        "points_per_time": 5,
    }
    config = Config().replace(**given_values).for_points(25)
    assert {name: flat(config)[name] for name in given_values} == given_values


@pytest.mark.parametrize(
    ("epochs", "milestones"), [(1, (1,)), (2, (1, 2)), (20, (1, 10, 20)), (1000, (50, 500, 1000))]
)
def test_milestones_are_5_50_and_100_percent(epochs, milestones):
    assert Config().replace(epochs=epochs).for_points(100).record.milestones == milestones


def test_a_milestone_after_the_end_of_the_run_is_refused():
    """Not left out, which a resumed run would take for none given."""
    end = Config().for_points(50_468).training.epochs
    with pytest.raises(ConfigError, match=f"milestones must be epochs of the run, got {end + 1}"):
        Config().replace(milestones=(1, end + 1)).for_points(50_468)


@every_preset
@pytest.mark.parametrize("epochs", [1, 10, 100, 2000])
def test_every_preset_can_be_run_for_any_number_of_epochs(preset, epochs):
    config = PRESETS[preset].replace(epochs=epochs).for_points(50_468)
    assert config.record.milestones
    assert max(config.record.milestones) <= epochs


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match="batch_size of 100 or less"):
        Config().replace(batch_size=101).for_points(100)


def test_more_steps_than_the_counter_holds_are_refused():
    with pytest.raises(ConfigError, match="epochs"):
        Config().replace(epochs=2**30, batch_size=1).for_points(100)


def test_an_impossible_schedule_is_refused_before_training():
    with pytest.raises(ConfigError, match="float32"):
        Config().replace(sigmoid_k=1000.0).for_points(100)


@pytest.mark.parametrize("name", ["linear", "sigmoid", "cosine"])
def test_the_schedule_is_the_one_named(name):
    schedule = Config().replace(schedule=name, num_steps=50, sigmoid_k=4.0).noise.make_schedule()
    assert schedule.num_steps == 50
    # ᾱ_0 by each one's own formula, to a rounding of float32.
    first = {
        "linear": 1 - 1e-4,
        "sigmoid": 1 / (1 + math.exp(-4)),
        "cosine": math.cos(0.028 / 1.008 * math.pi / 2) ** 2
        / math.cos(0.008 / 1.008 * math.pi / 2) ** 2,
    }
    np.testing.assert_allclose(schedule.alpha_bars[0], first[name], rtol=1e-7)


def test_differences_name_each_key_and_both_values():
    old, new = flat(Config(seed=1)), flat(Config().replace(learning_rate=1.0))
    assert differences(old, old) == []
    rate, seed = differences(old, new)
    assert (
        rate == f"learning_rate: {json.dumps(Config().training.learning_rate)} in the run, 1.0 now"
    )
    assert seed == "seed: 1 in the run, 0 now"
    assert differences({"a": None}, {"a": None, "b": 1}) == ["b: null in the run, 1 now"]
