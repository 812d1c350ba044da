"""DataFrames of any library, through narwhals: to columns of NumPy, and back with their dtypes."""

import ast
from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np

from ddpm_jax.errors import DataError

Columns = tuple[np.ndarray, ...]

_REMEDY = "Give numbers, words, truth values, dates or times, or leave the column out."


def of(data: Any) -> nw.DataFrame | None:
    """The data as a DataFrame, if it is one."""
    try:
        frame = nw.from_native(data, pass_through=True)
    except nw.exceptions.DuplicateError as error:
        found = str(error).replace("\n", " ")
        raise DataError(f"{found}. Give each column a name of its own.") from None
    if isinstance(frame, nw.LazyFrame):
        raise DataError("a lazy DataFrame: collect() it first.")
    return frame if isinstance(frame, nw.DataFrame) else None


def read(
    frame: nw.DataFrame,
) -> tuple[Columns, tuple[str, ...], str, tuple[Any, ...], tuple[str | int, ...]]:
    """Columns, names, library, dtypes and labels of a DataFrame; DataError names the column.

    The dtypes are such as JSON can hold: the names of narwhals, or of pandas, which has more.
    """
    labels, schema = tuple(frame.columns), frame.schema
    if not labels:
        raise DataError("a DataFrame without columns.")
    library = frame.implementation.name.lower()
    columns = tuple(_column(series, str(series.name)) for series in frame.iter_columns())
    if library == "pandas":
        native = frame.to_native()
        dtypes = tuple(_pandas_dtype(native[label].dtype) for label in labels)
    else:
        dtypes = tuple(str(schema[label]) for label in labels)
    kept = tuple(label if isinstance(label, int) else str(label) for label in labels)
    return columns, tuple(map(str, labels)), library, dtypes, kept


def write(
    columns: Sequence[np.ndarray],
    names: Sequence[str],
    library: str,
    dtypes: Sequence[Any] = (),
    labels: Sequence[str | int] = (),
) -> Any:
    """The columns as a DataFrame of `library`, with the dtypes that `read` gave."""
    named: Any = library
    backend: Any = nw.Implementation.from_backend(named)
    series = []
    for i, (name, column) in enumerate(zip(names, columns, strict=True)):
        dtype = dtypes[i] if dtypes else None
        if library == "pandas":
            series.append(_pandas_series(name, column, dtype))
        else:
            series.append(_series(name, column, dtype, backend))
    frame = nw.from_dict({s.name: s for s in series})
    native = frame.to_native()
    if library == "pandas" and any(isinstance(label, int) for label in labels):
        native.columns = list(labels)
    return native


def words(cells: Sequence[Any], label: str) -> np.ndarray:
    """Cells of any type as a column: words, truth values or numbers, whichever all of them are."""
    found = [None if _is_none(cell) else cell for cell in cells]
    there = [cell for cell in found if cell is not None]
    if there and all(isinstance(cell, bool | np.bool_) for cell in there):
        if len(there) == len(found):
            return np.array(found, bool)
        return _objects([None if cell is None else bool(cell) for cell in found])
    if all(isinstance(cell, str) for cell in there):
        return _objects([None if cell is None else str(cell) for cell in found])
    try:
        if not any(isinstance(cell, str | bytes) for cell in there):
            return np.array([np.nan if cell is None else float(cell) for cell in found])
    except (TypeError, ValueError):
        pass
    kinds = sorted({type(cell).__name__ for cell in there})
    raise DataError(f"{label}: cells of {' and '.join(kinds)}. {_REMEDY}")


def _is_none(cell: Any) -> bool:
    # pandas' NA has no truth value, and NaN is the one number that differs from itself.
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float) and cell != cell


def _objects(cells: list[Any]) -> np.ndarray:
    column = np.empty(len(cells), object)
    column[:] = cells
    return column


