"""How much accuracy depends on each searched hyper-parameter: slices of the search trials and fANOVA importance.

Everything here is validation: one training per trial. Optuna computes the importance; it is imported at the first use.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from kdbench.fields import Choice, Range, Space, fields_of
from kdbench.labels import plural, value_label
from kdbench.method import methods
from kdbench.record import TrialRecord, metric
from kdbench.report.exhibit import Exhibit
from kdbench.report.leaderboard import Leaderboard
from kdbench.report.load import Results, table_name
from kdbench.report.search import objective_title, search_objectives, searched_training
from kdbench.report.sensitivity_figure import Slice, label, sensitivity_figure
from kdbench.report.tables import NONE, Cell, Column, Table

TITLE = "Sensitivity to hyper-parameters (validation)"
MINIMUM = 10  # finished trials for each (pair, method): fewer do not fill a forest of trees
MOST = 100  # trials that the importance is computed of: its time grows with their square, a minute at a thousand
SEED = 0


def sensitivity(results: Results, board: Leaderboard) -> list[Exhibit]:
    """The exhibit `sensitivity`; nothing where no trial was searched, a refusal where no trial varied anything."""
    if not results.phase("search"):
        return []
    found = slices(results)
    objective = search_objectives(results)[0]
    if not found:
        trials = len(results.phase("search"))
        reason = (
            f"nothing to slice: in none of the methods do two finished trials of one pair differ in a hyper-parameter "
            f"({plural(trials, 'search trial')} in all). Search ranges, and more than one trial per method."
        )
        return [Exhibit("sensitivity", TITLE, refusal=reason)]
    return [
        Exhibit(
            "sensitivity", TITLE,
            {table: _table([s for s in found if table_name(s.pair) == table]) for table in results.tables
             if any(table_name(s.pair) == table for s in found)},
            _frame(found, objective), partial(sensitivity_figure, found, objective), _notes(found, objective),
        )
    ]  # fmt: skip


def slices(results: Results) -> list[Slice]:
    """Every (pair, method, hyper-parameter) of which at least two finished trials differ, in the study's order."""
    out: list[Slice] = []
    objective = search_objectives(results)[0]
    trials: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in sorted(results.phase("search"), key=_order):
        trials.setdefault((results.pair(record), record.spec.row), []).append(record)
    for pair in results.pairs:
        for method in results.methods:
            out += _slices(results, pair, method, trials.get((pair, method), []), objective)
    return out


def importances(
    spaces: Mapping[str, Space], trials: Sequence[Mapping[str, Any]], scores: Sequence[float], seed: int = SEED
) -> dict[str, float]:
    """Share of the variance of the score that each hyper-parameter explains alone, by functional ANOVA.

    trials: the values of every trial by name of hyper-parameter; scores: (n,), finite. The shares sum to 1.
    Source: Hutter, Hoos, Leyton-Brown 2014; optuna.importance.FanovaImportanceEvaluator.
    """
    import optuna

    from kdbench.search.propose import distribution

    study = _silent(optuna)
    distributions = {name: distribution(space) for name, space in spaces.items()}
    for values, score in zip(trials, scores, strict=True):
        params = {name: values[name] for name in spaces}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=score))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(found[name]) for name in spaces}


def _silent(optuna: Any) -> Any:
    """An empty study in memory; Optuna's verbosity is put back as it was."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with contextlib.ExitStack() as stack:
        stack.callback(optuna.logging.set_verbosity, before)
        return optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=SEED))


def _order(record: TrialRecord) -> tuple[Any, ...]:
    slot = record.spec.slot
    return (slot.get("repeat") or 0, slot.get("trial") or 0, record.key)


def _slices(results: Results, pair: str, method: str, trials: list[TrialRecord], objective: str) -> list[Slice]:
    finished: list[TrialRecord] = []
    lost: list[TrialRecord] = []
    for record in trials:
        scored = record.status == "finished" and _finite(record.result.get(objective))
        (finished if scored else lost).append(record)
    settings = {record.key: _settings(results, record) for record in trials}
    names = _varied([settings[record.key] for record in finished])
    if not names:
        return []
    spaces = {name: _space(results, method, name, [settings[r.key].get(name) for r in trials]) for name in names}
    scores = [float(record.result[objective]) for record in finished]
    shares, reason = _importances(spaces, [settings[record.key] for record in finished], scores)
    return [
        Slice(
            pair, method, name, spaces[name], tuple(settings[r.key][name] for r in finished), tuple(scores),
            tuple(settings[r.key][name] for r in lost if name in settings[r.key]), shares.get(name), reason,
        )
        for name in names
    ]  # fmt: skip


def _settings(results: Results, record: TrialRecord) -> dict[str, Any]:
    """Everything that a search may vary, by name: the method's, the student's sizes, and the training's."""
    spec = record.spec
    sizes = {f"student.{name}": value for name, value in spec.model.items() if name != "name"}
    shared = {f"shared.{name}": value for name, value in searched_training(results, record).items()}
    flat = (int, float, str, bool)
    return {name: value for name, value in {**spec.hyper, **sizes, **shared}.items() if isinstance(value, flat)}


