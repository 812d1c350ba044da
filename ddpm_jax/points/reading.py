"""How a file is to be read, and what was understood of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ddpm_jax import settings
from ddpm_jax.errors import ConfigError

_OPTION = re.compile(r"\{(\w+)=([^{}]*)\}")
_DELIMITERS = {"tab": "\t", "\\t": "\t", "space": None, "whitespace": None, " ": None}


@dataclass(frozen=True)
class Options:
    """How to read a file where it is to be read otherwise than it seems; None finds it out."""

    columns: tuple[str, ...] | None = None
    """Which columns, by name or by number from 1 ("2", "2-4"), in the file's order."""
    decimal: Literal[".", ","] | None = None
    """The decimal sign."""
    delimiter: str | None = None
    """What stands between cells, such as ";"; "tab", or "space" for any white space."""
    header: Literal["none", "first"] | None = None
    """"none" if the first line is a row, "first" if it holds the names."""
    skip_lines: int = 0
    """How many lines to skip before anything else."""
    missing: tuple[str, ...] = ()
    """What stands for a missing cell beside nothing, NA, NaN, null, ?, - and the like."""
    encoding: str | None = None
    """Of the text, such as "latin-1"."""
    kinds: tuple[str, ...] = ()
    """What columns are, if not what they seem to be, as COLUMN=KIND: real, positive, integer, word,
    or periodic:360. real alone has all numbers shifted and scaled, and nothing else."""
    periodic: tuple[str, ...] = ()
    """Columns that are angles, with their whole turn, such as wind=360."""

    def __post_init__(self):
        if self.decimal not in (None, ".", ","):
            raise ConfigError(f'decimal={self.decimal!r}: use "." or ",".')
        if self.header not in (None, "none", "first"):
            raise ConfigError(f'header={self.header!r}: use "none" or "first".')
        settings.check(self, {})
        if self.skip_lines < 0:
            raise ConfigError(f"skip_lines={self.skip_lines}: use 0 or more.")
        if self.delimiter is not None and (
            self.delimiter not in _DELIMITERS
            and (len(self.delimiter) != 1 or self.delimiter in '"\r\n#%')
        ):
            raise ConfigError(f'delimiter={self.delimiter!r}: use one sign, "tab" or "space".')
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except (LookupError, ValueError):
                raise ConfigError(
                    f'encoding={self.encoding!r}: no such encoding; use "utf-8", "latin-1", …'
                ) from None
        for name, pairs in (("kinds", self.kinds), ("periodic", self.periodic)):
            for pair in pairs:
                if "=" not in pair and (name, self.kinds) != ("kinds", ("real",)):
                    example = "zip=word" if name == "kinds" else "wind=360"
                    raise ConfigError(f"{name}={pair!r}: give COLUMN=VALUE, such as {example!r}.")

    @property
    def told(self) -> dict[str, str] | str | None:
        """The kinds of columns by name, or that of all; None where nothing is told."""
        if self.kinds == ("real",) and not self.periodic:
            return "real"
        pairs = [pair.rpartition("=") for pair in self.kinds if "=" in pair]
        turns = [pair.rpartition("=") for pair in self.periodic]
        told = {name: kind for name, _, kind in pairs}
        return told | {name: f"periodic:{turn}" for name, _, turn in turns} or None

    @property
    def separator(self) -> str | None:
        """The delimiter as one sign; None is any white space."""
        return _DELIMITERS.get(self.delimiter or "", self.delimiter)

    def chosen(self, names: Sequence[str] | None, width: int) -> list[int] | None:
        """The positions of the wanted columns; None is all.

        Raises:
            ConfigError: no such column, or none at all.
        """
        if self.columns is None:
            return None
        found = set()
        for column in self.columns:
            bounds = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", column)
            if names and column in names:
                found.add(list(names).index(column))
            elif bounds and 1 <= int(bounds[1]) <= int(bounds[2] or bounds[1]) <= width:
                found.update(range(int(bounds[1]) - 1, int(bounds[2] or bounds[1])))
            else:
                there = f"the columns {', '.join(names)}" if names else f"columns 1 to {width}"
                raise ConfigError(f"columns={column!r}: there are {there}.")
        if not found:
            raise ConfigError("columns=(): name at least one.")
        return sorted(found)


@dataclass(frozen=True)
class Reading:
    """What was understood of a file, in short lines, and how to have it read otherwise."""

    notes: tuple[str, ...] = ()

    def lines(self, *, flags: bool = False) -> list[str]:
        """The notes; options are named as parameters of Python, or as flags of a command line."""
        return [phrase(note, flags=flags) for note in self.notes]


def phrase(note: str, *, flags: bool = False) -> str:
    """A note in which `{name=value}` stands for an option, as a parameter or as a flag."""

    def option(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if flags:
            value = f"'{value}'" if re.search(r"[^\w.,:+-]", value) else value
            return f"--{name.replace('_', '-')} {value}"
        return f"{name}={value}" if name == "skip_lines" else f'{name}="{value}"'

    return _OPTION.sub(option, note)


def quoted(text: str) -> str:
    """A piece of a file for use in a note: short, and without what would look like an option."""
    return repr(text[:40]).replace("{", "(").replace("}", ")")
