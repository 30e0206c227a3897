"""Read a study file, with every mistake reported at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdbench.errors import StudyError
from kdbench.redact import remember
from kdbench.study.check import check
from kdbench.study.checkpoints import with_hashes
from kdbench.study.explain import Finding, explain
from kdbench.study.schema import Study
from kdbench.study.words import got
from kdbench.study.yaml_source import MAX_BYTES, Problem, Tree, dotted, read_yaml


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study from a YAML file; each override such as `train.epochs=2` replaces one field of it.

    Raise StudyError with a line `file:line:column: field: what, what is allowed, what to do` for each mistake, in the
    order of the file; mistakes of an override stand at `--set '...'`.
    """
    tree = read_yaml(_text(path), str(path))
    if tree.root is None and tree.problems:  # not YAML: there is nothing to look into
        raise StudyError(map(str, tree.problems))
    if not isinstance(tree.root, dict):
        what = f"got {got(tree.root)}. Allowed: a mapping with the fields study, data, student, methods, search, train."
        raise StudyError([str(Problem(tree.place(()), what))])
    for number, override in enumerate(overrides, start=1):
        _override(tree, override, number)
    _remember_passwords(tree.root)
    try:
        study, findings = _validated(tree.root)
    except (OSError, MemoryError) as error:  # of a file that the study names, too odd for the checks of data
        what = f"data: what the study names cannot be looked at: {_cause(error)}. Name one that can."
        raise StudyError([*map(str, tree.problems), str(Problem(tree.place(("data",)), what))]) from error
    problems = [*tree.problems, *(_located(f, tree) for f in findings if f.path not in tree.unread)]
    if problems or study is None:
        in_order = sorted(problems, key=lambda problem: problem.place)
        raise StudyError(dict.fromkeys(map(str, in_order)))
    return with_hashes(study)


def _text(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that holds a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise StudyError([f"{path}: cannot be read: {reason}. Give the path of a study file."]) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(raw) > MAX_BYTES:  # cut within a character, and too long in any case
            return raw.decode("utf-8-sig", "replace")
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        what = f"byte 0x{raw[error.start]:02X} is not UTF-8 text. Save the file as UTF-8."
        raise StudyError([f"{path}:{line}:{column}: {what}"]) from None


def _cause(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _remember_passwords(value: Any) -> None:
    """Hide the passwords of all addresses in a study, in whatever this process says from now on."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _remember_passwords(item)
    elif isinstance(value, str) and "://" in value:
        remember(value)


def _override(tree: Tree, text: str, number: int) -> None:
    """Apply `name=value` to the tree; what is wrong with it is added to the tree's problems."""
    source = f"--set '{text}'"
    name, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in name.split("."))
    other = read_yaml(value, source, number, parts)
    if not equals or not all(parts):
        tree.problems.append(Problem(other.place(()), "write FIELD=VALUE, such as train.epochs=2."))
        return
    try:
        tree.put(parts, other)
    except KeyError as error:
        tree.problems.append(Problem(other.place(()), f"{error.args[0]} has no fields. Set {error.args[0]} itself."))


def _validated(raw: dict[str, Any]) -> tuple[Study | None, list[Finding]]:
    """The study if its shape is right, and the findings of all checks; the more specific check speaks for a path."""
    findings = check(raw)
    named = {finding.path for finding in findings}
    covered = {finding.path for finding in findings if finding.at == "value"}
    try:
        return Study.model_validate(raw), findings
    except ValidationError as error:
        shape = explain(error, raw)
    above = (any(f.path[:depth] in covered for depth in range(1, len(f.path))) for f in shape)
    return None, findings + [f for f, known in zip(shape, above, strict=True) if not known and f.path not in named]


def _located(finding: Finding, tree: Tree) -> Problem:
    return Problem(tree.place(finding.path, finding.at), f"{dotted(finding.path)}: {finding.text}")
