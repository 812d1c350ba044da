"""A directory of samples in shards, with a manifest that tells the finished ones from the rest.

    many/
      manifest.jsonl    what the points are, then a line a shard: name, rows, sha256
      shard_00000.npy   float64 [rows, D]; `load_points("many")` reads them all

A shard is listed, and then renamed into place whole: whatever is in place is listed. A process
killed at any moment leaves finished shards, and at most one to draw again.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_jax import files, settings
from ddpm_jax.errors import ConfigError, InputError

FORMAT = 1

_PROGRAM = "ddpm_jax"
_HEADER = {"program": str, "format": int}
_FIELDS = {"name": str, "rows": int, "sha256": str}
_SHARD = re.compile(r"shard_\d{5,18}\.npy", re.ASCII)
_TEMPORARY = re.compile(r"\.tmp-\d+-shard_\d{5,18}\.npy", re.ASCII)


@dataclass(frozen=True)
class Shards:
    """The shards of `size` points each that make up the `total` in `directory`.

    `settings` say what the points are: all that they depend on.
    """

    directory: Path
    settings: Mapping[str, Any]
    total: int
    size: int

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def rows(self, index: int) -> int:
        """How many points a shard has: the last one has what is left."""
        return min(self.size, self.total - index * self.size)

    @property
    def manifest(self) -> Path:
        """manifest.jsonl."""
        return self.directory / "manifest.jsonl"

    def path(self, index: int) -> Path:
        """The file of a shard."""
        return self.directory / f"shard_{index:05d}.npy"

    def refuse_other(self) -> None:
        """Raise unless the directory is new, or holds some of just these shards.

        ConfigError, with the differences, for samples of other settings; InputError for files of
        another origin.
        """
        if not self.manifest.exists():
            strange = [p.name for p in self.directory.glob("*") if p.name[0] != "."]
            if strange:
                raise InputError(
                    f"{self.directory} holds {min(strange)} and no manifest of samples: "
                    "choose another name"
                )
            return
        header, *lines = self._lines()
        if differences := settings.differences(header, self._header(), "there"):
            raise ConfigError(
                f"{self.directory} holds other samples\n  "
                + "\n  ".join(differences)
                + "\nGive the same settings to go on with them, another --out, or --overwrite"
            )
        # Who reads the directory as points reads every .npy in it.
        listed = {line["name"] for line in lines}
        for path in sorted(self.directory.glob("[!.]*.npy")):
            if path.name not in listed:
                raise InputError(
                    f"{path} is not listed in {self.manifest.name}, and so not one of these "
                    "samples: move it elsewhere, or choose another name"
                )

    def clear(self) -> None:
        """Remove the shards that the manifest lists, of whatever settings; then itself.

        ConfigError for a manifest that is not one of samples: nothing is removed.
        """
        if self.manifest.exists():
            for line in self._lines(lenient=True)[1:]:
                with suppress(FileNotFoundError):
                    (self.directory / line["name"]).unlink()
            self.manifest.unlink()

    def open(self) -> Iterator[int]:
        """Start or clean the manifest; return which shards are to be drawn, as they are asked for.

        Every shard listed is read and compared; a warning names those that are not as listed.
        """
        for path in self.directory.glob(".tmp-*"):
            if _TEMPORARY.fullmatch(path.name):
                path.unlink()
        lines = self._lines()[1:] if self.manifest.exists() else []
        good = {}
        for line in lines:
            index = int(line["name"].removeprefix("shard_").removesuffix(".npy"))
            if index < len(self) and self._is_good(index, line):
                good[index] = line
        kept = [line for _, line in sorted(good.items())]
        text = "".join(json.dumps(line) + "\n" for line in [self._header(), *kept])
        files.write_text(self.manifest, text)
        return (i for i in range(len(self)) if i not in good)

    def add(self, index: int, sha256: str) -> None:
        """List a shard that is about to be put in place."""
        line = {"name": self.path(index).name, "rows": self.rows(index), "sha256": sha256}
        with open(self.manifest, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _header(self) -> dict[str, Any]:
        return {"program": _PROGRAM, "format": FORMAT, **self.settings}

    def _lines(self, lenient: bool = False) -> list[dict[str, Any]]:
        try:
            text = files.read_text(self.manifest, errors="replace")
        except OSError as error:
            raise ConfigError(f"{self.manifest}: cannot be read ({error})") from error
        first, *rest = text.removesuffix("\n").split("\n")
        header = _parsed(first, _HEADER)
        if header is None or header["program"] != _PROGRAM:
            raise ConfigError(
                f"{self.manifest}, line 1: not the manifest of samples of this program: choose "
                "another name"
            )
        lines = [header]
        for number, line in enumerate(rest, start=2):
            value = _parsed(line, _FIELDS)
            if value is not None and _SHARD.fullmatch(value["name"]):
                lines.append(value)
            elif not lenient and not (number == len(rest) + 1 and _is_torn(line)):
                raise ConfigError(
                    f"{self.manifest}, line {number}: not a line of a manifest of samples, which "
                    f"has {', '.join(_FIELDS)}. Pass --overwrite to draw all of them again"
                )
        return lines

    def _is_good(self, index: int, line: dict[str, Any]) -> bool:
        path = self.path(index)
        try:
            whole = line["rows"] == self.rows(index) and digest(path) == line["sha256"]
            found = "is not what was written"
        except FileNotFoundError:
            whole, found = False, "is missing"
        except OSError as error:
            whole, found = False, f"cannot be read ({error})"
        if not whole:
            warnings.warn(f"{path} {found}: drawing it again", stacklevel=3)
        return whole


def _parsed(line: str, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """The JSON object in a line, if it has the fields."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    good = isinstance(value, dict) and all(
        isinstance(value.get(name), kind) for name, kind in fields.items()
    )
    return value if good else None


def _is_torn(line: str) -> bool:
    """Whether it is no JSON, as a process killed in the middle of writing it leaves it."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def digest(path: Path) -> str:
    """SHA-256 of a file, as sha256sum prints it."""
    with files.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
