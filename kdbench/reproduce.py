"""`kdbench reproduce`: train one row of a leaderboard again, from the specs of its records, and compare.

Weights of networks that the row learns from are taken where their SHA-256 is the one that its records name; those that
are not at hand are trained again, and compared too. Every training leaves a record in the new folder, so the same
command goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from kdbench import data, strict_json
from kdbench.combine import COMBINE
from kdbench.errors import CheckpointError, DataError, KdbenchError
from kdbench.labels import seconds_label
from kdbench.method import methods
from kdbench.record import PROTOCOL, TrialRecord, TrialSpec, canonical_json
from kdbench.report.leaderboard import SCORE, Row
from kdbench.report.manifest import sha256
from kdbench.report.reproduction import (
    NAME,
    NetworkResult,
    Origin,
    Reproduction,
    SeedResult,
    Surroundings,
    comparable,
    judged,
)
from kdbench.store import Store, write_json
from kdbench.study.checkpoints import checkpoint_file
from kdbench.study.plan import job_with
from kdbench.terminal import describe
from kdbench.trace.explain import flat
from kdbench.trace.locate import Report, locate_row
from kdbench.train.imported import import_checkpoint
from kdbench.train.run import UNTRAINED, run_job
from kdbench.train.shelf import shelf_folder
from kdbench.train.tuning import engine_of
from kdbench.train.workshop import Workshop, file_hash

Say = Callable[[str], None]
INTERRUPTED = 130
NAMED = 3  # of the results that differ, so many are written out in a line
SAME = {True: "the same weights", False: "other weights", None: "no recorded hash to compare with"}
BEGUN = "row.json"  # says whose reproduction a folder holds, so that no other is mixed in
VARYING = ("latency", "traceback", "taken_from", "checkpoint_set_aside")  # facts of a record that are no surroundings


def run(text: str, results: Path, seeds: str, into: Path | None, by: str, as_json: bool) -> int:
    """`kdbench reproduce`: say how it goes on and what came out; return the exit status, 1 unless reproduced."""
    count = count_of(seeds)
    report, row = locate_row(text, results)
    folder = into or Path("reproductions") / f"{report.study}-{row.id}"
    out = Console(stderr=as_json, highlight=False, soft_wrap=True)
    try:
        with out.status("reading data") if out.is_terminal else nullcontext() as status:
            tick = (lambda line: status.update(escape(line))) if status is not None else (lambda line: None)
            found = reproduce(report, row, folder, count, by, lambda line: out.print(line, markup=False), tick)
    except KeyboardInterrupt:
        out.print(f"Stopped. The same command goes on, in {folder}.", markup=False)
        return INTERRUPTED
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        out.print("\n".join([*summary(found), f"Written: {folder / NAME}"]), markup=False)
    return 0 if found.verdict in ("bit-equal", "inside") else 1


def count_of(seeds: str) -> int | None:
    """How many trainings `--seeds` asks for; None for all. Raise KdbenchError for anything else."""
    if seeds == "all":
        return None
    if seeds.isascii() and seeds.isdigit() and int(seeds) > 0:
        return int(seeds)
    raise KdbenchError(f"--seeds: got '{seeds}'. Allowed: a whole number from 1, or all.")


def summary(found: Reproduction) -> list[str]:
    """What came out, in lines: networks, what the environments differ in, and the verdict."""
    lines = []
    for network in found.networks:
        same = {True: "the same weights", False: "other weights", None: "no recorded hash to compare with"}[
            network.equal
        ]
        lines.append(f"{network.name} {network.key}: {network.origin}, {same}")
    differs = [f"  {name}: {then}, now {now}" for name, (then, now) in found.environment.differs.items()]
    lines += ["The environment differs in", *differs] if differs else ["The environment is the same."]
    return [*lines, f"{found.method} (row {found.row}): {found.verdict}: {found.reason}"]


def reproduce(
    report: Report,
    row: Row,
    into: Path,
    seeds: int | None,
    by: str = "",
    say: Say = print,
    tick: Say = lambda line: None,
) -> Reproduction:
    """Train a row again in the folder `into`, or go on with it, and write `reproduction.json` there.

    seeds: how many of its trainings, None for all. by: who does it. say: is told how it goes on; tick: of every epoch.
    Raise KdbenchError, before anything is trained, if the row has nothing to train, `into` is another's, or data or
    code are missing.
    """
    chosen = trainings_of(report, row, seeds)
    require_same_data(chosen)
    require_methods(chosen)
    store = begun(into, report, row)
    with store.lock():
        rerun = Rerun(report, store, say, tick)
        results = [rerun.again(record) for record in chosen]
        found = concluded(report, row, rerun, results, by)
        write_json(store.folder / NAME, found.to_json())
    return found


def trainings_of(report: Report, row: Row, count: int | None) -> list[TrialRecord]:
    """The records of a row that are made again: those that finished first, in order of their number in the study."""
    records = [report.results.by_key[key] for key in row.keys]
    able = [record for record in records if record.status != "lost"]
    if not able:
        raise KdbenchError(
            f"row {row.id} ({row.method}) of {report.study} has no training that could be made again "
            f"({'; '.join(row.unranked) or 'none is recorded'}). `kdbench show {report.folder}` lists its rows."
        )
    able.sort(key=lambda r: (r.status != "finished", r.spec.slot.get("final", 0), r.spec.seed, r.key))
    return able if count is None else able[:count]


def require_same_data(records: Sequence[TrialRecord]) -> None:
    """Raise DataError unless the data are the ones that the records were trained and tested on."""
    for record in {canonical_json(dict(r.spec.data)): r for r in records}.values():
        loaded = data.load(record.spec.data, test=True)
        for kind, now in (("data_hash", loaded.hash), ("test_hash", loaded.test_hash)):
            then = record.environment.get(kind)
            if None not in (then, now) and then != now:
                raise DataError(
                    f"record {record.key} has {kind} {str(then)[:12]}, but '{data.label(record.spec.data)}' now has "
                    f"{str(now)[:12]}: with other images or labels nothing can be reproduced. Put the old ones back "
                    "(KDBENCH_DATA names their folder)."
                )


def require_methods(records: Sequence[TrialRecord]) -> None:
    """Raise KdbenchError for a method that is not known here, with the plug-in that it came from."""
    for record in records:
        names = record.spec.method["parts"] if record.spec.method_name == COMBINE else [record.spec.method_name]
        for name in names:
            if name not in methods and name not in UNTRAINED:
                plugin = record.environment.get("plugins", {}).get(f"method {name}", {})
                source = f" It came from {plugin['file']}." if "file" in plugin else ""
                raise KdbenchError(f"{methods.unknown(name)}{source} Give its file with --plugin FILE.")


def begun(into: Path, report: Report, row: Row) -> Store:
    """The store of a reproduction, begun now or before. Raise KdbenchError for a folder that holds anything else."""
    mine, path = {"row": row.id, "study": report.study}, into / BEGUN
    if (into / "study.json").exists():
        raise KdbenchError(
            f"--into: {into} is the folder of a study, whose records would be taken for new ones. Give another folder."
        )
    if path.exists():
        there = strict_json.read(path)
        if there != mine:
            raise KdbenchError(f"--into: {into} holds the reproduction of {there}, not of {mine}. Give another folder.")
    elif into.exists() and any(into.iterdir()):
        raise KdbenchError(
            f"--into: {into} is not empty, and no reproduction was begun there. Give a folder of its own."
        )
    write_json(path, mine)
    return Store(into)


@dataclass
class Rerun:
    """Trainings of one row, made again in a store of their own.

    networks: those that were needed so far, by key. made: the new records, by key.
    """

    report: Report
    store: Store
    say: Say
    tick: Say
    networks: dict[str, NetworkResult] = field(default_factory=dict)
    made: dict[str, TrialRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.originals = Store(self.report.folder)
        self.specs = {record.key: record.spec for record in self.report.results.records}
        self.shop = Workshop(self.store, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def again(self, record: TrialRecord) -> SeedResult:
        """Train what a record stands for again, with all that it needs, and compare."""
        if (missing := [key for key in needed_keys(record.spec) if key not in self.specs]) != []:
            raise KdbenchError(
                f"record {record.key} needs the network {missing[0]}, of which the study has no record. "
                f"Is {self.report.folder} whole? `kdbench verify {self.report.folder}` says what is missing."
            )
        job = job_with(record.spec, self.specs)
        for needed in job.needs:
            self.bring(needed, wanted_hash(record, needed.key) or self.wanted(needed.key))
        if record.spec.method_name == "checkpoint":
            self.bring(record.spec, self.wanted(record.key))
        new = self.train(record)
        result = compared(record, new)
        self.made[record.key] = new
        self.say(f"{describe(record.spec)}: {in_words(result)}, in {seconds_label(new.wall_s)}")
        return result

    def train(self, record: TrialRecord) -> TrialRecord:
        """The new record: read if it was made before, else trained with as many threads as then."""
        path = self.store.record_path(record.key)
        if path.exists():
            new = self.store.read(record.key)
            if new.started == record.started and new.wall_s == record.wall_s:
                raise KdbenchError(f"{path}: a copy of the original record, and no new training. Delete it.")
            return new
        torch.set_num_threads(int(record.environment.get("threads", 1)))
        self.shop.engine = engine_of(record, self.shop.device)
        name, epochs = describe(record.spec), record.spec.train.get("epochs")
        for epoch, item in enumerate(run_job(job_with(record.spec, self.specs), self.shop), 1):
            if isinstance(item, TrialRecord):
                self.store.write(item)
            else:
                self.tick(f"{name}: epoch {epoch} of {epochs}")
        return self.store.read(record.key)

    def wanted(self, key: str) -> str | None:
        """SHA-256 of a network's weights as any record of the study names it, or None."""
        return next((found for r in self.report.results.records if (found := wanted_hash(r, key)) is not None), None)

    def bring(self, spec: TrialSpec, wanted: str | None) -> None:
        """Bring the weights of a network into the store: those of the study, of the shelf or of a checkpoint, if they
        are the ones that the records name; else those of its training, made again."""
        if spec.key in self.networks:
            return
        path = self.store.weights_path(spec.key)
        for origin, source in self._sources(spec.key):
            if source.is_file() and file_hash(source) == wanted:
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, path)
                self._note(spec, origin, wanted)
                return
        if spec.method_name == "checkpoint":
            import_checkpoint(self._checkpoint(spec), spec, self.store)
            self._note(spec, "checkpoint", wanted)
            return
        original = self.report.results.by_key[spec.key]
        self.say(f"the weights of {self._name(spec)} {spec.key} are not at hand, so it is trained again")
        result = self.again(original)
        if result.reproduced_status != "finished":
            error = self.made[spec.key].error
            raise KdbenchError(f"{self._name(spec)} {spec.key} ended as {result.reproduced_status} ({error}).")
        self._note(spec, "trained again", wanted, result)

    def _sources(self, key: str) -> Iterator[tuple[Origin, Path]]:
        yield "weights of the study", self.originals.weights_path(key)
        if (shelf := shelf_folder()) is not None:
            yield "shelf of teachers", shelf / f"{key}.safetensors"

    def _checkpoint(self, spec: TrialSpec) -> Path:
        """The file of a network that others trained. Raise CheckpointError that names it if it is not here."""
        results = self.report.results
        sections: list[Mapping[str, Any]] = [results.section("teacher"), *results.section("networks").values()]
        written = [
            s["checkpoint"] for s in sections if s.get("sha256") == spec.method["sha256"] and s.get("checkpoint")
        ]
        for name in written:
            if (found := checkpoint_file(name)) is not None:
                return found
        raise CheckpointError(
            f"the checkpoint {' or '.join(written) or 'of ' + spec.key} (sha256 {spec.method['sha256'][:12]}...) is "
            f"neither here nor in the data root {data.data_root()}. Put it there."
        )

    def _name(self, spec: TrialSpec) -> str:
        return self.report.results.network(spec.key)

    def _note(self, spec: TrialSpec, origin: Origin, wanted: str | None, result: SeedResult | None = None) -> None:
        path = self.store.weights_path(spec.key)
        self.networks[spec.key] = NetworkResult(
            name=self._name(spec), key=spec.key, origin=origin, recorded_sha256=wanted, sha256=file_hash(path),
            equal=None if wanted is None else wanted in hashes_of(path), reproduced=result,
        )  # fmt: skip


