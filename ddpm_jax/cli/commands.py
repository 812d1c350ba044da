"""`ddpm-jax NAME ...`: the command that pip installs."""

import importlib
import sys

import ddpm_jax
from ddpm_jax.cli import streams

COMMANDS = {
    "train": "fit a model to a file of points, with pictures and a table of quality",
    "sample": "draw points from a run",
    "evaluate": "measure a run's samples against data",
    "impute": "fill in the missing cells of a table",
    "export": "write a run's model as one file for other programs",
}


def usage() -> str:
    """The commands, a line each."""
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: ddpm-jax NAME ...", "", *lines, "", "ddpm-jax NAME --help says what each takes."]
    )


def main() -> None:
    """Run the command that is named first."""
    streams.prepare()
    name, *argv = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name == "--version":
        print(f"ddpm-jax {ddpm_jax.__version__}")
        return
    if name not in COMMANDS:
        print(f"error: no command {name!r}\n\n{usage()}", file=sys.stderr)
        sys.exit(2)
    from ddpm_jax.cli.signals import run_main

    command = importlib.import_module(f"ddpm_jax.cli.{name}")
    run_main(lambda: command.main(argv))
