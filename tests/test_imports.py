"""Who may import whom: one way, without a circle, read from the source."""

import ast
import shutil
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FOUNDATION = {"errors", "files", "settings", "numerics", "parallel"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "settings": {"errors"},
    "numerics": {"errors"},
    "parallel": {"errors"},
    "gmm": {"errors"},
    "diffusion": {"errors"},
    "networks": {"errors", "diffusion", "gmm"},
    "points": {"errors", "files", "settings", "reading"},
    "quality": {"errors", "gmm"},
    "figures": {"errors", "files"},
    "drawing": {"errors", "parallel", "diffusion"},
    "interop": {"errors", "files", "diffusion"},
    # What is chosen by the size of the data alone is below the settings that it fills in, and so
    # are the settings of the reader, which are a section of theirs:
    "recipe": {"errors"},
    "reading": {"errors", "settings"},
    "config": {"errors", "settings", "numerics", "diffusion", "recipe", "reading"},
    "training": FOUNDATION | {"diffusion", "networks", "config", "gmm", "recipe"},
    "runs": FOUNDATION | {"diffusion", "networks", "config", "training", "points", "gmm", "recipe"},
    "planning": FOUNDATION | {"config", "points", "recipe", "runs", "training"},
    "judging": {"errors", "gmm", "points", "quality", "runs"},
    "assembly": FOUNDATION | {"drawing", "judging", "points", "runs", "training"},
    "model": FOUNDATION
    | {"assembly", "config", "diffusion", "drawing", "interop", "judging", "planning", "points"}
    | {"quality", "recipe", "runs", "training"},
    "__init__": {"config", "model", "points"},
    "cli": FOUNDATION
    | {"__init__", "assembly", "config", "diffusion", "drawing", "figures", "interop", "judging"}
    | {"model", "planning", "points", "quality", "recipe", "runs", "training"},
    # The evidence may use all of the library, and of itself:
    "studies": {"ddpm_jax"},
    "studies.quality": {"ddpm_jax", "studies"},
    "studies.speed": {"ddpm_jax", "studies", "studies.quality"},
    "studies.parity": {"ddpm_jax", "studies", "studies.speed"},
    "scripts": {"ddpm_jax", "studies.quality", "studies.speed", "studies.parity"},
}
"""The rooms of the library and of the experiments, and which others each may import."""


def sources(root):
    """Every module of the library and the experiments by its dotted name."""
    found = {}
    for top, base in (("ddpm_jax", root), ("experiments", root / "experiments")):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module):
    if module in ("ddpm_jax.training.recipe", "ddpm_jax.points.reading"):
        return module.rpartition(".")[2]
    parts = module.split(".")
    if parts[0] == "ddpm_jax":
        return parts[1] if len(parts) > 1 else "__init__"
    if parts[0] != "studies":
        return "scripts"
    return ".".join(parts[:2]) if parts[1:2] and parts[1] in SHELVES else "studies"


SHELVES = ("quality", "speed", "parity")


def may(here, there):
    """Whether a room may import another; the library as a whole is named by its own name."""
    inside = not there.startswith(("studies", "scripts"))
    return here == there or there in ALLOWED[here] or (inside and "ddpm_jax" in ALLOWED[here])


def imports(path, known):
    """The known modules that a file imports, wherever in it: (module, line)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}, line {node.lineno}: a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                name = full if full in known else node.module
                if name in known:
                    yield name, node.lineno


def violations(root):
    """A line for each import that the table forbids, and one for a circle of modules."""
    known, graph, found = sources(root), {}, []
    for module, path in known.items():
        graph[module] = set()
        for other, line in imports(path, known):
            if other != module:
                graph[module].add(other)
            if not may(room(module), room(other)):
                place = path.relative_to(root)
                found.append(
                    f"{place}, line {line}: {room(module)} may not import {room(other)} ({other})"
                )
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("a circle: " + " <- ".join(error.args[1]))
    return found


def test_imports_point_one_way():
    assert violations(ROOT) == []


def test_the_table_itself_has_no_circle():
    rooms = {here: {there for there in ALLOWED if may(here, there)} - {here} for here in ALLOWED}
    TopologicalSorter(rooms).prepare()


def test_every_room_is_in_the_table_and_no_other():
    assert {room(module) for module in sources(ROOT)} == ALLOWED.keys()


@pytest.fixture
def copied(tmp_path):
    for name in ("ddpm_jax", "experiments"):
        ignored = shutil.ignore_patterns("__pycache__", "*.gz", "*.txt")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("ddpm_jax/diffusion/process.py", "from ddpm_jax.networks import denoiser", "diffusion"),
        ("ddpm_jax/points/readers.py", "from ddpm_jax.diffusion import process", "points"),
        ("ddpm_jax/quality/metrics.py", "import ddpm_jax.points.readers", "quality"),
        ("ddpm_jax/model.py", "from ddpm_jax.cli.train import main", "model"),
        ("ddpm_jax/training/steps.py", "from ddpm_jax import model", "training"),
        ("experiments/studies/quality/fit.py", "from studies.parity import train_both", "quality"),
        ("experiments/studies/speed/costs.py", "from studies.parity import adam_steps", "speed"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_an_arrow_turned_round_is_seen(copied, file, line, said, inside):
    """At the top of a file, and within a function."""
    text = f"\n\ndef later():\n    {line}\n" if inside else f"\n{line}\n"
    with open(copied / file, "a", encoding="utf-8") as added:
        added.write(text)
    assert any(found.startswith(f"{file}, line ") and said in found for found in violations(copied))


def test_a_circle_within_a_room_is_seen(copied):
    with open(copied / "ddpm_jax" / "cli" / "seeds.py", "a", encoding="utf-8") as added:
        added.write("\nfrom ddpm_jax.cli import train\n")
    (found,) = violations(copied)
    assert found.startswith("a circle: ")
    assert "ddpm_jax.cli.seeds" in found
