"""How trainings that share a stream travel to a worker and back: each keeps its own key, ticket and record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ray

from kdbench.record import Job, TrialRecord
from kdbench.search.place.searcher import DeskSearcher
from kdbench.search.place.site import RemoteSite, RemoteSource, job_of
from kdbench.store import Store
from kdbench.study.schema import Resources
from kdbench.testing.training import job_for
from kdbench.train.faults import Fault

ONE, TWO, THREE = (job_for({"name": "fitnet"}, "search", lr=lr) for lr in (0.1, 0.2, 0.3))
KEYS = [job.spec.key for job in (ONE, TWO, THREE)]
AT = "2026-01-01T00:00:00+00:00"


class Desk:
    """Hands out three trainings together, and notes what comes back."""

    over = False

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def next(self, most: int) -> list[Job]:
        self.told.append(("next", most))
        return [ONE, TWO, THREE]

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        self.told.append(("epoch", key, point))

    def ended(self, record: TrialRecord) -> None:
        self.told.append(("ended", record.key))

    def broke(self, key: str, fault: Fault, together: bool) -> None:
        self.told.append(("broke", key, fault.kind, together))


class Transport:
    """That of a cluster of our own, without Ray."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def actor(self, kind: type, *arguments: Any) -> Any:
        return kind(*arguments)

    def config(self, jobs: Any = ()) -> dict[str, Any]:
        return {"jobs": [{"job": json.dumps(job.to_json()), "ticket": job.spec.key} for job in jobs]}

    def filed(self, key: str) -> None:
        self.removed.append(key)


@pytest.fixture
def searcher() -> Any:
    made = DeskSearcher(Desk(), 0, Resources(students_per_stream=5), Transport())  # type: ignore[arg-type]
    config = made.suggest("trial")
    assert [job_of(order) for order in config["jobs"]] == [ONE, TWO, THREE]
    assert made.desk.told == [("next", 5)]  # type: ignore[attr-defined]
    return made


def record_text(job: Job) -> str:
    return json.dumps(TrialRecord(job.spec, "finished", {}, {}, {}, 1, AT, AT, 0.0).to_json())


def test_points_and_records_come_back_by_key_and_a_fault_meets_those_that_are_left(searcher: Any) -> None:
    searcher.on_trial_result("trial", {"points": json.dumps({KEYS[0]: {"lr": 1.0}, KEYS[1]: {"lr": 2.0}})})
    searcher.on_trial_result("trial", {"points": "{}", "record": record_text(TWO), "pid": 7})
    assert searcher.transport.removed == [KEYS[1]]
    assert searcher.processes == {"trial": 7}
    searcher.on_trial_complete("trial", {"fault": json.dumps(Fault("disk", "full").to_json())})
    assert searcher.desk.told[1:] == [
        ("epoch", KEYS[0], {"lr": 1.0}), ("epoch", KEYS[1], {"lr": 2.0}), ("ended", KEYS[1]),
        ("broke", KEYS[0], "disk", True), ("broke", KEYS[2], "disk", True),
    ]  # fmt: skip
    assert searcher.keys == {} and searcher.processes == {}


def test_a_worker_that_dies_takes_only_those_that_have_no_record(searcher: Any) -> None:
    for job in (ONE, THREE):
        searcher.on_trial_result("trial", {"record": record_text(job)})
    searcher.died("trial", "the node is dead")
    searcher.died("trial", "told twice")
    assert searcher.desk.told[-1] == ("broke", KEYS[1], "node", False)
    assert [what[0] for what in searcher.desk.told] == ["next", "ended", "ended", "broke"]


def test_on_another_node_each_training_shows_its_own_ticket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda value: value)
    asked: list[tuple[str, Any]] = []

    class Depot:
        def __getattr__(self, name: str) -> Any:
            return type("Call", (), {"remote": lambda _, claim, *rest: asked.append((name, claim[1])) or {}})()

    site = RemoteSite.__new__(RemoteSite)
    site.store, site.storage, site.depot, site.claims, site._told = Store(tmp_path), None, Depot(), {}, {}
    site.source = RemoteSource(site.store, site.depot)
    for order in Transport().config([ONE, TWO])["jobs"]:
        site.begin(job_of(order), order)
    for key in (KEYS[0], KEYS[1]):
        site.note(key, "error.txt", "odd")
    site.ended(TrialRecord.from_json(json.loads(record_text(ONE))))
    assert asked == [("begin", KEYS[0]), ("begin", KEYS[1]), ("note", KEYS[0]), ("note", KEYS[1])]
    assert list(site.claims) == [KEYS[1]]
