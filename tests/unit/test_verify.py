"""`kdbench verify` names every file that was changed, lost or added, and whatever does not fit together."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import report_example as example
from typer.testing import CliRunner

import kdbench
from kdbench.cli import app
from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord
from kdbench.report import files, frames
from kdbench.report.leaderboard import Leaderboard, leaderboard
from kdbench.report.load import Results, load
from kdbench.report.manifest import Manifest, manifest, read_manifest
from kdbench.store import Store, write_json
from kdbench.verify import Verification, disagreements, folders_of, verify

TEACHER_HASH = "sha256:77aa0c"


def tables(results: Results, board: Leaderboard) -> dict[str, bytes]:
    """A report of one file, for a whole one takes seconds."""
    return {"leaderboard.csv": frames.csv(frames.leaderboard_frame(board.rows)).encode()}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a teacher, three final trainings and their search, and its report."""
    folder = tmp_path_factory.mktemp("original") / "cifar10"
    teacher = example.record(
        "teacher", {"name": "scratch"}, example.resnet(56), {}, {"test_top1_pct": 93.4}, epochs=200
    )
    search = example.trial("kd", 0, 0, 91.0, teacher=teacher.key)
    finals = [example.final("kd", 1000 + i, 90.5 + i / 10, chosen=search.key, teacher=teacher.key) for i in range(3)]
    example.write_study(folder, [teacher, search, *finals])
    write_report(folder)
    return folder


def write_report(folder: Path) -> None:
    results = load(folder)
    made = tables(results, leaderboard(results))
    (folder / "manifest.json").write_bytes(manifest(folder, made))
    for name, data in made.items():
        (folder / name).write_bytes(data)


