"""metrics.jsonl: a row of JSON for every epoch, appended line by line."""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

from ddpm_jax import files
from ddpm_jax.errors import ConfigError
from ddpm_jax.runs.directory import METRICS

NUMBERS = ("loss", "floor", "excess", "step", "skipped", "seconds")
"""Fields that hold a number, or null where there is none."""


def append_row(directory: Path, row: dict[str, Any]) -> None:
    """Append one line to metrics.jsonl in a single write; OSError if only a part of it fits."""
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    path = directory / METRICS
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        if file.write(line) < len(line):
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def read_rows(directory: Path, last_epoch: int | None = None) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl up to `last_epoch`, without what a crash has torn at its end.

    Raises ConfigError, with the line and the field, for what no run has written.
    """
    path = directory / METRICS
    try:
        text = files.read_text(path, errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    rows, torn = [], 0
    for number, line in enumerate(text.split("\n"), start=1):
        row = _parsed(line)
        if row is None:
            torn = torn or number * bool(line)
            continue
        if last_epoch is not None and row["epoch"] > last_epoch:
            break
        where = f"{path}, line {torn or number}"
        if torn or (rows and row["epoch"] <= rows[-1]["epoch"]):
            raise ConfigError(f"{where}: not the next epoch's row; restore the file, or remove it")
        rows.append(check_row(row, where))
    return rows


def check_row(row: Any, where: str) -> dict[str, Any]:
    """The row, if it has an epoch and a loss, and in each field a finite number, text or null.

    Else ConfigError names the field.
    """
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: not a row of figures; restore the file, or remove it")
    for name in ("epoch", "loss", *row):
        value = row.get(name, [])
        if name == "epoch":
            good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        elif isinstance(value, int | float) and not isinstance(value, bool):
            good = abs(value) <= sys.float_info.max
        else:
            good = value is None or (isinstance(value, str) and name not in NUMBERS)
        if not good:
            raise ConfigError(
                f"{where}: field {name!r} is missing or wrong: {str(value)[:40]}; restore the "
                "file, or remove it"
            )
    return row


def _parsed(line: str) -> dict[str, Any] | None:
    """The object in a line, if it says of which epoch it is."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    good = isinstance(row, dict) and type(row.get("epoch")) is int
    return row if good else None


def keep_rows(directory: Path, last_epoch: int) -> list[dict[str, Any]]:
    """Cut metrics.jsonl back to the epochs up to `last_epoch`, and return them."""
    rows = read_rows(directory, last_epoch)
    files.write_text(directory / METRICS, "".join(json.dumps(row) + "\n" for row in rows))
    return rows