def _varied(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that every trial has and in which two differ, in the first trial's order."""
    first = trials[0] if trials else {}
    return [n for n in first if all(n in t for t in trials) and len({(type(t[n]), t[n]) for t in trials}) > 1]


def _space(results: Results, method: str, name: str, values: Sequence[Any]) -> Space:
    """The range that was searched: the study's, else the method's own; in any case wide enough for what was tried."""
    tried = [value for value in values if value is not None]
    numbers = [v for v in tried if isinstance(v, (int, float)) and not isinstance(v, bool)]
    declared = _declared(results, method, name)
    if len(numbers) < len(tried) or name.startswith("student.") or isinstance(declared, Choice):
        return Choice(tuple(dict.fromkeys(sorted(tried, key=lambda v: (str(type(v)), v)))))
    low, high = min(numbers), max(numbers)
    if declared is not None:
        low, high = min(low, declared.low), max(high, declared.high)
    return Range(low, high, declared is not None and declared.log and low > 0)


def _declared(results: Results, method: str, name: str) -> Space | None:
    written, own = results.shared.get(name.removeprefix("shared.")), None
    if not name.startswith("shared."):
        section = results.section("methods").get(method)
        written = section.get(name) if isinstance(section, Mapping) else None
        info = fields_of(methods.get(method)).get(name) if method in methods else None
        own = info.search if info else None
    if isinstance(written, Mapping) and {"low", "high"} <= set(written):
        log = written.get("log")
        inherited = isinstance(own, Range) and own.log and written.get("step") is None
        return Range(float(written["low"]), float(written["high"]), bool(inherited if log is None else log))
    return Choice(tuple(written)) if isinstance(written, list) else own


def _importances(
    spaces: Mapping[str, Space], trials: list[Mapping[str, Any]], scores: list[float]
) -> tuple[dict[str, float], str | None]:
    if len(scores) < MINIMUM:
        return {}, f"{plural(len(scores), 'finished trial')}: fANOVA needs at least {MINIMUM} on one pair"
    if np.ptp(scores) == 0:
        return {}, "all trials have the same score, so there is no variance to share out"
    if len(spaces) == 1:
        return {}, "one hyper-parameter alone was searched, and would have all of it"
    if len(scores) > MOST:
        chosen = np.sort(np.random.default_rng(SEED).choice(len(scores), MOST, replace=False))
        trials, scores = [trials[i] for i in chosen], [scores[i] for i in chosen]
    return importances(spaces, trials, scores), None


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _best(item: Slice, objective: str) -> int:
    sign = -1 if metric(objective).direction == "min" else 1
    return max(range(len(item.scores)), key=lambda i: sign * item.scores[i])


def _table(found: Sequence[Slice]) -> Table:
    several = len({item.pair for item in found}) > 1
    columns = [
        *([Column("Pair", numeric=False)] if several else []), Column("Method", numeric=False),
        Column("Hyper-parameter", numeric=False), Column("Trials", "finished on this pair; + those that did not"),
        Column("Tried", "lowest and highest value of all trials, or the choices", numeric=False),
        Column("Importance %", "share of the variance of the score that it explains alone (fANOVA)"),
        Column("Why not", "why there is no importance", numeric=False),
    ]  # fmt: skip
    rows = []
    for item in found:
        lost = f" + {len(item.failed)}" if item.failed else ""
        share = NONE if item.importance is None else f"{100 * item.importance:.1f}"
        pair = [Cell(item.pair)] if several else []
        rows.append((
            *pair, Cell(item.method), Cell(label(item.name)), Cell(f"{len(item.scores)}{lost}"), Cell(_tried(item)),
            Cell(share), Cell(item.reason or ""),
        ))  # fmt: skip
    return Table(tuple(columns), tuple(rows), ("student",) * len(rows))


def _tried(item: Slice) -> str:
    if isinstance(item.space, Choice):
        return ", ".join(value_label(value) for value in item.space.values)
    tried = (*item.values, *item.failed)
    return f"{value_label(min(tried))} to {value_label(max(tried))}"


def _frame(found: Sequence[Slice], objective: str) -> pd.DataFrame:
    lines = []
    for item in found:
        limits = (item.space.low, item.space.high, item.space.log) if isinstance(item.space, Range) else (None,) * 3
        best = _best(item, objective)
        lines.append({
            "pair": item.pair, "method": item.method, "hyper_parameter": item.name, "trials": len(item.scores),
            "trials_not_finished": len(item.failed), "low": limits[0], "high": limits[1], "log": limits[2],
            "importance": item.importance, "not_computed_because": item.reason or "", "objective": objective,
            "best": item.scores[best], "best_value": value_label(item.values[best]),
        })  # fmt: skip
    return pd.DataFrame(lines)


def _notes(found: Sequence[Slice], objective: str) -> tuple[str, ...]:
    counts = sorted({len(item.scores) for item in found})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    text = (
        f"Search trials: {objective_title(objective)} against each hyper-parameter that was searched ({n} finished "
        "trials for each method and pair; the unit is one training, repeats of the search together). The other "
        "hyper-parameters differ between the points, and a sampler that learns tries good regions more often: a slice "
        "shows what was tried, not an effect."
    )
    fanova = (
        f"Importance: functional ANOVA on a random forest (Hutter, Hoos and Leyton-Brown 2014; Optuna, seed {SEED}), "
        "the share of the variance that a hyper-parameter explains alone, over the whole range that was searched. Not "
        f"computed below {MINIMUM} finished trials of a method on a pair"
        f"{f', and of {MOST} that are drawn by lot where there are more' if counts[-1] > MOST else ''}. No test."
    )
    lost = sum(len(item.failed) for item in found)
    failed = f" Trials that did not finish are ticks at the foot of a panel ({lost} of them)." if lost else ""
    return (text + failed, fanova)
