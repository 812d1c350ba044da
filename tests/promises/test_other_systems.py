"""What can be tried here of systems that lack what Linux has: everything imports without it."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ddpm_jax"

# As on Windows: modules that are not there, and functions of others that are not.
PROGRAM = """
import importlib, os, signal, sys, time
import jax, filelock, numpy, matplotlib.figure, optax, orbax.checkpoint, safetensors  # theirs

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

ABSENT = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}
for name in ABSENT:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
for module, names in {
    os: ("fork", "sched_getaffinity", "sync", "mkfifo", "getuid", "geteuid", "O_NONBLOCK",
         "posix_fallocate", "killpg", "setsid", "statvfs", "fdatasync", "fchmod"),
    signal: ("SIGALRM", "SIGKILL", "SIGHUP", "SIGUSR1", "setitimer", "alarm"),
    time: ("tzset",),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name)
"""


def modules():
    """Every module of the package."""
    paths = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))
    return [".".join(p.with_suffix("").parts).removesuffix(".__init__") for p in paths]


@pytest.mark.medium
def test_every_module_imports_without_what_only_unix_has():
    names = modules()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == names
    assert {"ddpm_jax.points.readers", "ddpm_jax.runs.directory"} < set(names)


@pytest.mark.medium
def test_what_is_absent_would_be_noticed(tmp_path):
    for line in ("import fcntl", "import os; os.fork", "from signal import SIGALRM"):
        (tmp_path / "it.py").write_text(line)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "it"], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 1, line
