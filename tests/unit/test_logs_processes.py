"""`kdbench logs KEY` of a training over several processes: what each of them has said."""

from __future__ import annotations

from pathlib import Path

from kdbench.logs.find import Traces
from kdbench.logs.story import SAID_LINES, story_of
from kdbench.logs.view import story_lines

KEY = "0123456789abcdef"


def traced(folder: Path, **said: str) -> Traces:
    work = folder / "work" / KEY
    work.mkdir(parents=True)
    (work / "starts.txt").write_text("2026-01-01T00:00:00.000+00:00\n")
    for name, text in said.items():
        (work / f"{name}.log").write_text(text)
    return Traces(folder, KEY, work=work)


def test_logs_show_the_last_lines_of_each_process_in_their_order(tmp_path: Path) -> None:
    many = "".join(f"line {number}\n" for number in range(100))
    said = {f"process{number}": f"I am {number}\n" for number in range(2, 11)}
    story = story_of(traced(tmp_path, process1=many, **said))
    processes = story["under_way"]["processes"]
    assert list(processes) == [str(number) for number in range(1, 11)]
    assert processes["1"] == [f"line {number}" for number in range(100 - SAID_LINES, 100)]
    lines = list(story_lines(story))
    place = lines.index("process 2")
    assert lines[place - 1 : place + 2] == ["    line 99", "process 2", "    I am 2"]


def test_a_process_that_has_said_nothing_is_named(tmp_path: Path) -> None:
    lines = list(story_lines(story_of(traced(tmp_path, process1="", process2="out of memory\n"))))
    assert "process 1  has said nothing" in lines and "    out of memory" in lines


def test_a_training_in_one_process_has_no_such_lines(tmp_path: Path) -> None:
    story = story_of(traced(tmp_path))
    assert story["under_way"]["processes"] == {}
    assert not [line for line in story_lines(story) if line.startswith("process")]