def needed_keys(spec: TrialSpec) -> list[str]:
    """Keys of the networks that a training begins with."""
    return [key for key in (spec.teacher, spec.init, *spec.members) if key is not None]


def wanted_hash(record: TrialRecord, key: str) -> str | None:
    """SHA-256 of a network's weights as a record that began with it names it, or None."""
    roles = {"teacher_hash": record.spec.teacher, "init_hash": record.spec.init}
    found = (record.environment.get(name) for name, own in roles.items() if own == key)
    return next((str(value) for value in found if value is not None), None)


def hashes_of(path: Path) -> set[str]:
    """SHA-256 of a file of weights, and of the same weights as records before version 0.2 name them.

    Then the file's header had two entries, in an order that differed from process to process.
    """
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    checksum, _, facts = header["__metadata__"]["kdbench"].partition(" ")
    found = {sha256(content)}
    for order in (1, -1):
        entries = [("kdbench", facts), ("checksum", checksum)][::order]
        text = json.dumps({**header, "__metadata__": dict(entries)}, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        found.add(sha256(len(text).to_bytes(8, "little") + text + content[end:]))
    return found


def compared(then: TrialRecord, now: TrialRecord) -> SeedResult:
    """A training and the same made again. What only the new one has measured is no difference."""
    before, after = then.to_json(), now.to_json()
    differs = [] if then.status == now.status else ["status"]
    for section in ("result", "curves"):
        old, new = comparable(before[section]), comparable(after[section])
        differs += [name for name, value in old.items() if name not in new or new[name] != value]
    return SeedResult(
        seed=then.spec.seed, key=then.key, equal=not differs, differs=tuple(dict.fromkeys(differs)),
        recorded_top1_pct=score_of(then), reproduced_top1_pct=score_of(now),
        recorded_status=then.status, reproduced_status=now.status,
    )  # fmt: skip


def score_of(record: TrialRecord) -> float | None:
    """Test top-1 accuracy in percent of a finished training; None of any other."""
    value = record.result.get(SCORE)
    return float(value) if record.status == "finished" and value is not None else None


def in_words(result: SeedResult) -> str:
    """`98.3333 %, recorded 98.0556 %: differs in val_nll, test_nll`."""

    def value(score: float | None, status: str) -> str:
        return f"{score:.4f} %" if score is not None else status

    now = value(result.reproduced_top1_pct, result.reproduced_status)
    then = value(result.recorded_top1_pct, result.recorded_status)
    more = f" and {len(result.differs) - NAMED} others" if len(result.differs) > NAMED else ""
    differs = f"differs in {', '.join(result.differs[:NAMED])}{more}"
    return f"{now}, recorded {then}: {'bit-equal' if result.equal else differs}"


def concluded(report: Report, row: Row, rerun: Rerun, seeds: Sequence[SeedResult], by: str) -> Reproduction:
    """What came out, with the verdict."""
    recorded = list(row.scores.values())
    verdict, reason, interval = judged(recorded, seeds)
    again = [s.reproduced_top1_pct for s in seeds if s.reproduced_top1_pct is not None]
    first = seeds[0].key
    low, high = row.interval.low, row.interval.high
    return Reproduction(
        row=row.id, study=report.study, pair=row.pair, method=row.method, student=row.student, protocol=PROTOCOL, by=by,
        seeds=tuple(seeds), networks=tuple(rerun.networks.values()),
        recorded_mean_pct=sum(recorded) / len(recorded) if recorded else None,
        reproduced_mean_pct=sum(again) / len(again) if again else None,
        interval=interval, row_interval=None if low is None or high is None else (low, high),
        verdict=verdict, reason=reason,
        environment=surroundings(report.results.by_key[first], rerun.made[first], rerun.networks),
        record_sha256={key: sha256(report.record_path(key).read_bytes()) for key in row.keys},
    )  # fmt: skip


def surroundings(then: TrialRecord, now: TrialRecord, networks: Mapping[str, NetworkResult]) -> Surroundings:
    """What two trainings ran with, and every single fact that differs; equal weights in another file do not."""
    before, after = ({k: v for k, v in r.environment.items() if k not in VARYING} for r in (then, now))
    old, new = flat(before), flat(after)
    same = {
        f"{role}_hash"
        for role, key in (("teacher", then.spec.teacher), ("init", then.spec.init))
        if key is not None and key in networks and networks[key].equal
    }
    odd = [name for name in {**old, **new} if old.get(name) != new.get(name) and name not in same]
    return Surroundings(
        recorded=before, reproduced=after, differs={name: (old.get(name), new.get(name)) for name in odd}
    )
