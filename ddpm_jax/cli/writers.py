"""Samples as files: the header, order, words and decimals of the data, a part at a time."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ddpm_jax.points import readers
from ddpm_jax.points.kinds import Number, Periodic
from ddpm_jax.points.tables import Table
from ddpm_jax.runs.record import Run

Parts = Iterator[Table]


def write_npy(run: Run, path: Path, count: int, parts: Parts) -> None:
    """Write the samples as one float64 array, or as records where not all are numbers."""
    if not all_numbers(run):
        np.save(path, np.concatenate([part.to_npy() for part in parts]))
        return
    # A memory map's pages would count as memory.
    with open(path, "wb") as file:
        width = run.dim if run.columns is None else len(run.columns.kinds)
        header = {"descr": "<f8", "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.to_array().astype("<f8").tobytes())


def write_csv(run: Run, path: Path, count: int, parts: Parts) -> None:
    """Write a header, and one sample a line."""
    names = run.columns.names if run.columns else None
    with open(path, "w", encoding="utf-8", newline="") as file:
        width = run.dim if run.columns is None else len(run.columns.kinds)
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(names or [f"x{i}" for i in range(width)])
        for part in parts:
            rows.writerows(cells(run, part))


def write_txt(run: Run, path: Path, count: int, parts: Parts) -> None:
    """Write one sample a line, its cells apart by blanks."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter=" ", lineterminator="\n")
        for part in parts:
            rows.writerows(cells(run, part))


def write_parquet(run: Run, path: Path, count: int, parts: Parts) -> None:
    """Write a Parquet file of named columns, whole numbers as integers."""
    import polars

    every = [part.columns for part in parts]
    columns = tuple(np.concatenate(cells) for cells in zip(*every, strict=True))
    names = run.columns.names if run.columns else None
    frame = readers.to_data(Table(columns, names or tuple(f"x{i}" for i in range(len(columns)))))
    assert isinstance(frame, polars.DataFrame)
    frame.write_parquet(path)


WRITERS: dict[str, Callable[[Run, Path, int, Parts], None]] = {
    ".npy": write_npy,
    ".txt": write_txt,
    ".csv": write_csv,
    ".parquet": write_parquet,
}


def all_numbers(run: Run) -> bool:
    """Whether a sample is numbers only."""
    return run.columns is None or all(
        isinstance(kind, Number | Periodic) and kind.unit is None for kind in run.columns.kinds
    )


def cells(run: Run, table: Table) -> Iterator[tuple[str, ...]]:
    """The rows of a table as text: as many decimals as the data have, or all that are known."""
    columns = zip(digits(run), table.columns, strict=True)
    return zip(*(_texts(column, *how) for how, column in columns), strict=True)


def _texts(column: np.ndarray, places: int, fixed: bool) -> list[str]:
    if column.dtype != np.float64:
        return [str(cell) for cell in column]
    texts = [f"{x:.{places}{'f' if fixed else 'g'}}" for x in column.tolist()]
    if not fixed:
        return texts
    # A number that is not on the data's lattice, one that was given, keeps all of its digits.
    pairs = zip(texts, column.tolist(), strict=True)
    return [text if float(text) == x else repr(x) for text, x in pairs]


def digits(run: Run) -> list[tuple[int, bool]]:
    """Of each column the decimals that the data are written with, or the digits that count.

    Those give the network's float32 back, for any offset.
    """
    told = run.told
    shift, scale = np.abs(run.scaler.shift), np.array(run.scaler.scale)
    offset = np.divide(shift, scale, out=np.full(len(shift), np.inf), where=scale > 0)
    needed = np.minimum(9 + np.ceil(np.log10(1 + offset)), 17).astype(int)
    if told is None:
        return [(n, False) for n in needed.tolist()]
    found = []
    for kind, places in zip(told.columns.kinds, told.places, strict=True):
        step = getattr(kind, "lattice", None)
        found.append((int(needed[places[0]]), False) if step is None else (step.decimals, True))
    return found
