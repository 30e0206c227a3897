"""`kdbench reproduce` on a study that takes seconds: the same row, trained again, in a folder of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small import kdbench_cli, write_study

from kdbench import reproduce
from kdbench.errors import CheckpointError, DataError, KdbenchError
from kdbench.record import TrialSpec
from kdbench.report.manifest import sha256
from kdbench.report.reproduction import Reproduction, read_reproduction
from kdbench.reproduce import count_of, hashes_of
from kdbench.trace.locate import Report, locate_row
from kdbench.train import checkpoint
from kdbench.train.workshop import file_hash


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study, run to its end, without its report's files."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDBENCH_CACHE", str(folder / "cache"))
        patch.setattr("kdbench.session.print_report", lambda *_, **__: None)  # only records and weights are needed
        result = kdbench_cli("run", write_study(folder), "--results", folder / "results", "--until", "final")
    assert result.exit_code == 0, result.output
    return folder / "results"


@pytest.fixture
def results(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study, to be changed; the shelf of teachers is empty."""
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(finished, tmp_path / "results")


def run(results: Path, row: str, into: Path, *more: object) -> tuple[int, str, Reproduction]:
    done = kdbench_cli("reproduce", row, "--results", results, "--into", into, *more)
    return done.exit_code, done.output, read_reproduction(into / "reproduction.json")


def change(results: Path, method: str, **result: Any) -> str:
    """Change the results of the first training of a method; returns its key."""
    report, row = locate_row(f"small/{method}", results)
    first = min((report.results.by_key[key] for key in row.keys), key=lambda record: record.spec.slot.get("final", 0))
    path = report.record_path(first.key)
    record = json.loads(path.read_text())
    record.pop("checksum", None)  # as older records have none
    record["result"].update(result)
    path.write_text(json.dumps(record))
    return first.key


def test_a_row_trained_again_is_bit_equal_and_learns_from_the_same_weights(results: Path, tmp_path: Path) -> None:
    before = sorted(path.read_bytes() for path in (results / "small").rglob("*.json"))
    status, output, found = run(results, "small/kd", tmp_path / "again", "--seeds", "all", "--by", "A. Nother")
    assert status == 0, output
    assert (found.verdict, found.by, found.method, len(found.seeds)) == ("bit-equal", "A. Nother", "kd", 2)
    assert all(seed.equal and seed.recorded_top1_pct == seed.reproduced_top1_pct for seed in found.seeds)
    assert [(n.name, n.origin, n.equal) for n in found.networks] == [("teacher", "weights of the study", True)]
    assert found.environment.differs == {}
    report = Report(results / "small")
    for key, digest in found.record_sha256.items():
        assert digest == sha256(report.record_path(key).read_bytes())
    assert "bit-equal: every result and every curve is the same to the last bit" in output
    assert sorted(path.read_bytes() for path in (results / "small").rglob("*.json")) == before


def test_a_teacher_that_is_not_at_hand_is_trained_again_and_compared(results: Path, tmp_path: Path) -> None:
    shutil.rmtree(results / "small/weights")
    status, output, found = run(results, "small/kd", tmp_path / "again")
    assert status == 0, output
    assert "are not at hand, so it is trained again" in output
    (teacher,) = found.networks
    assert (teacher.origin, teacher.equal) == ("trained again", True)
    assert teacher.reproduced is not None and teacher.reproduced.equal
    assert len(found.seeds) == 1


def test_other_weights_of_the_teacher_are_not_taken(results: Path, tmp_path: Path) -> None:
    report, row = locate_row("small/kd", results)
    key = report.results.by_key[row.keys[0]].spec.teacher
    path = results / f"small/weights/{key}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert run(results, "small/kd", tmp_path / "again")[2].networks[0].origin == "trained again"


def test_a_teacher_on_the_shelf_is_taken_if_its_hash_fits(results: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "cache/teachers"
    shelf.mkdir(parents=True)
    for path in (results / "small/weights").iterdir():
        path.rename(shelf / path.name)
    assert run(results, "small/kd", tmp_path / "again")[2].networks[0].origin == "shelf of teachers"


def test_a_start_and_the_teacher_itself_can_be_made_again(results: Path, tmp_path: Path) -> None:
    shutil.rmtree(results / "small/weights")
    _, _, found = run(results, "small/finetune", tmp_path / "start")
    assert [(n.name, n.origin, n.equal) for n in found.networks] == [("source", "trained again", True)]
    _, _, found = run(results, "small/teacher", tmp_path / "teacher")
    assert (found.verdict, found.networks, found.interval) == ("bit-equal", (), None)


def test_the_same_command_goes_on_where_it_stopped(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    run(results, "small/scratch", tmp_path / "again")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "again/records").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "run_job", interrupted)
        done = kdbench_cli(
            "reproduce", "small/scratch", "--results", results, "--into", tmp_path / "again", "--seeds", 2
        )
    assert (done.exit_code, "Stopped. The same command goes on" in done.output) == (130, True)
    status, _, found = run(results, "small/scratch", tmp_path / "again", "--seeds", 2)
    assert (status, found.verdict, len(found.seeds)) == (0, "bit-equal", 2)
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_a_number_that_was_changed_is_found_out(results: Path, tmp_path: Path) -> None:
    change(results, "scratch", test_nll=0.001)
    status, _, found = run(results, "small/scratch", tmp_path / "near")
    assert (status, found.verdict, found.seeds[0].differs) == (0, "inside", ("test_nll",))
    for number, key in enumerate(locate_row("small/kd", results)[1].keys):
        path = results / f"small/records/{key}.json"
        record = json.loads(path.read_text())
        record.pop("checksum", None)  # as older records have none
        record["result"]["test_top1_pct"] = 99.0 + number / 1000
        path.write_text(json.dumps(record))
    status, output, found = run(results, "small/kd", tmp_path / "far")
    assert (status, found.verdict) == (1, "outside")
    assert found.interval is not None and found.interval.n == 2
    assert "the 95 % prediction of the mean of 1 new training after 2" in output