def _column(series: nw.Series, label: str) -> np.ndarray:
    dtype = series.dtype
    if dtype.is_numeric():
        return np.array(series.cast(nw.Float64()).to_numpy(), np.float64)
    if dtype == nw.Date:
        return np.array(series.to_numpy(), "datetime64[D]")
    if isinstance(dtype, nw.Datetime):
        if dtype.time_zone is not None:
            series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return np.array(series.to_numpy(), f"datetime64[{dtype.time_unit}]")
    if dtype in (nw.Boolean, nw.String, nw.Categorical, nw.Enum, nw.Object, nw.Unknown):
        return words(series.to_list(), label)
    raise DataError(f"{label}: cells of type {dtype}. {_REMEDY}")


def _series(name: str, column: np.ndarray, dtype: Any, backend: Any) -> nw.Series:
    target = None if dtype is None else _dtype(dtype)
    if column.dtype == np.float64:
        if target is not None and target.is_integer():
            column = np.rint(column)
        series = nw.new_series(name, column, nw.Float64(), backend=backend)
        if np.isnan(column).any():
            there = nw.new_series(name, ~np.isnan(column), nw.Boolean(), backend=backend)
            nothing = nw.new_series(name, [None] * len(column), nw.Float64(), backend=backend)
            series = series.zip_with(there, nothing)
    elif column.dtype == object:
        words_are = {type(cell) for cell in column if cell is not None}
        kind = nw.Boolean() if words_are == {bool} else nw.String()
        series = nw.new_series(name, column.tolist(), kind, backend=backend)
    elif column.dtype.kind == "M":
        unit = np.datetime_data(column.dtype)[0]
        if unit in ("D", "s"):
            column = column.astype("datetime64[ms]")
        cells = column.astype("datetime64[us]").tolist()
        series = nw.new_series(name, cells, nw.Datetime("us"), backend=backend)
        target = target or (nw.Date() if unit == "D" else None)
        zone = getattr(target, "time_zone", None)
        if zone:
            series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    else:
        series = nw.new_series(name, column.tolist(), nw.Boolean(), backend=backend)
    return series if target is None or series.dtype == target else series.cast(target)


def _dtype(text: str) -> Any:
    """The dtype that narwhals writes as `text`, such as Int64 or Enum(categories=['a', 'b'])."""
    try:
        tree = ast.parse(text, mode="eval").body
        call = tree if isinstance(tree, ast.Call) else None
        name = call.func if call else tree
        kind = getattr(nw, name.id) if isinstance(name, ast.Name) else None
        if isinstance(kind, type) and issubclass(kind, nw.dtypes.DType):
            keywords = call.keywords if call else []
            return kind(**{k.arg: ast.literal_eval(k.value) for k in keywords if k.arg})
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError):
        pass
    raise DataError(f"no dtype is called {text[:40]!r}.")


def _pandas_dtype(dtype: Any) -> Any:
    if type(dtype).__name__ == "CategoricalDtype":
        return {"categories": list(map(_plain, dtype.categories)), "ordered": bool(dtype.ordered)}
    return str(dtype)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _pandas_series(name: str, column: np.ndarray, dtype: Any) -> nw.Series:
    pd: Any = nw.Implementation.PANDAS.to_native_namespace()
    if isinstance(dtype, dict):
        target = pd.CategoricalDtype(dtype["categories"], dtype["ordered"])
    else:
        target = dtype
    if column.dtype.kind == "M":
        if np.datetime_data(column.dtype)[0] == "D":
            column = column.astype("datetime64[s]")
        series = pd.Series(column, name=name)
        if "," in str(target):  # a time zone
            series = series.dt.tz_localize("UTC").astype(target)
        return nw.from_native(series, series_only=True)
    if column.dtype == np.float64 and "int" in str(target).lower():
        column = np.rint(column)
        if np.isnan(column).any() and str(target) == str(target).lower():
            target = None  # NumPy's integers have no NaN
    series = pd.Series(column, name=name)
    if target is not None:
        series = series.astype(target)
    return nw.from_native(series, series_only=True)
