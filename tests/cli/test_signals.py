"""How a command ends where the machine has not what it asks for."""

import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np, sys
import jax, jax.numpy as jnp
from ddpm_jax.cli.signals import run_main
ask = {
    "numpy": lambda: np.empty(10**15),
    "xla": lambda: jax.jit(lambda x: jnp.broadcast_to(x, (10**6, 10**8)) + x)(1.0),
    "bug": lambda: 1 / 0,
}[sys.argv[1]]
run_main(lambda: ask() and 0)
"""


@pytest.mark.parametrize("asked", ["numpy", "xla"])
def test_too_little_memory_is_one_line(asked):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, asked], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("error: out of memory (")
    assert "Traceback" not in done.stderr


def test_a_bug_still_shows_where_it_is():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "bug"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
