"""The command that pip installs: it names its commands, itself, and what it does not know."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import ddpm_jax
import harness
from ddpm_jax.cli import commands
from ddpm_jax.cli.commands import COMMANDS

INSTALLED = Path(sys.executable).with_name("ddpm-jax")


def called(*argv):
    return subprocess.run([INSTALLED, *argv], capture_output=True, text=True, timeout=120)


def call(*argv):
    """The same, where what it imports is there already."""
    sys.argv = [str(INSTALLED), *argv]
    commands.main()
    return 0


@pytest.mark.medium
def test_it_lists_its_commands_and_its_version():
    for argv in ([], ["--help"]):
        done = called(*argv)
        assert done.returncode == 0
        assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert called("--version").stdout == f"ddpm-jax {ddpm_jax.__version__}\n"


@pytest.mark.medium
def test_what_it_does_not_know_is_named():
    done = called("draw")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no command 'draw'" in done.stderr
    assert "sample" in done.stderr


@pytest.mark.medium
@pytest.mark.parametrize("name", COMMANDS)
def test_each_says_what_it_takes_under_its_own_name(name, tmp_path):
    done = called(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: ddpm-jax {name} [-h]")
    done = harness.run(tmp_path / "log", partial(call, name, "--nope"), [])
    assert done.status == 2
    assert f"ddpm-jax {name} --help" in done.err
