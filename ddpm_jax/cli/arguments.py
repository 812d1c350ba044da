"""The command line: arguments that several commands take, and errors that speak of flags."""

import contextlib
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import tyro

from ddpm_jax import settings
from ddpm_jax.config import Config
from ddpm_jax.diffusion import sampling
from ddpm_jax.errors import InputError

if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[tuple(sampling.SAMPLERS)]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class OnDevices:
    """What every command that computes takes."""

    devices: int | None = None
    """How many devices (on a CPU: cores) to use; by default all. Samples do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Replacing:
    """What every command that writes takes."""

    overwrite: bool = False
    """Replace what stands where the command writes."""


@dataclass(frozen=True, kw_only=True)
class Reporting(Replacing):
    """What every command that prints a table takes."""

    json: Path | None = None
    """Write the table to this file, too."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How points are drawn."""

    sampler: SamplerName = "ddpm"
    """How to solve the reverse process."""
    steps: int | None = None
    """Network evaluations a point; by default all of the schedule's."""
    seed: int = 0
    """Other seeds give other points."""


def _name() -> str | None:
    """What was typed, for usage and errors: "ddpm-jax train"; of a script its own name, if None."""
    own = Path(sys.argv[0]).stem == "ddpm-jax"
    return " ".join(["ddpm-jax", *sys.argv[1:2]]) if own else None


def parse_args(
    kind: type[T], description: str | None, args: list[str] | None = None, **options: object
) -> T:
    """tyro.cli, except that an InputError of the arguments' own checks comes out as it is."""
    said = io.StringIO()
    # tyro joins the lines of a paragraph, and the examples are a line each.
    description = re.sub(r"(?<!\n)\n(?=python |ddpm-jax )", "\n\n", description or "")
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, description=description, args=args, prog=_name(), **options)  # pyright: ignore
    except SystemExit as refusal:
        cause: BaseException | None = refusal
        while cause and not isinstance(cause, InputError):
            cause = cause.__context__
        if cause:
            raise cause from None
        sys.stderr.write(said.getvalue())
        raise


_ARGUMENTS = {*settings.sections(Config), "num_samples", "devices", "train_devices"}
_NAMES = "|".join(sorted((name for name in _ARGUMENTS if "_" in name), key=len, reverse=True))


def in_flags(message: str) -> str:
    """The message with the library's parameters as the flags that set them: --batch-size.

    Parameters of one plain word, such as seed, are taken for parameters where the sentence begins
    with them.
    """
    plain = "|".join(name for name in _ARGUMENTS if "_" not in name)
    message = re.sub(rf"^({plain})(?= must )", r"--\1", message)
    return re.sub(rf"(?<![\w-])({_NAMES})(?!\w)", lambda m: "--" + m[1].replace("_", "-"), message)
