"""A run or model that somebody has edited: read as it was, or refused by file and field."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddpm_jax import Model, interop
from ddpm_jax.config import Config
from ddpm_jax.drawing import Drawer
from ddpm_jax.errors import CheckpointError, ConfigError, InputError
from ddpm_jax.points.scaler import Scaler
from ddpm_jax.runs import checkpoints, directory
from ddpm_jax.runs.log import append_row, keep_rows, read_rows
from ddpm_jax.runs.record import Run
from fuzz import at_most, json_values

SMALL = {"num_steps": 5, "snapshot_steps": 5, "width": 8, "depth": 1, "tables": (), "epochs": 1}
ROW = {"epoch": 1, "step": 6, "loss": 0.5, "floor": 0.25, "excess": 0.25, "skipped": 0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run directory with the untrained parameters of a small network, and a row."""
    out = tmp_path_factory.mktemp("whole") / "run"
    out.mkdir()
    points = np.random.default_rng(0).normal(3, [1, 0.1], (60, 2))
    run = Run.of(Config().replace(**SMALL, batch_size=10), points)
    run.save(out)
    state = {"train": run.first_state(), "losses": np.zeros(run.steps_per_epoch, np.float32)}
    checkpoints.save(out / "checkpoints", 6, state, run.metadata())
    append_row(out, ROW)
    return out


@pytest.fixture
def out(whole, tmp_path):
    """A copy of it, to be edited."""
    return shutil.copytree(whole, tmp_path / "run")


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


# --- what decides the points ---


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("scaler", lambda run: run["scaler"]["shift"].__setitem__(0, 7.0)),
        ("scaler", lambda run: run["scaler"]["scale"].__setitem__(1, 0.0)),
        ("extent", lambda run: run.update(extent=1.5)),
        ("digest", lambda run: run.update(digest="0" * 64)),
        ("num_points", lambda run: run.update(num_points=61)),
        ("config", lambda run: run["config"]["noise"].update(sigmoid_k=3.0)),
        ("config", lambda run: run["config"].update(seed=9)),
    ],
)
def test_an_edited_config_is_not_what_the_checkpoints_were_saved_by(out, field, change):
    edit(out / "config.json", change)
    with pytest.raises(CheckpointError, match=rf"a run whose {field} is another than config\.json"):
        Model.load(out)


@pytest.mark.parametrize("values", [[], 1, "x", None, {"scaler": [1]}, {"config": {}}])
def test_metadata_that_no_run_wrote_are_refused(out, values):
    run = Run.load(out)
    step, state, metadata = checkpoints.restore(out / "checkpoints", run.checkpoint_like())
    checkpoints.save(out / "checkpoints", step, state, metadata | {"run": values})
    with pytest.raises(CheckpointError, match=r"checkpoints: (its metadata|saved by a run whose)"):
        Model.load(out)


def test_what_was_fitted_to_the_data_is_compared_on_resuming(whole):
    run = Run.load(whole)
    run.refuse_other(run, whole)
    for name, value in (("extent", 2.0), ("scaler", Scaler((0.0, 0.0), (1.0, 1.0)))):
        with pytest.raises(ConfigError, match=r"scaler or extent in its config\.json are not"):
            dataclasses.replace(run, **{name: value}).refuse_other(run, whole)


def test_what_is_recorded_on_the_way_may_be_edited(out):
    edit(out / "config.json", lambda run: run["config"]["record"].update(snapshot_every=3))
    assert Model.load(out).step == 6


# --- nothing leaves that is not finite ---


@pytest.mark.medium
def test_samples_that_are_not_finite_do_not_leave(whole):
    model = Model.load(whole)
    huge = jax.tree.map(lambda x: x * 1e38, model.params)
    broken = Model(model.run, model.step, huge)
    with pytest.raises(InputError, match=r"^\d+ of 10 samples are not finite.*learning_rate"):
        broken.sample(10)
    run = model.run
    with pytest.raises(InputError, match=r"samples are not finite"):
        Drawer(run.apply(), run.schedule, run.dim).points(huge, jax.random.key(0), 10)


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("seed", [-1, 2**32, 10**400, 0.5])
def test_a_seed_has_one_rule_everywhere(whole, seed):
    model = Model.load(whole)
    for use in (lambda: model.sample(1, seed=seed), lambda: Config(seed=seed)):
        with pytest.raises(ConfigError, match=r"^seed must be"):
            use()


