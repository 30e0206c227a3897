"""Files of numbers: .csv and .tsv with pandas, .npy and .npz with numpy. Nothing is unpickled."""

from __future__ import annotations

import csv
import math
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.data._base import SettingError
from kdbench.errors import DataError, did_you_mean, listed

if TYPE_CHECKING:
    import numpy as np

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*SEPARATORS, ".npy", ".npz")
NPZ_KEYS = ("x", "y", "x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Columns:
    """Rows of numbers: features float64 (N, F), all finite; their names; and for each row its class as written.

    written: int64 (N,) or strings (N,). place: the column or array of the classes, for messages.
    """

    features: np.ndarray
    names: tuple[str, ...]
    written: np.ndarray
    place: str


def read_columns(path: Path, label: str | int | None, part: str = "") -> Columns:
    """Read a file; `label` is the column of the classes. part: "train" or "test" of an .npz that holds both.

    Raise DataError for a file that is missing, malformed, or has a cell that is not a finite number, with its line and
    column; SettingError for a `label` that it does not have.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: a table of kind '{path.suffix}'. Allowed: {listed(SUFFIXES)}.")
    if not path.is_file():
        raise DataError(f"{path}: no such file. Name a table: {listed(SUFFIXES)}.")
    if path.suffix.lower() == ".npz":
        return _npz(path, label, part)
    return _npy(path, label) if path.suffix.lower() == ".npy" else _text(path, label)


def npz_has_test(path: Path) -> bool:
    """Whether an .npz has test rows of its own."""
    return path.suffix.lower() == ".npz" and path.is_file() and "x_test" in _load(path)


def _text(path: Path, label: str | int | None) -> Columns:
    try:
        import pandas as pd
    except ImportError:
        raise DataError(f"{path}: needs pandas. Run: pip install 'kdbench[report]'") from None
    first = _first_line(path)
    # A table without header is one whose first line is all numbers; its columns are then called 0, 1, ...
    headless = all(_number(cell) is not None for cell in first)
    names = [str(i) if headless else cell.strip() for i, cell in enumerate(first)]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise DataError(f"{path}:1: column '{twice[0]}' occurs twice. Give every column a name of its own.")
    at = _position(path, label, names)
    # Before pandas 3.1 numbers were read to the last bit only if asked for; since then asking is deprecated.
    old = tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1)
    exact: dict[str, Any] = {"float_precision": "round_trip"} if old else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # lines that are longer than the header
            frame = pd.read_csv(
                path, sep=SEPARATORS[path.suffix.lower()], header=None if headless else 0, index_col=False,
                dtype={at if headless else first[at]: str}, keep_default_na=False, encoding="utf-8-sig",
                low_memory=False, **exact,
            )  # fmt: skip
    # pandas' ParserError and UnicodeDecodeError are ValueErrors.
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        raise DataError(f"{path}: not a readable table: {' '.join(str(error).split())}. Mend the file.") from None
    frame.columns = pd.Index(names)
    others = [name for i, name in enumerate(names) if i != at]
    written = frame[names[at]].astype(str).str.strip()
    sound = all(frame[name].dtype.kind in "iuf" for name in others) and not frame[names[at]].isna().any()
    features = frame[others].to_numpy(dtype="float64") if sound else None
    if features is None or not _finite(features) or (written == "").any():
        if fault := _first_fault(path, names, at, headless):
            raise DataError(fault)
        features = frame[others].astype("float64").to_numpy()  # numbers of too many digits for an integer
    if not len(features):
        raise DataError(f"{path}: a header and no rows. Add some.")
    return Columns(features, tuple(others), _as_classes(written.to_numpy(dtype=str)), f"column '{names[at]}'")


def _first_line(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next((row for row in csv.reader(file, delimiter=SEPARATORS[path.suffix.lower()]) if row), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table: {error}. Save it as UTF-8 text.") from None
    if len(first) < 2:
        what = "empty" if not first else f"one column only, '{first[0][:40]}'"
        with_what = "commas" if path.suffix.lower() == ".csv" else "tabs"
        raise DataError(f"{path}: {what}. Allowed: two or more columns, separated by {with_what}, with a header.")
    return first


def _position(path: Path, label: str | int | None, names: list[str]) -> int:
    """Position of the column `label`."""
    shown = listed(names) if len(names) <= 12 else f"{listed(names[:10])} and {len(names) - 10} more"
    if label is None:
        raise SettingError("label", f"None. Name the column of {path} that holds the classes. Columns: {shown}.")
    if isinstance(label, str):
        if label not in names:
            raise SettingError("label", f"'{label}': no such column.{did_you_mean(label, names)} Columns: {shown}.")
        return names.index(label)
    if not -len(names) <= label < len(names):
        raise SettingError("label", f"{label}. Allowed: {-len(names)} to {len(names) - 1}, a column of {path}.")
    return label % len(names)


def _first_fault(path: Path, names: list[str], at: int, headless: bool) -> str:
    """The message for the first cell that is missing or not a number, with its line, or an empty string."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=SEPARATORS[path.suffix.lower()])
        rows = (row for row in reader if row)
        if not headless:
            next(rows)
        for row in rows:
            for i, name in enumerate(names):
                cell = row[i].strip() if i < len(row) else ""
                where = f"{path}:{reader.line_num}: column '{name}'"
                if not cell:
                    return f"{where}: missing. Fill the gap or remove the line: kdbench does not guess values."
                if i != at and (value := _number(cell)) is None:
                    return f"{where}: '{cell[:40]}' is not a number. Encode it as numbers, or remove the column."
                if i != at and value is not None and not math.isfinite(value):
                    return f"{where}: {cell}. Allowed: finite numbers."
    return ""


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)  # Python reads 1_000
    except ValueError:
        return None