@pytest.fixture
def study(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to be tampered with, of which one table is the whole report."""
    monkeypatch.setattr(files, "contents", tables)
    return shutil.copytree(original, tmp_path / "cifar10")


def final_of(study: Path) -> Path:
    """The file of the first final record."""
    return next(p for p in sorted((study / "records").glob("*.json")) if read(p)["spec"]["phase"] == "final")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    record = read(path)
    edit(record)
    path.write_text(json.dumps(record))


def problems(study: Path) -> list[str]:
    return verify(study).problems


def test_an_untouched_study_is_sound(study: Path) -> None:
    found = verify(study)
    assert found.problems == []
    assert found.checked[:3] == ["keys of 5 records", "SHA-256 of 6 sources", "SHA-256 of 1 file of the report"]


def test_a_digit_flipped_in_a_record_is_named(study: Path) -> None:
    path = final_of(study)
    text = path.read_text()
    path.write_text(re.sub(r'("test_top1_pct":\s*9)0', r"\g<1>1", text, count=1))
    assert path.read_text() != text
    found = problems(study)
    assert found[0].startswith(f"records/{path.name}: changed (SHA-256 ")
    assert "leaderboard.csv: not what the records give" in found


def test_a_digit_flipped_in_a_table_is_named(study: Path) -> None:
    path = study / "leaderboard.csv"
    path.write_text(path.read_text().replace("90.6", "91.6", 1))
    changed, given = problems(study)
    assert changed.startswith("leaderboard.csv: changed (SHA-256 ")
    assert given == "leaderboard.csv: not what the records give"


def test_a_record_that_is_deleted_added_or_renamed_is_named(study: Path) -> None:
    path = final_of(study)
    moved = path.with_name("0123456789abcdef.json")
    path.rename(moved)
    found = problems(study)
    assert f"records/{path.name}: missing" in found
    assert f"records/{moved.name}: added since the report was written" in found
    assert f"records/{moved.name}: holds the record of {path.stem}" in found
    moved.unlink()
    found = problems(study)
    assert [line for line in found if line.startswith("records/")] == [f"records/{path.name}: missing"]


def test_a_spec_that_was_changed_no_longer_fits_its_key(study: Path) -> None:
    path = final_of(study)
    change(path, lambda record: record["spec"]["train"].update(epochs=900))
    write_json(study / "manifest.json", read(study / "manifest.json"))
    found = problems(study)
    assert any(
        re.match(rf"records/{path.name}: the key is {path.stem}, but the spec hashes to ", line) for line in found
    )
    assert any(line.startswith("the report: cannot be made from these records") for line in found)


def test_a_report_made_anew_from_tampered_records_is_consistent_and_says_so_only_for_hashes(study: Path) -> None:
    """What hashes cannot find out: whoever changes a number and writes the report again. See `kdbench reproduce`."""
    before = read_manifest(study)
    change(final_of(study), lambda record: record["result"].update(test_top1_pct=99.0))
    write_report(study)
    assert problems(study) == []
    assert read_manifest(study).sources != before.sources


def test_a_file_of_the_report_that_is_gone_is_named_once(study: Path) -> None:
    (study / "leaderboard.csv").unlink()
    assert problems(study) == ["leaderboard.csv: missing"]


def test_other_versions_of_libraries_are_named_where_bytes_differ(study: Path) -> None:
    manifest_file = study / "manifest.json"
    change(manifest_file, lambda facts: facts["libraries"].update(numpy="1.0.0"))
    found = verify(study)
    assert found.sound
    assert any(note.startswith("the report was made with other versions: numpy 1.0.0, here ") for note in found.notes)
    (study / "leaderboard.csv").write_text("row\n")
    assert any("(it was made with other versions: numpy 1.0.0" in line for line in problems(study))


def test_a_study_without_a_manifest_is_not_sound(study: Path) -> None:
    (study / "manifest.json").unlink()
    assert problems(study) == ["manifest.json: missing, so no file can be compared. Write it with: kdbench report"]
    (study / "manifest.json").write_text('{"schema": 2}')
    assert "manifest.json: not a manifest of schema 1" in problems(study)[0]


def test_weights_that_are_not_those_of_the_records_are_named(study: Path) -> None:
    records = Store(study)
    key = next(p.stem for p in records.records_folder.glob("*.json") if read(p)["spec"]["phase"] == "teacher")
    records.weights_path(key).parent.mkdir()
    records.weights_path(key).write_bytes(b"other weights")
    found = problems(study)
    assert len(found) == 1
    assert re.fullmatch(
        rf"weights/{key}.safetensors: SHA-256 \w{{12}}, but records/\w+.json names sha256:77aa0", found[0]
    )


def with_facts(record: TrialRecord, **facts: str) -> TrialRecord:
    record.environment.update(facts)  # type: ignore[attr-defined]
    return record


def test_hashes_that_disagree_between_records_are_named() -> None:
    finals = [example.final("kd", seed, 90.0, teacher="a" * 16) for seed in range(3)]
    assert list(disagreements(finals)) == []
    for kind in ("test_hash", "teacher_hash", "data_hash"):
        odd = [with_facts(example.final("kd", s, 90.0, teacher="a" * 16), **{kind: "same"}) for s in range(3)]
        odd[1] = with_facts(odd[1], **{kind: "another"})
        (line,) = disagreements(odd)
        assert line.startswith(f"records/{odd[1].key}.json: {kind} of ")
        assert line.endswith("is another, but same in 2 records")


def test_a_search_trial_that_met_the_test_images_is_named(study: Path) -> None:
    path = next(p for p in (study / "records").glob("*.json") if read(p)["spec"]["phase"] == "search")
    change(path, lambda record: record["result"].update(test_top1_pct=91.0))
    assert f"records/{path.name}: a search trial with results on the test images: test_top1_pct" in problems(study)


def test_splits_of_other_data_are_named(study: Path) -> None:
    write_json(study / "splits.json", {"data": {"hash": "other", "test_hash": None}})
    assert sum(line.endswith("but other in splits.json") for line in problems(study)) == 3
    (study / "splits.json").write_text("[")
    assert any(line.startswith("splits.json: cannot be read") for line in problems(study))


def test_a_record_left_out_of_the_current_ones_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that did badly cannot be dropped by taking its key out of current.json and writing the report again."""
    monkeypatch.setattr(files, "contents", tables)
    digits = Path(kdbench.__file__).parents[1] / "results/digits"
    for name in ("study.json", "current.json"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    shutil.copytree(digits / "records", tmp_path / "records")
    write_report(tmp_path)
    assert problems(tmp_path) == []
    current = read(tmp_path / "current.json")
    left_out = current["final"].pop()
    write_json(tmp_path / "current.json", current)
    write_report(tmp_path)
    assert problems(tmp_path) == [f"current.json: lacks {left_out}, a final record of the study"]


def test_the_command_names_problems_and_exits_with_1(study: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["verify", str(study.parent)])
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, f"{study}: ok")
    (study / "leaderboard.csv").unlink()
    done = runner.invoke(app, ["verify", str(study), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)[0]["problems"] == ["leaderboard.csv: missing"]


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KdbenchError, match=r"is not the folder of a study, and holds none"):
        folders_of([tmp_path])


def test_a_manifest_lists_sources_and_report_in_a_fixed_order_and_without_itself(study: Path) -> None:
    first = manifest(study, {"b.csv": b"b", "a.csv": b"a", "manifest.json": b"old"})
    assert first == manifest(study, {"a.csv": b"a", "b.csv": b"b"})
    facts = Manifest.model_validate_json(first)
    # printf a | sha256sum
    assert facts.report["a.csv"] == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert list(facts.report) == ["a.csv", "b.csv"]
    assert len(facts.sources) == 6
    assert not any(name.startswith("/") for name in facts.sources)


def test_a_manifest_that_names_files_elsewhere_reads_none_of_them(study: Path) -> None:
    change(study / "manifest.json", lambda facts: facts["report"].update({"../../secret.csv": "0" * 64}))
    (study.parent.parent / "secret.csv").write_text("secret")
    assert "../../secret.csv: missing" in problems(study)


def test_what_was_found_reads_as_lines(tmp_path: Path) -> None:
    found = Verification(tmp_path, ["a: missing"], ["keys of 1 record"], ["no weights"])
    assert found.text().splitlines()[1:] == ["  a: missing", "  note: no weights", "  checked: keys of 1 record"]
