"""Columns of text to columns of numbers, dates, truth values or words; Polars does the parsing."""

import re
from collections.abc import Callable

import numpy as np
import polars as pl

from ddpm_jax.points.dialect import FALSE, MISSING, TRUE, is_date

Fault = Callable[[int, str], Exception]
"""From a row, and a cell in it, to the error that names both."""

_SPACES = r"'\x{2009}\x{202f}\x{a0}"
"""What stands between groups of three digits, beside a comma or a point."""

_PERCENT = "{}: percent signs taken off, 50 % is 50"


def typed(
    label: str,
    text: pl.Series,
    *,
    decimal: str,
    missing: tuple[str, ...],
    limit: float,
    fault: Fault,
) -> tuple[np.ndarray, list[str]]:
    """The column that `text` writes, and what is to be said of it.

    Numbers where at least half of the cells are: what else is among them is an error, not a word.
    """
    lower = text.str.to_lowercase()
    gone = lower.is_in(list(MISSING)) | text.is_null()
    for token in missing:
        gone = gone | (text == token)
        if _is_float(token):
            gone = gone | (text.cast(pl.Float64, strict=False) == float(token)).fill_null(False)
    cells = text.set(gone, None)
    there = len(cells) - cells.null_count()
    distinct = cells.drop_nulls().unique(maintain_order=True).head(1000)
    if there and distinct.str.to_lowercase().is_in([TRUE, FALSE]).all():
        return _truths(cells, lower), []
    if there and is_date(distinct[0]) and (dates := _dates(cells)) is not None:
        return dates, []
    numbers, notes = _numbers(label, cells, decimal)
    good = numbers.is_not_null() & (numbers.abs() <= limit)
    count = int(good.sum())
    if there and count == there:
        return numbers.fill_null(float("nan")).to_numpy().astype(np.float64), notes
    if not there:
        raise fault(0, "")
    if 2 * count >= there:
        row = int((~(good.fill_null(False) | cells.is_null())).arg_true()[0])
        raise fault(row, text[row])
    levels = cells.drop_nulls().unique().sort()
    codes = cells.cast(pl.Enum(levels)).to_physical().fill_null(len(levels)).to_numpy()
    # One object a level, not one a cell.
    return np.array([*levels.to_list(), None], object)[codes], []


def _is_float(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _truths(cells: pl.Series, lower: pl.Series) -> np.ndarray:
    if cells.null_count():
        found = np.empty(len(cells), object)
        found[:] = (lower.set(cells.is_null(), None) == TRUE).to_list()
        return found
    return (lower == TRUE).to_numpy().astype(bool)


def _dates(cells: pl.Series) -> np.ndarray | None:
    if not cells.drop_nulls().str.contains(r"^\d{4}-\d{2}-\d{2}").all():
        return None
    day = cells.str.to_date("%Y-%m-%d", strict=False)
    if day.null_count() == cells.null_count():
        return day.to_numpy().astype("datetime64[D]")
    time = cells.str.replace("T", " ", literal=True).str.replace(r"(Z|[+-]00:?00)$", "")
    time = time.str.replace(r" (\d{2}:\d{2})$", " $1:00")
    for form in ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S"):
        found = time.str.to_datetime(form, time_unit="us", strict=False)
        if found.null_count() == cells.null_count():
            return found.to_numpy().astype("datetime64[us]")
    return None


def _numbers(label: str, cells: pl.Series, decimal: str) -> tuple[pl.Series, list[str]]:
    """The numbers, null where a cell is none, and a note of what was taken off."""
    plain = cells.cast(pl.Float64, strict=False)
    # Infinity is no number, however large; and what Polars reads it from is a word.
    plain = plain.set(cells.str.contains(r"(?i)[^\d.e+-]").fill_null(False), None)
    if decimal == "." and plain.null_count() == cells.null_count():
        return plain, []
    notes = []
    text = cells.str.replace(r"^[−–]", "-")
    text = text.str.replace(rf"^([+-]?[\d.,{_SPACES}]+)[dD]([+-]?\d+)$", "${1}e$2")
    if bool(text.str.contains(r"^[^%]+\d\s?%$").fill_null(True).all()):
        text = text.str.replace(r"\s?%$", "")
        notes.append(_PERCENT.format(label))
    group = "," if decimal == "." else "."
    grouped = rf"^[+-]?\d{{1,3}}([{group}{_SPACES}]\d{{3}})+({re.escape(decimal)}\d*)?$"
    has_groups = text.str.contains(grouped).fill_null(False)
    if bool(has_groups.any()):
        bare = text.str.replace_all(rf"[{group}{_SPACES}]", "")
        text = text.set(has_groups, None).fill_null(bare.set(~has_groups, None))
    if decimal == ",":
        text = text.set(text.str.contains(".", literal=True).fill_null(False), None)
        text = text.str.replace(",", ".", literal=True)
    text = text.set(text.str.contains(r"(?i)[^\d.e+-]").fill_null(False), None)
    return text.cast(pl.Float64, strict=False), notes