def test_results_that_only_the_new_training_has_are_no_difference(results: Path, tmp_path: Path) -> None:
    key = change(results, "scratch")
    path = results / f"small/records/{key}.json"
    record = json.loads(path.read_text())
    record.pop("checksum", None)  # as older records have none
    del record["result"]["test_ece_pct"]
    path.write_text(json.dumps(record))
    assert run(results, "small/scratch", tmp_path / "again")[2].verdict == "bit-equal"


def test_a_copy_of_the_original_record_is_no_reproduction(results: Path, tmp_path: Path) -> None:
    run(results, "small/scratch", tmp_path / "again")
    for path in (tmp_path / "again/records").iterdir():
        shutil.copyfile(results / f"small/records/{path.name}", path)
    with pytest.raises(KdbenchError, match="a copy of the original record, and no new training"):
        run(results, "small/scratch", tmp_path / "again")


def test_folders_that_hold_something_else_are_refused(results: Path, tmp_path: Path) -> None:
    run(results, "small/scratch", tmp_path / "again")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    for into, words in {
        tmp_path / "again": "holds the reproduction of",
        tmp_path / "full": "is not empty, and no reproduction was begun there",
        results / "small": "is the folder of a study, whose records would be taken for new ones",
    }.items():
        with pytest.raises(KdbenchError, match=words):
            run(results, "small/kd", into)


def test_other_data_are_refused_before_anything_is_trained(results: Path, tmp_path: Path) -> None:
    for path in (results / "small/records").iterdir():
        record = json.loads(path.read_text().replace('"data_hash": "', '"data_hash": "0000'))
        record.pop("checksum")  # as in records of older versions, which have none
        path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="with other images or labels nothing can be reproduced"):
        run(results, "small/scratch", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_method_that_is_not_known_here_is_named_with_its_plug_in(results: Path, tmp_path: Path) -> None:
    report, row = locate_row("small/kd", results)
    records = [report.results.by_key[key] for key in row.keys]
    spec = records[0].spec
    gone = [
        type(record)(
            **{**vars(record), "spec": TrialSpec(spec.phase, spec.data, spec.model, {"name": "gone"}, spec.train, 0),
               "environment": {"plugins": {"method gone": {"file": "gone.py"}}}}
        )
        for record in records
    ]  # fmt: skip
    with pytest.raises(KdbenchError, match=r"unknown method 'gone'.*It came from gone.py. Give its file with --plugin"):
        reproduce.require_methods(gone)


def test_the_number_of_trainings_is_a_number_or_all() -> None:
    assert (count_of("all"), count_of("3")) == (None, 3)
    for wrong in ("0", "-1", "two", ""):
        with pytest.raises(KdbenchError, match=r"--seeds: got .* Allowed: a whole number from 1, or all"):
            count_of(wrong)


def test_weights_of_an_older_version_are_known_again(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors, facts = {"weight": torch.ones(2)}, {"spec": {"seed": 0}}
    checkpoint.save(tmp_path / "new", tensors, facts)
    header = {"kdbench": json.dumps(facts), "checksum": checkpoint.checksum(tensors, json.dumps(facts))}
    save_file(tensors, tmp_path / "old", metadata=header)
    assert file_hash(tmp_path / "old") != file_hash(tmp_path / "new")
    assert {file_hash(tmp_path / "old"), file_hash(tmp_path / "new")} < hashes_of(tmp_path / "new")
    checkpoint.save(tmp_path / "other", {"weight": torch.zeros(2)}, facts)
    assert file_hash(tmp_path / "old") not in hashes_of(tmp_path / "other")


def test_a_checkpoint_that_is_not_here_is_named(results: Path, tmp_path: Path) -> None:
    report, row = locate_row("small/kd", results)
    rerun = reproduce.Rerun(report, reproduce.begun(tmp_path / "again", report, row), print, print)
    spec = report.results.by_key[row.keys[0]].spec
    foreign = TrialSpec("teacher", spec.data, spec.model, {"name": "checkpoint", "sha256": "ab" * 32}, {}, 0)
    with pytest.raises(CheckpointError, match=r"\(sha256 abababababab...\) is neither here nor in the data root"):
        rerun.bring(foreign, None)
