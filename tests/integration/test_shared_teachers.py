"""A teacher is trained once for all studies that need the same one."""

from __future__ import annotations

import json
from pathlib import Path

from small import kdbench_cli, write_study

TEACHERS_ONLY = ("--until", "teachers")


def teacher_of(folder: Path) -> dict:
    records = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
    (teacher,) = [record for record in records if record["spec"]["phase"] == "teacher"]
    return teacher


def run(study: Path, results: Path, *more: object) -> str:
    done = kdbench_cli("run", study, "--results", results, "--no-report", *TEACHERS_ONLY, *more)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_second_study_takes_the_teacher_of_the_first(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    assert "Taken from an earlier study" not in run(study, tmp_path / "one")
    assert "Taken from an earlier study, where it was trained alike: teacher" in run(
        study, tmp_path / "two", "--set", "study=other"
    )
    first, second = teacher_of(tmp_path / "one/small"), teacher_of(tmp_path / "two/other")
    assert second["environment"].pop("taken_from") == "another study"
    assert first.pop("checksum") != second.pop("checksum")  # of a record with all that is in it
    assert first == second
    weights = f"weights/{first['key']}.safetensors"
    assert (tmp_path / "one/small" / weights).read_bytes() == (tmp_path / "two/other" / weights).read_bytes()


def test_a_teacher_that_is_trained_differently_or_on_other_images_is_not_taken(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    run(study, tmp_path / "one")
    for number, change in enumerate(("teacher.epochs=1", "data.split_seed=5", "teacher.seed=3")):
        assert "Taken" not in run(study, tmp_path / f"two{number}", "--set", change)


def test_nothing_is_shared_where_the_cache_is_off(tmp_path: Path, monkeypatch: object) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", "off")  # type: ignore[attr-defined]
    study = write_study(tmp_path)
    run(study, tmp_path / "one")
    assert "Taken" not in run(study, tmp_path / "two")
