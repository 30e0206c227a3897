"""What a soak comes to, as Markdown."""

from __future__ import annotations

import argparse
import datetime
import statistics
import textwrap
import time
from typing import TYPE_CHECKING

import invariants
from strikes import STRIKES

from kdbench.train.environment import environment

if TYPE_CHECKING:
    from soak import Soak


def summary(soak: Soak, options: argparse.Namespace, reference_s: float, haste: float) -> str:
    """The result. reference_s: of the undisturbed run. haste: share of strikes with the next one at once."""
    wrong = sum(map(len, soak.failures.values()))
    lines = [
        "# A study under fire",
        "",
        "For some minutes something is killed, damaged, filled or locked every few seconds while a digits study runs",
        "on Ray, and the run is started again after each death. Each study is then left alone until it ends, and",
        "compared with a run of the same study that nothing disturbed. What was done when: soak.log.",
        "",
        f"    python benchmarks/soak.py --minutes {options.minutes:g} --seed {options.seed}",
        "",
        *textwrap.wrap(_conditions(soak, options, reference_s), 118),
        "",
        f"**{'Nothing is wrong.' if not wrong else f'{wrong} things are wrong.'}**",
        "",
        "| invariant | violations |",
        "|---|---:|",
        *(f"| {text} | {len(soak.failures[name])} |" for name, text in invariants.CHECKS.items()),
        "",
        "Seconds until the study moved on are from the strike to the next epoch or training that ends, with what was",
        f"lost back again. After {haste:.0%} of the strikes the next one came at once, and nothing was measured.",
        "",
        "| strike | times | measured | median, s | longest, s |",
        "|---|---:|---:|---:|---:|",
        *(_strike_line(name, soak) for name in STRIKES),
        "",
        "| count | |",
        "|---|---:|",
        *(f"| {name} | {number} |" for name, number in soak.counts.items()),
        *(f"| runs that ended with status {name} | {number} |" for name, number in sorted(soak.statuses.items())),
    ]
    if "-2" in soak.statuses:
        text = "Status -2 is an end by SIGINT itself, which a shell calls 130: `python -m` ends so where SIGINT came in"
        lines += ["", text, "the middle of an import."]
    if soak.disk is None:
        lines += ["", "The full disk was left out: a file system of its own needs root and `mount`."]
    lines += ["", "## What is wrong", ""] if wrong else []
    lines += [f"- {name}: {line}" for name, found in soak.failures.items() for line in found]
    return "\n".join(lines) + "\n"


def _conditions(soak: Soak, options: argparse.Namespace, reference_s: float) -> str:
    """When, what, on what, and how much."""
    facts = environment()
    hardware, versions, git = facts["hardware"], facts["versions"], facts["git"]
    commit = f"{str(git['commit'])[:12]}{' with changes' if git['dirty'] else ''}" if git["commit"] else "no commit"
    named = ", ".join(f"{name} {versions[name]}" for name in ("kdbench", "python", "torch", "ray", "optuna", "mlflow"))
    wall_min = (time.monotonic() - soak.began) / 60
    return (
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}; commit {commit}; {hardware['cpu']}, {hardware['cores']} "
        f"cores, {hardware['memory_gib']} GiB, {hardware['system']}; {named}. n = {soak.rounds} studies, "
        f"{sum(soak.done.values())} strikes in {options.minutes:g} minutes, {wall_min:.1f} minutes with the ends. "
        f"Load of the machine from {min(soak.loads):.1f} to {max(soak.loads):.1f}: other work was on it where that is "
        f"more than about {hardware['cores'] + 2}. Undisturbed, in one process without Ray, a study takes "
        f"{reference_s:.0f} s."
    )


def _strike_line(name: str, soak: Soak) -> str:
    took_s = soak.took_s[name]
    figures = [f"{statistics.median(took_s):.1f}", f"{max(took_s):.1f}"] if took_s else ["", ""]
    return f"| {name} | {soak.done[name]} | {len(took_s) or ''} | {' | '.join(figures)} |"
