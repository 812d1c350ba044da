"""A directory of samples in shards, with a manifest that tells the finished ones from the rest.

    many/
      manifest.jsonl    what the points are, then a line a finished shard: name, rows, sha256
      shard_00000.npy   float64 [rows, D]; `datasets.load_points("many")` reads them all

A shard is renamed into place whole and listed after that, so that a process killed at any moment
leaves finished shards, and at most one to draw again.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_jax import config, files
from ddpm_jax.errors import ConfigError, InputError

FORMAT = 1

_FIELDS = {"name": str, "rows": int, "sha256": str}


@dataclass(frozen=True)
class Shards:
    """The shards of `sizes` rows that make up `directory`, of what `settings` say."""

    directory: Path
    settings: Mapping[str, Any]
    sizes: Sequence[int]

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
                    f"{self.directory} holds {strange[0]} and no manifest of samples: "
                    "choose another name"
                )
            return
        old, new = self._lines()[0], self._header()
        if old != new:
            raise ConfigError(
                f"{self.directory} holds other samples\n  "
                + "\n  ".join(config.differences(old, new, "there"))
                + "\nGive the same settings to go on with them, another --out, or --overwrite"
            )

    def clear(self) -> None:
        """Remove the shards that a manifest, of whatever settings, belongs to; then itself."""
        if self.manifest.exists():
            for path in self.directory.glob("shard_*.npy"):
                path.unlink()
            self.manifest.unlink()

    def open(self) -> list[int]:
        """Start or clean the manifest, and return which shards are to be drawn.

        Every shard listed is read and compared; a warning names those that are not as listed.
        """
        for path in self.directory.glob(".tmp-*-shard_*.npy"):
            path.unlink()
        lines = self._lines()[1:] if self.manifest.exists() else []
        listed = {line["name"]: line for line in lines}
        good = [self._is_good(i, listed.get(self.path(i).name)) for i in range(len(self.sizes))]
        keep = [listed[self.path(i).name] for i, whole in enumerate(good) if whole]
        text = "".join(json.dumps(line) + "\n" for line in [self._header(), *keep])
        files.write_text(self.manifest, text)
        return [i for i, whole in enumerate(good) if not whole]

    def add(self, index: int, sha256: str) -> None:
        """List a shard that is in place."""
        line = {"name": self.path(index).name, "rows": self.sizes[index], "sha256": sha256}
        with open(self.manifest, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _header(self) -> dict[str, Any]:
        return {"format": FORMAT, **self.settings}

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        text = self.manifest.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines() or [""], start=1):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                if number > 1:
                    break  # the process was killed in the middle of this line, the last
                value = None
            fields = _FIELDS if number > 1 else {"format": int}
            if not isinstance(value, dict) or not all(
                isinstance(value.get(name), kind) for name, kind in fields.items()
            ):
                raise ConfigError(
                    f"{self.manifest}, line {number}: not a line of a manifest of samples, which "
                    f"has {', '.join(fields)}. Pass --overwrite to draw all of them again"
                )
            lines.append(value)
        return lines

    def _is_good(self, index: int, line: dict[str, Any] | None) -> bool:
        path = self.path(index)
        if line is None:
            return False
        if not path.exists():
            found = "is missing"
        elif digest(path) != line.get("sha256") or line.get("rows") != self.sizes[index]:
            found = "is not what was written"
        else:
            return True
        warnings.warn(f"{path} {found}: drawing it again", stacklevel=3)
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file, as sha256sum prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
