"""What people ask of a study under way, or gone wrong: its status, the logs of a training, and to run some again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import facts, kdbench_cli

from kdbench.errors import KdbenchError
from kdbench.method import methods
from kdbench.record import TrialRecord
from kdbench.search.agenda import Agenda
from kdbench.status import read_only, study_of
from kdbench.store import Store
from kdbench.train.run import Run
from kdbench.train.workshop import Workshop

STUDY = """
study: small
data: {name: digits, validation: 100, train: 100}
teacher: {model: cnn, depth: 5, width: 0.25}
student: {model: cnn, depth: 5, width: 0.125}
methods:
  scratch:
  kd:
search: {trials: 2, repeats: 1, sampler: random}
final: {seeds: 1}
train: {epochs: 2, batch_size: 50, lr: 0.05}
resources: {executor: local, cpus_per_teacher: 1}
track: {mlflow: "off"}
"""


def run(folder: Path, *arguments: object, until: str = "search") -> str:
    """Run the study, and return what was said."""
    result = kdbench_cli("run", folder / "small.yaml", "--results", folder / "results", "--until", until, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the search has been run with a kd that raises."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "small.yaml").write_text(STUDY)

    def boom(self: object, step: object) -> Any:
        raise ValueError("the loss is [bold]\x1b[31mbroken[/bold]")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.session.print_report", lambda *_, **__: None)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(methods.get("kd"), "loss", boom)
            run(folder)
        yield folder


@pytest.fixture
def copy(broken: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(broken, tmp_path / "copy")
    return tmp_path / "copy"


def store(copy: Path) -> Store:
    return Store(copy / "results/small")


def keys(copy: Path, phase: str = "search", row: str | None = None) -> list[str]:
    """Keys of the records of a phase and a row, in the order of their trials."""
    specs = [record.spec for record in read_only(copy / "results/small").values() if record.spec.phase == phase]
    chosen = [spec for spec in specs if row in (None, spec.row)]
    return [spec.key for spec in sorted(chosen, key=lambda spec: int(spec.slot.get("trial", 0)))]


def change(copy: Path, key: str, **facts: Any) -> TrialRecord:
    """File another record in place of one."""
    record = replace(store(copy).read(key), **facts)
    store(copy).write(record)
    return record


def test_status_failed_names_training_error_and_commands(copy: Path) -> None:
    first, second = keys(copy, row="kd")
    listed = kdbench_cli("status", copy / "small.yaml", "--results", copy / "results", "--failed").stdout.splitlines()
    assert listed[0] == "2 trainings did not finish:"
    assert sorted(listed[1:5:2]) == sorted(
        f"{key[:8]}  failed  search kd repeat 0 trial {trial}" for trial, key in enumerate((first, second))
    )
    assert listed[2].strip() == r"ValueError: the loss is [bold]\x1b[31mbroken[/bold]"
    assert listed[5].startswith("All about one: kdbench logs ")
    assert f"kdbench run {copy / 'small.yaml'} --rerun failed" in listed[6]
    found = json.loads(kdbench_cli("status", copy / "results/small", "--failed", "--json").stdout)
    assert [(one["status"], one["attempts"], one["current"]) for one in found] == [("failed", 1, True)] * 2


def test_status_puts_what_the_machine_lost_first(copy: Path) -> None:
    one, other = keys(copy, row="scratch")
    change(copy, one, status="diverged", error="the loss is not finite after epoch 1")
    change(copy, other, status="lost", error="the worker process died")
    found = json.loads(kdbench_cli("status", copy / "results/small", "--failed", "--json").stdout)
    assert [training["status"] for training in found] == ["lost", "failed", "failed", "diverged"]
    result = store(copy).read(one).result
    for key in keys(copy):
        change(copy, key, status="finished", error=None, result=result)
    text = kdbench_cli("status", copy / "results/small", "--failed").stdout
    assert text == "Every training that was begun has finished, or is under way.\n"


def test_logs_tell_all_about_a_failed_training(copy: Path) -> None:
    key = keys(copy, row="kd")[0]
    text = kdbench_cli("logs", key[:8], "--results", copy / "results").stdout
    assert text.startswith(f"search kd repeat 0 trial 0, key {key}, of {copy / 'results/small'}\n")
    assert "\nstatus     failed\n" in text
    assert "\nerror      ValueError: the loss is [bold]" in text and "\x1b" not in text
    assert "    Traceback (most recent call last):\n" in text and "in boom\n" in text
    assert text.endswith(f"again      kdbench run STUDY_FILE --rerun {key[:8]}\n")


def test_logs_show_attempts_and_why_there_were_several(copy: Path) -> None:
    key = keys(copy, row="scratch")[0]
    environment = {**store(copy).read(key).environment, "retries": ["the worker was killed by signal 9"]}
    change(copy, key, attempts=2, environment=environment)
    text = kdbench_cli("logs", key, "--results", copy / "results").stdout
    assert "(attempt 1 of 2)" in text
    assert "\nagain for  the worker was killed by signal 9\n" in text


def test_logs_show_curves_as_a_small_table(copy: Path) -> None:
    key = keys(copy, row="scratch")[0]
    values = [float(epoch) for epoch in range(1, 101)]
    change(copy, key, curves={"val_top1_pct": values, "train_loss": values, "val_macro_recall_pct": values})
    text = kdbench_cli("logs", key, "--results", copy / "results").stdout.splitlines()
    start = next(number for number, line in enumerate(text) if line.startswith("curves"))
    assert text[start].split() == ["curves", "epoch", "train_loss", "val_top1_pct"]
    epochs = [line.split()[0] for line in text[start + 1 :]]
    assert epochs[0] == "1" and epochs[-1] == "100" and len(epochs) <= 13
    story = json.loads(kdbench_cli("logs", key, "--results", copy / "results", "--json").stdout)
    assert story["curves"]["val_macro_recall_pct"] == values


def test_logs_of_a_row_list_its_trainings(copy: Path) -> None:
    listed = kdbench_cli("logs", "small/kd", "--results", copy / "results").stdout.splitlines()
    assert listed[0].startswith("2 trainings; all about one: kdbench logs ")
    assert {line.split("  ")[0] for line in listed[1:]} == {key[:8] for key in keys(copy, row="kd")}
    assert all("failed" in line and "ValueError" in line for line in listed[1:])


@pytest.mark.parametrize("text", ["ffff", "ffffffffffffffff", "small/dkd", "dkd"])
def test_what_nothing_is_called_is_an_error_that_says_what_there_is(copy: Path, text: str) -> None:
    with pytest.raises(KdbenchError, match="small"):
        kdbench_cli("logs", text, "--results", copy / "results")


def test_logs_and_status_show_a_training_that_was_interrupted(copy: Path) -> None:
    """The real thing: a training of the search is taken back to its first epoch, as a killed worker leaves it."""
    key, folder = keys(copy, row="scratch")[1], copy / "results/small"
    own = store(copy)
    own.record_path(key).unlink()
    agenda = Agenda(study_of(folder), read_only(folder), lambda key: True)
    job = agenda.next()
    assert job is not None and job.spec.key == key
    training = Run(job, Workshop(own, torch.device("cpu")))
    training.advance()
    status = kdbench_cli("status", folder).stdout
    assert "running: no\n" in status
    assert f"interrupted {key[:8]}: search scratch repeat 0 trial 1 (all about it: kdbench logs {key[:8]})" in status
    text = kdbench_cli("logs", key[:6], "--results", copy / "results").stdout
    assert "\nstatus     interrupted: the next run goes on with it\n" in text
    assert "\ncheckpoint after epoch 1, " in text and "\ncurves     epoch  train_loss" in text
    with own.lock():
        status = kdbench_cli("status", folder, "--json").stdout
        assert json.loads(status)["running"].startswith(f"process {os.getpid()} on ")
        assert json.loads(status)["under_way"] == {key: "search scratch repeat 0 trial 1"}
        text = kdbench_cli("logs", key, "--results", copy / "results").stdout
        assert f"\nstatus     under way, in the run of process {os.getpid()} on " in text
    checkpoint = own.work_folder(key) / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    text = kdbench_cli("logs", key, "--results", copy / "results").stdout
    assert f"\ncheckpoint damaged, so it would start from the beginning: {checkpoint}" in text


def test_a_damaged_record_is_told_and_not_touched(copy: Path) -> None:
    key = keys(copy, row="scratch")[0]
    path = store(copy).record_path(key)
    path.write_text("{")
    text = kdbench_cli("logs", key, "--results", copy / "results").stdout
    assert "\nstatus     its record cannot be read: the next run sets it aside and trains again\n" in text
    assert path.read_text() == "{"


def test_rerun_failed_sets_the_old_records_aside_and_trains_just_them_again(copy: Path) -> None:
    folder = copy / "results/small"
    failed, before = keys(copy, row="kd"), facts(folder)
    times = {path.stem: path.stat().st_mtime_ns for path in (folder / "records").glob("*.json")}
    assert "2 records set aside" in run(copy, "--rerun", "failed")
    after = facts(folder)
    assert after.keys() == before.keys()  # the same trainings, though one now knows how the other ended
    assert {key: after[key]["status"] for key in failed} == dict.fromkeys(failed, "finished")
    kept = {
        path.stem: path.stat().st_mtime_ns for path in (folder / "records").glob("*.json") if path.stem not in failed
    }
    assert kept == {key: made for key, made in times.items() if key not in failed}
    aside = folder / "records/superseded"
    assert sorted(path.stem for path in aside.iterdir()) == sorted(failed)
    assert all(json.loads(path.read_text())["status"] == "failed" for path in aside.iterdir())
    story = json.loads(kdbench_cli("logs", failed[0], "--results", copy / "results", "--json").stdout)
    assert story["status"] == "finished"
    assert [(one["status"], one["file"]) for one in story["superseded"]] == [
        ("failed", f"records/superseded/{failed[0]}.json")
    ]


def test_rerun_by_key_keeps_every_earlier_record(copy: Path) -> None:
    key = keys(copy, row="scratch")[0]
    before = facts(copy / "results/small")
    for _ in range(2):
        run(copy, "--rerun", key[:6])
    assert facts(copy / "results/small") == before
    aside = copy / "results/small/records/superseded"
    assert sorted(path.name for path in aside.iterdir()) == [f"{key}.2.json", f"{key}.json"]


def test_rerun_of_a_failed_teacher_takes_its_students_along(copy: Path) -> None:
    (teacher,) = keys(copy, phase="teacher")
    change(copy, teacher, status="diverged", error="the loss is not finite after epoch 1", result={})
    store(copy).weights_path(teacher).unlink()
    said = run(copy, "--rerun", "diverged")
    assert "3 records set aside" in said  # the teacher and the two trainings of kd, which had failed
    assert {record.status for record in read_only(copy / "results/small").values()} == {"finished"}


def test_rerun_survives_an_interruption_with_the_same_trainings(copy: Path) -> None:
    """Set aside, and then the power fails: the next run, without the option, trains what was to be trained."""
    from kdbench.rerun import set_aside

    before = facts(copy / "results/small").keys()
    set_aside(store(copy), read_only(copy / "results/small"), ["failed"])
    run(copy)
    assert facts(copy / "results/small").keys() == before


def test_rerun_of_what_there_is_not_is_said(copy: Path) -> None:
    assert "--rerun timed_out: no training has this status." in run(copy, "--rerun", "timed_out")
    with pytest.raises(KdbenchError, match=r"--rerun: no record .* 'faild'\. Did you mean 'failed'\?"):
        run(copy, "--rerun", "faild")
    with pytest.raises(KdbenchError, match="Allowed: failed, diverged, timed_out, lost, or the first digits"):
        run(copy, "--rerun", "fff")
    assert not (copy / "results/small/records/superseded").exists()


def test_a_link_in_place_of_the_superseded_records_is_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (copy / "results/small/records/superseded").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KdbenchError, match="a symbolic link leads out"):
        run(copy, "--rerun", "failed")


def test_the_flag_for_unauthenticated_ray_reaches_the_executor(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "KDBENCH_ALLOW_UNAUTHENTICATED_RAY"
    monkeypatch.setenv(name, "")
    run(copy)
    assert os.environ[name] == ""
    run(copy, "--allow-unauthenticated-ray")
    assert os.environ[name] == "1"
