"""Which training may start next. Everything here follows from the study and the records; nothing else is remembered.

The order is the same for every row: the teacher and all other networks that are the same for every student, then search
trials trial by trial over all rows (so that a study that is cut short has treated all alike), then final seeds seed by
seed, then their evaluations in the same order, and latency at last, when nothing else runs. Networks of a student's own
size come when a trial needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kdbench.fields import holds
from kdbench.record import Job, TrialRecord, TrialSpec, canonical_json, metric
from kdbench.search.budget import Budget
from kdbench.search.evaluations import Evaluations, seed_by_seed
from kdbench.search.past import Past, learns
from kdbench.search.select import select
from kdbench.seeds import seed_for
from kdbench.study.networks import fixed_networks, networks
from kdbench.study.plan import (
    Stream,
    Trials,
    final_spec,
    job_with,
    latency_spec,
    streams,
)
from kdbench.study.rows import TEACHER
from kdbench.study.schema import Study

STAGES = ("teachers", "search", "final", "latency")


def propose(*arguments: Any, **options: Any) -> dict[str, Any]:
    """As in kdbench.search.propose, which takes half a second to import: whoever only looks at a study asks nothing."""
    from kdbench.search.propose import propose as ask

    return ask(*arguments, **options)


class Agenda:
    """Hands out jobs (`next`), takes records (`done`), and knows what is running.

    records: finished trainings by key. has_weights: whether the trained network of a key is at hand. until: the last
    stage that is worked on. budget: closes the search, and then the finals, in time. again: trainings whose records
    were taken away to run them again; a search trial among them has its old values, whatever would be proposed now.
    """

    def __init__(
        self,
        study: Study,
        records: Mapping[str, TrialRecord],
        has_weights: Callable[[str], bool],
        until: str = "latency",
        budget: Budget | None = None,
        again: Iterable[TrialSpec] = (),
    ) -> None:
        self.study = study
        self.records = dict(records)
        self.has_weights = has_weights
        self.stages = STAGES[: STAGES.index(until) + 1]
        self.budget = budget or Budget(None)
        self.running: dict[str, TrialSpec] = {}
        self.streams = streams(study)
        self.fixed = fixed_networks(study)
        self._cells = {cell.name: cell for cell in study.cells()} if study.pairs else {}
        self.teacher = self.fixed.get(TEACHER)
        self.handed: set[str] = set()  # keys of all that was started in this run
        self._complete = 0  # so many rounds of the search, from the first, have all their records
        self._closed_at: int | None = None  # the first round of the search that no longer fits into the budget
        self._chosen: list[TrialSpec] | None = None  # the finals, once the search is over
        self._searches: dict[tuple[str, str, int], Trials] = {}
        self._specs: dict[tuple[str, str, int, int], TrialSpec] = {}
        self._networks: dict[str, dict[str, TrialSpec]] = {}
        self._names = {spec.key: name for name, spec in self.fixed.items()}
        self._evaluations = Evaluations(study)
        self._adopt_recorded(again)

    def next(self) -> Job | None:
        """A job that can start now, or None. It counts as running until `done` is called."""
        return next((job for spec in self.startable() if (job := self._begin(self._ready(spec))) is not None), None)

    def hand_out(self, spec: TrialSpec) -> Job | None:
        """The job of one of `startable`, as `next`; None while networks that it needs are not trained."""
        job = self._ready(spec)
        return self._begin(job) if job is not None and job.spec.key == spec.key else None

    def _begin(self, job: Job | None) -> Job | None:
        if job is not None:
            self.running[job.spec.key] = job.spec
            self.handed.add(job.spec.key)
        return job

    def done(self, record: TrialRecord) -> None:
        """A training has ended, well or badly."""
        self.records[record.key] = record
        self.running.pop(record.key, None)
        self.budget.note(record)

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing more will start."""
        return not self.running and next(iter(self.startable()), None) is None

    def known(self) -> list[TrialSpec]:
        """Specs of this study whose values are known by now: search trials so far, and finals once they are chosen."""
        found = [self.spec_of(stream, trial) for trial in range(self.rounds) for stream in self.streams]
        return [spec for spec in found if spec is not None] + (self.finals() if self.search_over() else [])

    def left(self) -> int:
        """About how many trainings are still to be done: finals are counted as expected until the search is over, and
        networks of a student's own size as far as the trials that need them are known."""
        total = sum(spec.key not in self.records for spec in self.fixed.values())
        waiting: list[TrialSpec] = []
        if "search" in self.stages:
            total += self.rounds * len(self.streams) - len(self.own_search())
            waiting += [spec for (*_, trial), spec in self._specs.items() if trial < self.rounds]
        if "final" in self.stages:
            finals = self.finals() if self.search_over() else None
            total += self.finals_expected() if finals is None else sum(s.key not in self.records for s in finals)
            waiting += finals or []
            total += self.evaluations_left()
        needed = self.needed_by(spec for spec in waiting if spec.key not in self.records)
        fixed = {spec.key for spec in self.fixed.values()}
        return total + sum(key not in self.records and key not in fixed for key in needed)

    def current(self) -> dict[str, list[str]]:
        """Keys of the records that belong to the study as it stands now, by phase; others are left over from before it
        was changed, or from a search that was shorter."""
        search = self.own_search()
        finals = [spec for spec in self.finals() if spec.key in self.records]
        evaluated = [spec.key for spec in self.evaluations() if spec.key in self.records]
        needed = self.needed_by([*(record.spec for record in search), *finals])
        used = {spec.key: spec for spec in [*self.fixed.values(), *needed.values()] if spec.key in self.records}
        return {
            "teacher": [key for key, spec in used.items() if spec.phase == "teacher"],
            "source": sorted(key for key, spec in used.items() if spec.phase == "source"),
            "search": [record.key for record in search],
            "final": [spec.key for spec in finals],
            **({"evaluation": evaluated} if self._evaluations.settings else {}),
            "latency": [spec.key for spec in self.latencies() if spec.key in self.records],
        }

    def network_names(self) -> dict[str, str]:
        """The names in the study file of all networks that have a record, by key."""
        self.current()  # looks at every network that belongs to the study as it stands
        return {key: name for key, name in sorted(self._names.items()) if key in self.records}

    def name_of(self, spec: TrialSpec) -> str | None:
        """The name in the study file of a network that was handed out or is known; None for a student."""
        return self._names.get(spec.key)

    def needed_by(self, specs: Iterable[TrialSpec]) -> dict[str, TrialSpec]:
        """By key, the networks that students learn from and start from, and those that these need in turn."""
        found: dict[str, TrialSpec] = {}

        def visit(spec: TrialSpec, known: Mapping[str, TrialSpec]) -> None:
            for needed in job_with(spec, known).needs:
                if needed.key not in found:
                    found[needed.key] = needed
                    visit(needed, known)

        for spec in specs:
            if spec.teacher is not None or spec.init is not None:
                visit(spec, self._networks_for(spec))
        return found

    def _networks_for(self, spec: TrialSpec) -> dict[str, TrialSpec]:
        """By key, all networks that a student, or a network that is the same for every student, can name."""
        model = spec.model if "pair" in spec.slot else {}
        cell = self._cells.get(str(spec.slot.get("pair")))
        name = canonical_json([dict(model), cell and cell.name])
        if name not in self._networks:
            known = networks(self.study, model, cell) if model else self.fixed
            self._networks[name] = {network.key: network for network in known.values()}
            self._names |= {network.key: called for called, network in known.items()}
        found = self._networks[name]
        return {**found, str(spec.init): self.records[str(spec.init)].spec} if spec.phase == "evaluation" else found

    def startable(self) -> Iterator[TrialSpec]:
        """Specs without a record that are not running, in order of preference."""
        for spec in self._candidates():
            if spec.key not in self.records and spec.key not in self.running:
                yield spec

    def _candidates(self) -> Iterator[TrialSpec]:
        """Specs whose values are known by now, stage by stage; a stage opens when the one before is complete."""
        missing = [spec for spec in self.fixed.values() if spec.key not in self.records]
        if missing:
            yield from missing
            return
        if "search" not in self.stages:
            return
        yield from self._search()
        if "final" not in self.stages or not self.search_over():
            return
        finals = list(self._finals_in_time())
        yield from finals
        if not all(spec.key in self.records for spec in finals):
            return
        evaluations = list(self._evaluations_in_time())
        yield from evaluations
        if "latency" in self.stages and not self.running and all(spec.key in self.records for spec in evaluations):
            yield from self.latencies()

    def _search(self) -> Iterator[TrialSpec]:
        """Search trials whose values are known, trial by trial over all streams: random draws from the first, others
        once the batch before theirs is complete."""
        for trial in range(self._complete_rounds(), self.rounds):
            specs = [spec for stream in self.streams if (spec := self.spec_of(stream, trial)) is not None]
            if not specs:
                return  # and nothing after it can be known
            if not self._begun(specs) and not self.budget.allows(len(self.streams) + self.finals_expected()):
                self._closed_at = trial
                return
            yield from specs

    def _begun(self, specs: list[TrialSpec]) -> bool:
        return any(spec.key in self.records or spec.key in self.running for spec in specs)

    @property
    def rounds(self) -> int:
        """How many trials each search gets: all that the study asks for, or fewer where the budget ends before."""
        return self.study.search.trials if self._closed_at is None else self._closed_at

    def search_over(self) -> bool:
        """Whether every search has all its trials."""
        return self._complete_rounds() >= self.rounds

    def _complete_rounds(self) -> int:
        while self._complete < self.rounds and all(
            (spec := self.spec_of(stream, self._complete)) is not None and spec.key in self.records
            for stream in self.streams
        ):
            self._complete += 1
        return self._complete

    def spec_of(self, stream: Stream, trial: int) -> TrialSpec | None:
        """The spec of a search trial; None while the trials that it learns from are not finished."""
        known = self._specs.get((*stream.name, trial))
        if known is None:
            known = self._proposed(stream, trial)
            if known is not None:
                self._specs[*stream.name, trial] = known
        return known

    def _adopt_recorded(self, again: Iterable[TrialSpec]) -> None:
        """Take over the search trials that records hold, as far as this study would build the same from their values;
        what is left of another study, or of this one before its ranges were changed, is passed over."""
        filed = self._by_slot(record.spec for record in self.records.values())
        taken_away = self._by_slot(again)
        for stream in self.streams if filed or taken_away else []:
            pair = self._trials(stream).pair
            for trial in range(self.study.search.trials):
                slot = (pair, stream.row, stream.repeat, trial)
                fitting = [spec for spec in filed.get(slot, []) if self._fits(spec, stream, trial)]
                if len(fitting) > 1:  # ranges were changed and changed back: what would be proposed now is the one
                    proposed = self._proposed(stream, trial)
                    fitting = [spec for spec in fitting if spec == proposed] or fitting
                fitting = fitting or [spec for spec in taken_away.get(slot, []) if self._fits(spec, stream, trial)]
                if fitting:
                    self._specs[*stream.name, trial] = fitting[0]

    def _by_slot(self, specs: Iterable[TrialSpec]) -> dict[tuple[Any, ...], list[TrialSpec]]:
        """Search trials by their place in the study."""
        found: dict[tuple[Any, ...], list[TrialSpec]] = {}
        for spec in specs:
            if spec.phase == "search":
                found.setdefault(self._slot(spec), []).append(spec)
        return found

    def _fits(self, spec: TrialSpec, stream: Stream, trial: int) -> bool:
        """Whether the study could have asked for this trial."""
        trials = self._trials(stream)
        values = trials.values(spec)
        if not all(holds(space, values[name]) for name, space in trials.space.items()):
            return False
        return (trial > 0 or values == trials.defaults) and trials.spec(trial, values) == spec

    def _trials(self, stream: Stream) -> Trials:
        if stream.name not in self._searches:
            self._searches[stream.name] = Trials(self.study, stream)
        return self._searches[stream.name]

    def _proposed(self, stream: Stream, trial: int) -> TrialSpec | None:
        """Ask Optuna, with the trials of earlier batches as what is known; where it does not learn, with none."""
        search, trials = self.study.search, self._trials(stream)
        startup = search.startup if search.startup is not None else max(2, search.trials // 3)
        known = 1 + (trial - 1) // search.batch * search.batch
        past: list[Past] = []
        for number in range(trial) if learns(search.sampler, trial, startup) else ():
            spec = self.spec_of(stream, number)
            if spec is None or (number < known and spec.key not in self.records):
                return None
            past.append(self._past(spec, stream, known=number < known))
        values = propose(
            trials.space,
            trials.defaults,
            past,
            number=trial,
            directions=[metric(name).direction for name in search.objectives],
            sampler=search.sampler,
            startup=startup,
            seed=seed_for(search.seed, "search", stream.row, stream.cell.name, stream.repeat),
        )
        return trials.spec(trial, values)

    def _past(self, spec: TrialSpec, stream: Stream, *, known: bool) -> Past:
        record = self.records[spec.key] if known else None
        return Past.of(self._trials(stream).values(spec), record, self.study.search.objectives)

    @staticmethod
    def _slot(spec: TrialSpec) -> tuple[Any, ...]:
        return (spec.slot["pair"], spec.row, spec.slot["repeat"], spec.slot["trial"])

    def own_search(self) -> list[TrialRecord]:
        """Records of this study's search trials, as the study stands now."""
        specs = list(self._specs.items())
        return [
            self.records[spec.key] for (*_, trial), spec in specs if trial < self.rounds and spec.key in self.records
        ]

    def finals(self) -> list[TrialSpec]:
        """The retrainings of what the selection rule chooses by now, seed by seed."""
        if self._chosen is not None:
            return self._chosen
        chosen = select(self.own_search(), self.study.final.select, self.study.search.objectives)
        seeds = range(self.study.final.seeds)
        finals = [final_spec(self.study, spec, number) for number in seeds for spec in chosen]
        if self.search_over():
            self._chosen = finals
        return finals

    def _finals_in_time(self) -> Iterator[TrialSpec]:
        """The finals that the budget has room for: whole seeds, so that every row has the same n."""
        finals = self.finals()
        for number in range(self.study.final.seeds):
            specs = [spec for spec in finals if spec.slot["final"] == number]
            if not self._begun(specs) and not self.budget.allows(len(specs)):
                return
            yield from specs

    def evaluations(self) -> list[TrialSpec]:
        """The further measurements of all finals that have finished, seed by seed."""
        return self._evaluations.of(self.finals(), self.records)

    def _evaluations_in_time(self) -> Iterator[TrialSpec]:
        """The evaluations that are begun while the budget lasts: whole seeds, so that every row has the same n."""
        for specs in seed_by_seed(self.evaluations()):
            if not self._begun(specs) and not self.budget.allows(0):
                return
            yield from specs

    def evaluations_left(self) -> int:
        """About how many evaluations are still to be done."""
        if self.search_over():
            return self._evaluations.left(self.finals(), self.records)
        return self.finals_expected() if self._evaluations.settings else 0

    def latencies(self) -> list[TrialSpec]:
        """One measurement for each model that the table names."""
        finals = [spec for spec in self.finals() if spec.key in self.records]
        named = [spec for spec in self.fixed.values() if spec.phase == "teacher"] + finals
        specs = [latency_spec(self.study, spec) for spec in named]
        return list({spec.key: spec for spec in specs}.values())

    def _available(self, spec: TrialSpec) -> bool:
        """Whether a network that others start from is trained and at hand. One that failed, or whose weights did not
        arrive in this run, is not tried again here, and those that need it fail with its reason."""
        record = self.records.get(spec.key)
        if record is None:
            return False
        return record.status != "finished" or spec.key in self.handed or self.has_weights(spec.key)

    def _ready(self, spec: TrialSpec, known: Mapping[str, TrialSpec] | None = None) -> Job | None:
        """The job of a spec, or of a network that it needs first; None while that is being trained.

        known: by key, the networks that it can name.
        """
        known = self._networks_for(spec) if known is None else known
        job = job_with(spec, known)
        for needed in job.needs:
            if needed.key in self.running:
                return None
            if not self._available(needed):
                return self._ready(needed, known)
        return job

    def finals_expected(self) -> int:
        """About how many final trainings will follow the search."""
        if "final" not in self.stages:
            return 0
        sizes = 0
        for cell in self.study.cells():
            per_size = math.prod(len(choice.values) for choice in cell.space.values())
            sizes += per_size if self.study.final.select == "best_per_size" else 1
        return len(self.study.methods) * sizes * self.study.final.seeds
