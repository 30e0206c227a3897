"""What may start next, driven with instant results: order, fairness, dependencies, resume, budget."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kdbench.fields import Choice, Range, Space, holds
from kdbench.record import Job, TrialRecord, TrialSpec
from kdbench.search import agenda as module
from kdbench.search.agenda import Agenda
from kdbench.search.budget import Budget
from kdbench.search.drive import Desk
from kdbench.store import Store
from kdbench.study.plan import Trials, teacher_spec
from kdbench.study.schema import Study
from kdbench.train.faults import Fault

METHODS = ("scratch", "kd", "finetune", "linear_probe")

TIMES = ("2026-11-22T08:00:00+00:00", "2026-11-22T08:05:00+00:00")


def study(methods: Mapping[str, Any] | Iterable[str] = METHODS, **sections: Any) -> Study:
    values: dict[str, Any] = {
        "study": "toy",
        "data": {"name": "digits"},
        "source": {"data": {"name": "digits", "rotate": 90}},
        "teacher": {"model": "cnn", "depth": 8},
        "student": {"model": "cnn", "depth": 5, "width": [0.25, 0.5]},
        "methods": dict(methods) if isinstance(methods, Mapping) else {name: {} for name in methods},
        "search": {"trials": 4, "repeats": 2, "sampler": "random", "shared": {"lr": {"low": 0.01, "high": 0.4}}},
        "final": {"seeds": 2},
        "train": {"epochs": 1, "lr": 0.1},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return Study.model_validate(values)


class World:
    """Trainings that end at once: results follow from the spec, weights appear where a training would leave them.

    fails: which trainings end badly, and how.
    """

    def __init__(self, fails: Callable[[TrialSpec], str | None] = lambda spec: None) -> None:
        self.fails = fails
        self.weights: set[str] = set()
        self.records: dict[str, TrialRecord] = {}
        self.jobs: list[Job] = []

    def agenda(self, study: Study, **options: Any) -> Agenda:
        """An agenda that goes on from the records, which have been on disk."""
        stored = {key: json.loads(json.dumps(record.to_json())) for key, record in sorted(self.records.items())}
        records = {key: TrialRecord.from_json(value) for key, value in stored.items()}
        return Agenda(study, records, lambda key: key in self.weights, **options)

    def train(self, job: Job, wall_s: float = 1.0) -> TrialRecord:
        """The record of a job."""
        spec, number = job.spec, int(job.spec.key, 16)
        missing = [needed for needed in job.needs if needed.key not in self.weights]
        status: Any = "failed" if missing else self.fails(spec) or "finished"
        result = {"val_top1_pct": number % 97 + 0.5, "params": 100.0 * spec.model.get("width", 9)}
        if status == "finished" and spec.phase != "search":
            self.weights.add(spec.key)
        record = TrialRecord(spec, status, result if status == "finished" else {}, {}, {}, 1, *TIMES, wall_s)
        self.records[spec.key] = record
        return record

    def drive(self, agenda: Agenda, workers: int = 1, order: int = 0, stop: int | None = None, **clock: Any) -> None:
        """Run until nothing starts, or `stop` records have come; workers end in random order."""
        chance, running, ended = random.Random(order), [], 0
        while ended != stop:
            while len(running) < workers and (job := agenda.next()) is not None:
                assert job.spec.key not in {other.spec.key for other in running}, "handed out twice"
                self.check_dependencies(job)
                running.append(job)
                self.jobs.append(job)
                assert len(self.jobs) < 5000, "no end"
            if not running:
                assert agenda.finished
                return
            assert not agenda.finished
            job = running.pop(chance.randrange(len(running)))
            if clock:
                clock["tick"](job, workers)
            agenda.done(self.train(job, **({"wall_s": clock["wall_s"]} if clock else {})))
            ended += 1

    def check_dependencies(self, job: Job) -> None:
        for needed in job.needs:
            assert needed.key in self.records, f"{job.spec.phase} before its {needed.phase}"

    def phases(self) -> list[str]:
        return [job.spec.phase for job in self.jobs]

    def keys(self) -> set[str]:
        return set(self.records)


def place(spec: TrialSpec) -> tuple[Any, ...]:
    return (spec.slot.get("repeat"), spec.slot.get("trial"), spec.method_name)


def test_the_order_is_teacher_search_finals_latency() -> None:
    world = World()
    world.drive(world.agenda(study()))
    phases = [phase for phase in world.phases() if phase != "source"]
    assert [phase for phase, _ in itertools.groupby(phases)] == ["teacher", "search", "final", "latency"]
    assert Counter(world.phases())["search"] == 4 * 2 * 4
    assert Counter(world.phases())["final"] == 4 * 2


def test_search_goes_trial_by_trial_over_all_methods_and_repeats() -> None:
    world = World()
    world.drive(world.agenda(study()))
    searched = [place(job.spec) for job in world.jobs if job.spec.phase == "search"]
    # Methods that wait for a source network may change places within a trial, but no trial begins before the last ends.
    assert [trial for _, trial, _ in searched] == [t for t in range(4) for _ in range(8)]
    for trial in range(4):
        assert {(repeat, name) for repeat, number, name in searched if number == trial} == set(
            itertools.product((0, 1), METHODS)
        )


def test_finals_go_seed_by_seed() -> None:
    world = World()
    world.drive(world.agenda(study(final={"seeds": 3})))
    finals = [job.spec.slot["final"] for job in world.jobs if job.spec.phase == "final"]
    assert finals == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_latency_is_measured_alone(workers: int) -> None:
    world = World()
    agenda = world.agenda(study())
    running: list[Job] = []
    seen = 0
    while not agenda.finished or running:
        while len(running) < workers and (job := agenda.next()) is not None:
            running.append(job)
        phases = [job.spec.phase for job in running]
        assert "latency" not in phases or len(phases) == 1
        seen += "latency" in phases
        agenda.done(world.train(running.pop(0)))
    assert (
        seen == len({json.dumps(dict(r.spec.model)) for r in world.records.values() if r.spec.phase == "latency"}) > 1
    )


@pytest.mark.parametrize("workers", [1, 2, 4, 16])
def test_a_source_network_is_trained_once_for_each_student_and_before_what_needs_it(workers: int) -> None:
    world = World()
    world.drive(world.agenda(study()), workers, order=workers)  # drive checks that what a job needs has a record
    sources = [job.spec for job in world.jobs if job.spec.phase == "source"]
    models = {json.dumps(dict(job.spec.model)) for job in world.jobs if job.init is not None}
    assert len(sources) == len(models) == len({json.dumps(dict(spec.model)) for spec in sources})


def test_trainings_that_need_nothing_start_while_others_wait_for_a_source() -> None:
    agenda = World().agenda(study(("finetune", "scratch"), teacher=None))
    first, second = agenda.next(), agenda.next()
    assert (first.spec.phase, second.spec.method_name) == ("source", "scratch")


def test_without_a_teacher_the_search_begins_at_once() -> None:
    world = World()
    world.drive(world.agenda(study(("scratch", "label_smoothing"), teacher=None)))
    assert set(world.phases()) == {"search", "final", "latency"}


def test_a_teacher_that_failed_ends_in_failed_students_and_the_others_go_on() -> None:
    world = World(fails=lambda spec: "diverged" if spec.phase == "teacher" else None)
    agenda = world.agenda(study(("scratch", "kd")))
    world.drive(agenda, workers=2)
    assert Counter(world.phases())["teacher"] == 1
    statuses = {(r.spec.method_name, r.status) for r in world.records.values() if r.spec.phase == "search"}
    assert statuses == {("scratch", "finished"), ("kd", "failed")}
    assert {r.spec.method_name for r in world.records.values() if r.spec.phase == "final"} == {"scratch"}
    assert agenda.finished and agenda.left() == 0


def test_a_source_that_failed_is_not_tried_again() -> None:
    world = World(fails=lambda spec: "failed" if spec.phase == "source" else None)
    world.drive(world.agenda(study(("finetune", "scratch"))), workers=2)
    assert Counter(world.phases())["source"] == 2  # one for each width
    assert {r.status for r in world.records.values() if r.spec.method_name == "finetune"} == {"failed"}


def test_a_study_in_which_all_fails_ends() -> None:
    world = World(fails=lambda spec: None if spec.phase == "latency" else "lost")
    world.drive(world.agenda(study()), workers=4)
    assert Counter(world.phases())["final"] == 0
    assert Counter(r.spec.phase for r in world.records.values())["search"] == 32


def some_fail(spec: TrialSpec) -> str | None:
    number = int(spec.key, 16) % 11
    return {0: "failed", 1: "diverged", 2: "timed_out"}.get(number) if spec.phase == "search" else None


RESUMED = {
    "random": study(),
    "tpe": study(("scratch", "kd"), search={"trials": 6, "repeats": 1, "sampler": "tpe"}),
    "tpe in batches": study(("kd", "finetune"), search={"trials": 6, "repeats": 1, "sampler": "tpe", "batch": 2}),
    "several cells": study(("scratch", "kd"), student={"width": {"each": [0.25, 0.5, 1.0]}}, search={"repeats": 1}),
    "pareto": study(("scratch", "kd"), final={"select": "pareto"}, search={"sampler": "tpe"}),
}


@pytest.mark.parametrize("name", RESUMED)
def test_whatever_the_workers_their_order_and_the_interruptions_the_same_specs_are_trained(name: str) -> None:
    whole = World(some_fail)
    whole.drive(whole.agenda(RESUMED[name]))
    chance = random.Random(name)
    for workers in (1, 2, 4):
        world = World(some_fail)
        while True:
            agenda = world.agenda(RESUMED[name])
            if agenda.finished:
                break
            world.drive(agenda, workers, order=chance.randrange(999), stop=chance.randrange(1, len(whole.jobs)))
        assert world.keys() == whole.keys(), f"{workers} workers"


def test_any_subset_of_records_leads_to_the_same_specs() -> None:
    """Also with gaps, as after a damaged record was set aside."""
    asked = RESUMED["tpe in batches"]
    whole = World(some_fail)
    whole.drive(whole.agenda(asked))
    for seed in range(6):
        chance = random.Random(seed)
        world = World(some_fail)
        world.records = {key: record for key, record in whole.records.items() if chance.random() < 0.7}
        world.weights, kept = set(whole.weights), world.keys()
        world.drive(world.agenda(asked), workers=chance.choice([1, 3]), order=seed)
        assert not {job.spec.key for job in world.jobs} & kept, "what has a record is not trained again"
        # a source network that nothing needs any more is not trained
        assert {r.spec.phase for key, r in whole.records.items() if key not in world.records} <= {"source"}
        assert world.keys() <= whole.keys()


def test_a_second_run_of_a_finished_study_starts_nothing_even_where_the_weights_are_gone() -> None:
    world = World()
    world.drive(world.agenda(study()))
    world.weights.clear()  # a clone of the repository has the records alone
    agenda = world.agenda(study())
    assert agenda.finished
    assert agenda.next() is None


def test_weights_that_are_gone_are_trained_again_where_something_needs_them() -> None:
    world = World()
    world.drive(world.agenda(study()), stop=20)
    world.weights.clear()
    before = len(world.jobs)
    world.drive(world.agenda(study()), workers=2)
    again = Counter(world.phases()[before:])
    assert again["teacher"] == 1
    assert again["search"] + 20 - Counter(world.phases()[:before])["teacher"] >= 32
    assert {record.status for record in world.records.values()} == {"finished"}


def test_weights_that_never_arrive_do_not_make_an_endless_loop() -> None:
    class Lossy(World):
        def train(self, job: Job, wall_s: float = 1.0) -> TrialRecord:
            record = super().train(job, wall_s)
            self.weights.clear()
            return record

    world = Lossy()
    world.drive(world.agenda(study(("kd", "finetune"))), workers=2)
    assert Counter(world.phases())["teacher"] == 1
    assert {r.status for r in world.records.values() if r.spec.phase == "search"} == {"failed"}


@pytest.mark.parametrize(
    ("search", "rounds"),
    [
        ({"sampler": "tpe", "startup": 1, "batch": 2}, [[0], [1, 2], [3, 4]]),
        ({"sampler": "tpe", "startup": 1}, [[0], [1], [2], [3], [4]]),
        ({"sampler": "tpe", "startup": 3}, [[0, 1, 2], [3], [4]]),
        ({"sampler": "tpe", "startup": 2, "batch": 2}, [[0, 1], [2], [3, 4]]),
        ({"sampler": "random"}, [[0, 1, 2, 3, 4]]),
    ],
)
def test_a_trial_waits_for_those_that_it_learns_from_and_for_no_others(
    search: dict[str, Any], rounds: list[list[int]]
) -> None:
    agenda = World().agenda(study(("scratch",), teacher=None, search={"trials": 5, "repeats": 1, **search}))
    world = World()

    def numbers() -> list[int]:
        jobs = []
        while (job := agenda.next()) is not None:
            jobs.append(job)
        for job in jobs:
            agenda.done(world.train(job))
        return [job.spec.slot["trial"] for job in jobs if job.spec.phase == "search"]

    assert [numbers() for _ in rounds] == rounds


def test_trial_0_is_the_published_default_of_every_method() -> None:
    world = World()
    world.drive(world.agenda(study()))
    first = [job.spec for job in world.jobs if job.spec.slot.get("trial") == 0]
    assert {spec.train["lr"] for spec in first} == {0.1}
    assert {spec.method["temperature"] for spec in first if spec.method_name == "kd"} == {4.0}


def test_all_methods_of_a_repeat_share_their_seed_and_repeats_do_not() -> None:
    world = World()
    world.drive(world.agenda(study()))
    seeds: dict[int, set[int]] = {}
    for job in world.jobs:
        if job.spec.phase == "search":
            seeds.setdefault(job.spec.slot["repeat"], set()).add(job.spec.seed)
    assert [len(found) for found in seeds.values()] == [1, 1]
    assert seeds[0] != seeds[1]


EDITS: dict[str, dict[str, Any]] = {
    "another search seed": {"search": {"seed": 1}},
    "more epochs": {"train": {"epochs": 2}},
    "other data": {"data": {"name": "digits", "split_seed": 1}},
    "another model": {"student": {"depth": 8}},
}


@pytest.mark.parametrize("edit", EDITS)
def test_records_of_an_edited_study_are_left_alone(edit: str) -> None:
    world, fresh = World(), World()
    world.drive(world.agenda(study()))
    old = world.keys()
    edited = study(**EDITS[edit])
    assert world.agenda(edited).own_search() == []
    fresh.drive(fresh.agenda(edited))
    world.drive(world.agenda(edited))
    assert world.keys() - old == fresh.keys() - old
    current = world.agenda(edited).current()
    assert current == fresh.agenda(edited).current()
    assert not set(current["search"]) & old


def test_another_teacher_makes_the_students_of_teachers_anew_and_keeps_the_others() -> None:
    world = World()
    world.drive(world.agenda(study(("scratch", "kd"))))
    kept = world.agenda(study(("scratch", "kd"), teacher={"depth": 11}, student={"depth": 5}))
    assert kept.own_search() == [], "the pair is another, and so is the slot"


def test_a_range_that_is_narrowed_drops_what_lies_outside_and_keeps_the_rest() -> None:
    world = World()
    wide = {"scratch": {}, "kd": {"temperature": {"low": 1, "high": 20}}}
    narrow = {"scratch": {}, "kd": {"temperature": {"low": 3, "high": 8}}}
    world.drive(world.agenda(study(wide)))
    agenda = world.agenda(study(narrow))
    own = [record.spec.method["temperature"] for record in agenda.own_search() if record.spec.method_name == "kd"]
    every = [r.spec.method["temperature"] for r in world.records.values() if r.spec.slot.get("trial") is not None
             and r.spec.method_name == "kd"]  # fmt: skip
    assert sorted(own) == sorted(value for value in every if 3 <= value <= 8)
    assert 0 < len(own) < len(every) == 8
    world.drive(agenda)
    specs = [record.spec for record in world.agenda(study(narrow)).own_search()]
    assert Counter(spec.method_name for spec in specs) == {"scratch": 8, "kd": 8}
    assert all(3 <= spec.method["temperature"] <= 8 for spec in specs if spec.method_name == "kd")


def test_a_default_that_has_changed_is_tried_as_trial_0() -> None:
    world = World()
    world.drive(world.agenda(study(("scratch",))))
    world.drive(world.agenda(study(("scratch",), train={"lr": 0.2})))
    first = [r.spec for r in world.agenda(study(("scratch",), train={"lr": 0.2})).own_search()]
    assert {spec.train["lr"] for spec in first if spec.slot["trial"] == 0} == {0.2}


def test_a_longer_search_goes_on_and_a_shorter_one_forgets_its_end() -> None:
    world = World()
    world.drive(world.agenda(study(search={"startup": 2})))
    longer = world.agenda(study(search={"startup": 2, "trials": 6}))
    assert len(longer.own_search()) == 4 * 8
    assert longer.left() == 2 * 8 + 4 * 2
    shorter = world.agenda(study(search={"startup": 2, "trials": 3}))
    assert len(shorter.own_search()) == 3 * 8
    assert {record.spec.slot["trial"] for record in shorter.own_search()} == {0, 1, 2}


def test_a_method_that_was_taken_out_is_no_longer_in_the_study() -> None:
    world = World()
    world.drive(world.agenda(study()))
    agenda = world.agenda(study(("scratch", "kd")))
    assert agenda.finished
    found = agenda.current()
    assert found["source"] == []
    assert {world.records[key].spec.method_name for key in found["search"] + found["final"]} == {"scratch", "kd"}


@pytest.mark.parametrize(
    ("until", "phases"),
    [
        ("teachers", {"teacher"}),
        ("search", {"teacher", "source", "search"}),
        ("final", {"teacher", "source", "search", "final"}),
        ("latency", {"teacher", "source", "search", "final", "latency"}),
    ],
)
def test_work_ends_at_the_stage_that_is_asked_for_and_goes_on_from_it(until: str, phases: set[str]) -> None:
    world, whole = World(), World()
    agenda = world.agenda(study(), until=until)
    world.drive(agenda, workers=2)
    assert set(world.phases()) == phases
    assert agenda.left() == 0
    world.drive(world.agenda(study()))
    whole.drive(whole.agenda(study()))
    assert world.keys() == whole.keys()


def test_what_is_left_is_counted_down_to_nothing() -> None:
    world = World()
    agenda = world.agenda(study(("scratch", "kd")))
    counts = [agenda.left()]
    while (job := agenda.next()) is not None:
        agenda.done(world.train(job))
        if job.spec.phase != "latency":
            counts.append(agenda.left())
    assert counts == list(range(1 + 16 + 4, -1, -1))


def test_source_networks_are_counted_while_trials_that_are_known_wait_for_them() -> None:
    world = World()
    agenda = world.agenda(study(("finetune",), teacher=None, search={"repeats": 1}))
    assert agenda.left() == 4 + 2
    job = agenda.next()
    assert (job.spec.phase, agenda.left()) == ("source", 1 + 4 + 2)
    agenda.done(world.train(job))
    assert agenda.left() == 4 + 2
    world.drive(agenda)
    assert agenda.left() == 0


def test_known_are_the_specs_that_can_be_said_by_now() -> None:
    world = World()
    learning = world.agenda(study(search={"sampler": "tpe", "startup": 1}))
    assert [place(spec) for spec in learning.known()] == [(r, 0, name) for r in (0, 1) for name in METHODS]
    agenda = world.agenda(study())
    assert len(agenda.known()) == 32, "what is drawn at random is known from the first"
    world.drive(agenda)
    assert {spec.phase for spec in agenda.known()} == {"search", "final"}
    assert len(agenda.known()) == 32 + 8
    assert {spec.key for spec in world.agenda(study()).known()} == {spec.key for spec in agenda.known()}


def test_current_names_every_record_of_a_finished_study_by_phase() -> None:
    world = World()
    agenda = world.agenda(study())
    empty = {"teacher": [], "source": [], "search": [], "final": [], "latency": []}
    assert agenda.current() == empty
    world.drive(agenda)
    found = agenda.current()
    assert {phase: len(keys) for phase, keys in found.items()} == Counter(world.phases())
    assert set().union(*found.values()) == world.keys()
    for phase, keys in found.items():
        assert {world.records[key].spec.phase for key in keys} == {phase}
    again = world.agenda(study()).current()
    assert {phase: sorted(keys) for phase, keys in again.items()} == {p: sorted(keys) for p, keys in found.items()}


class Witness:
    """A listener that looks at the disk when it is told of a record."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.told: list[tuple[str, str]] = []

    def started(self, job: Job) -> None:
        self.told.append(("started", job.spec.key))

    def epoch(self, key: str, point: Mapping[str, float]) -> None:
        self.told.append(("epoch", key))

    def ended(self, record: TrialRecord) -> None:
        assert self.store.read(record.key) == record
        self.told.append(("ended", record.key))


