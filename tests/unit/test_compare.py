"""Studies beside each other: which settings differ, what stands in a cell, and what is refused."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_example import PAIR, final, measured, record, resnet, write_study
from typer.testing import CliRunner

from kdbench.cli import app
from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord
from kdbench.standings.command import compare_studies
from kdbench.standings.compare import compare, differing, exhibit
from kdbench.standings.entry import read_all
from kdbench.standings.files import comparison_contents


def records(gain: float, methods: tuple[str, ...] = ("scratch", "kd")) -> list[TrialRecord]:
    teacher = record("teacher", {"name": "scratch"}, resnet(56), {}, measured(93.6, np.random.default_rng(0), 56, 1.0))
    return [teacher] + [
        final(method, seed, 80.0 + seed + gain * i, teacher=None if method == "scratch" else teacher.key)
        for i, method in enumerate(methods) for seed in range(3)
    ]  # fmt: skip


def asked(name: str, **sections: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def change(study: dict[str, Any]) -> None:
        study["study"] = name
        study["methods"] = {"scratch": {}, "kd": {}}
        study["final"]["seeds"] = 3
        for section, values in sections.items():
            study[section] |= values

    return change


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two studies that differ in the number of images; of `many` the first in the alphabet has more."""
    write_study(tmp_path / "a", records(0.5), asked("many", data={"train": 5000}))
    write_study(tmp_path / "b", records(2.0), asked("few", data={"train": 500}))
    return tmp_path


def test_the_setting_that_differs_is_the_heading_and_gives_the_order(folder: Path) -> None:
    made = compare(read_all([folder])[0])
    assert [side.name for side in made.sides] == ["data.train=500", "data.train=5000"]
    assert [method for method, _ in made.places] == ["teacher", "kd", "scratch"]


def test_a_cell_has_the_mean_of_its_study_and_the_best_of_its_column(folder: Path) -> None:
    table = exhibit(compare(read_all([folder])[0])).tables[""]
    kd, scratch = table.rows[1], table.rows[2]
    assert [cell.text for cell in kd] == ["kd", "83.00", "81.50", "+2.00", "+0.50"]
    assert [cell.text for cell in scratch] == ["scratch", "81.00", "81.00", "–", "–"]
    assert [cell.best for cell in kd] == [False, True, True, False, False]
    assert table.kinds == ("teacher", "student", "student")


def test_several_settings_are_told_below_and_the_study_is_the_heading(folder: Path) -> None:
    write_study(folder / "b", [], asked("few", data={"train": 500}, train={"epochs": 7}))
    shown = exhibit(compare(read_all([folder])[0]))
    assert [column.heading for column in shown.tables[""].columns][1:3] == ["few", "many"]
    (note,) = [note for note in shown.notes if note.startswith("few: 2 ranked rows")]
    assert "n = 3 training seeds a row" in note and "data.train: 500" in note and "train.epochs: 7" in note


def test_a_row_that_a_study_lacks_has_a_dash_and_comes_last(folder: Path) -> None:
    def with_dkd(study: dict[str, Any]) -> None:
        asked("many", data={"train": 5000})(study)
        study["methods"]["dkd"] = {}

    shutil.rmtree(folder / "a")
    write_study(folder / "a", records(0.5, ("scratch", "kd", "dkd")), with_dkd)
    shown = exhibit(compare(read_all([folder])[0]))
    last = shown.tables[""].rows[-1]
    assert [cell.text for cell in last][:3] == ["dkd", "–", "82.00"]
    assert shown.frame is not None
    line = shown.frame[(shown.frame.method == "dkd") & (shown.frame.study == "few")].iloc[0]
    assert (line.kind, line.n, line.not_ranked_because) == ("missing", 0, "not in this study")


def test_a_row_that_is_not_ranked_is_said_to_be_so(folder: Path) -> None:
    (lost,) = [path for path in (folder / "b" / "records").glob("*.json") if '"seed":2' in path.read_text()
               and '"name":"kd"' in path.read_text()]  # fmt: skip
    lost.unlink()
    shown = exhibit(compare(read_all([folder])[0]))
    assert any(note.startswith("Not ranked in data.train=500: kd") for note in shown.notes)
    assert [cell.best for cell in shown.tables[""].rows[1]][1] is False


def test_only_fields_that_decide_trainings_count_as_settings() -> None:
    one = {"study": "a", "question": "?", "data": {"train": 1, "crop": None}, "track": {"mlflow": "off"}, "more": 1}
    other = {"study": "b", "question": "!", "data": {"train": 2, "crop": None}, "track": {"mlflow": "auto"}}
    assert differing([one, other]) == [{"data.train": 1}, {"data.train": 2}]


def test_the_files_are_a_function_of_the_studies_and_hold_every_row(folder: Path) -> None:
    files = comparison_contents(exhibit(compare(read_all([folder])[0])))
    assert set(files) == {f"compare.{kind}" for kind in ("md", "tex", "csv", "parquet", "pdf", "svg", "png")}
    assert files == comparison_contents(exhibit(compare(read_all([folder])[0])))
    frame = pd.read_csv(io.BytesIO(files["compare.csv"]))
    assert list(frame[frame.method == "kd"]["gain_over_scratch_pct"]) == [2.0, 0.5]
    assert list(frame[frame.method == "kd"]["data.train"]) == [500, 5000]
    text = files["compare.md"].decode()
    assert "| kd | **83.00** [82.00, 84.00] |" in text and "| data.train=500 |" in text


def test_the_latex_table_compiles(folder: Path, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        assert b"\\begin{tabular}" in comparison_contents(exhibit(compare(read_all([folder])[0])))["compare.tex"]
        return
    text = comparison_contents(exhibit(compare(read_all([folder])[0])))["compare.tex"].decode()
    packages = text[text.index("\\usepackage") : text.index("}.") + 1]
    document = f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n{text}\\end{{document}}\n"
    (tmp_path / "page.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_one_leaderboard_is_nothing_to_compare(folder: Path) -> None:
    with pytest.raises(KdbenchError, match=r"got 1 leaderboard\. Give the folders of two studies"):
        compare(read_all([folder / "a"])[0])


def test_a_study_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "b" / "study.json").write_text("{")
    with pytest.raises(KdbenchError, match=r"b: refused: .*study\.json"):
        compare_studies([folder], None, print)


def test_the_command_prints_or_writes(folder: Path) -> None:
    printed = CliRunner().invoke(app, ["compare", str(folder / "a"), str(folder / "b")])
    assert printed.exit_code == 0 and PAIR not in printed.output and "**83.00**" in printed.output
    written = CliRunner().invoke(app, ["compare", str(folder), "--out", str(folder / "out")])
    assert written.exit_code == 0 and (folder / "out" / "compare.md").read_text() == printed.output.rstrip("\n") + "\n"
