"""`kdbench show`: rows are found by what people write, and every cell follows from the records that are named."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_example as example
from typer.testing import CliRunner

from kdbench.cli import app
from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord
from kdbench.report import frames
from kdbench.report.leaderboard import leaderboard
from kdbench.report.load import load
from kdbench.trace.explain import explain_record, explain_row
from kdbench.trace.locate import Report, listing, locate, locate_row
from kdbench.trace.numbers import Source, numbers

RESAMPLES = 9999


def kept(record: TrialRecord) -> bool:
    """Four methods and two sizes of the example, to be quick."""
    spec = record.spec
    sizes = spec.phase != "final" or spec.model in (example.resnet(20), example.resnet(8))
    return sizes and spec.method_name in ("scratch", "kd", "fitnet", "attention_transfer")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with the study of the example, and its leaderboard.csv."""
    folder = tmp_path_factory.mktemp("results")
    example.write_study(folder / "cifar10", [record for record in example.full_records() if kept(record)])
    board = leaderboard(load(folder / "cifar10"))
    (folder / "cifar10/leaderboard.csv").write_text(frames.csv(frames.leaderboard_frame(board.rows)))
    return folder


@pytest.fixture(scope="module")
def report(results: Path) -> Report:
    return Report(results / "cifar10")


def table(results: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((results / "cifar10/leaderboard.csv").read_text())))


