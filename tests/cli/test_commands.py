"""The command that pip installs: it names its commands, itself, and what it does not know."""

import subprocess
import sys
from pathlib import Path

import pytest

import ddpm_jax
from ddpm_jax.cli.commands import COMMANDS

INSTALLED = Path(sys.executable).with_name("ddpm-jax")


def called(*argv):
    return subprocess.run([INSTALLED, *argv], capture_output=True, text=True, timeout=120)


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
def test_each_says_what_it_takes_under_its_own_name(name):
    done = called(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: ddpm-jax {name} [-h]")
    done = called(name, "--nope")
    assert done.returncode == 2
    assert f"ddpm-jax {name} --help" in done.stderr