def _as_classes(written: np.ndarray) -> np.ndarray:
    """Strings that are all whole numbers as int64, so that 10 comes after 9; others as they are."""
    import numpy as np

    numbers = {text: _number(text) for text in np.unique(written).tolist()}
    if all(value is not None and value.is_integer() and abs(value) < 2**53 for value in numbers.values()):
        return np.asarray([int(float(text)) for text in written.tolist()], dtype=np.int64)
    return written


def _finite(features: np.ndarray) -> bool:
    import numpy as np

    return bool(np.isfinite(features).all())


def _load(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz by key in lower case, or the one of an .npy as "". Raise DataError for a damaged file."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {key.lower(): loaded[key] for key in loaded.files if key.lower() in NPZ_KEYS}
    except (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        what = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable {path.suffix} file of numbers: {what}. Write it again.") from None


def _npy(path: Path, label: str | int | None) -> Columns:
    import numpy as np

    table = _load(path)[""]
    if isinstance(label, str):
        raise SettingError("label", f"'{label}'. Allowed for {path}: a position, such as -1 for the last column.")
    if table.ndim != 2 or table.dtype.kind not in "iufb" or table.shape[1] < 2 or not len(table):
        raise DataError(f"{path}: {table.dtype} of shape {table.shape}. Allowed: numbers (N, F + 1), N rows.")
    at = _position(path, label, [str(i) for i in range(table.shape[1])])
    names = tuple(str(i) for i in range(table.shape[1]) if i != at)
    written = _whole(path, f"column {at}", table[:, at])
    return Columns(_numbers(path, np.delete(table, at, axis=1), names), names, written, f"column {at}")


def _npz(path: Path, label: str | int | None, part: str) -> Columns:
    import numpy as np

    if label is not None:
        raise SettingError("label", f"{label!r}. Allowed for an .npz: nothing; the classes are the array 'y'.")
    arrays = _load(path)
    x, y = next(
        ((x, y) for x, y in ((f"x_{part}", f"y_{part}"), ("x", "y")) if x in arrays and y in arrays), ("", "")
    )  # fmt: skip
    if not x:
        with np.load(path, allow_pickle=False) as file:
            there = listed(file.files)
        raise DataError(
            f"{path}: has {there}. Needed: x (N, F) and y (N,), or x_train, y_train and perhaps x_test, y_test."
        )
    features, written = arrays[x], arrays[y]
    written = written.reshape(-1) if written.shape[1:] == (1,) else written
    if features.ndim != 2 or features.dtype.kind not in "iufb" or 0 in features.shape:
        raise DataError(f"{path}: {x}: {features.dtype} of shape {features.shape}. Allowed: numbers (N, F).")
    if written.shape != features.shape[:1]:
        raise DataError(f"{path}: {y}: shape {written.shape} for {len(features)} rows. Allowed: one class for each.")
    names = tuple(str(i) for i in range(features.shape[1]))
    written = written if written.dtype.kind == "U" else _whole(path, y, written)
    return Columns(_numbers(path, features, names), names, written, y)


def _numbers(path: Path, features: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The features as float64. Raise DataError that names the first row and column that is not finite."""
    import numpy as np

    features = np.ascontiguousarray(features, dtype=np.float64)
    if not _finite(features):
        row, column = np.argwhere(~np.isfinite(features))[0].tolist()
        raise DataError(
            f"{path}: row {row}, column {names[column]}: {features[row, column]}. Allowed: finite numbers; fill the "
            "gap or remove the row."
        )
    return features


def _whole(path: Path, place: str, written: np.ndarray) -> np.ndarray:
    import numpy as np

    if written.dtype.kind not in "iufb" or not np.array_equal(written, np.rint(np.asarray(written, np.float64))):
        raise DataError(f"{path}: {place}: {written.dtype}, not all whole numbers. Allowed: a class for each row.")
    return written.astype(np.int64)