# --- metrics.jsonl ---


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ({"epoch": 2}, "field 'loss' is missing"),
        ({"epoch": 2, "loss": "0.5"}, "field 'loss' is missing or wrong: 0.5"),
        ({"epoch": 2, "loss": 10**400}, "field 'loss'"),
        ({"epoch": 2, "loss": float("nan")}, "field 'loss'"),
        ({"epoch": 2, "loss": True}, "field 'loss'"),
        ({"epoch": 2, "loss": 0.1, "floor": [1]}, "field 'floor'"),
        ({"epoch": 2, "loss": 0.1, "excess": "a"}, "field 'excess'"),
        ({"epoch": 0, "loss": 0.1}, "not the next epoch's row"),
        ({"epoch": 1, "loss": 0.1}, "not the next epoch's row"),
        ("[" * 100_000, "not the next epoch's row"),
        ("17", "not the next epoch's row"),
        ({"epoch": "2", "loss": 0.1}, "not the next epoch's row"),
        ({"epoch": True, "loss": 0.1}, "not the next epoch's row"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_row_that_no_run_wrote_is_refused_by_line_and_field(out, line, what):
    """In the middle; at the end, where a crash may have torn it, what is no row is left out."""
    text = line if isinstance(line, str) else json.dumps(line)
    rows = out / "metrics.jsonl"
    rows.write_text("\n".join([json.dumps(ROW), text, json.dumps(ROW | {"epoch": 3}), ""]))
    for read in (read_rows, lambda path: keep_rows(path, 3), Model.load):
        with at_most(10), pytest.raises(ConfigError) as caught:
            read(out)
        assert str(caught.value).startswith(f"{rows}, line 2: ")
        assert what in str(caught.value)


@given(
    lines=st.lists(
        json_values | st.just(ROW) | st.builds(dict, epoch=st.integers(), loss=json_values)
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_are_read_or_refused(tmp_path, lines):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    try:
        with at_most(10):
            rows = keep_rows(tmp_path, 3)
    except ConfigError as error:
        assert str(error).startswith(f"{path}, line ")  # noqa: PT017
        return
    assert all(row["loss"] is None or np.isfinite(row["loss"]) for row in rows)
    assert [row["epoch"] for row in rows] == sorted({row["epoch"] for row in rows})


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_a_pipe_in_a_run_does_not_block(out, name):
    (out / name).unlink()
    os.mkfifo(out / name)
    with at_most(10), pytest.raises(ConfigError, match=rf"{name}.*is a pipe"):
        Model.load(out)


# --- a model in one file ---


def save(path, model, change):
    """The file of a model with something in it that `save` never writes; its digests agree."""
    about = {"run": model.run.to_json(), "step": model.step, "history": list(model.history)}
    about = json.loads(json.dumps(about))
    params = jax.tree.map(np.asarray, model.params)
    change(about, params)
    interop.save_safetensors(path, params, about)


@pytest.mark.parametrize(
    ("error", "change"),
    [
        (CheckpointError, lambda about, params: about.update(step="6")),
        (CheckpointError, lambda about, params: about.update(step=-1)),
        (CheckpointError, lambda about, params: about.update(history={"epoch": 1})),
        (ConfigError, lambda about, params: about.update(history=[17])),
        (ConfigError, lambda about, params: about.update(history=[{"epoch": 1, "loss": "x"}])),
        (ConfigError, lambda about, params: about.update(run=[])),
        (ConfigError, lambda about, params: about["run"].update(columns=17)),
        (ConfigError, lambda about, params: about["run"].update(extent="1")),
        (CheckpointError, lambda about, params: about.pop("step")),
        (CheckpointError, lambda about, params: params.pop("out")),
        (CheckpointError, lambda about, params: params.update(more=np.ones(1, np.float32))),
        (CheckpointError, lambda about, params: params["out"].update(bias=np.ones(3, np.float32))),
        (CheckpointError, lambda about, params: params["out"].update(bias=np.ones(2, np.int32))),
    ],
)
def test_a_model_that_was_never_saved_is_refused(whole, tmp_path, error, change):
    path = tmp_path / "m.safetensors"
    save(path, Model.load(whole), change)
    with at_most(20), pytest.raises(error) as caught:
        Model.load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.medium
def test_a_model_that_was_saved_is_read(whole, tmp_path):
    model = Model.load(whole)
    save(tmp_path / "m.safetensors", model, lambda about, params: None)
    read = Model.load(tmp_path / "m.safetensors")
    assert (read.run, read.step, read.history) == (model.run, 6, [ROW])
    np.testing.assert_array_equal(read.sample(5, seed=1), model.sample(5, seed=1))


@pytest.mark.medium
@pytest.mark.parametrize("name", ["jax_enable_x64", "jax_default_prng_impl", "jax_disable_jit"])
def test_a_model_draws_the_same_points_however_jax_is_set(whole, name):
    expected = Model.load(whole).sample(5, seed=1, sampler="sa-solver", steps=3)
    before, other = getattr(jax.config, name), {"jax_default_prng_impl": "rbg"}.get(name, True)
    jax.config.update(name, other)
    try:
        found = Model.load(whole).sample(5, seed=1, sampler="sa-solver", steps=3)
    finally:
        jax.config.update(name, before)
    assert found.tobytes() == expected.tobytes()


# --- a run's own files ---


@pytest.mark.parametrize(
    "name",
    ["config.json", "metrics.jsonl", "samples/final.npy", "checkpoints/6/x.json", "reverse.gif"],
)
def test_no_command_replaces_a_run_s_own_file(out, name):
    with pytest.raises(InputError, match=r"is a run's own file: choose another name"):
        directory.refuse_taken(out / name, overwrite=True)
    link = out.parent / "link"
    link.symlink_to(out / name)
    with pytest.raises(InputError, match=r"is a run's own file"):
        directory.refuse_taken(link, overwrite=True)
    directory.refuse_taken(out / "mine.json", overwrite=True)
    (out / "config.json").unlink()  # no run, then
    directory.refuse_taken(out / name, overwrite=True)
