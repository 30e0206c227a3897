"""Several trainings side by side in one process, in lockstep: one fetch of images, one forward of the live teacher.

Each has its own student, optimiser, clipping, draws and checkpoints, and comes out as if it had trained alone: it takes
its turns within the same random state and settings, and what all share is either computed by the same operations, or
found to have been touched, and then nothing is shared any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

from kdbench import plugins
from kdbench.data.views import Views
from kdbench.errors import MethodError
from kdbench.record import Job, TrialRecord, canonical_json
from kdbench.store import patience_s
from kdbench.train.epoch import Course, Epoch, course_of
from kdbench.train.guard import Guard
from kdbench.train.loop import Training
from kdbench.train.run import ENDS, Run, ended_by, no_end, run_job
from kdbench.train.shared import SHARED, Meter, SharedTeacher, SharedViews
from kdbench.train.splitting import ONE, Spread
from kdbench.train.starts import starts_of
from kdbench.train.teachers import CachedTeacher
from kdbench.train.watch import SETUP_S, hung, time_limit
from kdbench.train.workshop import Workshop

Item = tuple[str, "dict[str, float] | TrialRecord"]
Begin = Callable[[Job], None]


def run_jobs(jobs: list[Job], shop: Workshop, spread: Spread = ONE, begin: Begin = lambda job: None) -> Iterator[Item]:
    """Run one job as `run_job`, or several as `run_stream`: yield what they do, with the key of whose it is."""
    return run_stream(jobs, shop, begin) if len(jobs) > 1 else one_by_one(jobs, shop, begin, spread)


def run_stream(jobs: Iterable[Job], shop: Workshop, begin: Begin = lambda job: None) -> Iterator[Item]:
    """Run jobs side by side: yield key and curves' point of each epoch of each, and at last key and record of each.

    A job that ends, however it does, leaves the others alone: they go on to the same numbers. Those that are behind
    catch up first. Errors of the machine are raised, as by `run_job`: every job that has no record yet then goes on
    from its checkpoint when it is run again. begin: called before each start of a job.
    """
    left = {job.spec.key: job for job in jobs}
    together = True
    while left:
        stream = Stream(shop, begin) if together and len(left) > 1 else None
        items = stream.items(list(left.values())) if stream else one_by_one(list(left.values()), shop, begin)
        for key, item in items:
            if isinstance(item, TrialRecord):
                left.pop(key)
            yield key, item
        together = stream is not None and not stream.harmed


def one_by_one(jobs: list[Job], shop: Workshop, begin: Begin, spread: Spread = ONE) -> Iterator[Item]:
    """Run jobs one after another, each as if it were alone."""
    for job in jobs:
        begin(job)
        for item in run_job(job, shop, spread):
            yield job.spec.key, item


class Member:
    """A training of a stream. shared_s: its part of what was done for all."""

    def __init__(self, run: Run, account: str, meter: Meter) -> None:
        self.job, self.run, self.key, self.account, self.meter = run.job, run, run.spec.key, account, meter
        self.guard = cast(Guard, run.training.method)
        self.shared_s = 0.0
        self.students = 1  # at most at once
        self.point: dict[str, float] = {}
        self.begin_epoch(1)
        run.spent_s = self.spent_s

    @property
    def training(self) -> Training:
        """The training itself."""
        return self.run.training

    def begin_epoch(self, students: int) -> None:
        """Count the time of an epoch from here, which so many begin together."""
        self.students, self.together = max(self.students, students), students
        self._marks = self.meter.seconds(self.account), self.meter.seconds(SHARED)

    def epoch_s(self) -> float:
        """Seconds of this epoch: its own, and an equal part of what was done for all."""
        own = self.meter.seconds(self.account) - self._marks[0] if self.account != SHARED else 0.0
        return own + self.epoch_shared_s()

    def epoch_shared_s(self) -> float:
        """Its part of what was done for all in this epoch."""
        return (self.meter.seconds(SHARED) - self._marks[1]) / self.together

    def spent_s(self) -> float:
        """Seconds since it joined the stream, reading data and writing checkpoints too."""
        return (self.meter.seconds(self.account) if self.account != SHARED else 0.0) + self.shared_s

    def left_s(self) -> float | None:
        """Seconds until its time limit; None without one."""
        limit = self.run.recipe.time_limit_s
        return limit and limit - self.training.wall_s - self.epoch_s()

    def start(self, course: Course) -> None:
        """Get ready for the steps of an epoch."""
        self.guard.begin()
        self.epoch = Epoch(self.training, course)

    def step(self) -> None:
        """One step."""
        with self.epoch.settings():
            self.epoch.step()

    def end(self) -> None:
        """After the last step."""
        self.point = self.epoch.end()

    def note(self) -> None:
        """Add the epoch and its time to the curves; what is done from here on is no part of it."""
        seconds, shared_s = self.epoch_s(), self.epoch_shared_s()
        self.shared_s += shared_s
        self.point = self.training.note(self.point, seconds)
        self.begin_epoch(1)


class Stream:
    """Trainings in lockstep, until each has its record, or `spoilt`.

    harmed: something that they share is not as it was, whoever did it: those that are left must start again, alone.
    spoilt: so it is, or may be; those that are left must start again.
    """

    def __init__(self, shop: Workshop, begin: Begin) -> None:
        self.shop, self.begin = shop, begin
        self.meter = Meter()
        self.members: list[Member] = []
        self.harmed = self.spoilt = False
        self._shared: dict[int, Any] = {}
        self._records: list[TrialRecord] = []  # of those that left, to be handed out

    def items(self, jobs: list[Job]) -> Iterator[Item]:
        """As `run_stream`."""
        for job in jobs:
            if not self.spoilt:
                self.begin(job)
                self._enter(job)
        while not self.spoilt and self.members:
            for member in [member for member in self.members if member.run.over]:
                self._leave(member)
            yield from self._ended()
            behind = min((member.training.epochs_done for member in self.members), default=0)
            yield from self._epoch([m for m in self.members if m.training.epochs_done == behind])
        yield from self._ended()

    def _ended(self) -> Iterator[Item]:
        """Records that are there."""
        while self._records:
            record = self._records.pop(0)
            yield record.key, record

    def _account(self, key: str) -> str:
        """Whom a training's turns are charged to. On a GPU, where the host's clock does not see whose work is done,
        each has an equal part of all."""
        return SHARED if self.shop.device.type == "cuda" else key

    def _enter(self, job: Job) -> None:
        """Load a training, or go on with it."""
        spec, folder = job.spec, self.shop.store.work_folder(job.spec.key)
        limit, account = spec.train.get("time_limit_s"), self._account(spec.key)
        if (place := hung(folder)) is not None:
            self._records.append(no_end(spec, limit, place, starts_of(folder), None))
            return
        try:
            with self.meter.charge(account), time_limit(limit and limit + SETUP_S, folder):
                member = Member(Run(job, self.shop), account, self.meter)
                self._share(member.training)
        except ENDS as error:
            self._end(error, job, None, self.meter.seconds(account))
        else:
            self.members.append(member)

    def _share(self, training: Training) -> None:
        """Let a training look at images and teacher together with the others."""
        task = training.task
        views = self._once(task.train, lambda: SharedViews(task.train, self.meter))
        training.task = replace(task, train=cast(Views, views))
        if (teacher := task.teacher) is not None and not isinstance(teacher, CachedTeacher):
            shared = self._once(teacher, lambda: SharedTeacher(teacher, self.meter))
            training.task = replace(training.task, teacher=shared)
        training.in_stream = True

    def _once(self, thing: Any, make: Callable[[], Any]) -> Any:
        """What was made for this thing; it holds the thing, whose identity stays its own."""
        return self._shared.setdefault(id(thing), make())

    def _leave(self, member: Member) -> None:
        """A training is over: make its record."""
        limit = member.run.recipe.time_limit_s
        if member.students > 1:
            member.run.facts["stream"] = {"students": member.students}
        try:
            with self.meter.charge(member.account), time_limit(limit and limit + patience_s(), member.run.folder):
                self._records.append(member.run.record())
            self.members.remove(member)
        except ENDS as error:
            self._end(error, member.job, member, member.spent_s())

    def _end(self, error: BaseException, job: Job, member: Member | None, wall_s: float) -> None:
        """A training was ended by an error. Where there are plug-ins, one that broke off may have changed anything."""
        self._records.append(ended_by(error, job, self.shop, member.run if member else None, wall_s))
        if member is not None:
            self.members.remove(member)
        self.spoilt = self.spoilt or plugins.loaded()

    def _turn(self, member: Member, action: Callable[[], None]) -> None:
        """Let a training do something; if that ends it, only it."""
        try:
            with (
                self.meter.charge(member.account),
                time_limit(member.left_s(), member.run.folder),
                member.guard.turn("loss", self.settings),
            ):
                action()
        except ENDS as error:
            self._end(error, member.job, member, member.spent_s())

    def _turns(self, members: list[Member], action: Callable[[Member], None]) -> list[Member]:
        """Let each do something; returns those that are still there."""
        for member in members:
            if not self.spoilt:
                self._turn(member, partial(action, member))
        return [] if self.spoilt else [member for member in members if member in self.members]

    def _epoch(self, members: list[Member]) -> Iterator[Item]:
        """An epoch of all these. Nothing of it is kept unless all that they share is as it was."""
        self.settings = plugins.settings()
        for member in members:
            member.begin_epoch(len(members))
        courses: dict[str, Course] = {}
        with self.meter.charge(SHARED):
            for member in members:
                if course_name(member) not in courses:
                    courses[course_name(member)] = course_of(member.training)
        members = self._turns(members, lambda member: member.start(courses[course_name(member)]))
        while stepping := [member for member in members if not member.epoch.complete]:
            members = [m for m in members if m.epoch.complete] + self._turns(stepping, Member.step)
            yield from self._ended()
            if self.spoilt:
                return
        members = self._turns(members, Member.end)
        try:
            for member in members:
                member.guard.compare("loss")
        except MethodError:  # by whom, each finds out when it is alone
            self.harmed = self.spoilt = True
            self.shop.forget()
            return
        for member in members:
            member.note()
        for member in members:
            self._turn(member, member.run.keep)
            if member in self.members:
                yield member.key, member.point


def course_name(member: Member) -> str:
    """Trainings with the same name of their courses go the same."""
    spec = member.job.spec
    return canonical_json([spec.seed, dict(spec.data)])
