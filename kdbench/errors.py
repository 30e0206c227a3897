"""Every error that kdbench raises on purpose, and the words they share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KdbenchError(Exception):
    """Base of all errors that a user can act on; the CLI prints the message and exits with status 2."""


class StudyError(KdbenchError):
    """A study file that cannot be run. Holds every mistake found, one line each.

    `problems` are finished lines: `file:line:column: what. What is allowed. What to do.`
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(KdbenchError):
    """A data set that is missing, malformed, or smaller than the study asks for."""


class RecordError(KdbenchError):
    """A record that cannot be read, or that contradicts what it is filed under."""


class CheckpointError(KdbenchError):
    """Weights or a checkpoint that do not fit the model they are loaded into."""


class DamagedError(CheckpointError):
    """A file of weights or a checkpoint that was whole once: truncated, or with a flipped bit."""


class MethodError(KdbenchError):
    """A method that breaks its contract (see kdbench/method.py)."""


class LockedError(KdbenchError):
    """Another process is running this study."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest allowed name, or an empty string if none is near."""
    near = difflib.get_close_matches(name, [str(a) for a in allowed], n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def listed(names: Iterable[str]) -> str:
    """Return names as `a, b, c` in their own order, or `none`."""
    return ", ".join(names) or "none"