def shown(row: str, results: Path) -> dict[str, Any]:
    """What `kdbench show ROW --json` prints."""
    done = CliRunner().invoke(app, ["show", row, "--results", str(results), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def read(story: dict[str, Any], keys: list[str], what: str, results: Path) -> np.ndarray:
    """A result of named records, read from their files."""
    files = [results / "cifar10" / story["records"][key]["file"] for key in keys]
    return np.array([json.loads(file.read_text())["result"][what] for file in files])


def percentiles(*samples: np.ndarray) -> np.ndarray:
    """Both ends of the 95 % bootstrap interval of a mean, or of a difference of means, by numpy alone."""
    rng = np.random.default_rng(0)
    means = [sample[rng.integers(0, len(sample), (RESAMPLES, len(sample)))].mean(axis=1) for sample in samples]
    return np.percentile(means[0] - means[1] if len(means) == 2 else means[0], [2.5, 97.5])


def again(cell: dict[str, Any], story: dict[str, Any], results: Path) -> Any:
    """The cell computed anew from the files that it names."""
    own = read(story, cell.get("records", []), cell["what"], results) if cell["what"] != "spec.seed" else np.empty(0)
    base = read(story, cell.get("baseline", []), cell["what"], results)
    end = 0 if cell["column"].endswith("_low") else 1
    paired = next(
        (c["value"] for c in story["numbers"] if c["column"] == f"{cell['column'].rsplit('_', 1)[0]}_paired"), None
    )
    match cell["rule"]:
        case "mean":
            return own.mean()
        case "median":
            return np.median(own)
        case "value":
            return own.item()
        case "interval":
            return percentiles(own)[end]
        case "mean difference":
            return own.mean() - base.mean()
        case "difference interval":
            return percentiles(own - base)[end] if paired else percentiles(own, base)[end]
        case "improvement":
            return ((own[:, None] > base) + 0.5 * (own[:, None] == base)).mean()
    raise AssertionError(cell["rule"])


NUMERIC = ("mean", "median", "value", "interval", "mean difference", "difference interval", "improvement")
CHOSEN = [("teacher", "resnet56"), ("kd", "resnet20"), ("scratch", "resnet8"), ("attention_transfer", "resnet20")]


@pytest.mark.parametrize(("method", "student"), CHOSEN)
def test_every_number_follows_from_the_records_that_are_named(method: str, student: str, results: Path) -> None:
    line = next(r for r in table(results) if (r["method"], r["student"]) == (method, student))
    story = shown(line["row"], results)
    assert [cell["column"] for cell in story["numbers"]] == list(line)
    checked = 0
    for cell in story["numbers"]:
        text = line[cell["column"]]
        if cell["rule"] in NUMERIC:
            assert float(text) == pytest.approx(again(cell, story, results), abs=2e-6), cell
            checked += 1
        else:
            assert (cell["value"] is None) == (text == ""), cell
    assert checked >= 14


def test_counts_and_ranks_follow_from_the_records_and_the_table(report: Report, results: Path) -> None:
    lines = {line["row"]: line for line in table(results)}
    for row in report.board.rows:
        line, cells = lines[row.id], {cell.column: cell for cell in numbers(Source(report, row))}
        for column in ("seeds_finished", "seeds_started", *(c for c in line if c.startswith(("search_", "final_")))):
            assert int(line[column]) == len(cells[column].records), (row, column)
        if line["rank"]:
            others = [other for other in lines.values() if other["rank"]]
            better = [o["row"] for o in others if float(o["test_top1_pct"]) > float(line["test_top1_pct"])]
            assert int(line["rank"]) == 1 + len(better)
            assert sorted(cells["rank"].rows) == sorted(better)
            assert (line["on_front_params"] == "True") == (cells["on_front_params"].rows == ())


def test_no_column_of_the_leaderboard_is_left_unexplained(report: Report) -> None:
    for row in report.board.rows:
        unknown = [cell.column for cell in numbers(Source(report, row)) if cell.rule == "unknown"]
        assert unknown == []


def test_a_column_that_nobody_explains_is_called_unknown(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    def more(rows: Any) -> Any:
        return frames.leaderboard_frame(rows).assign(magic=42)

    monkeypatch.setattr("kdbench.trace.numbers.leaderboard_frame", more)
    assert numbers(Source(report, report.board.rows[0]))[-1].rule == "unknown"


def test_the_chosen_trial_is_among_the_trials_and_the_failures_have_their_reasons(results: Path) -> None:
    row = next(line["row"] for line in table(results) if line["method"] == "fitnet")
    story = shown(row, results)
    assert set(story["search"]["chosen"]) < {trial["key"] for trial in story["search"]["trials"]}
    assert len(story["search"]["trials"]) == 9
    assert [(f["phase"], f["status"], f["error"]) for f in story["failures"]] == [("search", "diverged", "it diverged")]
    assert [network["name"] for network in story["networks"]] == ["teacher"]


def test_environments_that_differ_are_told_apart_by_record(report: Report) -> None:
    row = next(row for row in report.board.rows if row.method == "kd")
    story = explain_row(Source(report, row))
    assert story["environment"]["versions.torch"] == {"2.15.0": story["environment"]["versions.torch"]["2.15.0"]}
    assert sorted(story["environment"]["versions.torch"]["2.15.0"]) == sorted(row.keys)


def test_a_row_is_found_by_id_by_study_and_method_and_by_folder(report: Report, results: Path) -> None:
    row = next(row for row in report.board.rows if row.method == "kd" and row.student == "resnet20")
    names = (row.id, row.id[:5], "cifar10/kd/resnet20", f"{results}/cifar10/kd/resnet20", f"cifar10/{row.id}")
    assert [locate_row(name, results)[1].id for name in names] == [row.id] * 5


def test_all_rows_that_fit_are_listed(results: Path) -> None:
    assert len(locate("cifar10/kd", results).rows) == 2
    done = CliRunner().invoke(app, ["show", "cifar10/kd", "--results", str(results)])
    assert done.exit_code == 0
    assert done.stdout.startswith("2 rows fit 'cifar10/kd'")
    assert len(locate("cifar10", results).rows) == len(table(results))
    with pytest.raises(KdbenchError, match="fits 2 rows; give the id of one"):
        locate_row("cifar10/kd", results)


def test_a_record_is_shown_with_the_rows_that_rest_on_it(report: Report, results: Path) -> None:
    row = next(row for row in report.board.rows if row.method == "kd" and row.student == "resnet20")
    final = report.results.by_key[row.keys[0]]
    story = explain_record(*locate(final.key, results).record)  # type: ignore[misc]
    assert story["rows"] == {row.id: ["training"]}
    chosen = explain_record(report, report.results.by_key[str(final.spec.slot["chosen"])])
    assert set(chosen["rows"][row.id]) == {"search trial", "chosen"}
    with pytest.raises(KdbenchError, match="is a record, and a row is wanted"):
        locate_row(final.key, results)


def test_what_is_not_there_is_named_with_what_is(results: Path) -> None:
    for text, words in {
        "abc": "A row's id needs at least 4 digits",
        "cifra10/kd": "Did you mean 'cifar10'",
        "cifar10/kdd": "Did you mean 'kd'",
        "ffffffff": "no row or record is named 'ffffffff'. Allowed: a row's id",
    }.items():
        with pytest.raises(KdbenchError) as error:
            locate(text, results)
        assert words in str(error.value)
    with pytest.raises(KdbenchError, match="holds no study with records"):
        locate("kd", results / "nowhere")


def test_the_printed_story_shows_the_mean_before_the_readers_eyes(report: Report, results: Path) -> None:
    row = next(row for row in report.board.rows if row.method == "kd" and row.student == "resnet20")
    done = CliRunner().invoke(app, ["show", row.id, "--results", str(results)])
    scores = " + ".join(f"{score:.4f}" for score in row.scores.values())
    assert f"mean {row.score:.4f} % = ({scores}) / 5" in done.stdout
    assert "Chosen by 'best_per_size' among 9 search trials" in done.stdout
    assert all(key in done.stdout for key in row.keys)


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path: Path) -> None:
    records = [example.trial("a_[red]b[/red]", 0, 0, 90.0), example.final("a_[red]b[/red]", 1000, 91.0)]
    example.write_study(tmp_path / "odd", records, lambda study: study.update(methods={"a_[red]b[/red]": {}}))
    done = CliRunner().invoke(app, ["show", "odd/a_[red]b[/red]", "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "a_[red]b[/red]" in done.stdout


def test_a_method_that_was_not_retrained_says_so(tmp_path: Path) -> None:
    example.write_study(
        tmp_path / "early", [example.trial("kd", 0, 0, 90.0), example.trial("kd", 0, 1, None, status="diverged")]
    )
    report, row = locate_row("early/kd", tmp_path)
    story = explain_row(Source(report, row))
    assert row.kind == "missing"
    assert story["trainings"] == []
    done = CliRunner().invoke(app, ["show", "early/kd", "--results", str(tmp_path)])
    assert "nothing was retrained: not retrained yet (search 2" in done.stdout
    assert "diverged: it diverged" in done.stdout
    assert "kd" in listing(locate("early/kd", tmp_path))
