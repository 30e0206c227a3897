"""The whole story of a row, or of one record, as plain values: what `kdbench show --json` prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kdbench.labels import model_label, settings_label
from kdbench.record import TrialRecord, finite
from kdbench.report.load import deployed_key
from kdbench.report.manifest import sha256
from kdbench.report.search import search_objectives, searched
from kdbench.trace.locate import Report
from kdbench.trace.numbers import RULES, Number, Source, numbers
from kdbench.trace.numbers import searched as search_of

SELECTION = {
    "best": "the trial with the best first objective, of the row",
    "best_per_size": "the trial with the best first objective, of each student size of the row",
    "pareto": "every trial that no other trial of the row beats in all objectives",
}
TIES = "only finished trials, on validation alone; ties go to the smaller model, then to the earlier trial"
NOT_SHOWN = ("traceback", "latency", "plugins")


def explain_row(source: Source) -> dict[str, Any]:
    """A row: its configuration, every cell, and all records that it rests on."""
    row, report = source.row, source.report
    cells = numbers(source)
    behind = networks(source)
    used = [*source.records, *search_of(source), *behind, *_named(report, cells)]
    return {
        "row": row.id,
        "study": report.study,
        "pair": row.pair,
        "kind": row.kind,
        "method": row.method,
        "student": row.student,
        "configuration": configuration(source.records),
        "numbers": [finite(cell.to_json()) for cell in cells],
        "rules": {rule: text for rule, text in RULES.items() if any(cell.rule == rule for cell in cells)},
        "trainings": [r.key for r in sorted(source.records, key=lambda r: (r.spec.seed, r.key))],
        "search": selection(source),
        "networks": [network(report, record) for record in behind],
        "failures": [_failure(r) for r in [*search_of(source), *source.records] if r.status != "finished"],
        "environment": environment(source.records),
        "records": {record.key: facts(report, record) for record in sorted(used, key=lambda record: record.key)},
    }


def _named(report: Report, cells: Iterable[Number]) -> list[TrialRecord]:
    keys = {key for cell in cells for key in (*cell.records, *cell.baseline)}
    return [report.results.by_key[key] for key in keys]


def configuration(records: list[TrialRecord]) -> dict[str, Any]:
    """What the trainings of a row have in common; empty where there are none."""
    if not records:
        return {}
    spec = records[0].spec.to_json()
    return {name: spec[name] for name in ("method", "model", "train", "data", "teacher", "init")}


def facts(report: Report, record: TrialRecord) -> dict[str, Any]:
    """One record in short: where it is, its hash, and what came out."""
    spec = record.spec
    return {
        "file": f"records/{record.key}.json", "sha256": sha256(report.record_path(record.key).read_bytes()),
        "phase": spec.phase, "seed": spec.seed, "slot": dict(spec.slot), "status": record.status, "error": record.error,
        "result": finite(dict(record.result)), "attempts": record.attempts, "started": record.started,
        "ended": record.ended, "wall_s": record.wall_s,
    }  # fmt: skip


def selection(source: Source) -> dict[str, Any]:
    """The search behind a row: the rule, the trials in order, and which of them was retrained. Empty of a teacher."""
    trials, results = search_of(source), source.report.results
    if not trials:
        return {}
    rule, objectives = str(results.section("final").get("select", "best")), search_objectives(results)
    chosen = {str(record.spec.slot.get("chosen")) for record in source.records}
    return {
        "rule": rule, "meaning": f"{SELECTION.get(rule, rule)}; {TIES}", "objectives": list(objectives),
        "chosen": sorted(record.key for record in trials if record.key in chosen),
        "trials": [
            {
                "key": r.key, "repeat": r.spec.slot.get("repeat"), "trial": r.spec.slot.get("trial"),
                "status": r.status, "objectives": {name: r.result.get(name) for name in objectives},
                "student": model_label(r.spec.model), "settings": settings_label(searched(results, r)),
            }
            for r in trials
        ],
    }  # fmt: skip


def networks(source: Source) -> list[TrialRecord]:
    """The networks that the row's trainings learnt from, started from or are made of, and those behind them."""
    first = [key for r in source.records for key in (r.spec.teacher, r.spec.init, *r.spec.members)]
    return list(source.report.results.behind(first).values())


def network(report: Report, record: TrialRecord) -> dict[str, Any]:
    """One network with the SHA-256 of its weights as the records that began with it name it."""
    hashes = {
        str(found)
        for other in report.results.records
        for name, key in (("teacher_hash", other.spec.teacher), ("init_hash", other.spec.init))
        if key == record.key and (found := other.environment.get(name)) is not None
    }
    return {
        "name": report.results.network(record.key), "key": record.key, "phase": record.spec.phase,
        "model": model_label(record.spec.model), "method": record.spec.method_name, "status": record.status,
        "test_top1_pct": record.result.get("test_top1_pct"), "weights_sha256": sorted(hashes),
        **{name: value for name, value in record.environment.items() if name == "taken_from"},
    }  # fmt: skip


def _failure(record: TrialRecord) -> dict[str, Any]:
    spec = record.spec
    return {
        "key": record.key,
        "phase": spec.phase,
        "slot": dict(spec.slot),
        "status": record.status,
        "error": record.error,
    }


def environment(records: Iterable[TrialRecord]) -> dict[str, dict[str, list[str]]]:
    """Every fact of where the records were made, as `versions.torch`: value -> keys of the records that have it."""
    found: dict[str, dict[str, list[str]]] = {}
    for record in records:
        shown = {name: value for name, value in record.environment.items() if name not in NOT_SHOWN}
        plugins = {
            f"plugins.{name}": about.get("sha256") for name, about in record.environment.get("plugins", {}).items()
        }
        for name, value in {**flat(shown), **plugins}.items():
            found.setdefault(name, {}).setdefault(str(value), []).append(record.key)
    return found


def flat(facts: Any, prefix: str = "") -> dict[str, Any]:
    """`{"versions": {"torch": "2.15.0"}}` as `{"versions.torch": "2.15.0"}`."""
    out: dict[str, Any] = {}
    for name, value in facts.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return out


def explain_record(report: Report, record: TrialRecord) -> dict[str, Any]:
    """One record: what was asked, what came out, where, and the rows that rest on it."""
    return {
        "record": record.key,
        "study": report.study,
        "spec": record.spec.to_json(),
        **{name: value for name, value in facts(report, record).items() if name not in ("slot", "seed", "phase")},
        "environment": environment([record]),
        "rows": {row_id: roles for row_id, roles in _uses(report, record).items() if roles},
    }


def _uses(report: Report, record: TrialRecord) -> dict[str, list[str]]:
    """By the id of a row, what a record is to it: a training, a search trial, the chosen one, a network, a latency."""
    found = {}
    for row in report.board.rows:
        source = Source(report, row)
        timed = record.spec.phase == "latency" and bool(source.records) and row.latency_conditions
        roles = {
            "training": record.key in row.keys,
            "evaluation": record.spec.phase == "evaluation" and record.spec.init in row.keys,
            "search trial": record.key in [trial.key for trial in search_of(source)],
            "chosen": any(r.spec.slot.get("chosen") == record.key for r in source.records),
            "network": record.key in [other.key for other in networks(source)],
            "latency": bool(timed) and deployed_key(record.spec) == deployed_key(source.records[0].spec),
        }
        found[row.id] = [role for role, holds in roles.items() if holds]
    return found
