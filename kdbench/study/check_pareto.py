"""Check the section `pareto`: metrics that exist, a reference that is worse than the ideal, fronts of one split."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kdbench.errors import did_you_mean, listed
from kdbench.record import METRICS
from kdbench.study.explain import Finding
from kdbench.study.objectives import COSTS, DEFAULT_FRONTS, OBJECTIVES, natural_ideal
from kdbench.study.words import got
from kdbench.study.yaml_source import Path

SPLITS = ("val_", "test_")
FORM = "Write fronts: [[top1_pct, params], ...]."


def check_pareto(section: Mapping[str, Any]) -> Iterator[Finding]:
    """All that is wrong in the section beyond its shape. section: as written; empty where there is none."""
    for name in ("reference", "ideal"):
        yield from _unknown(("pareto", name), section.get(name), METRICS, "metric")
    yield from _sides(section)
    yield from _fronts(section.get("fronts"))
    yield from _budgets(section.get("budgets"))
    yield from _reference_set(section)


def _unknown(path: Path, values: Any, known: Collection[str], noun: str) -> Iterator[Finding]:
    """Keys of a mapping that are not among the known."""
    for name in values if isinstance(values, dict) else ():
        if isinstance(name, str) and name not in known:
            text = _split(name) or f"unknown {noun} '{name}'.{did_you_mean(name, known)} Known: {listed(known)}."
            yield Finding((*path, name), text, "key")


def _split(name: str) -> str | None:
    """What to say of a name that carries its split, such as `val_top1_pct`."""
    bare = next((name.removeprefix(split) for split in SPLITS if name.startswith(split)), None)
    if bare not in METRICS:
        return None
    return (
        f"'{name}' names a split. The reported front is of test means, the search front of validation by "
        f"search.objectives, and the two are never mixed. Write {bare}."
    )


def _sides(section: Mapping[str, Any]) -> Iterator[Finding]:
    """A reference that is not worse than the ideal leaves no box between them."""
    reference, ideal = section.get("reference"), section.get("ideal")
    for name, value in reference.items() if isinstance(reference, dict) else ():
        own = ideal.get(name) if isinstance(ideal, dict) else None
        best = own if _number(own) else natural_ideal(name) if name in METRICS else None
        if best is None or not _number(value):
            continue
        word, wrong = ("below", value >= best) if METRICS[name].direction == "max" else ("above", value <= best)
        if wrong:
            what = (
                f"got {got(value)}, and the ideal is {best:.12g}. Allowed: {word} the ideal, as the worst that counts."
            )
            yield Finding(("pareto", "reference", name), what)
    for name, value in ideal.items() if isinstance(ideal, dict) else ():
        natural = natural_ideal(name) if name in METRICS else None
        if natural is not None and _number(value) and (value - natural) * (1 if natural else -1) > 0:
            what = f"got {got(value)}. Allowed: {f'up to {natural:g}' if natural else 'a number of at least 0'}."
            yield Finding(("pareto", "ideal", name), what)


def _fronts(fronts: Any) -> Iterator[Finding]:
    seen: list[frozenset[str]] = []
    if fronts == []:
        yield Finding(("pareto", "fronts"), f"got an empty list. Allowed: a list of fronts. {FORM}")
    for i, names in enumerate(fronts if isinstance(fronts, list) else ()):
        path = ("pareto", "fronts", i)
        if not isinstance(names, list) or not 2 <= len(names) <= 3:
            what = f"a list of {len(names)}" if isinstance(names, list) else got(names)
            yield Finding(path, f"got {what}. Allowed: two or three objectives. {FORM}")
            continue
        words = [name for name in names if isinstance(name, str)]
        for j, name in enumerate(names):
            if not isinstance(name, str):
                continue  # reported with the shape of the file
            if name in names[:j]:
                yield Finding((*path, j), f"got {got(name)} twice. Keep one of them.")
            elif name not in OBJECTIVES:
                what = f"got {got(name)}. Allowed: {listed(OBJECTIVES)}.{did_you_mean(name, OBJECTIVES)}"
                yield Finding((*path, j), _split(name) or what)
        if frozenset(words) in seen:
            yield Finding(path, f"the front of {listed(words)} stands here twice. Remove one of them.")
        seen.append(frozenset(words))


def _budgets(budgets: Any) -> Iterator[Finding]:
    for i, budget in enumerate(budgets if isinstance(budgets, list) else ()):
        yield from _unknown(("pareto", "budgets", i), budget, COSTS, "cost")


def _reference_set(section: Mapping[str, Any]) -> Iterator[Finding]:
    points, written = section.get("reference_set"), section.get("fronts")
    fronts = [names for names in written if isinstance(names, list)] if isinstance(written, list) else DEFAULT_FRONTS
    for i, point in enumerate(points if isinstance(points, list) else ()):
        path = ("pareto", "reference_set", i)
        unknown = list(_unknown(path, point, OBJECTIVES, "objective"))
        yield from unknown
        whole = isinstance(point, dict) and any(all(name in point for name in names) for names in fronts)
        if isinstance(point, dict) and not unknown and not whole:
            known = "; ".join(listed(map(str, names)) for names in fronts)
            yield Finding(path, f"has not all objectives of any front. Fronts: {known}. Give all of one.")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
