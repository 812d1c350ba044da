"""No source file runs code from data, or a shell; and the search for it finds every way to."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__"}
MEMBERS = {
    *(
        ("os", name)
        for name in ("system", "popen", "execv", "execve", "execvp", "spawnl", "spawnv")
    ),
    *(("subprocess", name) for name in ("getoutput", "getstatusoutput")),
    *((module, "load") for module in (*MODULES, "yaml", "torch")),
}
KEYWORDS = {"shell", "allow_pickle"}


def offences(source):
    """The lines of a program that run code from data, or a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                bad = any(name.name.split(".")[0] in MODULES for name in names)
            case ast.ImportFrom(module=module, names=names):
                bad = (module or "").split(".")[0] in MODULES
                bad |= any((module, name.name) in MEMBERS for name in names)
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                bad = True
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                bad = (module, name) in MEMBERS
            case ast.keyword(arg=name, value=value) if name in KEYWORDS:
                bad = not (isinstance(value, ast.Constant) and value.value is False)
            case _:
                bad = False
        if bad:
            found.append(f"{getattr(node, 'lineno', 0)}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import numpy, joblib",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "eval(text)",
        "exec(text)",
        "os.system('ls')",
        "from os import system",
        "subprocess.run('ls', shell=True)",
        "subprocess.getoutput('ls')",
        "yaml.load(text)",
        "torch.load(path)",
    ],
)
def test_each_offence_would_be_found(source):
    assert offences(source)


def test_no_source_runs_code_from_data_or_a_shell():
    sources = [
        p for f in ("ddpm_jax", "experiments", "tests", "data") for p in (ROOT / f).rglob("*.py")
    ]
    assert len(sources) > 30
    found = {str(p): offences(p.read_text(encoding="utf-8")) for p in sources}
    assert {path: lines for path, lines in found.items() if lines} == {}
    print(f"{len(sources)} source files: no pickle, no eval, no shell")
