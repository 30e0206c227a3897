"""The types of a record as JSON: checked before anything is made of it, because a table is only as sound as these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kdbench.errors import RecordError

SHOWN = 3


def _is_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Key = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(allow_inf_nan=False)] | None  # None stands for what JSON cannot hold
Time = Annotated[str, AfterValidator(_is_time)]


class _Shape(BaseModel):
    """Fields that are there must have their type (true is no number, "1" is none either); others are left alone."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Slot(_Shape):
    pair: str = ""
    row: Name = "row"
    repeat: Count = 0
    trial: Count = 0
    final: Count = 0
    chosen: Key | None = None


class _Named(_Shape):
    name: Name = "name"


class _Spec(_Shape):
    phase: Name = "phase"
    data: dict[str, Any] = {}
    model: _Named = _Named()
    method: _Named = _Named()
    train: dict[str, Any] = {}
    seed: Annotated[int, Field(gt=-(2**63), lt=2**63)] = 0
    teacher: Key | None = None
    init: Key | None = None
    slot: _Slot = _Slot()
    members: list[Key] = []


class _Record(_Shape):
    schema_: int = Field(default=1, alias="schema")
    key: Key = "0" * 16
    spec: _Spec = _Spec()
    status: str = ""
    result: dict[str, Number] = {}
    curves: dict[str, list[Number]] = {}
    environment: dict[str, Any] = {}
    attempts: Count = 0
    started: Time = "2026-01-01"
    ended: Time = "2026-01-01"
    wall_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    error: str | None = None


def check_record(value: Any) -> None:
    """Raise RecordError that names the first fields of a record whose values are of a wrong type.

    Only what is there is checked; missing and unknown fields are `TrialRecord.from_json`'s to refuse.
    """
    try:
        _Record.model_validate(value)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        named = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'record'}: {item['msg']}" for item in wrong[:SHOWN])
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise RecordError(f"wrong types: {named}{more}") from None
