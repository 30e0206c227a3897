"""The files of a report: formats, escaping, honesty about what is partial, and the same bytes every time."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_example import HYPER, STUDY, final, full_records, latency, measured, record, resnet, trial, write_study

from kdbench.errors import KdbenchError, RecordError
from kdbench.report import captions, summary, tex, write_report
from kdbench.report.files import NAMES
from kdbench.report.frames import csv as csv_text
from kdbench.report.frames import fairness_frame, leaderboard_frame
from kdbench.report.leaderboard import leaderboard
from kdbench.report.load import Results, load
from kdbench.report.render import markdown, render_markdown
from kdbench.report.search import search_frame

ALL = list(NAMES)
FORMS = ("csv", "parquet", "pdf", "svg", "png")
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("full"), full_records())


def tables_of(folder: Path) -> str:
    """The Markdown page of a study without its exhibits, which take longer."""
    results = load(folder)
    return render_markdown(results, leaderboard(results), [])


def tex_of(folder: Path) -> str:
    """The LaTeX tables of a study without its exhibits."""
    results = load(folder)
    return tex.tables(results, leaderboard(results), [])


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def few(seeds: int = 3, **more: Any) -> list[Any]:
    return [
        final(method, seed, 90.0 + seed + i, **more)
        for i, method in enumerate(("scratch", "kd"))
        for seed in range(seeds)
    ]


def teacher() -> Any:
    result = measured(93.6, np.random.default_rng(0), 56, 1.0, False)
    return record("teacher", {"name": "scratch"}, resnet(56), {}, result)


def asked(study: dict[str, Any], methods: tuple[str, ...] = ("scratch", "kd"), seeds: int = 3) -> None:
    study["methods"] = {name: {} for name in methods}
    study["final"]["seeds"] = seeds


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("small"), [*few(), *few(depth=8), trial("kd", 0, 0, 91.0)], asked)
    write_report(folder)
    return folder


def test_every_file_is_written_and_named(small: Path) -> None:
    assert all((small / name).stat().st_size > 0 for name in ALL)
    written = {path.name for path in small.iterdir()} - {"records", "study.json"}
    exhibits = {name.partition(".")[0] for name in written - set(ALL)}
    assert {"statistics", "search-fronts"} <= exhibits
    assert written == set(ALL) | {name for stem in exhibits for form in FORMS for name in [f"{stem}.{form}"]} & written
    assert set(json.loads((small / "manifest.json").read_text())["report"]) == written - {"manifest.json"}


def test_another_process_elsewhere_writes_the_same_bytes(small: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other" / "place"
    shutil.copytree(small, copy)
    first = {path.name: path.read_bytes() for path in small.iterdir() if path.is_file()}
    for name in first.keys() - {"study.json"}:
        (copy / name).unlink()
    code = "import sys, pathlib; from kdbench.report import write_report; write_report(pathlib.Path(sys.argv[1]))"
    environment = {"PYTHONHASHSEED": "123", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path),
                   "TZ": "Asia/Tokyo", "LANG": "de_DE.UTF-8", "MPLBACKEND": "svg"}  # fmt: skip
    subprocess.run([sys.executable, "-c", code, "place"], check=True, env=environment, cwd=copy.parent)
    again = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    assert again.keys() == first.keys()
    assert [name for name in first if again[name] != first[name]] == []


def test_no_file_has_a_date_a_path_or_the_name_of_a_user(small: Path) -> None:
    for path in small.iterdir():
        if path.suffix in (".pdf", ".svg", ".tex", ".md", ".csv", ".png"):
            content = path.read_bytes()
            for mark in (b"CreationDate", b"dc:date", b"/tmp/", b"/home/", b"tIME", str(small).encode()):
                assert mark not in content, (path.name, mark)


def test_what_an_earlier_report_wrote_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = write_study(tmp_path, [teacher(), trial("kd", 0, 0, 91.0)], asked)
    earlier = {"pareto.png", "old-exhibit.csv", "old-exhibit.pdf"}
    others = {"notes.csv", "my.pdf", "study.yaml", "splits.json"}
    for name in earlier | others:
        (folder / name).write_text("of before")
    listed = dict.fromkeys(("old-exhibit.csv", "old-exhibit.pdf", "study.json", "../outside.csv"), "0" * 64)
    facts = {"schema": 1, "study": "s", "protocol": 1, "record_schema": 1, "kdbench": "0", "libraries": {}}
    (folder / "manifest.json").write_text(json.dumps({**facts, "sources": {}, "report": listed}))
    (tmp_path.parent / "outside.csv").write_text("of somebody else")
    written = {path.name for path in write_report(folder)}
    left = {path.name for path in folder.iterdir()}
    assert not earlier & left
    assert left == written | others | {"records", "study.json"}
    assert (tmp_path.parent / "outside.csv").read_text() == "of somebody else"


def test_the_report_imports_no_torch_ray_or_mlflow(full: Path) -> None:
    code = (
        "import sys, pathlib; from kdbench.report import summary; assert 'pandas' not in sys.modules;"
        "summary(pathlib.Path(sys.argv[1])); import kdbench.report.files;"
        "assert not {'torch', 'ray', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(full)], check=True)


def test_the_table_traces_every_row_to_its_records(full: Path) -> None:
    frame = csv_text(leaderboard_frame(leaderboard(load(full)).rows))
    rows = list(csv.DictReader(io.StringIO(frame)))
    assert len(rows) == 1 + 35
    keys = [key for row in rows for key in row["records"].split()]
    assert len(keys) == len(set(keys)) == 1 + 35 * 5
    assert all((full / "records" / f"{key}.json").exists() for key in keys)
    best = next(row for row in rows if row["rank"] == "1")
    scores = [
        json.loads((full / "records" / f"{k}.json").read_text())["result"]["test_top1_pct"]
        for k in best["records"].split()
    ]
    assert float(best["test_top1_pct"]) == pytest.approx(sum(scores) / 5)


def test_a_whole_study_is_not_called_partial_and_a_cut_one_is_everywhere(full: Path, tmp_path: Path) -> None:
    assert not any("PARTIAL" in text for text in (tables_of(full), tex_of(full), summary(full)))
    cut = write_study(tmp_path, [*few(2), trial("kd", 0, 0, 91.0)], asked)
    line = "PARTIAL: search 1 of 18 trials, final 4 of 6 trainings"
    assert all(line in text for text in (tables_of(cut), tex_of(cut), summary(cut)))
    assert "Rows with fewer than 3 seeds have none." in tables_of(cut)
    assert {row.partial for row in leaderboard(load(cut)).fairness} == {True}


def test_a_cut_study_names_the_methods_that_wait(tmp_path: Path) -> None:
    text = tables_of(write_study(tmp_path, few(), lambda study: asked(study, ("scratch", "kd", "fitnet"))))
    assert "not retrained yet: fitnet" in text
    assert "Not ranked: fitnet (resnet56 -> resnet): nothing has run yet." in text


def test_captions_say_rule_n_unit_hardware_versions_and_provenance(full: Path) -> None:
    for text in (tables_of(full), tex_of(full).replace("\\_", "_").replace("\\%", "%").replace("{[}", "[")):
        for words in (
            "best_per_size", "3 trials x 3 repeats per method", "n = 4 to 5",
            "unit of replication is the training seed",
            "last epoch", "test split was met once",
            "AMD EPYC 7B13 64-Core Processor, 2 cores, 8 GiB, no GPU", "torch 2.15.0",
            "commit 0123456789ab", "98 of 60,000 images are JPEG-75 copies", "1 diverged", "1 failed", "100 repeats",
        ):  # fmt: skip
            assert words in text, words


def test_the_figures_caption_says_hardware_and_versions(full: Path) -> None:
    results = load(full)
    assert "Trained on AMD EPYC 7B13 (fp32) with torch 2.15.0." in captions.figure(results, leaderboard(results))
    records = few()
    records[0].environment.update(device="cuda", precision="bf16", versions={"torch": "2.16.0"})
    records[0].environment["hardware"]["gpu"] = "NVIDIA H200"
    text = captions.figure(Results(STUDY, tuple(records)), leaderboard(Results(STUDY, tuple(records))))
    assert "Trained on AMD EPYC 7B13 (fp32) and NVIDIA H200 (bf16) with torch 2.15.0 and 2.16.0." in text


@pytest.mark.parametrize(
    ("objectives", "rule", "words", "cells"),
    [
        (["val_nll", "params"], "best", "chosen on validation negative log-likelihood by the rule 'best'",
         ("Best val NLL ↓", "| kd | 2/2 | 0.300 | resnet20 |")),
        (["params", "val_top1_pct"], "best", "chosen on parameters by the rule 'best'",
         ("Best params ↓", "| kd | 2/2 | 78.7 k | resnet8 |")),
        (["val_top1_pct", "params"], "pareto", "chosen on validation top-1 accuracy and parameters by the",
         ("Best val top-1 % ↑", "| kd | 2/2 | 91.00 | resnet8 |")),
    ],
)  # fmt: skip
def test_what_configurations_were_chosen_on_is_the_studys_objective(
    tmp_path: Path, objectives: list[str], rule: str, words: str, cells: tuple[str, str]
) -> None:
    def change(study: dict[str, Any]) -> None:
        asked(study)
        study["search"]["objectives"], study["final"]["select"] = objectives, rule

    sure = trial("kd", 0, 0, 90.0)
    sure.result["val_nll"] = 0.3
    text = tables_of(write_study(tmp_path, [*few(), sure, trial("kd", 0, 1, 91.0, depth=8)], change))
    assert words in text
    assert all(cell in text for cell in cells)


def test_the_fairness_table_shows_the_source_training_and_what_is_fixed_by_definition(tmp_path: Path) -> None:
    source = record("source", {"name": "scratch"}, resnet(20), {}, {"val_top1_pct": 90.0}, wall_s=600.0)
    records = [source, *few(), *(final("l2sp", seed, 91.0, init=source.key) for seed in range(3))]
    folder = write_study(tmp_path, records, lambda study: asked(study, ("scratch", "kd", "l2sp")))
    text = tables_of(folder)
    assert "| l2sp | source task + 10.0 min |" in text
    assert "| scratch | random |" in text
    assert "Except: l2sp fixes weight_decay=0 by definition." in text
    frame = csv_text(fairness_frame(leaderboard(load(folder)).fairness))
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(frame))}
    assert (rows["l2sp"]["start"], rows["l2sp"]["source_wall_s"]) == ("source task", "600")
    assert (rows["l2sp"]["fixed_by_definition"], rows["kd"]["fixed_by_definition"]) == ("weight_decay=0", "")
    assert (rows["kd"]["hardware"], rows["kd"]["start"]) == ("cpu, 1 thread, fp32", "random")


def test_unlike_hardware_is_listed_with_its_records(tmp_path: Path) -> None:
    records = few()
    records[0].environment["hardware"]["gpu"] = "NVIDIA H200"
    text = tables_of(write_study(tmp_path, records, asked))
    assert "no GPU (5 records); AMD EPYC 7B13 64-Core Processor, 2 cores, 8 GiB, NVIDIA H200 (1 record)" in text


def test_names_from_outside_are_text_in_every_format(tmp_path: Path) -> None:
    HYPER[EVIL] = {"note": "=cmd|' /C calc'!A0", "x": "a|b & $c_d$ \\input{e}"}
    try:
        records = few() + [final(EVIL, seed, 93.0) for seed in range(3)] + [trial(EVIL, 0, 0, 91.0)]
    finally:
        del HYPER[EVIL]

    def change(study: dict[str, Any]) -> None:
        asked(study, ("scratch", "kd", EVIL))
        study.update(study="=1+1", question="Which <b>$x_1$</b> & why? 100 %", provenance="</figure><img src=x>")

    write_report(write_study(tmp_path, records, change))
    assert EVIL not in (tmp_path / "pareto.svg").read_text()
    lines = (tmp_path / "leaderboard.md").read_text().splitlines()
    assert not any("<script" in line or "<img" in line or "<b>" in line for line in lines)
    body = [line for line in lines if line.startswith("| 1 |")]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in body]
    assert bars[:2] == [15, 14]  # the published accuracy of resnet20 has a column of the first table
    tex = (tmp_path / "leaderboard.tex").read_text()
    assert r"\textless{}script\textgreater{}alert(1)" in tex
    assert r"\input{" not in tex
    settings = next(row["settings"] for row in read(tmp_path / "leaderboard.csv") if row["method"] == EVIL)
    assert settings.startswith("note==cmd")  # begins with a letter, so it is no formula


def test_markdown_marks_are_escaped_and_snake_case_stays_readable() -> None:
    assert markdown("label_smoothing a|b\n<i> *x* `y` [t](u)") == r"label_smoothing a\|b &lt;i> \*x\* \`y\` [t\](u)"


def test_without_a_final_the_report_shows_the_search_and_says_so(tmp_path: Path) -> None:
    records = [
        teacher(),
        trial("scratch", 0, 0, 90.0), trial("kd", 0, 0, 91.0, depth=8), trial("kd", 0, 1, 89.0, depth=14),
        trial("kd", 0, 2, None, status="failed"),
    ]  # fmt: skip
    folder = write_study(tmp_path, records, asked)
    (folder / "pareto.png").write_bytes(b"of an earlier report")
    written = {path.name for path in write_report(folder)}
    assert set(ALL) - written == {"pareto.csv", "pareto.parquet", "pareto.pdf", "pareto.svg", "pareto.png"}
    assert not (folder / "pareto.png").exists()
    for name in ("leaderboard.md", "leaderboard.html", "leaderboard.tex"):
        assert "No configuration has been retrained and tested yet" in (folder / name).read_text()
    assert "| kd | 2/3 | 91.00 | resnet8 |" in (folder / "leaderboard.md").read_text()
    assert "nothing is retrained yet" in summary(folder)
    assert "91.00" in summary(folder)
    flags = {(row["method"], row["trial"]): row["on_search_front"] for row in read(folder / "search.csv")}
    assert flags == {("scratch", "0"): "False", ("kd", "0"): "True", ("kd", "1"): "False", ("kd", "2"): "False"}


def test_with_a_teacher_alone_the_report_is_written(tmp_path: Path) -> None:
    folder = write_study(tmp_path, [teacher()], asked)
    written = {path.name for path in write_report(folder)}
    assert not any(name.startswith(("search.", "pareto.")) for name in written)
    assert "93.60" in (folder / "leaderboard.md").read_text()


def test_search_trials_with_one_objective_have_no_front(tmp_path: Path) -> None:
    def change(study: dict[str, Any]) -> None:
        study["search"]["objectives"] = ["val_top1_pct"]

    frame = search_frame(load(write_study(tmp_path, [trial("kd", 0, 0, 90.0)], change)))
    assert list(frame["on_search_front"]) == [False]


def test_a_study_with_only_its_name_and_methods_is_reported(tmp_path: Path) -> None:
    def change(study: dict[str, Any]) -> None:
        for name in set(study) - {"study", "methods"}:
            del study[name]

    text = tables_of(write_study(tmp_path, few(), change))
    assert "not computed: the study's pareto.reference lacks top1_pct, params" in text
    assert "Latency was not measured." in text


def test_the_figure_leaves_out_latency_of_other_conditions(tmp_path: Path) -> None:
    times = [latency(20, 1.0, 2.0), latency(8, 1.0, 0.1, conditions={"threads": 8})]
    records = [*few(), *few(depth=8), *times]
    text = tables_of(write_study(tmp_path, records, asked))
    assert ("0.10†" in text) != ("2.00†" in text), "one of the two, and equal counts are ordered by name"
    assert "† measured otherwise and not compared" in text


def test_best_numbers_are_bold_among_ranked_rows_only(tmp_path: Path) -> None:
    records = few() + [final("fitnet", seed, 99.0, epochs=500) for seed in range(3)]
    text = tables_of(write_study(tmp_path, records, lambda study: asked(study, ("scratch", "kd", "fitnet"))))
    assert "| 1 | kd | resnet20 | 3 | **92.00**" in text
    assert "| – | fitnet | resnet20 | 3 | 99.00" in text
    assert "final epochs: 500; the others: 100" in text


def test_the_summary_is_a_table_of_equal_columns(full: Path) -> None:
    lines = summary(full).splitlines()
    head = next(line for line in lines if line.startswith(" #"))
    assert head.split()[:5] == ["#", "Method", "Student", "n", "Top-1"]
    assert lines.index(head) > 0
    first = lines[lines.index(head) + 3]
    assert re.match(r" 1  \w+ +resnet\S*( x0.5)? +\d(/\d)?  \d\d\.\d\d \[", first)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda folder, path: path.unlink(), KdbenchError, r"records: no records.*kdbench run"),
        (lambda folder, path: path.write_text("{"), RecordError, r"KEY\.json: .*repeats the trial"),
        (lambda folder, path: path.write_text('{"schema": 9}'), RecordError, r"KEY\.json: not a record of schema 1"),
        (lambda folder, path: path.rename(path.with_name("0.json")), RecordError, r"0\.json: holds the record of KEY"),
        (
            lambda folder, path: path.write_text(path.read_text().replace('"protocol":1', '"protocol":0')),
            RecordError, r"KEY\.json: made under protocol 0; this kdbench has protocol 1, and a table never mixes",
        ),
        (
            lambda folder, path: path.write_text(path.read_text().replace('"seed":0', '"seed":5')),
            RecordError, r"KEY\.json: the key is KEY, but the spec hashes to",
        ),
        (lambda folder, path: (folder / "study.json").unlink(), KdbenchError, r"study\.json: no such file.*kdbench"),
        (lambda folder, path: (folder / "study.json").write_text("[]"), KdbenchError, r"study\.json: holds a list"),
        (lambda folder, path: (folder / "study.json").write_text("{,"), KdbenchError, r"study\.json: Expecting"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_error_that_names_the_file(
    tmp_path: Path, spoil: Any, error: type[KdbenchError], message: str
) -> None:
    item = final("kd", 0, 90.0)
    folder = write_study(tmp_path, [item])
    spoil(folder, folder / "records" / f"{item.key}.json")
    with pytest.raises(error, match=message.replace("KEY", item.key)):
        write_report(folder)
    assert not (folder / "leaderboard.csv").exists()


def test_the_example_study_is_plain_json() -> None:
    assert json.loads(json.dumps(STUDY)) == STUDY