def test_the_desk_files_a_record_before_it_tells(tmp_path: Path) -> None:
    world, store = World(), Store(tmp_path)
    witness = Witness(store)
    desk = Desk(world.agenda(study(("scratch",))), store, [witness])
    job = desk.next()
    desk.epoch(job.spec.key, {"train_loss": 1.0})
    desk.ended(world.train(job))
    key = job.spec.key
    assert witness.told == [("started", key), ("epoch", key), ("ended", key)]
    assert not desk.over


def test_a_network_whose_weights_are_damaged_is_made_again_once_for_all_that_need_it(tmp_path: Path) -> None:
    world, condemned = World(), set()
    agenda = Agenda(study(("kd",)), {}, lambda key: key in world.weights - condemned)
    desk = Desk(agenda, Store(tmp_path), damaged=lambda key: key in condemned, say=lambda text: None)
    teacher = desk.next()
    desk.ended(world.train(teacher))
    first, second = desk.next(), desk.next()
    condemned.add(teacher.spec.key)
    desk.broke(first.spec.key, Fault("disk", "damaged"))
    again = desk.next()
    assert again.spec == teacher.spec
    desk.broke(second.spec.key, Fault("disk", "damaged"))  # while it is being made again
    desk.ended(world.train(again))
    assert [desk.next().spec.key, desk.next().spec.key] == [first.spec.key, second.spec.key]


