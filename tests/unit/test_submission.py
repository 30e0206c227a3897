"""Submissions: what is packed, what is kept back, and what a check finds when a submission does not hold."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import kdbench
from kdbench import redact
from kdbench.errors import KdbenchError
from kdbench.record import TrialSpec
from kdbench.submission.check import SubmissionError, check
from kdbench.submission.pack import About, pack, without_places
from kdbench.submission.privacy import PATH, SECRET, findings, without_findings
from kdbench.submission.schema import json_schema, read_submission

DIGITS = Path(kdbench.__file__).parents[1] / "results" / "digits"
ADA = About("Digits of Ada", ("Ada Lovelace", "Grace Hopper"), "https://example.org/digits")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of which only what kdbench needs is there."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in ("study.json", "current.json", "splits.json"):
        shutil.copy(DIGITS / name, folder)
    shutil.copytree(DIGITS / "records", folder / "records")
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission that holds; tests change copies of it."""
    out = tmp_path_factory.mktemp("packed") / "ada"
    pack(DIGITS, ADA, out)
    return out


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rehash(folder: Path) -> None:
    """Let submission.json name the files as they are now, as a careful forger would."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.json") if path.name != "submission.json"]
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    edit(folder / "submission.json", lambda made: made.update(files=hashes))


def final_of(folder: Path, method: str) -> Path:
    """The file of one final training of a method."""
    for path in sorted((folder / "records").glob("*.json")):
        spec = json.loads(path.read_text())["spec"]
        if spec["phase"] == "final" and spec["method"]["name"] == method:
            return path
    raise AssertionError(method)


def refused(folder: Path) -> str:
    with pytest.raises(SubmissionError) as caught:
        check(folder)
    return str(caught.value)


def test_a_submission_holds_the_records_and_what_they_give(packed: Path) -> None:
    made = read_submission(packed)
    assert (made.name, made.authors, made.study, made.protocol) == (ADA.name, ADA.authors, "digits", 1)
    files = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    assert files == {*made.files, "submission.json"}
    assert sum(name.startswith("records/") for name in files) == 54
    kd = next(row for row in made.rows if row.method == "kd")
    # the three seeds of kd in results/digits have 352, 354 and 351 of 360 test images right
    assert (kd.n, kd.test_top1_pct) == (3, pytest.approx(100 * (352 + 354 + 351) / 1080, abs=1e-6))
    assert made.hardware == ("AMD EPYC",) and made.kdbench == ("0.1.0",) and made.plug_ins == ()


def test_what_was_packed_holds_and_can_be_checked_twice(packed: Path) -> None:
    checked = check(packed)
    assert checked.unchecked == ()
    assert check(packed).submission == checked.submission
    assert {row.method for row in checked.board.rows} >= {"teacher", "kd", "scratch"}


def test_the_same_study_gives_the_same_submission(packed: Path, study: Path, tmp_path: Path) -> None:
    pack(study, ADA, tmp_path / "again")
    assert (tmp_path / "again" / "submission.json").read_bytes() == (packed / "submission.json").read_bytes()


def test_the_printed_schema_accepts_what_is_packed_and_refuses_what_lacks_authors(packed: Path) -> None:
    made = json.loads((packed / "submission.json").read_text())
    jsonschema.validate(made, json_schema())
    with pytest.raises(jsonschema.ValidationError, match="authors"):
        jsonschema.validate({name: value for name, value in made.items() if name != "authors"}, json_schema())


def test_records_of_an_earlier_form_of_the_study_are_left_out_and_counted(study: Path, tmp_path: Path) -> None:
    gone = final_of(study, "kd").stem
    edit(study / "current.json", lambda current: current["final"].remove(gone))
    made = pack(study, ADA, tmp_path / "out")
    assert made.left_out == 1
    assert f"records/{gone}.json" not in made.files


def test_nothing_is_written_over(packed: Path) -> None:
    with pytest.raises(KdbenchError, match="holds something already"):
        pack(DIGITS, ADA, packed)


def test_a_study_without_its_splits_or_without_a_retrained_row_is_refused(study: Path, tmp_path: Path) -> None:
    edit(study / "current.json", lambda current: current.update(final=[]))
    with pytest.raises(KdbenchError, match="no row was retrained"):
        pack(study, ADA, tmp_path / "out")
    (study / "splits.json").unlink()
    with pytest.raises(KdbenchError, match=r"splits\.json: no such file"):
        pack(study, ADA, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("about", "field"),
    [
        (About("", ("A",)), "name"), (About("two\nlines", ("A",)), "name"), (About("x", ()), "authors"),
        (About("x", ("A",), url="javascript:alert(1)"), "url"), (About("x", ("A",), code="ftp://x"), "code"),
        (About("x", ("A",), url='https://x/"onclick='), "url"),
    ],
)  # fmt: skip
def test_fields_that_do_not_fit_are_named(about: About, field: str, tmp_path: Path) -> None:
    with pytest.raises(KdbenchError, match=f"^{field}"):
        pack(DIGITS, about, tmp_path / "out")


def test_rows_of_a_plug_in_need_an_address_of_its_source(study: Path, tmp_path: Path) -> None:
    plug_in = {"method kd": {"file": "kd.py", "sha256": "0" * 64}}
    edit(final_of(study, "kd"), lambda record: record["environment"].update(plugins=plug_in))
    with pytest.raises(KdbenchError, match=r"method kd.*--code"):
        pack(study, ADA, tmp_path / "out")
    made = pack(study, About("x", ("A",), code="https://example.org/kd"), tmp_path / "out")
    assert [(p.name, p.file, p.sha256) for p in made.plug_ins] == [("method kd", "kd.py", "0" * 64)]


@pytest.mark.parametrize(
    "text",
    ["/home/ada/data", "at /tmp/x/y.py, line 3", "~/data", "C:\\Users\\ada", "file:///srv/data", "/data", "~ada/x"],
)
def test_an_absolute_path_is_found(text: str) -> None:
    assert [found.what for found in findings("f", {"a": [text]})] == [PATH]
    assert list(findings("f", without_findings({"a": [text]}))) == []


@pytest.mark.parametrize(
    "text", ["3/4", "and/or", "https://example.org/a/b", "resnet20 -> cnn", "photos/cats", "12:30", "a / b", "-> /"]
)
def test_what_only_looks_like_a_path_is_left_alone(text: str) -> None:
    assert list(findings("f", {"a": text})) == []


def test_a_secret_is_found_and_not_repeated() -> None:
    (found,) = findings("study.json", {"track": {"mlflow": "https://ada:difference@host/x"}})
    assert (found.what, found.field) == (SECRET, "track.mlflow")
    assert "difference" not in str(found)


def test_a_path_in_an_error_line_stops_packing_and_can_be_taken_out(study: Path, tmp_path: Path) -> None:
    path = final_of(study, "kd")
    edit(path, lambda record: record.update(error="no file /home/ada/secret/data.npz"))
    with pytest.raises(KdbenchError, match=rf"records/{path.stem}\.json: error: an absolute path[^$]*--redact"):
        pack(study, ADA, tmp_path / "out")
    made = pack(study, ADA, tmp_path / "out", redact=True)
    assert made.redacted == (f"records/{path.stem}.json: error",)
    stored = json.loads((tmp_path / "out" / "records" / path.name).read_text())
    assert stored["error"] == "no file <removed>"
    assert check(tmp_path / "out").submission == made


def test_a_path_with_a_secret_in_it_is_taken_out_whole(study: Path, tmp_path: Path) -> None:
    redact.remember("postgresql://me:hunter2hunter2@db/runs")
    path = final_of(study, "kd")
    edit(path, lambda record: record.update(error="no file /home/ada/hunter2hunter2/data.npz"))
    pack(study, ADA, tmp_path / "out", redact=True)
    assert json.loads((tmp_path / "out" / "records" / path.name).read_text())["error"] == "no file <removed>"


def test_a_path_in_a_study_cannot_be_taken_out(study: Path, tmp_path: Path) -> None:
    edit(study / "study.json", lambda value: value["data"].update(folder="/home/ada/photos"))
    with pytest.raises(KdbenchError, match=r"study\.json: data\.folder: an absolute path[^$]*data root"):
        pack(study, ADA, tmp_path / "out", redact=True)


def test_where_a_study_ran_is_no_part_of_a_submission() -> None:
    study = {"track": {"mlflow": "http://10.0.0.1:5000"}, "resources": {"ray_address": "head:6379", "max_retries": 2}}
    assert without_places(study) == {"track": {"mlflow": "off"}, "resources": {"ray_address": None, "max_retries": 2}}


def test_a_changed_record_is_named(copy: Path) -> None:
    path = final_of(copy, "kd")
    edit(path, lambda record: record["result"].update(test_top1_pct=99.0))
    assert refused(copy).startswith(f"records/{path.name}: changed since it was packed")


def test_an_accuracy_that_no_test_split_allows_is_refused(copy: Path) -> None:
    path = final_of(copy, "kd")
    edit(path, lambda record: record["result"].update(test_top1_pct=99.9))
    rehash(copy)
    assert refused(copy) == (
        f"records/{path.name}: result.test_top1_pct: 99.9000 % of 360 test images is 359.64 images, no whole number"
    )


def test_a_result_that_is_not_the_end_of_its_curve_is_refused(copy: Path) -> None:
    path = final_of(copy, "kd")
    edit(path, lambda record: record["result"].update(val_top1_pct=100.0))
    rehash(copy)
    assert f"records/{path.name}: result.val_top1_pct: 100.0, but curves.val_top1_pct ends with" in refused(copy)


def test_claims_that_the_records_do_not_give_are_refused(copy: Path) -> None:
    edit(final_of(copy, "kd"), lambda record: record["result"].update(test_top1_pct=100 * 359 / 360))
    rehash(copy)
    problem = refused(copy)
    assert "test_top1_pct: kd claims 97.87037, its records give 98." in problem
    edit(copy / "submission.json", lambda made: made["rows"].pop())
    assert "is in the records, but not claimed" in refused(copy)


def test_a_training_that_the_study_does_not_ask_for_is_refused(copy: Path) -> None:
    """Seeds follow from the study, so nobody can choose the lucky ones."""
    path = final_of(copy, "kd")
    record = json.loads(path.read_text())
    record["spec"]["seed"] = 7
    record["key"] = TrialSpec.from_json(record["spec"]).key
    path.unlink()
    (copy / "records" / f"{record['key']}.json").write_text(json.dumps(record))
    edit(copy / "current.json", lambda now: now["final"].append(record["key"]) or now["final"].remove(path.stem))
    rehash(copy)
    assert refused(copy).startswith(f"records/{record['key']}.json: the study does not ask for this training")


def test_records_that_current_json_hides_are_noticed(copy: Path) -> None:
    edit(copy / "current.json", lambda current: current["final"].pop())
    rehash(copy)
    assert refused(copy) == "current.json: does not name 1 record of the folder"


def test_data_that_differ_from_the_splits_are_named(copy: Path) -> None:
    edit(copy / "splits.json", lambda splits: splits["data"].update(test_hash="0" * 64))
    rehash(copy)
    assert "environment.test_hash: bd70ce2eb054, but splits.json has 000000000000" in refused(copy)


def test_another_protocol_is_refused_with_the_reason(copy: Path) -> None:
    edit(copy / "submission.json", lambda made: made.update(protocol=2))
    assert refused(copy).startswith("submission.json: protocol: made under protocol 2, and this leaderboard has")


def test_a_record_of_another_protocol_is_refused(copy: Path) -> None:
    path = final_of(copy, "kd")
    edit(path, lambda record: record.update(protocol=2))
    rehash(copy)
    assert refused(copy) == f"records/{path.name}: made under protocol 2; this kdbench has protocol 1"


def test_files_that_are_missing_or_too_many_or_links_are_named(copy: Path) -> None:
    path = final_of(copy, "kd")
    path.unlink()
    assert refused(copy) == f"records/{path.name}: named in submission.json, but not there"
    path.symlink_to(DIGITS / "records" / path.name)
    assert f"records/{path.name}: not a plain file" in refused(copy)
    path.unlink()
    shutil.copy(DIGITS / "records" / path.name, path)
    (copy / "model.safetensors").write_bytes(b"weights")
    assert refused(copy) == "model.safetensors: not named in submission.json"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"authers": ["x"]}, "authers: Extra inputs are not permitted"),
        ({"schema": 2}, "schema: Input should be 1"),
        ({"files": {"../../etc/passwd": "0" * 64}}, "files.../../etc/passwd.[key]: String should match"),
        ({"url": "javascript:alert(1)"}, "url: String should match"),
    ],
)
def test_a_submission_json_that_does_not_fit_its_schema_is_refused(
    change: dict[str, Any], problem: str, copy: Path
) -> None:
    edit(copy / "submission.json", lambda made: made.update(change))
    assert f"submission.json: {problem}" in refused(copy)


def test_a_file_that_is_no_json_and_a_study_of_another_shape_are_refused(copy: Path) -> None:
    study = json.loads((copy / "study.json").read_text())
    (copy / "study.json").write_text("{")
    rehash(copy)
    assert refused(copy).startswith("study.json: ")
    (copy / "study.json").write_text(json.dumps(study | {"search": {"trials": "many"}}))
    rehash(copy)
    assert refused(copy).startswith("study.json: not a study of this kdbench (1 field): search.trials: ")


def test_a_path_that_was_put_into_a_submission_by_hand_is_refused(copy: Path) -> None:
    edit(copy / "submission.json", lambda made: made.update(contact="see /home/ada/notes"))
    assert refused(copy) == "submission.json: contact: an absolute path (/home/ada/notes)"


def test_a_submission_of_code_that_is_not_here_says_what_was_not_checked(study: Path, tmp_path: Path) -> None:
    edit(study / "study.json", lambda value: value["methods"].update(my_own={}))
    plug_in = {"method my_own": {"file": "my_own.py", "sha256": "0" * 64}}
    edit(final_of(study, "kd"), lambda record: record["environment"].update(plugins=plug_in))
    pack(study, About("x", ("A",), code="https://example.org/my_own"), tmp_path / "out")
    assert check(tmp_path / "out").unchecked == (
        "whether its records are what its study asks for, for want of method my_own",
    )
