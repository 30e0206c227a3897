"""Study files that attack the reader: refused within a second, with the line, and nothing in them runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from untrusted import STUDY

from kdbench.errors import StudyError
from kdbench.study.load import load_study

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 64 aliases"),
        ("a: &a [1,2,3,4,5,6,7,8,9,10]\n" + "b: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
         "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n", "more than 20000 values"),
        ("a: &a [*a]\n", "aliases that hold themselves"),
        ("a: &a {b: *a}\n", "aliases that hold themselves"),
        ("[" * 5000, "nested more than 16 levels"),
        ("{a: " * 5000, "nested more than 16 levels"),
        ("- " * 5000, "nested more than 16 levels"),
        ("x" * 70_000, "longer than 64 KiB"),
        ("a: !!python/object/apply:os.system ['touch ran']", "the tag '!!python/object/apply:os.system' is not"),
        ("a: !!binary aGk=", "the tag '!!binary' is not allowed"),
        ("a: !x 1", "the tag '!x' is not allowed"),
        ("%TAG ! tag:example.org,2026:\n---\na: !b 1", "the tag 'tag:example.org,2026:b' is not allowed"),
        ("a: 1\na: 2", "written twice"),
        ("a: {<<: {b: 1}}", "merge keys"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ('question: "a\\0b"', "holds the control character U\\+0000"),
        ('question: "\\e[31mred"', "holds the control character U\\+001B"),
        ("question: a\u202eb", "the mark U\\+202E, which turns the direction of writing"),
        ('"a\\eb": 1', "a key must be a word"),
        ("a: " + "9" * 5000, "the number is too large"),
        ("a: 1e999", "the number is too large"),
        ("a: .nan", "Allowed: finite numbers"),
    ],
)  # fmt: skip
def test_an_attack_is_refused_at_once_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(StudyError, match=message) as caught:
        load_study(path)
    assert time.process_time() - began < 2.0
    assert not (tmp_path / "ran").exists()
    assert all(line.startswith(f"{path}:") and line.isprintable() for line in caught.value.problems)


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/self/mem", "."])
def test_what_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(StudyError):
        load_study(name)


def test_lines_and_tabs_in_the_question_are_text(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY.replace("question: Does it run?", 'question: "Größer?\\n\\tOder → kleiner?"'))
    assert load_study(path).question == "Größer?\n\tOder → kleiner?"
