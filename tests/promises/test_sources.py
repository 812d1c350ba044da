"""No source file runs code from data, or a shell; and the search for it finds every way to."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MODULES = {
    *["pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"],
    *["code", "codeop", "pty", "runpy"],
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
SUBPROCESSES = {"run", "call", "check_call", "check_output", "Popen"}
MEMBERS = {
    *(f"builtins.{name}" for name in BUILTINS),
    *(f"os.{name}" for name in ("system", "popen", "posix_spawn", "posix_spawnp", "startfile")),
    *(f"os.{kind}{how}" for kind in ("exec", "spawn") for how in ("l", "v")),
    *(f"os.{kind}{how}" for kind in ("exec", "spawn") for how in ("le", "lp", "lpe")),
    *(f"os.{kind}{how}" for kind in ("exec", "spawn") for how in ("ve", "vp", "vpe")),
    *(f"subprocess.{name}" for name in ("getoutput", "getstatusoutput")),
    "asyncio.create_subprocess_shell",
    *(f"{module}.load" for module in ("yaml", "torch")),
}
SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "csh", "fish", "cmd", "cmd.exe", "powershell"}
KEYWORDS = {"shell", "allow_pickle"}


def origins(tree):
    """What names stand for: `o` for `os` after `import os as o`, `run` for `subprocess.run`."""
    found = {name: f"builtins.{name}" for name in BUILTINS} | {"__builtins__": "builtins"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                top = name.name.split(".")[0]
                found[name.asname or top] = name.name if name.asname else top
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                found[name.asname or name.name] = f"{node.module}.{name.name}"
    return found


def dotted(node, names):
    """The full name of an expression such as `o.system`, or of getattr with the name written."""
    match node:
        case ast.Name(id=name):
            return names.get(name, name)
        case ast.Attribute(value=value, attr=attr):
            return f"{dotted(value, names)}.{attr}"
        case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=attr), *_]):
            return f"{dotted(value, names)}.{attr}"
    return ""


def starts_a_shell(call, names):
    """Whether it is a subprocess whose program is a shell: `Popen(["sh", "-c", text])`."""
    if dotted(call.func, names) not in {f"subprocess.{name}" for name in SUBPROCESSES}:
        return False
    words = [*call.args[:1], *(k.value for k in call.keywords if k.arg in {"args", "executable"})]
    firsts = [w.elts[0] if isinstance(w, ast.List | ast.Tuple) and w.elts else w for w in words]
    programs = [w.value for w in firsts if isinstance(w, ast.Constant)]
    return any(str(program).split("/")[-1].split(" ")[0] in SHELLS for program in programs)


def offences(source):
    """The lines of a program that run code from data, or a shell."""
    tree, found = ast.parse(source), []
    names = origins(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=imported):
                bad = any(name.name.split(".")[0] in MODULES for name in imported)
            case ast.ImportFrom(module=module, names=imported):
                bad = (module or "").split(".")[0] in MODULES
                bad |= any(f"{module}.{name.name}" in MEMBERS for name in imported)
            case ast.Name() | ast.Attribute():
                bad = dotted(node, names) in MEMBERS
            case ast.Call():
                bad = dotted(node, names) in MEMBERS or starts_a_shell(node, names)
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
        "import dill as d",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "eval(text)",
        "run = eval",
        "exec(text)",
        "import builtins; builtins.eval(text)",
        "import builtins as b; b.exec(text)",
        "from builtins import eval as read",
        "__builtins__.eval(text)",
        "import os; os.system('ls')",
        "import os as o; o.system('ls')",
        "import os as o\ndef f():\n    return o.popen('ls')",
        "import os; run = os.system",
        "import os; getattr(os, 'system')('ls')",
        "from os import system",
        "from os import system as s",
        "import os; os.execl('ls', 'ls')",
        "import os; os.execvpe('ls', ['ls'], {})",
        "import os; os.spawnlpe(0, 'ls', 'ls', {})",
        "import os; os.posix_spawn('ls', ['ls'], {})",
        "import subprocess; subprocess.run('ls', shell=True)",
        "import subprocess; subprocess.getoutput('ls')",
        "import subprocess as s; s.getstatusoutput('ls')",
        "import subprocess; subprocess.Popen(['sh', '-c', text])",
        "from subprocess import Popen as P; P(['/bin/bash', '-c', text])",
        "from subprocess import run; run(('sh', '-c', text))",
        "import subprocess; subprocess.run(args=['sh', '-c', text])",
        "import subprocess; subprocess.run(words, executable='/bin/sh')",
        "import subprocess; subprocess.check_output('sh')",
        "import asyncio; asyncio.create_subprocess_shell(text)",
        "import yaml; yaml.load(text)",
        "import torch; torch.load(path)",
        "from torch import load",
        "import torch as t; t.load(path)",
    ],
)
def test_each_offence_would_be_found(source):
    assert offences(source)


@pytest.mark.parametrize(
    "source",
    [
        "import ast; ast.literal_eval(text)",
        "model.eval(); torch.compile(model); re.compile(text)",
        "import subprocess; subprocess.run(['ls', 'sh'])",
        "import jax; jax.jit(f).lower(x).compile()",
        "np.load(path, allow_pickle=False)",
    ],
)
def test_what_is_harmless_is_not(source):
    assert not offences(source)


def test_no_source_runs_code_from_data_or_a_shell():
    sources = [
        p for f in ("ddpm_jax", "experiments", "tests", "data") for p in (ROOT / f).rglob("*.py")
    ]
    assert len(sources) > 30
    found = {str(p): offences(p.read_text(encoding="utf-8")) for p in sources}
    assert {path: lines for path, lines in found.items() if lines} == {}
    print(f"{len(sources)} source files: no pickle, no eval, no shell")
