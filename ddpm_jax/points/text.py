"""Tables in text files: bounded bytes, rows of cells, and the line of whatever is wrong.

Plain numbers go through `np.loadtxt`, all else through the csv module, row by row, and Polars.
"""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ddpm_jax.errors import ConfigError
from ddpm_jax.points import dialect
from ddpm_jax.points.dialect import Dialect, Line
from ddpm_jax.points.mapped import LIMIT, fault, first_bad, too_large
from ddpm_jax.points.reading import Options, Reading, quoted
from ddpm_jax.points.tables import Origin, Table

SUFFIXES = (".txt", ".csv", ".tsv", ".tab", ".dat", ".data", ".asc", ".xyz")
COMPRESSED = (".gz", ".bz2", ".xz")

_LINE_BYTES = 2**24
_SAMPLE_LINES, _SAMPLE_BYTES = 1000, 2**18
_CHUNK_CELLS = 2**18
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1b\x7f]")
_UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")  # in Windows-1252
_AT_LEAST_TWO = "Give at least two."


def suffix_of(path: Path) -> str:
    """The ending that tells what is in a text file, such as .csv of a.csv.gz; else ''."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


MAX_WIDTH = 100_000
"""Columns of a text file: each is looked at on its own, a million in more than six minutes."""


def read_text(path: Path, options: Options, max_bytes: int) -> tuple[Table, Reading]:
    """The table in a text file, and what was understood of it; DataError names the line."""
    data, notes = _decode(path, options, max_bytes)
    lines = max(data.count(b"\n"), data.count(b"\r"))
    if 8 * lines > max_bytes:
        raise too_large(path, max_bytes, "as float64")
    sample = _sample(data, options.skip_lines)
    if not sample:
        raise fault(path, "no points in it", "Write one point a line, numbers and nothing else.")
    layout = dialect.sniff(sample, suffix_of(path), options)
    if layout.width > MAX_WIDTH:
        found = f"{layout.width:,} columns"
        raise fault(path, found, f"Give at most {MAX_WIDTH:,}.", layout.first)
    if 8 * layout.width * lines > max_bytes:
        raise too_large(path, max_bytes, "as float64")
    file = _File(path, data, options, layout)
    columns = file.plain()
    if columns is None:
        columns = file.mixed()
    return file.table(columns, [*notes, *layout.notes])


@dataclass
class _File:
    path: Path
    data: bytes
    options: Options
    layout: Dialect

    def plain(self) -> list[np.ndarray] | None:
        """The columns of a file of plain numbers, fast; None where it is something else."""
        layout, data = self.layout, self.data
        if layout.decimal != "." or layout.trailing or self.options.missing or b'"' in data:
            return None
        if b"%" in data and (b"#" in data or b"%" not in data.lstrip()[:1]):
            return None
        lines = _content(data, 0)
        if len(list(islice(lines, 3))) < 3:
            return None  # np.loadtxt only warns of a file without points
        skip = max([layout.first - 1, self.options.skip_lines, *layout.skip])
        comments = "%" if b"%" in data else "#"
        try:
            stream = _lines(data)
            points = np.loadtxt(
                stream, delimiter=layout.delimiter, skiprows=skip, ndmin=2, comments=comments
            )
        except ValueError:
            return None
        if points.shape[1] != layout.width or len(points) < 2 or first_bad(points) is not None:
            return None
        return list(points.T) if layout.names else [points[:, i] for i in range(layout.width)]

    def mixed(self) -> list[np.ndarray]:
        """The columns of any other file, told by what is in them."""
        import polars as pl

        width, layout = self.layout.width, self.layout
        chunks: list[list[pl.Series]] = []
        numbers = array("q")
        rows: list[list[str]] = []

        def flush() -> None:
            if rows:
                columns = zip(*rows, strict=True)
                chunks.append([pl.Series(column, dtype=pl.String) for column in columns])
                rows.clear()

        for number, row in self._rows():
            if len(row) == width + 1 and layout.trailing and not row[-1]:
                row = row[:-1]
            if len(row) != width:
                found = f"{len(row)} values where the first row has {width}"
                remedy = self._remedy()
                if number < layout.first + 3:
                    remedy += f" Or skip what is before the table: skip_lines={number - 1}."
                raise fault(self.path, found, remedy, number)
            rows.append(row)
            numbers.append(number)
            if len(rows) * width >= _CHUNK_CELLS:
                flush()
        flush()
        if len(numbers) < 2:
            raise fault(self.path, f"{len(numbers)} row(s) of points", _AT_LEAST_TWO)
        wanted = self._wanted()
        columns = [np.zeros(len(numbers))] * width
        for i in wanted:
            columns[i] = self._typed(i, pl.concat([chunk[i] for chunk in chunks]), numbers)
        if layout.row_names and 0 not in wanted:
            names = pl.concat([chunk[0] for chunk in chunks]).cast(pl.Float64, strict=False)
            columns[0] = names.fill_null(float("nan")).to_numpy()
        return columns

    def _typed(self, i: int, text, numbers: array) -> np.ndarray:
        from ddpm_jax.points import cells

        label = self.layout.names[i] if self.layout.names else f"column {i + 1}"

        def wrong(row: int, cell: str) -> Exception:
            where = f"column {i + 1}" + (f" ({label})" if self.layout.names else "")
            remedy = self._remedy()
            if not cell:
                return fault(self.path, f"no value in {where}", "Leave it out with columns=.")
            if not dialect.is_number(cell, self.layout.decimal):
                remedy += f" Or, if it stands for nothing: missing={cell[:40]!r}."
            return fault(self.path, f"{cell[:40]!r} in {where}", remedy, numbers[row])

        column, notes = cells.typed(
            label,
            text,
            decimal=self.layout.decimal,
            missing=self.options.missing,
            limit=LIMIT,
            fault=wrong,
        )
        self.layout.notes.extend(notes)
        return column

    def _rows(self) -> Iterator[dialect.Row]:
        layout = self.layout
        before = max(layout.first - 1, self.options.skip_lines)
        lines = _content(self.data, before, layout.skip)
        rows = dialect.cells(lines, layout.delimiter)
        blank = 0
        try:
            for number, row in rows:
                if any(row):
                    yield number, row
                else:
                    blank += 1
        except dialect.BadQuotesError as error:
            remedy = 'Close every quote, and double the ones inside: "5"" nail".'
            raise fault(self.path, f"badly quoted ({error.found})", remedy, error.line) from None
        if blank:
            layout.notes.append(f"{blank} lines without a value left out")

    def _wanted(self) -> list[int]:
        layout = self.layout
        try:
            chosen = self.options.chosen(layout.names, layout.width)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from None
        if chosen is not None:
            return chosen
        return list(range(1 if layout.row_names else 0, layout.width))

    def _remedy(self) -> str:
        separator = self.layout.delimiter
        by = "whitespace" if separator is None else repr(separator)
        width = self.layout.width
        return f"Write {width} finite numbers such as -1.5e-3, at most 1e30, separated by {by}."

    def table(self, columns: list[np.ndarray], notes: list[str]) -> tuple[Table, Reading]:
        """The wanted columns, by distinct names."""
        layout, wanted = self.layout, self._wanted()
        names = None
        if layout.names:
            names, renamed = _distinct([layout.names[i] or f"column_{i + 1}" for i in wanted])
            notes += renamed
        if layout.row_names and 0 not in wanted and self.options.columns is None:
            what = _row_names(columns[0])
            notes.append(f"left out: column 1, {what}: {{columns=1-{layout.width}}} keeps it")
        elif names is None and len(wanted) > 1 and _row_names(columns[wanted[0]]) == "an index":
            notes.append(
                f"column {wanted[0] + 1} counts the rows: "
                f"{{columns=2-{layout.width}}} leaves it out if it is an index"
            )
        found = Table(tuple(columns[i] for i in wanted), names, Origin("array"))
        return found, Reading(tuple(notes))


def _row_names(column: np.ndarray) -> str:
    if column.dtype == np.float64 and len(column):
        start = column[0]
        if start in (0, 1) and np.array_equal(column, start + np.arange(len(column))):
            return "an index"
    return "names of rows"


def _distinct(names: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """The names, a number behind those that were taken before, and a note of which."""
    found: list[str] = []
    notes = []
    for name in names:
        new, count = name, 1
        while new in found or (count > 1 and new in names):
            count += 1
            new = f"{name}_{count}"
        if new != name:
            notes.append(f"two columns named {quoted(name)}: the other is now {quoted(new)}")
        found.append(new)
    return tuple(found), notes


def _sample(data: bytes, skip: int) -> list[Line]:
    found: list[Line] = []
    size = 0
    for line in _content(data, skip):
        found.append(line)
        size += len(line[1])
        if len(found) >= _SAMPLE_LINES or size > _SAMPLE_BYTES:
            break
    return found


def _lines(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig")


def _content(
    data: bytes, before: int, skip: set[int] | frozenset[int] = frozenset()
) -> Iterator[Line]:
    """The lines after `before`, by number, without comments, and those that are blank then."""
    for number, line in enumerate(_lines(data), start=1):
        if number <= before or number in skip:
            continue
        text = line.rstrip("\n")
        start = text.lstrip()[:1]
        if start and start not in "#%":
            if "#" in text:
                text = _without_comment(text)
            yield number, text


def _without_comment(text: str) -> str:
    """What is before a `#` after white space that is not in quotes."""
    for match in re.finditer(r"\s#", text):
        if text[: match.start()].count('"') % 2 == 0:
            return text[: match.start()]
    return text


def _open(path: Path):
    ending = path.suffix.lower()
    if ending == ".gz":
        return gzip.open(path, "rb")
    if ending == ".bz2":
        return bz2.open(path, "rb")
    if ending == ".xz":
        return _Xz(path)
    return open(path, "rb")


class _Xz:
    """The streams of an .xz file, which may not ask for more memory than those of `xz -9`."""

    def __init__(self, path: Path) -> None:
        self.raw = open(path, "rb")  # noqa: SIM115 (closed at exit)
        self.decoder = lzma.LZMADecompressor(memlimit=2**27)

    def __enter__(self) -> "_Xz":
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()

    def read(self, size: int) -> bytes:
        while True:
            if self.decoder.eof:
                rest = self.decoder.unused_data or self.raw.read(2**16)
                if not rest.strip(b"\0"):
                    return b""
                self.decoder = lzma.LZMADecompressor(memlimit=2**27)
            else:
                rest = self.raw.read(2**16) if self.decoder.needs_input else b""
                if self.decoder.needs_input and not rest:
                    raise EOFError("compressed file ended before the end-of-stream marker")
            if found := self.decoder.decompress(rest, size):
                return found


def _decode(path: Path, options: Options, max_bytes: int) -> tuple[bytes, list[str]]:
    """The text of a file, decompressed, as UTF-8; a chunk at a time, so that memory is bounded."""
    content, line = io.BytesIO(), 0
    try:
        with _open(path) as stream:
            while chunk := stream.read(2**20):
                content.write(chunk)
                if content.tell() > max_bytes:
                    raise too_large(path, max_bytes, "of text")
                end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
                line = len(chunk) - end - 1 if end >= 0 else line + len(chunk)
                if line > _LINE_BYTES:
                    found = f"a line of more than {_LINE_BYTES:,} bytes"
                    raise fault(path, found, "Write one point a line.")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        remedy = "Check its permissions; if it is compressed, compress it anew."
        raise fault(path, f"cannot be read ({error})", remedy) from error
    data = content.getvalue()
    encoding = options.encoding or _encoding(data)
    note = []
    try:
        if encoding is None:
            _check_utf8(data)
            return data, note
        found = _transcoded(data, encoding)
    except UnicodeDecodeError as error:
        at = error.start
        plain = encoding is None and data[:at].isascii()
        if plain and not _CONTROL.search(data) and not _UNDEFINED.search(data):
            note = ["not UTF-8, read as Windows-1252 (Latin-1): {encoding=…} for another"]
            return _transcoded(data, "cp1252"), note
        before = data[:at]
        number = before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") + 1
        name = encoding or "UTF-8"
        found = f"byte {data[at]:#04x}, which is not {name}"
        remedy = "Save it as plain text in UTF-8, or name its encoding=."
        raise fault(path, found, remedy, number) from error
    return found, note


def _encoding(data: bytes) -> str | None:
    """UTF-16 or UTF-32 by the mark at the start, or by where the zeros are; None is UTF-8."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    head = data[:200]
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = head[start::2], head[1 - start :: 2]
        if len(head) >= 8 and not any(zeros) and all(others):
            return encoding
    return None


def _check_utf8(data: bytes) -> None:
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    for start in range(0, len(data), 2**20):
        chunk = data[start : start + 2**20]
        left = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError as error:
            # The object is this chunk, and what the one before left of a character.
            error.start += start - left
            raise
        done = start + len(chunk)
    left = len(decoder.getstate()[0])
    if left:
        raise UnicodeDecodeError("utf-8", data[-left:], done - left, done, "unexpected end")


def _transcoded(data: bytes, encoding: str) -> bytes:
    decoder, found = codecs.getincrementaldecoder(encoding)(), io.BytesIO()
    for start in range(0, len(data), 2**20):
        try:
            found.write(decoder.decode(data[start : start + 2**20]).encode())
        except UnicodeDecodeError as error:
            error.start = min(start + error.start, len(data) - 1)
            raise
    found.write(decoder.decode(b"", final=True).encode())
    return found.getvalue()