def test_a_desk_that_stops_hands_out_nothing_and_waits_for_what_runs(tmp_path: Path) -> None:
    world = World()
    desk = Desk(world.agenda(study(("scratch",))), Store(tmp_path))
    job = desk.next()
    desk.stopping = True
    assert desk.next() is None
    assert not desk.over
    desk.ended(world.train(job))
    assert desk.over and not desk.agenda.finished


def test_a_search_alone_keeps_no_time_for_finals() -> None:
    asked, clock = study(("scratch", "kd")), Clock()
    world = World()
    agenda = world.agenda(asked, until="search", budget=clock.budget(175, 1))
    world.drive(agenda, tick=clock.tick, wall_s=clock.wall_s)
    assert agenda.rounds == 4  # a teacher and 16 trials of 10 s; with finals to come it would stop at 3


def test_it_is_not_finished_while_something_runs() -> None:
    world = World()
    agenda = world.agenda(study(), until="teachers")
    assert not agenda.finished
    job = agenda.next()
    assert agenda.next() is None
    assert not agenda.finished
    agenda.done(world.train(job))
    assert agenda.finished


class Clock:
    """A clock that moves on by each training's share of the workers' time."""

    def __init__(self, wall_s: float = 10.0) -> None:
        self.now, self.wall_s = 0.0, wall_s

    def budget(self, seconds: float, workers: int) -> Budget:
        return Budget(seconds, workers, clock=lambda: self.now)

    def tick(self, job: Job, workers: int) -> None:
        self.now += self.wall_s / workers


