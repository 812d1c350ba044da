"""Break the library on purpose, one small change at a time, and count what the tests notice.

`python .ci/mutants.py mathematics --number 120`: the operators of cosmic-ray each change one place
in a copy of the checkout, and the room's tests run, all but the slow ones, until one fails. Prints
a line for each change that none noticed (to stderr: for each that one did), and in the end
`room | mutants | killed | share`. Needs cosmic-ray beside what the tests need.
"""

import argparse
import ast
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parent.parent
READER = "text|cells|dialect|kinds|lattice|columns|warps|binary|readers|reading|frames"
HOSTILE = "promises/test_(hostile_runs|safety|fuzzed_runs"
ROOMS = {  # Modules in ddpm_jax, and the tests.
    "mathematics": (
        "(diffusion|networks)/|gmm|training/(steps|sparse|validation)",
        "diffusion|networks|training|test_(gmm|model)|studies/test_p(a|yt)",
    ),
    "reader": (rf"points/({READER})\.", "points|promises/test_other|cli/test_table_commands"),
    "checkpoints": ("runs/checkpoints|files", f"runs|test_files|{HOSTILE})"),
    "runs": (
        "runs/(record|directory|log)|training/trainer",
        f"runs|training|cli/test_views|{HOSTILE}|divergence|resume)",
    ),
}
# An operator becomes one of its own kind: anything would notice `&` between two floats.
KINDS = (
    "Add Sub Mul Div FloorDiv Pow",
    "BitAnd BitOr BitXor",
    "Eq NotEq Lt LtE Gt GtE",
    "Is IsNot",
)
PAIRS = {pair for kind in KINDS for pair in itertools.permutations(kind.split(), 2)}
FAST, MEDIUM = "not slow and not medium", "medium and not slow"
PYTEST = "-m pytest -x -q --tb=no -o addopts= -p no:cacheprovider -o faulthandler_timeout=90"

COUNTS_PROGRAMS = "tests/training/test_hold_out.py::test_another_seed_trains_by_the_same_programs"
"""Fails where programs were compiled before, as they are here."""


def tried(operator: str, source: str) -> bool:
    """Whether an operator's changes are worth a try."""
    family, *pair = operator.removeprefix("core/").split("_")
    if len(pair) == 2 and pair[0] != "Delete":
        # Where there are paths, most `/` join them.
        return tuple(pair) in PAIRS and not (pair[0] == "Div" and "pathlib" in source)
    return not re.search("NoOp|Variable", family)


def meaning(source: str) -> str:
    """What Python makes of the code, but for annotations."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for name in {"annotation", "returns"} & set(node._fields):
            setattr(node, name, ast.Constant(None))
    return ast.dump(tree)


def mutants(path: Path, number: int) -> list[tuple[str, Path, str]]:
    """Some changes to a module, two of a kind in one place at most: label, path, new source."""
    source = (ROOT / path).read_text("utf-8")
    nodes, places = list(ast_nodes(get_ast(source))), []
    for operator in [name for name in operator_names() if tried(name, source)]:
        change = get_operator(operator)()
        at = [at for node in nodes for at in change.mutation_positions(node)]
        places += [(operator, index, start) for index, (start, _) in enumerate(at)]
    random.Random(f"0 {path.as_posix()}").shuffle(places)
    seen, kinds, chosen = {meaning(source)}, [], []
    for operator, index, start in places:
        kind = (operator.split("_")[0], start)
        try:
            changed = mutate_code(source, get_operator(operator)(), index)
            means = meaning(changed)
        except (SyntaxError, AttributeError):  # the second is cosmic-ray's, at `except (A, B)`
            continue
        if means not in seen and kinds.count(kind) < 2:
            seen.add(means)
            kinds.append(kind)
            old, new = (code.split("\n")[start[0] - 1].strip() for code in (source, changed))
            chosen.append((f"{path}:{start[0]}: {old}  ->  {new}", path, changed))
        if len(chosen) == number:
            break
    return chosen


def copy(folder: Path) -> Path:
    """The checkout once more; what its tests compile is kept from one run of them to the next."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".*_cache", "__pycache__"))
    conftest = folder / "tests/conftest.py"
    basetemp, fixed = "tmp_path_factory.getbasetemp()", f"__import__('pathlib').Path('{folder}')"
    text = conftest.read_text("utf-8")
    assert basetemp in text
    conftest.write_text(text.replace(basetemp, fixed), "utf-8")
    return folder


