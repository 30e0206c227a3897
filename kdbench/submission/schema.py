"""The schema of `submission.json`: whose numbers these are, what they claim, and the hashes of what is behind them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from kdbench.errors import KdbenchError

NAME = "submission.json"
FOLDER_OF_REPRODUCTIONS = "reproductions"
REQUIRED = ("study.json", "splits.json")  # beside the records; current.json too, where the study has one

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Member = Annotated[str, StringConstraints(pattern=r"^((study|current|splits)\.json|records/[0-9a-f]{16}\.json)$")]
Address = Annotated[str, StringConstraints(pattern=r"^https?://[^\s<>\"'@]+$", max_length=300)]


def _on_one_line(text: str) -> str:
    if not text.isprintable() or text != " ".join(text.split()):
        raise ValueError("has to be one line of printable text without doubled spaces")
    return text


Word = Annotated[str, StringConstraints(min_length=1, max_length=80), AfterValidator(_on_one_line)]


class Section(BaseModel):
    """Part of the file: nothing unknown is accepted, nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class RowClaim(Section):
    """One row as its authors state it; `check` recomputes it from the records.

    id, pair, kind, method, student: as in leaderboard.csv. n: seeds that finished. test_top1_pct: their mean, with low
    and high of its 95 % interval, in percent to six decimals; None where nothing finished or n < 3.
    """

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    pair: str
    kind: Literal["student", "teacher"]
    method: str
    student: str
    n: int = Field(ge=0)
    test_top1_pct: float | None = Field(ge=0, le=100)
    low: float | None = None
    high: float | None = None


class PlugIn(Section):
    """Code that is not kdbench's own and that records were made with, such as `method my_method`."""

    name: str
    file: str | None = None
    sha256: Sha256 | None = None
    distribution: str | None = None
    version: str | None = None


class Submission(Section):
    """`submission.json`.

    name: how tables call the submission. url: a page or paper about it; code: where its source is. protocol: under
    which the records were made. kdbench: the versions that made them. files: SHA-256 of every file of the study by its
    path in this folder. rows: what is claimed. hardware: what it ran on. plug_ins: code beside kdbench's own. left_out:
    records of the study's folder that belong to an earlier form of it. redacted: fields of records out of which an
    absolute path or a secret was taken.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    name: Word
    authors: tuple[Word, ...] = Field(min_length=1)
    url: Address | None = None
    code: Address | None = None
    contact: Word | None = None
    study: str
    protocol: int
    kdbench: tuple[str, ...]
    files: dict[Member, Sha256]
    rows: tuple[RowClaim, ...] = Field(min_length=1)
    hardware: tuple[str, ...] = ()
    plug_ins: tuple[PlugIn, ...] = ()
    left_out: int = Field(0, ge=0)
    redacted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, as stored."""
        return self.model_dump(mode="json", by_alias=True)


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of `submission.json`."""
    schema = Submission.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "kdbench submission"}


def submission_from(facts: dict[str, Any]) -> Submission:
    """A submission of checked fields. Raise KdbenchError that names every field that does not fit."""
    try:
        return Submission.model_validate(facts)
    except ValidationError as error:
        raise KdbenchError("; ".join(problems_of(error))) from error


def read_submission(folder: Path) -> Submission:
    """Read the `submission.json` of a folder. Raise KdbenchError that names every field that does not fit."""
    path = folder / NAME
    try:
        return Submission.model_validate_json(path.read_bytes())
    except OSError as error:
        raise KdbenchError(f"{NAME}: {error.strerror}. Make a submission with `kdbench submit`.") from error
    except ValidationError as error:
        raise KdbenchError(f"{NAME}: {'; '.join(problems_of(error))}. See `kdbench submit --schema`.") from error


def problems_of(error: ValidationError) -> Iterable[str]:
    """`authors: Field required` for each field that does not fit."""
    for problem in error.errors():
        place = ".".join(map(str, problem["loc"])) or "the file"
        yield f"{place}: {problem['msg']}"
