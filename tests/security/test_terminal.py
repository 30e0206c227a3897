"""What a method or a name says is shown on the terminal and never obeyed, and its secrets are not shown."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from secret_run import run_cli
from untrusted import STUDY, record, spec

from kdbench.search.agenda import Agenda
from kdbench.search.drive import Desk
from kdbench.session import say
from kdbench.store import Store
from kdbench.study.load import load_study
from kdbench.terminal import LineView, Tally

ESCAPES = "\x1b]0;owned\x07\x1b[31mred\x9b2J"
PLUGIN = """
from dataclasses import dataclass
from kdbench.method import Method, Step, hp, register

@register("hostile")
@dataclass(frozen=True)
class Hostile(Method):
    \"\"\"Raises with a secret and with control characters.\"\"\"
    weight: float = hp(1.0, low=0.1, high=10)

    def loss(self, s: Step):
        raise RuntimeError("cannot reach postgresql://me:hunter2-in-plugin@db \\x1b[31m[bold]\\x07 token='hunter2-too'")
"""


def harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def test_a_line_of_the_run_holds_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    out = io.StringIO()
    agenda = Agenda(load_study(tmp_path / "s.yaml"), {}, lambda key: True)
    row = spec(slot={"pair": "a -> b", "final": 0, "row": f"{ESCAPES}[bold red]"})
    LineView(Tally(agenda, 1), out, as_json=False).ended(record(row, status="failed", error=f"Boom: {ESCAPES}"))
    assert out.getvalue().count("\n") == 1 and harmless(out.getvalue())
    assert "\\x1b[31mred" in out.getvalue() and "[bold red]" in out.getvalue()


def test_a_table_row_is_no_markup(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    agenda = Agenda(load_study(tmp_path / "s.yaml"), {}, lambda key: True)
    tally = Tally(agenda, 1)
    tally.count(record(spec(slot={"pair": "a -> b", "final": 0, "row": "[bold]x[/bold]\x1b[31m"})))
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(tally.table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]x[/bold]\\x1b[31m" in text and harmless(text)


def test_messages_are_printed_without_escapes_markup_and_secrets() -> None:
    console = Console(file=io.StringIO(), width=200, soft_wrap=True)
    say(console, [f"[bold]{ESCAPES}[/bold] http://me:hunter2@host"], as_json=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert harmless(text) and "[bold]" in text and "http://me:***@host" in text


def test_listeners_are_told_what_is_filed(tmp_path: Path) -> None:
    told = []

    class Listener:
        def ended(self, done: object) -> None:
            told.append(done)

    (tmp_path / "s.yaml").write_text(STUDY)
    agenda = Agenda(load_study(tmp_path / "s.yaml"), {}, lambda key: True)
    desk = Desk(agenda, Store(tmp_path / "out"), [Listener()])  # type: ignore[list-item]
    desk.ended(record(status="failed", error="at postgresql://me:hunter2@db"))
    assert [done.error for done in told] == ["at postgresql://me:***@db"]


@pytest.mark.slow
def test_a_method_that_fails_with_a_secret_tells_it_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text(PLUGIN)
    text = STUDY.replace("{scratch: , kd: {temperature: 4}}", "{hostile: }").replace('"off"', "auto")
    (tmp_path / "small.yaml").write_text(text)
    done = run_cli(tmp_path, "run", "small.yaml", "--plugin", "hostile.py")
    said = done.stdout + done.stderr
    assert "cannot reach postgresql://me:***@db \\x1b[31m[bold]\\x07 token=***" in said
    assert harmless(said) and "hunter2" not in said
    files = [path for path in done.folder.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files)
    assert [path.name for path in files if b"hunter2" in path.read_bytes()] == []


def test_an_error_of_the_command_line_holds_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from kdbench.cli import main; main()", "status", f"{ESCAPES}"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and harmless(done.stderr) and "\\x1b]0;owned" in done.stderr