def failure(folder: Path, tests: list[Path], speed: str) -> str | None:
    """The first of these tests that fails; one that takes 90 seconds does."""
    command = [sys.executable, *PYTEST.split(), "-o", "faulthandler_exit_on_timeout=true"]
    command += ["--deselect", COUNTS_PROGRAMS]
    done = subprocess.run(
        [*command, "-m", speed, *map(str, tests)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    if done.returncode in (0, 5):  # 5: there are none
        return None
    if failed := re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE):
        return failed[1]
    shutil.rmtree(folder / "programs", ignore_errors=True)  # one may be half-written
    return "one that hangs"


def noticed(folder: Path, module: Path, tests: list[Path]) -> str | None:
    """The first test that fails, if any: nearest first, and of the medium ones the near alone."""
    package, stem = ".".join(module.parent.parts), module.stem
    names = re.compile(rf"{package}(\.| import .*\b){stem}\b")
    text = {path: (folder / path).read_text("utf-8") for path in tests}
    near = [path for path in tests if stem in path.stem or names.search(text[path])]
    near.sort(key=lambda path: (stem not in path.stem, text[path].count("ddpm_jax.")))
    rest = [path for path in tests if path not in near]
    steps = [(near, FAST), (rest, FAST), (near, MEDIUM)]
    return next(filter(None, (failure(folder, *step) for step in steps if step[0])), None)


def files(top: str, pattern: str) -> list[Path]:
    """The modules, or the tests, of a room."""
    found = sorted((ROOT / top).rglob("test_*.py" if top == "tests" else "[!_]*.py"))
    paths = [path.relative_to(ROOT) for path in found]
    return [path for path in paths if re.match(f"{top}/({pattern})", path.as_posix())]


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--number", type=int, default=50, help="each module's share is its lines'")
    parser.add_argument("--only", default="", help="a regex: of these, those whose line it matches")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    modules, tests = map(files, ("ddpm_jax", "tests"), ROOMS[given.room])
    sizes = {path: (ROOT / path).read_text("utf-8").count("\n") for path in modules}
    shares = {path: given.number * size / sum(sizes.values()) for path, size in sizes.items()}
    some = [mutant for path, n in shares.items() for mutant in mutants(path, max(1, round(n)))]
    chosen = [mutant for mutant in some if re.search(given.only, mutant[0])]
    with tempfile.TemporaryDirectory() as top, ThreadPoolExecutor(given.workers) as pool:
        folders, copies = [copy(Path(top, str(i))) for i in range(given.workers)], Queue()
        if broken := failure(folders[0], tests, FAST):
            sys.exit(f"{broken} fails as it is")
        for folder in folders[1:]:
            shutil.copytree(folders[0] / "programs", folder / "programs")
        for folder in folders:
            copies.put(folder)

        def killed(mutant: tuple[str, Path, str]) -> bool:
            label, path, changed = mutant
            folder = copies.get()
            (folder / path).write_text(changed, "utf-8")
            found = noticed(folder, path, tests)
            shutil.copyfile(ROOT / path, folder / path)
            copies.put(folder)
            print(f"{label}  [{found}]", file=sys.stderr if found else sys.stdout, flush=True)
            return found is not None

        count = sum(pool.map(killed, chosen))
    print("room | mutants | killed | share")
    print(f"{given.room} | {len(chosen)} | {count} | {count / max(1, len(chosen)):.0%}")


if __name__ == "__main__":
    main()
