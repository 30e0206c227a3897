"""`manifest.json`: what a report was made of and what it consists of, file by file, so that it can be checked."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import kdbench
from kdbench import strict_json
from kdbench.errors import KdbenchError
from kdbench.record import PROTOCOL
from kdbench.record import SCHEMA as RECORD_SCHEMA

NAME = "manifest.json"
LIBRARIES = ("numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "optuna", "moocore", "jinja2", "matplotlib",
             "pillow", "plotly")  # fmt: skip
SOURCES = ("study.json", "study.yaml", "current.json", "splits.json")


class Manifest(BaseModel):
    """The file as it is stored.

    study: its name. protocol, record_schema: of the records. kdbench, libraries: versions of what decides the report's
    bytes. sources: SHA-256 of the files that the report is made from, by path from the study's folder: the study, its
    splits, and every record, those that the report leaves out too. report: of every other file of the report.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    study: str
    protocol: int
    record_schema: int
    kdbench: str
    libraries: dict[str, str]
    sources: dict[str, str]
    report: dict[str, str]


def manifest(folder: Path, files: Mapping[str, bytes]) -> bytes:
    """The manifest of a study's folder and of the report made from it: file name -> bytes, without the manifest."""
    study = strict_json.read(folder / "study.json")
    facts = Manifest(
        study=str(study.get("study", "")),
        protocol=PROTOCOL,
        record_schema=RECORD_SCHEMA,
        kdbench=kdbench.__version__,
        libraries=libraries(),
        sources=sources(folder),
        report={name: sha256(data) for name, data in sorted(files.items()) if name != NAME},
    )
    return (json.dumps(facts.model_dump(by_alias=True), indent=1, ensure_ascii=False) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raise KdbenchError if there is none, or none of this schema."""
    path = folder / NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise KdbenchError(f"{NAME}: missing, so no file can be compared. Write it with: kdbench report") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise KdbenchError(
            f"{NAME}: not a manifest of schema 1 ({wrong}). Write it again with: kdbench report"
        ) from error


def sources(folder: Path) -> dict[str, str]:
    """SHA-256 of the study's files and of every record, by path from the folder, with slashes."""
    paths = [folder / name for name in SOURCES if (folder / name).is_file()]
    paths += sorted((folder / "records").glob("*.json"))
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in paths}


def libraries() -> dict[str, str]:
    """Versions of the installed libraries that decide a report's bytes, by name."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def sha256(data: bytes) -> str:
    """Sixty-four hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
