"""What a worker keeps, and what it is never given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench import data
from kdbench.errors import CheckpointError, DamagedError, KdbenchError
from kdbench.method import methods
from kdbench.record import Job
from kdbench.testing.training import SOURCE, STUDENT, TEACHER, Bench, job_for
from kdbench.train.run import failed, run_job
from kdbench.train.teachers import CachedTeacher, LiveTeacher
from kdbench.train.workshop import Workshop

FINAL = job_for({"name": "kd"}).spec
SEARCH = job_for({"name": "kd"}, phase="search").spec


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def test_a_final_training_is_given_the_test_images(bench: Bench) -> None:
    views, labels, digest = bench.shop().test(FINAL)
    assert len(views) == len(labels) == 360
    assert digest == data.load(FINAL.data, test=True).test_hash


@pytest.mark.parametrize("phase", ["search", "source", "latency"])
def test_no_other_training_is_given_the_test_images(bench: Bench, phase: Any) -> None:
    spec = dataclasses.replace(FINAL, phase=phase)
    with pytest.raises(KdbenchError, match=f"a {phase} training must not see the test split"):
        bench.shop().test(spec)


def test_a_search_trial_gets_no_test_images_from_what_a_final_training_left_behind(bench: Bench) -> None:
    shop = bench.shop()
    assert len(shop.teacher_logits(TEACHER, FINAL, "test", "fp32")) == 360
    with pytest.raises(KdbenchError, match="must not see the test split"):
        shop.teacher_logits(TEACHER, SEARCH, "test", "fp32")
    with pytest.raises(KdbenchError, match="must not see the test split"):
        shop.test(SEARCH)
    assert shop.splits(SEARCH.data).test is None


def test_data_and_teachers_are_loaded_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[bool] = []
    load = data.load

    def counting(config: Any, *, test: bool = False) -> data.Splits:
        loads.append(test)
        return load(config, test=test)

    monkeypatch.setattr(data, "load", counting)
    shop = bench.shop()
    for name in ("kd", "logit_mse", "fitnet", "scratch"):
        bench.train(job_for({"name": name}), shop)
    assert sorted(loads) == [False, True]
    assert shop.teacher(TEACHER, "fp32") is shop.teacher(TEACHER, "fp32")


def test_methods_that_read_feature_maps_get_the_live_teacher_and_others_the_cache(bench: Bench) -> None:
    shop = bench.shop()

    def kind(name: str) -> type:
        return type(shop.teacher_for(methods.get(name)(), TEACHER, SEARCH, "fp32"))

    assert kind("kd") is kind("logit_mse") is CachedTeacher
    assert kind("fitnet") is kind("attention_transfer") is LiveTeacher


def test_the_cache_can_be_turned_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", "off")
    teacher = bench.shop().teacher_for(methods.get("kd")(), TEACHER, SEARCH, "fp32")
    assert isinstance(teacher, LiveTeacher)


def test_a_cached_teacher_trains_as_a_live_one_but_for_rounding(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_for({"name": "kd", "lambda": 5.0}, epochs=6)
    cached = bench.train(job)
    assert cached.record.curves["train_loss_kd"][0] > 0.05
    monkeypatch.setenv("KDBENCH_CACHE", "off")
    live = bench.train(job)
    for name in ("train_loss", "train_loss_kd", "val_nll"):
        # fp16 holds a logit to 1 part in 2048; a loss that differs by more was made with other views
        assert cached.record.curves[name] == pytest.approx(live.record.curves[name], rel=1 / 2048), name
    for name, weight in live.weights.items():
        assert torch.allclose(cached.weights[name].float(), weight.float(), atol=2e-3), name


def test_a_teacher_that_sees_other_views_would_be_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_for({"name": "kd", "lambda": 5.0}, epochs=6)
    cached = bench.train(job)
    gather = CachedTeacher.__call__
    monkeypatch.setattr(
        CachedTeacher, "prepare", lambda self, index, view: self.cache.fill(index, view * 0, self.compute)
    )
    monkeypatch.setattr(
        CachedTeacher, "__call__", lambda self, images, index, view: gather(self, images, index, view * 0)
    )
    other = bench.train(job)
    assert cached.record.curves["train_loss_kd"] != pytest.approx(other.record.curves["train_loss_kd"], rel=1 / 2048)


def test_networks_follow_the_seed_and_the_role_and_leave_the_random_state(bench: Bench) -> None:
    shop = bench.shop()
    before = torch.get_rng_state()

    def stem(seed: int, role: str = "student") -> torch.Tensor:
        return shop.network(dataclasses.replace(SEARCH, seed=seed), role).state_dict()["stem.conv1.weight"]

    assert torch.equal(stem(1), stem(1))
    assert not torch.equal(stem(1), stem(2))
    assert not torch.equal(stem(1), stem(1, "peer"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_student_starts_from_the_source_network_but_for_the_head(bench: Bench) -> None:
    shop = bench.shop()
    net, fresh = shop.network(SEARCH), shop.network(SEARCH).state_dict()
    shop.start_from(net, SOURCE, SEARCH)
    source = shop.weights(SOURCE, "source network")
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name.startswith("head.") else source[name]), name


def test_a_student_that_goes_on_with_the_same_task_keeps_the_classifier(bench: Bench) -> None:
    shop, again = bench.shop(), dataclasses.replace(SEARCH, data={**SEARCH.data, "train": 100, "crop": 0})
    source = dataclasses.replace(SOURCE, data=SEARCH.data)
    bench.train(Job(source), shop)
    net = shop.network(again)
    shop.start_from(net, source, again)
    weights = shop.weights(source, "source network")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


def test_weights_of_a_training_that_was_not_run_are_missed_by_name(tmp_path: Path) -> None:
    shop = Workshop(Bench(tmp_path).store, torch.device("cpu"))
    other = dataclasses.replace(TEACHER, seed=99)
    with pytest.raises(CheckpointError, match=f"the teacher {other.key} is not trained yet: there are no weights at"):
        shop.teacher(other, "fp32")


def test_a_teacher_that_failed_is_the_reason_of_what_needs_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    job = job_for({"name": "kd"})
    bench.store.weights_path(TEACHER.key).unlink()
    bench.store.write(failed(TEACHER, RuntimeError("no memory"), 1.0, []))
    *_, record = run_job(job, bench.shop())
    assert record.status == "failed"
    assert f"the teacher {TEACHER.key} has status 'failed' (RuntimeError: no memory) and no weights" in record.error
    assert f"delete {bench.store.record_path(TEACHER.key)}, and run the study again" in record.error


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    path = bench.store.weights_path(TEACHER.key)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError) as caught:  # a fault of the machine, which is not the method's result
        list(run_job(job_for({"name": "kd"}), bench.shop()))
    assert f"{path}: cannot be read as a checkpoint (its content does not fit its checksum)" in str(caught.value)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    wider = dataclasses.replace(TEACHER, model={**STUDENT, "width": 1.0})
    bench.store.weights_path(TEACHER.key).rename(bench.store.weights_path(wider.key))
    with pytest.raises(
        CheckpointError, match=rf"the teacher {wider.key} does not fit the model\. .*want \(16, 1, 3, 3\)"
    ):
        bench.shop().teacher(wider, "fp32")


def test_a_job_survives_the_way_to_a_worker() -> None:
    import json

    job = job_for({"name": "finetune"})
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
