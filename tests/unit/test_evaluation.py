"""What is measured beside the accuracy of the last epoch: the best epoch, agreement, corrupted images."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from report_example import full_records, write_study
from test_agenda import World
from test_agenda import study as toy

from kdbench.data.corruptions import possible
from kdbench.errors import KdbenchError
from kdbench.method import methods
from kdbench.record import METRICS, Job, TrialRecord, corruption_of, metric
from kdbench.report.evaluations import evaluated, evaluations
from kdbench.report.fidelity import fidelity
from kdbench.report.leaderboard import Leaderboard, leaderboard
from kdbench.report.load import Results, load
from kdbench.report.robustness import robustness
from kdbench.study.plan import evaluation_settings
from kdbench.study.schema import Study
from kdbench.testing.training import TEACHER, Bench, config_of, job_for
from kdbench.track.parents import parent_of
from kdbench.track.payload import payload_of
from kdbench.train import checkpoint, evaluation
from kdbench.train.loop import logits_of
from kdbench.train.metrics import evaluate
from kdbench.train.metrics import fidelity as fidelity_of
from kdbench.train.run import Run, best_epoch, run_job

Example = tuple[Results, Leaderboard]
SCRATCH = {"name": "scratch"}
# Learns, and then unlearns: the best epoch is neither the first nor the last.
UP_AND_DOWN: dict[str, Any] = {"epochs": 4, "lr": 0.2, "schedule": "constant", "batch_size": 16}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def of_curve(monkeypatch: pytest.MonkeyPatch, *top1: float) -> None:
    """Let validation say what the test wants; the weights are what training makes of them."""
    from kdbench.train.loop import Training

    whole = Training.validate
    monkeypatch.setattr(Training, "validate", lambda self: {**whole(self), "top1_pct": float(top1[self.epochs_done])})


# --- the best epoch ---------------------------------------------------------------------------------------------------


def test_the_best_epoch_is_the_first_of_the_highest() -> None:
    assert best_epoch({"val_top1_pct": [10.0, 50.0, 30.0, 50.0]}) == 2


def test_the_weights_of_the_best_epoch_are_tested_beside_those_of_the_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_curve(monkeypatch, 10, 60, 30, 40)
    job = job_for(SCRATCH, seed=31, **UP_AND_DOWN)
    run = Run(job, bench.warm)
    for _ in range(2):
        run.advance()
    views, labels, _ = bench.warm.test(job.spec)
    wanted = evaluate(logits_of(run.training.student, views, "fp32"), labels)["top1_pct"]
    record = bench.record(job)  # goes on from the second epoch, as after a death
    assert record.result["best_epoch"] == 2
    assert record.result["test_best_epoch_top1_pct"] == wanted != record.result["test_top1_pct"]
    assert not bench.store.work_folder(job.spec.key).exists()


@pytest.mark.parametrize("died", [1, 2, 3])
def test_a_death_between_the_weights_of_the_best_epoch_and_the_checkpoint_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, died: int
) -> None:
    of_curve(monkeypatch, 30, 60, 70, 40)
    job = job_for(SCRATCH, seed=32, **UP_AND_DOWN)
    whole = bench.record(job).result
    run = Run(job, bench.warm)
    for _ in range(died - 1):
        run.advance()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    run.training.save = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.advance()
    again = bench.record(job).result
    for name in ("best_epoch", "test_best_epoch_top1_pct", "test_top1_pct"):
        assert again[name] == whole[name]


def test_at_most_two_epochs_are_kept_and_a_last_epoch_that_is_the_best_is_tested_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_curve(monkeypatch, 10, 20, 30, 40)
    job = job_for(SCRATCH, seed=33, **UP_AND_DOWN)
    run = Run(job, bench.warm)
    kept = []
    while not run.over:
        run.advance()
        kept.append(sorted(path.name for path in run.folder.glob("best_epoch_*")))
    one, two, three = (f"best_epoch_{i}.safetensors" for i in (1, 2, 3))
    assert kept == [[one], [one, two], [two, three], [two, three]]
    tested = []
    monkeypatch.setattr("kdbench.train.run.logits_of", lambda *a: tested.append(1) or logits_of(*a))
    result = run.record().result
    assert len(tested) == 1
    assert result["test_best_epoch_top1_pct"] == result["test_top1_pct"]


def test_without_the_weights_of_the_best_epoch_a_training_still_finishes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_curve(monkeypatch, 60, 20, 30, 40)
    job = job_for(SCRATCH, seed=34, **UP_AND_DOWN)
    bench.begin(job, 2)
    (kept,) = bench.store.work_folder(job.spec.key).glob("best_epoch_*")
    kept.write_bytes(b"")
    record = bench.record(job)
    assert record.status == "finished" and "test_best_epoch_top1_pct" not in record.result


def test_a_search_trial_keeps_no_weights_of_its_best_epoch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    of_curve(monkeypatch, 60, 20, 30, 40)
    job = job_for(SCRATCH, phase="search", seed=35, **UP_AND_DOWN)
    bench.begin(job, 2)
    assert not list(bench.store.work_folder(job.spec.key).glob("best_epoch_*"))
    assert "test_best_epoch_top1_pct" not in bench.record(job).result


def test_training_cost_is_wall_time_times_devices(bench: Bench) -> None:
    result = bench.record(job_for(SCRATCH, seed=36, epochs=1)).result
    assert result["train_device_s"] == result["train_wall_s"] > 0
    assert METRICS["train_device_s"].direction == "min"


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_fidelity_by_hand() -> None:
    # teacher (3/4, 1/4), student (1/2, 1/2) and the other way round; KL = 3/4 ln(3/2) + 1/4 ln(1/2)
    teacher = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
    student = torch.tensor([[0.1, 0.0], [0.0, 0.0]])
    found = fidelity_of(torch.zeros(2, 2), teacher)
    assert found["agreement_kl_nat"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert fidelity_of(student, teacher)["agreement_pct"] == 50
    same = fidelity_of(teacher, teacher)
    assert same == {"agreement_pct": 100, "agreement_kl_nat": 0}
    with pytest.raises(KdbenchError, match=r"the teacher's logits have shape \(2, 3\)"):
        fidelity_of(student, torch.zeros(2, 3))


def test_a_teacher_that_rules_a_class_out_adds_nothing_for_it() -> None:
    found = fidelity_of(torch.zeros(1, 2), torch.tensor([[0.0, -math.inf]]))
    assert found["agreement_kl_nat"] == pytest.approx(math.log(2))


def test_results_of_corruptions_are_a_family_of_metrics() -> None:
    assert metric("test_corrupted_jpeg_compression_top1_pct").title == "top-1 accuracy under jpeg compression"
    assert metric("test_corrupted_top1_pct") is METRICS["corrupted_top1_pct"]
    assert corruption_of("test_corrupted_fog_top1_pct") == "fog"
    assert corruption_of("test_corrupted_top1_pct") is None and corruption_of("test_uncorrupted_top1_pct") is None
    with pytest.raises(KeyError):
        metric("test_corrupted_fog_nll")


# --- one evaluation ---------------------------------------------------------------------------------------------------

CORRUPTIONS = {"names": ["gaussian_noise", "contrast"], "severities": [1, 5], "images": 40}


def evaluation_of(job: Job, settings: dict[str, Any]) -> Job:
    """The evaluation of a final training, with the teacher of the bench."""
    spec = dataclasses.replace(
        job.spec, phase="evaluation", train=settings, teacher=TEACHER.key, init=job.spec.key,
        slot={"pair": "p", "final": 0, "of": job.spec.key},
    )  # fmt: skip
    return Job(spec, teacher=TEACHER, init=job.spec, members=job.needs)


def test_a_student_that_never_saw_the_teacher_is_compared_with_it(bench: Bench) -> None:
    job = job_for(SCRATCH, seed=40)
    trained = bench.train(job)
    record = bench.record(evaluation_of(job, {"agreement": True, "corruptions": CORRUPTIONS}))
    assert record.status == "finished", record.error
    net = bench.warm.network(job.spec)
    checkpoint.load_weights(net, trained.weights, "the student")
    views, labels, test_hash = bench.warm.test(job.spec)
    logits, teacher = logits_of(net, views, "fp32"), bench.warm.teacher_logits(TEACHER, job.spec, "test", "fp32")
    for name, value in fidelity_of(logits, teacher).items():
        assert record.result[f"test_{name}"] == pytest.approx(value, abs=1e-6)
    assert record.environment["test_hash"] == test_hash
    by_severity = record.environment["corrupted_top1_pct"]
    assert {name: list(found) for name, found in by_severity.items()} == {
        "none": ["0"], "gaussian_noise": ["1", "5"], "contrast": ["1", "5"],
    }  # fmt: skip
    noise = sum(by_severity["gaussian_noise"].values()) / 2
    contrast = sum(by_severity["contrast"].values()) / 2
    assert record.result["test_corrupted_gaussian_noise_top1_pct"] == noise
    assert record.result["test_corrupted_top1_pct"] == pytest.approx((noise + contrast) / 2)
    assert record.result["test_uncorrupted_top1_pct"] == by_severity["none"]["0"]
    assert len(labels) > 40
    assert TrialRecord.from_json(record.to_json()).spec == record.spec


@pytest.mark.parametrize("name", ["kd", "simkd"])
def test_agreement_of_stored_weights_is_that_of_the_final_training(bench: Bench, name: str) -> None:
    job = job_for(config_of(methods.get(name)()), seed=41)
    trained = bench.train(job).record
    record = bench.record(evaluation_of(job, {"agreement": True}), bench.shop())
    assert record.status == "finished", record.error
    assert record.result["test_agreement_pct"] == trained.result["test_agreement_pct"]
    assert set(record.result) == {"test_agreement_pct", "test_agreement_kl_nat"}


def test_an_evaluation_that_was_killed_goes_on_where_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_for(SCRATCH, seed=42, epochs=1)
    bench.train(job)
    asked = evaluation_of(job, {"agreement": False, "corruptions": CORRUPTIONS})
    whole = bench.record(asked)
    made: list[tuple[str, int]] = []
    views = evaluation.corrupted_views

    def dying(job: Job, shop: Any, name: str, severity: int, positions: Any) -> Any:
        if len(made) == 3:
            made.append(("died", 0))
            raise KeyboardInterrupt
        made.append((name, severity))
        return views(job, shop, name, severity, positions)

    monkeypatch.setattr(evaluation, "corrupted_views", dying)
    with pytest.raises(KeyboardInterrupt):
        list(run_job(asked, bench.shop()))
    again = bench.record(asked)
    assert again.result == whole.result and again.attempts == 2
    done = [("none", 0), ("gaussian_noise", 1), ("gaussian_noise", 5), ("died", 0), ("contrast", 1), ("contrast", 5)]
    assert made == done


def test_corrupted_images_are_made_once_for_all_students(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"agreement": False, "corruptions": {**CORRUPTIONS, "names": ["fog"]}}
    jobs = [job_for(SCRATCH, seed=seed, epochs=1) for seed in (43, 44)]
    for job in jobs:
        bench.train(job)
    first = bench.record(evaluation_of(jobs[0], settings))
    made = []
    monkeypatch.setattr(evaluation, "corrupt", lambda *_: made.append(1))
    second = bench.record(evaluation_of(jobs[1], settings))
    assert (first.status, second.status, made) == ("finished", "finished", [])


def test_the_images_that_are_corrupted_are_of_all_classes_alike(bench: Bench) -> None:
    job = evaluation_of(job_for(SCRATCH), {})
    labels = bench.warm.test(job.spec)[1]
    few = evaluation.chosen_positions(bench.warm, job, 60)
    assert len(set(few.tolist())) == 60 and sorted(few.tolist()) == few.tolist()
    counts = torch.bincount(labels[torch.from_numpy(few)], minlength=10)
    assert counts.min() >= 5 and counts.max() <= 7
    assert len(evaluation.chosen_positions(bench.warm, job, None)) == len(labels)


def test_an_evaluation_without_weights_or_teacher_fails_and_says_so(bench: Bench) -> None:
    job = job_for(SCRATCH, seed=45)
    missing = bench.record(evaluation_of(job, {"agreement": True}))
    assert missing.status == "failed" and f"the student {job.spec.key} is not trained yet" in (missing.error or "")
    bench.train(job)
    alone = evaluation_of(job, {"agreement": True})
    failed = bench.record(dataclasses.replace(alone, teacher=None))
    assert (failed.status, failed.error) == ("failed", "agreement was asked for, but there is no teacher to agree with")


def test_only_phases_that_are_tested_may_see_test_images(bench: Bench) -> None:
    with pytest.raises(KdbenchError, match="a search training must not see the test split"):
        bench.warm.test_images(job_for(SCRATCH, phase="search").spec)


# --- which evaluations a study asks for -------------------------------------------------------------------------------

ASKED = {"agreement": True, "corruptions": {"names": ["fog"], "severities": [3]}}


def test_evaluations_follow_all_finals_seed_by_seed_and_come_before_latency() -> None:
    world = World()
    agenda = world.agenda(toy(evaluation=ASKED))
    expected = agenda.left()
    world.drive(agenda, workers=3)
    phases = world.phases()
    first, last = phases.index("evaluation"), len(phases) - 1 - phases[::-1].index("evaluation")
    assert "final" not in phases[first:] and phases[last + 1] == "latency"
    evaluations = [job for job in world.jobs if job.spec.phase == "evaluation"]
    finals = {job.spec.key: job.spec for job in world.jobs if job.spec.phase == "final"}
    assert [job.spec.slot["final"] for job in evaluations] == [0] * 4 + [1] * 4
    assert {job.spec.init for job in evaluations} == set(finals) == {job.spec.slot["of"] for job in evaluations}
    assert {job.spec.teacher for job in evaluations} == {agenda.teacher.key if agenda.teacher else None}
    assert {job.spec.row for job in evaluations} == {spec.row for spec in finals.values()}
    assert set(agenda.current()["evaluation"]) == {job.spec.key for job in evaluations}
    assert expected >= len(finals) + len(evaluations) and agenda.left() == 0
    again = world.agenda(toy(evaluation=ASKED))
    assert again.finished and again.next() is None


def test_a_study_without_the_section_has_the_keys_that_it_had() -> None:
    plain, asking = World(), World()
    plain.drive(plain.agenda(toy()))
    asking.drive(asking.agenda(toy(evaluation=ASKED)))
    assert "evaluation" not in plain.phases()
    assert "evaluation" not in plain.agenda(toy()).current() and "evaluation" not in toy().to_json()
    assert plain.keys() == {key for key, record in asking.records.items() if record.spec.phase != "evaluation"}


def test_a_final_that_failed_is_not_evaluated() -> None:
    world = World(lambda spec: "diverged" if spec.phase == "final" and spec.method_name == "kd" else None)
    agenda = world.agenda(toy(evaluation=ASKED))
    world.drive(agenda)
    assert {job.spec.row for job in world.jobs if job.spec.phase == "evaluation"} == {
        "scratch", "finetune", "linear_probe",
    }  # fmt: skip
    assert agenda.left() == 0


def test_a_final_whose_weights_are_gone_is_trained_again_before_it_is_evaluated() -> None:
    world = World()
    world.drive(world.agenda(toy()))
    lost = next(key for key, record in world.records.items() if record.spec.phase == "final")
    world.weights.remove(lost)
    world.jobs.clear()
    world.drive(world.agenda(toy(evaluation=ASKED)))
    assert [job.spec.key for job in world.jobs if job.spec.phase == "final"] == [lost]
    order = [job.spec.key if job.spec.phase == "final" else job.spec.init for job in world.jobs]
    assert order.index(lost) < len(order) - 1 - order[::-1].index(lost)


def test_a_budget_that_is_spent_leaves_evaluations_for_the_next_run() -> None:
    world = World()
    world.drive(world.agenda(toy()))
    from kdbench.search.budget import Budget

    agenda = world.agenda(toy(evaluation=ASKED), budget=Budget(0))
    assert agenda.next() is None and agenda.left() == 8


def test_a_student_that_its_method_changes_brings_the_networks_that_build_it() -> None:
    world = World()
    world.drive(world.agenda(toy(["scratch", "simkd"], source=None, evaluation=ASKED)))
    by_row = {job.spec.row: job for job in world.jobs if job.spec.phase == "evaluation"}
    assert by_row["scratch"].members == ()
    assert [member.phase for member in by_row["simkd"].members] == ["teacher"]


def test_in_a_study_of_pairs_each_student_is_compared_with_the_teacher_of_its_pair() -> None:
    small = {"student": {"model": "cnn", "depth": 5, "width": 0.25}}
    study = toy(
        ["scratch", "kd"], source=None, teacher=None, student=None, evaluation=ASKED,
        networks={"one": {"model": "cnn", "depth": 8}, "two": {"model": "cnn", "depth": 11}},
        pairs=[{"teacher": "one", **small}, {"teacher": "two", **small}],
    )  # fmt: skip
    world = World()
    world.drive(world.agenda(study))
    evaluations = [job for job in world.jobs if job.spec.phase == "evaluation"]
    assert len(evaluations) == 2 * 2 * 2
    for job in evaluations:
        assert job.teacher is not None
        assert job.teacher.model["depth"] == (8 if str(job.spec.slot["pair"]).startswith("one") else 11)


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (None, None),
        ({}, None),
        ({"agreement": True}, {"agreement": True}),
        (
            {"corruptions": {"names": ["fog"]}},
            {"agreement": False, "corruptions": {"names": ["fog"], "severities": [1, 2, 3, 4, 5], "images": None}},
        ),
        (
            {"corruptions": {"severities": [2], "images": 50}},
            {"agreement": False, "corruptions": {"names": list(possible(1)), "severities": [2], "images": 50}},
        ),
    ],
)
def test_what_is_measured_is_written_out_in_the_spec(section: Any, settings: Any) -> None:
    study: Study = toy() if section is None else toy(evaluation=section)
    assert evaluation_settings(study) == settings
    assert Study.model_validate(study.to_json()) == study


# --- MLflow and report ------------------------------------------------------------------------------------------------


def test_mlflow_shows_an_evaluation_below_its_row(bench: Bench) -> None:
    job = job_for({"name": "kd", "temperature": 4.0}, seed=46, epochs=1)
    spec = evaluation_of(job, {"agreement": True, "corruptions": CORRUPTIONS}).spec
    record = TrialRecord(
        spec, "finished", {"test_agreement_pct": 80.0}, {}, {}, 1, "2026-01-01T00:00:00+00:00",
        "2026-01-01T00:00:01+00:00", 1.0,
    )  # fmt: skip
    payload = payload_of(record, "toy")
    assert payload.name.endswith("evaluation s0")
    assert payload.params["phase"] == "evaluation" and payload.params["init"] == job.spec.key
    assert payload.params["train.corruptions.names"] == '["gaussian_noise","contrast"]'
    assert [point.name for point in payload.points] == ["test_agreement_pct"]
    assert parent_of(spec).key == parent_of(dataclasses.replace(spec, phase="final")).key


def with_evaluations(folder: Path, drop: int = 0, settings: Any = None) -> Path:
    """The example study with an evaluation of every final: 5 points are lost to fog, 10 to snow, whatever the row."""
    records = full_records()
    asked = settings or {"agreement": True, "corruptions": {"names": ["fog", "snow"], "severities": [1], "images": 9}}
    finals = [r for r in records if r.spec.phase == "final" and r.status == "finished"]
    for number, final in enumerate(finals[drop:]):
        top1 = final.result["test_top1_pct"]
        result = {
            "test_agreement_pct": 80.0 + number % 5, "test_agreement_kl_nat": 0.5, "test_uncorrupted_top1_pct": top1,
            "test_corrupted_top1_pct": top1 - 7.5, "test_corrupted_snow_top1_pct": top1 - 10,
            "test_corrupted_fog_top1_pct": top1 - 5,
        }  # fmt: skip
        slot = {**final.spec.slot, "of": final.key}
        spec = dataclasses.replace(final.spec, phase="evaluation", init=final.key, train=asked, slot=slot)
        records.append(dataclasses.replace(final, spec=spec, result=result))
    return write_study(folder, records)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Leaderboard]:
    results = load(with_evaluations(tmp_path_factory.mktemp("example")))
    return results, leaderboard(results)


def test_evaluations_are_found_by_the_final_training_that_they_belong_to(example: Example) -> None:
    results, _ = example
    found = evaluations(results)
    finals = [r for r in results.phase("final") if r.status == "finished"]
    assert set(found) == {record.key for record in finals}
    assert found[finals[0].key]["test_uncorrupted_top1_pct"] == finals[0].result["test_top1_pct"]


def test_robustness_is_the_mean_over_seeds_with_its_drop_and_each_corruption(example: Example) -> None:
    results, board = example
    summed, each = robustness(results, board)
    assert (summed.name, each.name) == ("robustness", "corruptions")
    assert summed.frame is not None and each.frame is not None
    by_row = {row.id: row for row in board.rows}
    assert len(summed.frame) == sum(row.kind == "student" and bool(row.scores) for row in board.rows)
    for line in summed.frame.to_dict("records"):
        row = by_row[line["row"]]
        assert line["test_corrupted_top1_pct"] == pytest.approx(row.score - 7.5)
        assert line["test_corrupted_top1_pct_low"] == pytest.approx((row.interval.low or 0) - 7.5)
        assert (line["drop_pct"], line["drop_pct_low"], line["drop_pct_high"]) == pytest.approx((7.5, 7.5, 7.5))
    assert list(each.frame["corruption"].unique()) == ["snow", "fog"], "in the order in which studies list them"
    assert any("n = 4 to 5" in note for note in summed.notes)
    assert any("2 corruptions at severities 1 on 9 of the test images." in note for note in summed.notes)
    (table,) = summed.tables.values()
    assert len(table.rows) == len(table.kinds) == len(summed.frame)
    assert {len(line) for line in table.rows} == {len(table.columns)}
    best = [line[4].best for line in table.rows]
    assert sum(best) >= 1 and best[0], "the best accuracy has the best corrupted one here"


def test_figures_are_the_same_bytes_again(tmp_path: Path) -> None:
    from kdbench.report.figures import style, svg

    results = load(with_evaluations(tmp_path, drop=170))  # two rows are enough
    for exhibit in robustness(results, leaderboard(results)):
        assert exhibit.figure is not None
        with style():
            first, second = svg(exhibit.figure()), svg(exhibit.figure())
        assert first == second


def test_a_row_counts_the_seeds_that_were_evaluated(tmp_path: Path) -> None:
    results = load(with_evaluations(tmp_path, drop=3))
    board = leaderboard(results)
    counts = [len(one.values["test_corrupted_top1_pct"]) for one in evaluated(results, board)]
    assert sum(counts) == len(results.phase("evaluation"))
    (note,) = {n for e in robustness(results, board) for n in e.notes if "retrained students evaluated" in n}
    finals = sum(record.status == "finished" for record in results.phase("final"))
    assert note.startswith(f"{finals - 3} of {finals} retrained students evaluated.")


def test_fidelity_is_the_mean_agreement_with_its_interval(example: Example) -> None:
    (exhibit,) = fidelity(*example)
    assert exhibit.frame is not None
    assert exhibit.frame["test_agreement_kl_nat"].unique().tolist() == [0.5]
    assert exhibit.frame["test_agreement_pct"].between(80, 84).all()


def test_without_evaluations_there_is_no_exhibit(example: Example) -> None:
    results, board = example
    before = Results(results.study, tuple(r for r in results.records if r.spec.phase != "evaluation"))
    assert robustness(before, board) == [] and fidelity(before, board) == []


def test_agreement_alone_is_no_robustness(example: Example) -> None:
    results, board = example
    bare = [
        dataclasses.replace(r, result={name: v for name, v in r.result.items() if "corrupted" not in name})
        for r in results.records
    ]
    alone = Results(results.study, tuple(bare))
    assert robustness(alone, board) == [] and len(fidelity(alone, board)) == 1
