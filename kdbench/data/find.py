"""From a name to its data set: a registered one, or a file of the data root."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from kdbench.data._base import DataInfo, DataSet, data_root, datasets
from kdbench.data.npz import NpzFile
from kdbench.errors import DataError, did_you_mean, listed


def known() -> list[str]:
    """Names of the registered data sets and of the files in the data root, sorted."""
    return sorted({*datasets.names(), *(path.stem for path in data_root().glob("*.npz"))})


def find(name: str) -> DataSet:
    """The data set of that name. Raise DataError that lists what exists and says where to put a file."""
    if name in datasets:
        return datasets.get(name)()
    root = data_root()
    if re.fullmatch(r"\w[\w.-]*", name) and (root / f"{name}.npz").is_file():
        return NpzFile(name)
    names = known()
    raise DataError(
        f"unknown data set '{name}'.{did_you_mean(name, names)} Known: {listed(names)}. Any file <name>.npz in the "
        f"data root {root} is a data set too; set KDBENCH_DATA to use another folder."
    )


def describe(name: str) -> DataInfo:
    """Facts about a data set, without torch and without reading its images.

    Raise DataError for an unknown name, and for a file that is malformed as far as array headers and training labels
    tell.
    """
    return find(name).info(data_root())


def listing() -> dict[str, dict[str, Any]]:
    """Facts about every known data set by name, as plain values: the fields of DataInfo.

    A file that cannot be read or is malformed has `name` and `error` instead, and does not hide the others.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in known():
        try:
            rows[name] = asdict(describe(name))
        except (DataError, OSError) as error:
            rows[name] = {"name": name, "error": str(error)}
    return rows


def prepare(name: str) -> None:
    """Bring the data set onto this machine; download it where it is known and missing. Raise DataError if that fails.

    A driver calls this once, so that its workers find the file.
    """
    find(name).prepare(data_root())