def trained_in(seconds: float, workers: int, asked: Study) -> tuple[World, Agenda]:
    world, clock = World(), Clock()
    agenda = world.agenda(asked, budget=clock.budget(seconds, workers))
    world.drive(agenda, workers, order=workers, tick=clock.tick, wall_s=clock.wall_s)
    return world, agenda


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("seconds", [0, 30, 100, 205, 290, 350, 1000])
def test_a_budget_leaves_the_same_number_of_trials_for_every_search_and_whole_seeds(
    seconds: float, workers: int
) -> None:
    asked = study(("scratch", "kd", "logit_mse"), final={"seeds": 3})
    world, agenda = trained_in(seconds / workers, workers, asked)
    searched = Counter((r.spec.method_name, r.spec.slot["repeat"]) for r in agenda.own_search())
    assert len(set(searched.values())) <= 1
    assert set(searched.values()) == ({agenda.rounds} if agenda.rounds else set())
    assert not searched or len(searched) == 6
    seeds = Counter(r.spec.slot["final"] for r in world.records.values() if r.spec.phase == "final")
    assert set(seeds.values()) <= {3}
    assert agenda.finished


def test_a_larger_budget_never_gives_less_and_a_large_one_gives_all() -> None:
    asked = study(("scratch", "kd"))
    counts = [len(trained_in(seconds, 1, asked)[0].records) for seconds in range(0, 400, 20)]
    assert counts == sorted(counts)
    whole = World()
    whole.drive(whole.agenda(asked))
    assert counts[-1] == len(whole.records)
    assert counts[0] < counts[5] < counts[-1]


