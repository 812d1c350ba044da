"""The dialect of a text file: what stands between cells, where the table begins, who has names.

Readers of tables (Polars, pandas, DuckDB) parse what they are told to expect; what to expect is
found here, from the first lines. Where two readings are plausible, a note says which was taken.
"""

import contextlib
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ddpm_jax.points.reading import Options, quoted

Line = tuple[int, str]
Row = tuple[int, list[str]]

MISSING = frozenset(
    ["", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>", "?", "-", "--", "."]
)
"""What stands for a missing cell, in lower case."""

TRUE, FALSE = "true", "false"

_LINES_FOR_DELIMITER = 100

_EXPONENT = r"([eEdD][+-]?\d+)?"
_NUMBERS = {
    ".": re.compile(
        rf"[+\-−–]?(\d+\.?\d*|\.\d+|\d{{1,3}}([,'\u2009\u202f\xa0]\d{{3}})+(\.\d*)?){_EXPONENT}\s?%?",
        re.ASCII,
    ),
    ",": re.compile(
        rf"[+\-−–]?(\d+,?\d*|,\d+|\d{{1,3}}([.'\u2009\u202f\xa0]\d{{3}})+(,\d*)?){_EXPONENT}\s?%?",
        re.ASCII,
    ),
}
_THOUSANDS = re.compile(r"[+\-−–]?\d{1,3}(,\d{3})+", re.ASCII)
_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?)?(Z|[+-]\d{2}:?\d{2})?", re.ASCII
)
_NAME = re.compile(r"(?!(nan|inf|infinity)$)[^\W\d].*", re.IGNORECASE | re.DOTALL)
_UNNAMED = re.compile(r"(Unnamed: ?0|unnamed_0|__index_level_0__)?")


@dataclass
class Dialect:
    """How a text file is laid out; line numbers count from 1."""

    delimiter: str | None = ","
    decimal: str = "."
    first: int = 1
    """The line on which the table begins; what is before it is skipped."""
    width: int = 1
    """Cells in a row, row names included, what is behind a trailing delimiter not."""
    names: list[str] | None = None
    skip: set[int] = field(default_factory=set)
    """Lines in the table that are no rows: its header, its units."""
    row_names: bool = False
    """Whether the first column holds names or numbers of rows."""
    trailing: bool = False
    """Whether rows end with a delimiter."""
    notes: list[str] = field(default_factory=list)


class BadQuotesError(Exception):
    """A cell whose quotes do not close, or close before its end."""

    def __init__(self, line: int, found: str) -> None:
        super().__init__(line, found)
        self.line, self.found = line, found


def cells(lines: Iterable[Line], delimiter: str | None, *, strict: bool = True) -> Iterator[Row]:
    """The cells of each line, stripped, with the number of the line.

    Raises:
        BadQuotesError: with the line; unless `strict` only for a cell without an end.
    """
    number = 0

    def texts() -> Iterator[str]:
        nonlocal number
        for number, text in lines:  # noqa: B007
            yield text

    try:
        if delimiter is None:
            for text in texts():
                if '"' in text:
                    text = " ".join(text.split("\t")).strip()
                    reader = csv.reader([text], delimiter=" ", skipinitialspace=True, strict=strict)
                    yield number, next(reader)
                else:
                    yield number, text.split()
            return
        for row in csv.reader(texts(), delimiter=delimiter, skipinitialspace=True, strict=strict):
            yield number, [cell.strip() for cell in row]
    except csv.Error as error:
        raise BadQuotesError(number, str(error)) from None


def is_number(cell: str, decimal: str = ".") -> bool:
    """Whether a cell is a number, be it with thousands, a percent sign or Fortran's exponent."""
    return _NUMBERS[decimal].fullmatch(cell) is not None


def is_typed(cell: str, decimal: str = ".") -> bool:
    """Whether a cell is a number, a date or a truth value: no column has such a name."""
    return is_number(cell, decimal) or is_date(cell) or cell.lower() in (TRUE, FALSE)


def is_date(cell: str) -> bool:
    """Whether a cell is a date or a time as ISO 8601 writes them."""
    return _DATE.fullmatch(cell) is not None


