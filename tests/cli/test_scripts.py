"""The scripts as a user runs them: what they leave, and what they refuse."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness import command

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--epochs", "3", "--num-steps", "30", "--snapshot-points", "200", "--snapshot-steps", "5"]


def run(script: str, *args: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "experiments" / script, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run on three correlated columns, from a file with a header."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3)) + [5, -2, 30]
    np.savetxt(folder / "p.csv", points, delimiter=",", header="a,b,c", comments="")
    done = run("train.py", "--data", folder / "p.csv", "--out", folder / "run", *TINY)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


@pytest.mark.slow
def test_a_run_leaves_what_the_readme_promises(finished):
    out, printed = finished
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    figures = {
        f"figures/{name}.png" for name in ("data", "schedules", "forward", "loss", "montage")
    }
    expected = {"config.json", "metrics.jsonl", "samples/final.npy", "summary.txt"}
    expected |= {"reverse.gif", "report.html"}
    assert names >= expected | figures | {"samples/epoch_0001.png", "samples/epoch_0003.png"}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(row["excess"] == pytest.approx(row["loss"] - row["floor"]) for row in rows)
    assert (out / "summary.txt").read_text() in printed
    assert "real points, redrawn" in printed
    assert str(out) in printed.splitlines()[-1]
    assert np.load(out / "samples" / "final.npy").shape == (200, 3)


@pytest.mark.slow
def test_samples_in_every_format_are_the_same_points(finished, tmp_path):
    out, _ = finished
    done = run("sample.py", out, "--num-samples", 1500, "--out", tmp_path / "s.npy")
    assert done.returncode == 0, done.stderr
    for name in ("s.txt", "s.csv"):
        again = command(tmp_path, "sample", out, "--num-samples", 1500, "--out", tmp_path / name)
        assert again.status == 0, again.err
    binary = np.load(tmp_path / "s.npy")
    assert binary.shape == (1500, 3)
    # Text keeps at least nine digits, enough to tell any two float32 apart.
    np.testing.assert_allclose(np.loadtxt(tmp_path / "s.txt"), binary, rtol=1e-8)
    table = np.loadtxt(tmp_path / "s.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(table, binary, rtol=1e-8)
    again = command(tmp_path, "sample", out, "--num-samples", 10, "--out", tmp_path / "s.npy")
    assert again.status == 2
    assert "--overwrite" in again.err
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), binary)


@pytest.mark.slow
def test_evaluate_prints_and_writes_every_metric_beside_its_floor(finished, tmp_path):
    out, _ = finished
    words = out, "--num-samples", 1000, "--json", tmp_path / "q.json"
    done = run("evaluate.py", *words)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "q.json").read_text())["metrics"]
    assert {m["name"] for m in measured} == {
        *("total_variation", "sliced_wasserstein", "far_fraction", "uncovered_fraction"),
        *("wasserstein2", "energy_distance", "mmd_rbf", "classifier_two_sample"),
        *("nearest_training_row", "copies"),
    }
    for m in measured:
        (printed,) = re.findall(rf"^{m['name']} (.*)$", done.stdout, re.MULTILINE)
        value, floor = (f"{m[key]:.4g}" for key in ("value", "floor"))
        assert [x for x in printed.split() if x in (value, floor)] == [value, floor]
        assert printed.count("±") == sum(m[k] is not None for k in ("spread", "floor_spread"))
    written = {p: p.read_bytes() for p in (tmp_path / "q.json", out / "figures" / "comparison.png")}
    for arguments in (words[:-2], words):
        again = command(tmp_path, "evaluate", *arguments)
        assert again.status == 2
        assert "comparison.png exists" in again.err
        assert "--overwrite" in again.err
    assert {p: p.read_bytes() for p in written} == written
    assert command(tmp_path, "evaluate", *words, "--overwrite").status == 0


@pytest.mark.slow
def test_bad_input_is_one_line_that_names_the_remedy(tmp_path):
    (tmp_path / "bad.txt").write_text("0 1\n2 three\n")
    for arguments, words in {
        ("--data", tmp_path / "bad.txt"): ("bad.txt", "line 2", "three"),
        ("--data", tmp_path / "none.txt"): ("none.txt",),
        ("--data", "moons", "--learning-rate", -1): ("--learning-rate",),
        ("--data", "moons", "--batch-size", 10**6): ("--batch-size",),
        ("--data", "moons", "--sigmoid-k", 1000): ("schedule", "bring k"),
    }.items():
        done = command(tmp_path, "train", *arguments, "--out", tmp_path / "run")
        assert done.status == 2, arguments
        assert done.err.startswith("error: ")
        assert "Traceback" not in done.err
        assert all(word in done.err for word in words), done.err
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path):
    """In a folder with points.csv and flowers.csv, and for one epoch."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    code = "".join(blocks)
    rng = np.random.default_rng(0)
    np.savetxt(tmp_path / "points.csv", rng.normal(size=(300, 2)), delimiter=",")
    rows = [
        f"{x:.1f},{kind}"
        for x, kind in zip(rng.normal(size=60), ["rose", "elder"] * 30, strict=True)
    ]
    (tmp_path / "flowers.csv").write_text(
        "\n".join(["length,kind", *rows]) + "\n", encoding="utf-8"
    )
    shorter = code.replace("seed=0)", "seed=0, epochs=1)").replace(
        '["kind"])', '["kind"], epochs=1)'
    )
    assert shorter.count("epochs=1") == code.count("ddpm_jax.fit(") == 2
    given = (
        "import numpy as np\nimport polars as pl\n"
        "unseen_rows = np.random.default_rng(1).normal(size=(300, 2))\n"
        'rows_with_gaps = pl.DataFrame({"length": [0.5, None], "kind": ["rose", "elder"]})\n'
    )
    check = (
        "\nassert np.asarray(samples).shape == (1000, 2) and np.isfinite(samples).all()\n"
        'assert roses["kind"].to_list() == ["rose"] * 50\n'
        'assert len(whole) == 8 and not any(rows["length"].has_nulls() for rows in whole)\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", given + shorter + check],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