def test_a_search_that_the_budget_closed_leaves_time_for_the_finals() -> None:
    asked = study(("scratch", "kd"))  # 16 search trials and 4 finals of 10 s each
    world, agenda = trained_in(160, 1, asked)
    phases = Counter(world.phases())
    assert phases["final"] == 4
    assert 0 < phases["search"] < 16
    assert agenda.rounds == phases["search"] / 4


def test_what_a_budget_left_out_is_done_by_the_next_run() -> None:
    asked, whole = study(("scratch", "kd")), World()
    whole.drive(whole.agenda(asked))
    world, _ = trained_in(160, 1, asked)
    world.drive(world.agenda(asked))
    assert {r.spec.key for r in whole.records.values() if r.spec.phase == "search"} <= world.keys()
    assert world.agenda(asked).current() == whole.agenda(asked).current()


def test_resuming_asks_for_no_proposal_and_builds_each_spec_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = study(search={"sampler": "tpe"})
    world = World()
    world.drive(world.agenda(asked))
    calls: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> Any:
        inner = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return inner(*arguments, **options)

        return call

    for owner, name in ((module, "propose"), (Trials, "spec"), (module, "select")):
        monkeypatch.setattr(owner, name, counted(owner, name))
    agenda = world.agenda(asked)
    for _ in range(5):
        assert agenda.finished and agenda.left() == 0
    assert calls == {"spec": 32, "select": 1}