def sniff(lines: Sequence[Line], suffix: str, options: Options) -> Dialect:
    """The dialect of a file by its first lines, of which blank ones and comments are left out."""
    found = Dialect()
    if match := re.fullmatch(r"sep=(.)", lines[0][1].strip()):
        found.delimiter, found.first, lines = match[1], lines[0][0] + 1, lines[1:]
    elif lines[0][1].strip() == "sep=":  # the tab that was stripped
        found.delimiter, found.first, lines = "\t", lines[0][0] + 1, lines[1:]
    else:
        found.delimiter = _delimiter(lines[:_LINES_FOR_DELIMITER], suffix, options)
    if options.delimiter is not None:
        found.delimiter = options.separator
    if not lines:
        return found
    rows = [row for row in _rows(lines, found.delimiter) if any(row[1])] or [(lines[0][0], [""])]
    _decimal(found, rows, options)
    _layout(found, rows, options)
    return found


def _rows(lines: Sequence[Line], delimiter: str | None) -> list[Row]:
    rows: list[Row] = []
    with contextlib.suppress(BadQuotesError):  # the reader will say where
        rows.extend(cells(lines, delimiter, strict=False))
    return rows


def _delimiter(lines: Sequence[Line], suffix: str, options: Options) -> str | None:
    """The one with which most rows have as many cells as the others, and most cells are numbers."""
    candidates: list[str | None] = [",", ";", "\t", "|", None]
    if suffix in (".tsv", ".tab"):
        candidates = ["\t", ",", ";", "|", None]
    if options.decimal == ",":
        candidates.remove(",")
    best, delimiter = -1.0, candidates[0]
    for candidate in candidates:
        rows = [row for _, row in _rows(lines, candidate) if any(row)]
        if not rows:
            continue
        width = Counter(map(len, rows)).most_common(1)[0][0]
        same = [row for row in rows[1:] or rows if len(row) == width]
        content = [c for row in same for c in row if c.lower() not in MISSING]
        decimals = [options.decimal] if options.decimal else [".", ","]
        if candidate == "," or (width == 1 and not options.decimal):
            decimals = ["."]  # one column of decimal commas looks like two of whole numbers
        typed = max(sum(is_typed(c, d) for c in content) for d in decimals)
        agree = len(same) / len(rows[1:] or rows)
        score = agree * typed / max(len(content), 1) + 0.5 * (width > 1 and agree >= 0.8)
        if score > best + 1e-9:
            best, delimiter = score, candidate
    return delimiter


def _decimal(found: Dialect, rows: list[Row], options: Options) -> None:
    """Set the decimal sign, by the cells that are numbers with one and not with the other."""
    marked = [c for _, row in rows for c in row if "," in c]
    points = sum("." in c and is_number(c, ".") for _, row in rows for c in row)
    commas = [c for c in marked if is_number(c, ",")]
    if options.decimal is not None:
        found.decimal = options.decimal
    elif len(commas) > points:
        found.decimal = ","
        if all(_THOUSANDS.fullmatch(c) for c in commas):
            found.notes.append(
                f"{quoted(commas[0])}: the comma read as decimal sign, not of thousands: "
                "{decimal=.} for the other"
            )
        else:
            found.notes.append("decimal commas")


