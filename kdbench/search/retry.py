"""Whether a training that ended in a fault is tried again, when, and how it ends otherwise. Pure functions.

A fault of the machine says nothing of a method, so its training is tried again and uses none of the tuning budget. What
happens to a training wherever it runs is the training's own: it fails, as one that raises an error does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kdbench.train.faults import Fault

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0


@dataclass(frozen=True)
class Ended:
    """A start of a training that ended in a fault. alone: whether no other training of the study was running."""

    fault: Fault
    alone: bool


@dataclass(frozen=True)
class Verdict:
    """What becomes of a training: `again` after `wait_s` seconds, or its status and the reason.

    alone: start it while no other training runs, because it may be the others that took its memory.
    """

    status: Literal["again", "failed", "lost"]
    wait_s: float = 0.0
    alone: bool = False
    reason: str = ""


def wait_s(times: int) -> float:
    """Seconds before a start that follows so many faults: 1, 2, 4, ... and never more than 300."""
    return min(FIRST_WAIT_S * 2.0 ** min(times - 1, 30), LONGEST_WAIT_S)


def verdict(history: Sequence[Ended], max_retries: int) -> Verdict:
    """What becomes of a training after the faults of its starts, the oldest first; at least one.

    Memory: the second time that it does not suffice while nothing else runs, the training is too large for the machine.
    Device: the same error at the same place twice is an error of the method (an index out of range, say).
    """
    last, fault = history[-1], history[-1].fault
    same = [ended for ended in history if ended.fault.kind == fault.kind]
    if fault.kind == "memory" and last.alone and len(same) >= 2:
        return Verdict("failed", reason=f"{fault.reason} (start {len(history)}, with nothing else running)")
    if fault.kind == "device" and len([ended for ended in same if ended.fault.place == fault.place]) >= 2:
        return Verdict("failed", reason=f"{fault.reason} (twice at {fault.place})")
    if len(history) > max_retries:
        return Verdict("lost", reason=f"{fault.reason} (start {len(history)}, resources.max_retries is {max_retries})")
    return Verdict("again", wait_s(len(history)), alone=fault.kind == "memory" and len(same) >= 2)


def death(text: str) -> Fault:
    """The fault behind the death of a worker, from what Ray says about it.

    A process that the kernel kills for memory (exit status 137) looks like any other that dies.
    """
    lower = text.lower()
    if "low on memory" in lower or "outofmemoryerror" in lower:
        return Fault("memory", "Ray killed the worker because the node was running low on memory")
    if any(words in lower for words in ("node has died", "node has crashed", "node was terminated", "node is dead")):
        return Fault("node", "the node of the worker was lost")
    detail = re.findall(r"worker exit detail: ([^\n.]*)", text, re.IGNORECASE)
    raised = [line for line in text.strip().splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line.strip())]
    said = detail[-1] if detail else raised[-1] if raised and "ActorDiedError" not in raised[-1] else ""
    return Fault("worker", "the worker process died" + (f" ({' '.join(said.split())[:200]})" if said else ""))
