"""What every table and figure says about itself: how it was selected, n, what n counts, on what it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kdbench.labels import count_label, data_label, plural, processor_label, settings_label, value_label
from kdbench.record import TrialRecord
from kdbench.report import stats
from kdbench.report.compact import LEGEND, students
from kdbench.report.fairness import FAILURES, PHASES, Fairness
from kdbench.report.leaderboard import Leaderboard, Row
from kdbench.report.literature import PROTOCOLS
from kdbench.report.load import Results, table_name
from kdbench.report.pareto import Hypervolume
from kdbench.report.search import objective_title, search_objectives

COVERAGE = "With few seeds it is too narrow: at n = 3 it covers about 75 %, at n = 5 84 %, at n = 10 90 %."


BEST = (
    "Bold: the best ranked row of a column. Underlined: ranked, and the bootstrap 95 % interval of the difference to "
    "the best-ranked row holds 0."
)
NOTHING_TESTED = (
    "No configuration has been retrained and tested yet. What follows is the search, on validation: one training each, "
    "and the best of many, so it says nothing about the test split."
)


def notes(results: Results, board: Leaderboard) -> list[str]:
    """What holds for all tables: how accuracy was measured and chosen, differences, fronts, latency, failures."""
    if not board.has_final:
        return [failures(results)]
    return [
        accuracy(results, board), selection(results), differences(), fronts(results, board), latency(board),
        failures(results), *published(results, board),
    ]  # fmt: skip


def partial(board: Leaderboard) -> str | None:
    """`PARTIAL: search 42 of 54 trials, ...` if less has run than was planned, else None."""
    if not any(row.partial for row in board.fairness):
        return None
    search = _of(board.fairness, "search_run", "search_planned", "trials")
    final = _of(board.fairness, "final_run", "final_planned", "trainings") if board.has_final else "no final yet"
    waiting = list(dict.fromkeys(row.method for row in board.fairness if not row.configurations))
    text = f"PARTIAL: search {search}, {'final ' + final if board.has_final else final}"
    if waiting and board.has_final:
        text += f"; not retrained yet: {', '.join(waiting)}"
    return text + ". Ranks and intervals can still change."


def main(results: Results, rows: Sequence[Row], table: str) -> str:
    """The short caption of a main table: what the numbers are, n, what n counts, and what the marks mean."""
    data = data_label(results.section("data"))
    found, teachers = students(rows), [row for row in rows if row.method == "teacher"]
    who = f" Student: {found[0]}." if len(found) == 1 else ""
    who += f" Teacher: {teachers[0].student}, n = {len(teachers[0].scores)}." if len(teachers) == 1 else ""
    lacking = any(0 < len(row.scores) < stats.MINIMUM for row in _students(rows))
    few = f", none below n = {stats.MINIMUM}" if lacking else ""
    return (
        f"{results.study.get('study', 'study')}, {table}: top-1 accuracy on the test split of {data}, last epoch: mean "
        f"over training seeds ({_seeds(rows)}) [bootstrap 95 % interval{few}]; Δ: difference to the same student "
        "trained by scratch and by kd, in points, paired by seed (‡ unpaired) [bootstrap 95 % interval]. Bold: best of "
        "the ranked rows; underlined: the interval of its difference to the best holds 0; no number in the first "
        f"column: not ranked.{who}"
    )


def quality(rows: Sequence[Row], table: str) -> str:
    """The short caption of the table of further measurements."""
    return (
        f"Further measurements, {table}: means over training seeds ({_seeds(rows)}) on the test split, last epoch, but "
        "for the best epoch on validation. Bold: best of the ranked rows."
    )


def configurations(table: str) -> str:
    """The short caption of the table of hyper-parameters and costs."""
    return f"Chosen hyper-parameters and costs, {table}."


def searched(results: Results, table: str) -> str:
    """The short caption of the table of the search."""
    return (
        f"Search, {table}: the best of each method's trials by {objective_title(search_objectives(results)[0])}. "
        "One training each, selected for being the best, so not to be compared with the test split."
    )


def given(table: str) -> str:
    """The short caption of the fairness table."""
    return f"What every method was given and what it used, {table}. A row that differs is marked and not ranked."


def given_to(board: Leaderboard, table: str) -> list[Fairness]:
    """The methods of one table, or of all where there is no table of that name."""
    own = [row for row in board.fairness if table_name(row.pair) == table]
    return own or list(board.fairness)


def counted(rows: Iterable[Fairness]) -> str:
    """How many trainings are behind a table, and how many did not finish, by phase and by what became of them."""
    rows = list(rows)
    parts, lost = [], 0
    for phase in PHASES:
        counts = {status: sum(row.failures.get(f"{phase}_{status}", 0) for row in rows) for status in FAILURES}
        bad = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if count)
        run, lost = sum(getattr(row, f"{phase}_run") for row in rows), lost + sum(counts.values())
        parts += [f"{phase} {run}{f' ({bad})' if bad else ''}"] if run else []
    return f"Trainings: {', '.join(parts)}{'' if lost else '; none failed'}." if parts else ""


def legend(board: Leaderboard) -> str:
    """What the short marks of the tables for paper mean."""
    latency = "; ms: median latency at batch 1" if board.latencies.by_model else ""
    return f"n: seeds finished, of those started where some failed; failed: {LEGEND}{latency}. {BEST}"


def _students(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.kind == "student"]


def _seeds(rows: Iterable[Row]) -> str:
    counts = sorted({len(row.scores) for row in _students(rows) if row.scores}) or [0]
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _of(rows: Iterable[Fairness], run: str, planned: str, noun: str) -> str:
    done = sum(getattr(row, run) for row in rows)
    asked = [getattr(row, planned) for row in rows]
    return f"{done} {noun}" if None in asked else f"{done} of {sum(asked)} {noun}"


def accuracy(results: Results, board: Leaderboard) -> str:
    """What the numbers of the main table are."""
    train, pairs = results.section("train"), results.study.get("pairs") or ()
    n = _seeds(board.rows)
    alike = "epochs" in train and not any("epochs" in (pair.get("train") or {}) for pair in pairs)
    epochs = f", {train['epochs']} epochs" if alike else ""
    return (
        f"Accuracy on the test split of {data_label(results.section('data'))}: mean over training seeds "
        f"({n}{epochs}, last epoch) [bootstrap 95 % interval: percentile, {stats.RESAMPLES:,} resamples, seed 0]. "
        "The unit of replication is the training seed: data split, teacher and chosen configuration are fixed, and the "
        f"interval covers the seeds alone. {COVERAGE}{_without_interval(board)}"
    )


def _without_interval(board: Leaderboard) -> str:
    few = any(0 < len(row.scores) < stats.MINIMUM for row in _students(board.rows))
    return f" Rows with fewer than {stats.MINIMUM} seeds have none." if few else ""


def figure(results: Results, board: Leaderboard) -> str:
    """The caption inside the Pareto figure."""
    name, rule = data_label(results.section("data")), results.section("final").get("select")
    chosen = f"; configurations chosen by {rule} on {_objectives(results)}" if rule else ""
    text = (
        f"Test split of {name}: means over {_seeds(board.rows)} training seeds{chosen}; bars: bootstrap 95 % interval. "
        f"Rows of equal cost are drawn side by side. {_trained_on(results)}"
    )
    warning = partial(board)
    return f"{warning.removesuffix(' Ranks and intervals can still change.')} {text}" if warning else text


def _trained_on(results: Results) -> str:
    """`Trained on AMD EPYC 7B13 (fp32) with torch 2.15.0.`: hardware and versions of what a figure shows, in short."""
    shown = [r.environment for r in results.records if r.spec.phase in ("teacher", "final") and r.status == "finished"]
    machines = dict.fromkeys(map(_machine, shown))
    versions = dict.fromkeys(str(e.get("versions", {}).get("torch", "of unknown version")) for e in shown)
    return f"Trained on {' and '.join(sorted(machines))} with torch {' and '.join(sorted(versions))}."


def _machine(environment: Mapping[str, Any]) -> str:
    found, precision = environment.get("hardware", {}), environment.get("precision")
    name = found.get("gpu" if str(environment.get("device")).startswith("cuda") else "cpu")
    return processor_label(name or "unknown hardware") + (f" ({precision})" if precision else "")


def _objectives(results: Results) -> str:
    """What the selection looks at: the first objective, or all of them for a front."""
    names, rule = search_objectives(results), results.section("final").get("select")
    return " and ".join(objective_title(name) for name in (names if rule == "pareto" else names[:1]))


def selection(results: Results) -> str:
    """How configurations were chosen, and when the test split was met."""
    search, final = results.section("search"), results.section("final")
    budget = (
        f"{search['trials']} trials x {plural(int(search.get('repeats', 1)), 'repeat')}"
        if "trials" in search
        else "trials"
    )
    shared = f", {settings_label(results.shared)} searched for every method alike" if results.shared else ""
    rule = f"by the rule '{final['select']}' " if "select" in final else ""
    return (
        f"Configurations were chosen on {_objectives(results)} {rule}from {budget} per method"
        f"{shared}, then retrained on fresh seeds; the test split was met once, after the last epoch of that."
    )


def differences() -> str:
    """What the difference columns are."""
    return (
        "Difference: to the same student trained by scratch and by kd, in % points: mean of the differences by seed "
        "with its bootstrap interval; ‡ unpaired, where seeds are not shared. Not corrected for multiple comparisons."
    )


def fronts(results: Results, board: Leaderboard) -> str:
    """What the front is, and its hypervolume."""
    volumes = [f"{_table(table, board)}{_volume(v, results)}" for table, v in board.hypervolumes.items()]
    return (
        "Front: no other ranked row is better in test accuracy or in parameters (P; L: latency at batch 1) and not "
        f"worse in the other, by means of retrained configurations. Hypervolume over parameters: {'; '.join(volumes)}."
    )


def _table(name: str, board: Leaderboard) -> str:
    return f"{name}: " if len(board.hypervolumes) > 1 else ""


def _volume(volume: Hypervolume, results: Results) -> str:
    if volume.value is None:
        return str(volume.reason)
    reference = results.section("pareto")["reference"]
    corner = f"{value_label(reference['top1_pct'])} %, {count_label(reference['params'])} parameters"
    if volume.share is None:
        return f"{volume.value:.4g} against the reference point ({corner})"
    return f"{100 * volume.share:.1f} % of the box between the reference point ({corner}) and the ideal (100 %, 0)"


def latency(board: Leaderboard) -> str:
    """How latency was measured, and which rows it does not compare."""
    times = board.latencies
    if not times.by_model:
        return "Latency was not measured."
    repeats = " to ".join(dict.fromkeys(str(n) for n in (times.repeats[:1] + times.repeats[-1:])))
    text = f"Latency: median{' of ' + repeats + ' repeats' if repeats else ''}, {times.conditions}."
    odd = sorted(
        {row.latency_conditions for row in board.rows if row.latency_conditions and not row.latency_comparable}
    )
    return text + (f" † measured otherwise and not compared: {'; '.join(odd)}." if odd else "")


def failures(results: Results) -> str:
    """Failed trainings of all phases, counted."""
    parts = []
    for phase in ("teacher", "source", "search", "final", "evaluation", "latency"):
        records = results.phase(phase)
        if records:
            counts = Counter(str(record.status) for record in records)
            bad = ", ".join(f"{counts[status]} {status.replace('_', ' ')}" for status in FAILURES if counts[status])
            parts.append(f"{phase} {counts['finished']} of {len(records)} finished{' (' + bad + ')' if bad else ''}")
    text = "Trainings: " + "; ".join(parts) + ". A failed seed is not part of a mean; it is counted in the row."
    if results.left_out:
        text += f" Left out: {plural(results.left_out, 'record')} of an earlier form of this study."
    return text


def unranked(board: Leaderboard) -> list[str]:
    """One sentence for each row without a rank, the teacher apart."""
    rows = [row for row in board.rows if row.unranked and row.kind != "teacher"]
    return [
        f"Not ranked: {' '.join(filter(None, (row.method, row.student)))} ({row.pair}): {'; '.join(row.unranked)}."
        for row in rows
    ]


def published(results: Results, board: Leaderboard) -> list[str]:
    """Where the published numbers come from and how they were obtained; empty where the table has none."""
    rows = [row for row in board.rows if row.published]
    if not rows:
        return []
    first = [row.published[0] for row in rows]
    protocols = {e.protocol: PROTOCOLS[e.protocol] for e in first}
    meanings = "; ".join(f"{word}: {meaning}" for word, meaning in sorted(protocols.items()) if word != meaning)
    counts, epochs = Counter(e.source for e in first), sorted({e.epochs for e in first})
    sources = "; ".join(f"{name} ({plural(count, 'row')})" for name, count in counts.items())
    text = (
        "Published: as printed in the sources, beside ours for orientation and never used for ranking. There all "
        "training images were trained on, no validation split was held out, and settings, often the epoch too, were "
        f"chosen on the test images; {' or '.join(epochs)} epochs; ours: {_ours(results)}. ({meanings}; * not checked "
        f"against the source.) Sources: {sources}."
    )
    return [text, *_published_elsewhere(rows)]


def _ours(results: Results) -> str:
    data, train = results.section("data"), results.section("train")
    images = f"{data['train']} training images, " if data.get("train") else ""
    held = f"{data['validation']} images held out for validation, " if data.get("validation") else ""
    return f"{images}{held}{train.get('epochs', 'unknown')} epochs"


def _published_elsewhere(rows: Iterable[Row]) -> list[str]:
    found = {
        f"{row.method}, {row.pair}: {other.text} ({other.protocol}; {other.source})": None
        for row in rows
        for other in row.published[1:]
    }
    return [f"Published elsewhere: {'; '.join(found)}."] if found else []


def provenance(results: Results) -> list[str]:
    """Hardware, versions, source state, time span, and what the study says about its data."""
    spans = sorted(r.started for r in results.records), sorted(r.ended for r in results.records)
    lines = [
        f"Hardware: {_distinct(results.records, _hardware)}.",
        f"Versions: {_distinct(results.records, _versions)}.",
        f"Source: {_distinct(results.records, _git)}. Records from {spans[0][0][:16]} to {spans[1][-1][:16]} (UTC).",
    ]
    note = results.study.get("provenance")
    return [*lines, f"Data: {_notes(note)}"] if note else lines


def _notes(note: Any) -> str:
    text = "; ".join(str(v) for v in note.values()) if isinstance(note, Mapping) else str(note)
    return text if text.endswith(".") else text + "."


def _distinct(records: Iterable[TrialRecord], describe: Callable[[Mapping[str, Any]], str]) -> str:
    counts = Counter(describe(record.environment) for record in records)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(
        f"{text} ({plural(n, 'record')})" for text, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
    )


def _hardware(environment: Mapping[str, Any]) -> str:
    found = environment.get("hardware", {})
    parts = [found.get("cpu") or "unknown processor"]
    if found.get("cores"):
        parts.append(plural(int(found["cores"]), "core"))
    if found.get("memory_gib"):
        parts.append(f"{float(found['memory_gib']):.0f} GiB")
    return ", ".join([*parts, found.get("gpu") or "no GPU"])


def _versions(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions", {})
    return (
        ", ".join(f"{name} {versions[name]}" for name in sorted(versions, key=lambda n: (n != "kdbench", n)))
        or "unknown"
    )


def _git(environment: Mapping[str, Any]) -> str:
    git = environment.get("git", {})
    if not git.get("commit"):
        return "no git commit known"
    return f"commit {str(git['commit'])[:12]}{' with uncommitted changes' if git.get('dirty') else ''}"