def _layout(found: Dialect, rows: list[Row], options: Options) -> None:
    """Set where the table begins, its width, names, units and what is beside it."""
    widths = [len(row) for _, row in rows]
    width = Counter(widths[len(rows) // 4 :]).most_common(1)[0][0]
    body = [row for _, row in rows if len(row) == width]
    if width > 1 and not any(row[-1] for row in body[1:] or body) and len(body) > 1:
        named = len(body[0]) == width and bool(body[0][-1]) and len(rows[0][1]) == width
        if not named:  # a name over nothing is a column of missing cells
            found.trailing, width = True, width - 1
    start = _start(found, rows, width)
    rows = rows[start:]
    found.first = rows[0][0]
    first, rest = rows[0][1], [row for _, row in rows[1:] if len(row) >= width]
    if found.trailing:
        first = first[:width]
    short = (
        len(first) == width - 1
        and len(rest) > 1
        and not any(is_typed(c, found.decimal) for c in first)
        and _counts_or_names([row[0] for row in rest], found.decimal)
    )
    if len(first) == width + 1 and not first[-1] and not found.trailing and rest:
        first = first[:-1]
    if short:
        first = ["", *first]
    found.width = len(first) if not short else width
    typed = _typed_columns(rest, len(first), found.decimal)
    if options.header == "none":
        header = False
    elif options.header == "first":
        header = True
    else:
        header = _is_header(found, first, rest, typed)
    if not header:
        return
    found.names = [name.replace("\n", " ") for name in first]
    found.skip.add(rows[0][0])
    if len(rows) > 3 and typed and len(rows[1][1]) >= len(first):
        second = rows[1][1]
        units = [second[i] for i in typed]
        if (
            any(units)
            and not any(is_typed(c, found.decimal) for c in units)
            and (all(len(c) <= 20 and (c.lower() not in MISSING or not c) for c in units))
        ):
            found.skip.add(rows[1][0])
            found.notes.append(
                f"line {rows[1][0]} skipped: units ({', '.join(map(quoted, filter(None, units)))})"
            )
    if len(first) > 1 and _UNNAMED.fullmatch(first[0]):
        found.row_names = True


def _start(found: Dialect, rows: list[Row], width: int) -> int:
    """How many rows come before the table: lines of another width that hold no numbers."""
    allowed = {width, width + found.trailing}
    start = next((i for i, (_, row) in enumerate(rows) if len(row) in allowed), 0)
    if start == 1 and len(rows[0][1]) == width + 1 and not rows[0][1][-1]:
        return 0  # a header that ends with a delimiter
    short = start == 1 and len(rows[0][1]) == width - 1 and width > 1
    if short and _counts_or_names([row[0] for _, row in rows[1:]], found.decimal):
        return 0  # a header that is one name short, as rows have names
    if start == 0 or width < 2 or sum(len(row) in allowed for _, row in rows) < 3:
        return 0
    before = [row for _, row in rows[:start]]
    typed = _typed_columns([row for _, row in rows[start + 1 :]], width, found.decimal)
    header = typed and not any(is_typed(rows[start][1][i], found.decimal) for i in typed)
    if any(is_number(c, found.decimal) for row in before for c in row if len(row) == 1):
        return 0
    if not header and any(len(row) > 1 for row in before):
        return 0
    last = rows[start][0] - 1
    lines = "line 1" if last == 1 else f"lines 1 to {last}"
    found.notes.append(f"{lines} skipped: before the table")
    return start


def _typed_columns(rows: list[list[str]], width: int, decimal: str) -> list[int]:
    """The columns of which most cells are numbers, dates or truth values."""
    found = []
    for i in range(width):
        content = [row[i] for row in rows if i < len(row) and row[i].lower() not in MISSING]
        if content and 2 * sum(is_typed(c, decimal) for c in content) >= len(content):
            found.append(i)
    return found


def _counts_or_names(column: list[str], decimal: str) -> bool:
    """Whether a column counts the rows, from 0 or 1, or gives each a name of its own."""
    if column and column[0] in ("0", "1"):
        start = int(column[0])
        if column == [str(i) for i in range(start, start + len(column))]:
            return True
    return len(set(column)) == len(column) and not any(is_number(c, decimal) for c in column)


def _is_header(found: Dialect, first: list[str], rest: list[list[str]], typed: list[int]) -> bool:
    line = found.first
    if not rest:
        return all(_NAME.fullmatch(c) for c in first)
    if typed:
        blank = [i for i in range(len(first)) if not first[i]]
        over = [first[i] for i in typed if first[i]]
        if all(not is_typed(c, found.decimal) and c.lower() not in MISSING for c in over):
            infinite = ("inf", "infinity", "-inf", "-infinity", "+inf", "+infinity")
            return (
                bool(over) and blank in ([], [0]) and all(c.lower() not in infinite for c in over)
            )
        return _is_header_of_numbers(found, first, rest)
    columns = list(zip(*(row[: len(first)] for row in rest), strict=False))
    repeats = any(len(set(column)) < len(column) for column in columns)
    new = all(c and c not in column for c, column in zip(first, columns, strict=False))
    header = repeats and new
    what, other = ("the names", "none") if header else ("a row", "first")
    found.notes.append(f"line {line} read as {what}: {{header={other}}} for the other")
    return header


def _is_header_of_numbers(found: Dialect, first: list[str], rest: list[list[str]]) -> bool:
    """Whether the first row names columns by whole numbers, such as years, and others have none."""
    if len(first) < 2 or len(rest) < 2 or not all(re.fullmatch(r"\d{1,6}", c) for c in first):
        return False
    rows = [row for row in rest if len(row) == len(first)]
    marks = [c for row in rows for c in row if c.lower() not in MISSING]
    if not all(found.decimal in c for c in marks):
        return False
    numbers = [int(c) for c in first]
    header = numbers == list(range(numbers[0], numbers[0] + len(first)))
    other = "none" if header else "first"
    found.notes.append(
        f"line {found.first} ({', '.join(first[:4])}{', …' if len(first) > 4 else ''}), whole "
        f"numbers where other lines have decimals, read as {'the names' if header else 'a row'}: "
        f"{{header={other}}} for the other"
    )
    return header
