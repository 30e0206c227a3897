"""JSON that others wrote: a value, or one sentence that says why not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kdbench import strict_json

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP, "nested more than 32 levels deep"),
        ('{"a":' * 50_000, "nested more than 32 levels deep"),
        ("[" * 33 + "]" * 33, "nested more than 32 levels deep"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('[{"b": {"c": 1, "c": 1}}]', "the key 'c' stands twice"),
        ("NaN", "NaN is not a number that JSON has"),
        ('{"x": -Infinity}', "-Infinity is not a number"),
        ('{"x": 1e999}', "the number 1e999 is too large"),
        ("1" * 5000, "4300 digits"),
        (r'"\ud800"', "not UTF-8 text"),
        (b"\xff\xfe{}", "not UTF-8 text"),
        (b'{"a": "\xc3"}', "not UTF-8 text"),
        ("", "Expecting value"),
        ('{"a": 1} {"b": 2}', "Extra data"),
        ("{'a': 1}", "Expecting property name"),
        ("\x00", "Expecting value"),
    ],
)
def test_what_is_wrong_is_one_sentence(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        strict_json.loads(text)
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "ü→", [], {}, {"a": [1, {"b": None}]}, [[[[1]]]]])
def test_sound_json_is_what_python_reads(value: Any) -> None:
    assert strict_json.loads(json.dumps(value)) == value
    assert strict_json.loads(json.dumps(value, ensure_ascii=False).encode()) == value


def test_the_deepest_allowed_nesting_is_read() -> None:
    assert strict_json.loads("[" * 32 + "]" * 32)


def test_nan_is_read_only_where_it_is_allowed() -> None:
    assert strict_json.loads("[Infinity, -1]", nan=True) == [float("inf"), -1]


def test_a_long_text_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ValueError, match="more than 10 bytes"):
        strict_json.loads("[" + "1," * 100 + "1]", max_bytes=10)


def test_a_long_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: a terabyte that takes no room
    with pytest.raises(ValueError, match="Allowed: up to"):
        strict_json.read(path)


def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zero.json"):
        with pytest.raises(ValueError, match="not a plain file"):
            strict_json.read(tmp_path / name)