def test_a_round_that_is_complete_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = study(("scratch",), teacher=None, search={"trials": 40, "repeats": 1})
    world = World()
    agenda = world.agenda(asked)
    seen: list[int] = []
    inner = Agenda.spec_of
    monkeypatch.setattr(Agenda, "spec_of", lambda self, stream, trial: seen.append(trial) or inner(self, stream, trial))
    world.drive(agenda, stop=30)
    seen.clear()
    agenda.next()
    assert set(seen) <= set(range(31)) and seen.count(3) <= 2


@pytest.mark.parametrize(
    ("space", "value", "held"),
    [
        (Choice((8, 14)), 14, True),
        (Choice((8, 14)), 20, False),
        (Range(1, 20, log=True), 20.0, True),
        (Range(1, 20, log=True), 20.1, False),
        (Range(1, 20), 0.9, False),
        (Range(0, 1, step=0.1), 0.3, True),
        (Range(0, 1, step=0.1), 0.35, False),
        (Range(1, 20), "4", False),
    ],
)
def test_a_space_holds_what_it_would_yield(space: Space, value: Any, held: bool) -> None:
    assert holds(space, value) is held


def test_a_job_carries_the_teacher_of_the_study() -> None:
    world = World()
    agenda = world.agenda(study(("kd",)))
    first = agenda.next()
    assert first.spec == teacher_spec(study(("kd",)))
    agenda.done(world.train(first))
    assert agenda.next().teacher == first.spec
