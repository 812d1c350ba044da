"""What is said reaches whoever listens, and stops nothing where nobody does."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from ddpm_jax.cli import streams
streams.prepare()
streams.prepare()  # twice is once
file = open(sys.argv[1], "w")
for _ in range(10_000):
    print("α \\udcff", flush=True)
    print("a warning", file=sys.stderr, flush=True)
file.write("written")
"""


CLOSE = """
import os, sys
for number in sys.argv[1].split():
    os.close(int(number))
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[2:]])
"""


def run(path, closed="", **options):
    """The program, started with these of its streams closed."""
    command = [sys.executable, "-c", CLOSE, closed, PROGRAM, str(path)]
    return subprocess.Popen(command, **options)


def test_a_reader_that_leaves_stops_nothing(tmp_path):
    with run(tmp_path / "x", stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
    assert process.returncode == 0
    assert (tmp_path / "x").read_text() == "written"


@pytest.mark.parametrize("closed", ["1", "2", "0 1 2"])
def test_closed_streams_are_no_error_and_lend_their_number_to_no_file(tmp_path, closed):
    nowhere = subprocess.DEVNULL
    with run(tmp_path / "x", closed, stdout=nowhere, stderr=nowhere) as process:
        pass
    assert process.returncode == 0
    assert (tmp_path / "x").read_text() == "written"


def test_what_a_terminal_cannot_show_is_shown_by_its_number(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    pipe = subprocess.PIPE
    with run(tmp_path / "x", stdout=pipe, stderr=pipe, env=environment) as process:
        said, _ = process.communicate()
    assert process.returncode == 0
    assert said.splitlines()[0] == b"\\u03b1 \\udcff"
