"""What travels between the driver's node and the others: who may have what, and that nothing is changed on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import ray
import torch

from kdbench import data
from kdbench.errors import CheckpointError, KdbenchError
from kdbench.record import Job, TrialRecord
from kdbench.search.place import site as site_module
from kdbench.search.place import storage as storage_module
from kdbench.search.place.depot import Depot
from kdbench.search.place.inspection import hash_of_package
from kdbench.search.place.parcels import pack, pack_test, unpack, with_test
from kdbench.search.place.scratch import Scratch, remove_unheld
from kdbench.search.place.site import RemoteSite, Site
from kdbench.search.place.storage import CheckpointStorage, epochs_of
from kdbench.search.place.tickets import ticket_for
from kdbench.store import Store
from kdbench.testing.training import DATA, SOURCE, TEACHER, Bench, job_for
from kdbench.train.run import Run, run_job
from kdbench.train.workshop import Workshop

FINAL, SEARCH = job_for({"name": "kd"}), job_for({"name": "kd"}, phase="search")
SECRET = "of this test"


class Handle:
    """Calls a depot as Ray would, without Ray."""

    def __init__(self, depot: Depot) -> None:
        self.depot = depot

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.depot, name)
        return type("Method", (), {"remote": staticmethod(method)})


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The object store is this process; environment variables are put back."""
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KDBENCH_PLUGINS", "")
    yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDBENCH_CACHE", "off")
        return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def depot(bench: Bench) -> Depot:
    return Depot(str(bench.store.folder), {}, SECRET)


def claim(job: Job) -> tuple[str, str]:
    text = json.dumps(job.to_json())
    return text, ticket_for(SECRET, text)


def remote_site(depot: Depot, storage: Path | str | None = None) -> RemoteSite:
    """A worker on another node; its cache is what KDBENCH_CACHE names."""
    config = {"scratch": "study-1", "study": "study", "depot": Handle(depot), "storage": storage and str(storage)}
    return RemoteSite({**config, "kdbench_sha256": hash_of_package("kdbench")})


def begin(site: RemoteSite, job: Job) -> Workshop:
    text, ticket = claim(job)
    site.begin(job, {"job": text, "ticket": ticket})
    return Workshop(site.store, torch.device("cpu"), use_cache=False, source=site.source)


def outcome(record: TrialRecord) -> dict[str, Any]:
    """A record without times."""
    curves = {name: values for name, values in record.curves.items() if name != "epoch_wall_s"}
    result = {name: value for name, value in record.result.items() if not name.startswith("train_")}
    hashes = {name: value for name, value in record.environment.items() if name.endswith("_hash")}
    return {"status": record.status, "result": result, "curves": curves, **hashes}


@pytest.mark.parametrize(
    "config", [DATA, {**DATA, "unlabelled": 100, "rotate": 90, "classes": [3, 1, 7]}, {"name": "wine"}]
)
def test_images_come_out_of_a_parcel_as_they_went_in(config: dict[str, Any]) -> None:
    config = {**config, "train": 100} if config["name"] == "digits" else config
    sent = data.load(config, test=True)
    parcel, test = pack(sent), pack_test(sent)
    got = with_test(unpack(parcel), test)
    for field in dataclasses.fields(sent):
        mine, theirs = getattr(sent, field.name), getattr(got, field.name)
        if field.name in ("train", "validation", "test"):
            assert torch.equal(mine.images, theirs.images) and torch.equal(mine.labels, theirs.labels)
        elif field.name == "indices":
            assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
        elif isinstance(mine, torch.Tensor):
            assert torch.equal(mine, theirs)
        else:
            assert mine == theirs, field.name


def test_a_parcel_holds_no_test_images() -> None:
    sent = data.load(DATA, test=True)
    parcel = pack(sent)
    assert unpack(parcel).test is None and unpack(parcel).test_hash is None
    images = sent.test.images.numpy() if sent.test is not None else np.empty(0)
    assert not any(np.shares_memory(images, part[0]) for part in (parcel["train"], parcel["validation"]))


def test_read_only_arrays_become_tensors_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    parcel = pack(data.load(DATA))
    parcel["train"][0].setflags(write=False)
    unpack(parcel)
    assert not recwarn.list


def test_the_depot_gives_the_test_images_to_the_phases_that_may_see_them(depot: Depot) -> None:
    assert depot.test(claim(FINAL))[0]["test_hash"] == data.load(DATA, test=True).test_hash
    with pytest.raises(KdbenchError, match="a search training must not see the test split"):
        depot.test(claim(SEARCH))


def test_a_search_trial_cannot_pass_for_a_final_training(depot: Depot) -> None:
    forged = json.dumps(FINAL.to_json())
    with pytest.raises(KdbenchError, match="not handed out"):
        depot.test((forged, claim(SEARCH)[1]))


def test_the_depot_gives_no_weights_and_no_images_that_the_job_does_not_name(depot: Depot) -> None:
    with pytest.raises(KdbenchError, match="does not need the weights"):
        depot.weights(claim(FINAL), SOURCE.key, "source")
    with pytest.raises(KdbenchError, match="does not name these data"):
        depot.splits(claim(FINAL), {"name": "wine"})


def test_what_the_depot_gives_is_loaded_once(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = data.load
    monkeypatch.setattr(data, "load", lambda config, *, test=False: loads.append(test) or load(config, test=test))
    for _ in range(3):
        depot.splits(claim(FINAL), dict(DATA))
        depot.splits(claim(SEARCH), dict(DATA))
        depot.test(claim(FINAL))
    assert sorted(loads) == [False, True]


def test_a_missing_teacher_is_named_as_on_the_driver_s_node(depot: Depot) -> None:
    missing = dataclasses.replace(TEACHER, seed=99)
    job = Job(dataclasses.replace(FINAL.spec, teacher=missing.key), teacher=missing)
    with pytest.raises(CheckpointError, match=f"the teacher {missing.key} is not trained yet"):
        depot.weights(claim(job), missing.key, "teacher")


def test_only_notes_can_be_left(depot: Depot) -> None:
    with pytest.raises(KdbenchError, match=r"got '\.\./\.\./x' as a note"):
        depot.note(claim(FINAL), "../../x", "text")


def test_a_training_on_another_node_has_the_record_and_the_weights_of_one_here(bench: Bench, depot: Depot) -> None:
    site = remote_site(depot)
    shop = begin(site, FINAL)
    *_, there = run_job(FINAL, shop)
    assert isinstance(there, TrialRecord)
    site.ended(there)
    assert not site.store.work_folder(there.key).exists()
    brought = bench.store.weights_path(there.key).read_bytes()
    bench.store.weights_path(there.key).unlink()
    *_, here = run_job(FINAL, Workshop(bench.store, torch.device("cpu"), use_cache=False))
    assert isinstance(here, TrialRecord)
    assert outcome(there) == outcome(here) and here.status == "finished"
    assert brought == bench.store.weights_path(here.key).read_bytes()


def test_starts_on_several_nodes_are_counted_together(
    bench: Bench, depot: Depot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = job_for({"name": "kd"}, seed=11, epochs=1)
    for node in ("a", "b"):
        monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / node))
        site = remote_site(depot)
        items = run_job(job, begin(site, job))
        next(items)  # and then the node dies
    *_, record = items
    assert record.attempts == 2
    assert len((bench.store.work_folder(job.spec.key) / "starts.txt").read_text().split()) == 2


def test_notes_reach_the_study_s_folder_at_once(bench: Bench, depot: Depot) -> None:
    job = job_for({"name": "kd"}, seed=12)
    site = remote_site(depot)
    begin(site, job)
    site.note(job.spec.key, "error.txt", "OSError: no space")
    site.store.work_folder(job.spec.key).mkdir(parents=True, exist_ok=True)
    (site.store.work_folder(job.spec.key) / "set_aside.txt").write_text("damaged")
    site.epoch(job.spec.key)
    folder = bench.store.work_folder(job.spec.key)
    assert (folder / "error.txt").read_text() == "OSError: no space"
    assert (folder / "set_aside.txt").read_text() == "damaged"


def test_a_training_goes_on_from_the_storage_where_its_node_died(
    depot: Depot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(storage_module, "EVERY_S", 0.0)
    job = job_for({"name": "kd"}, seed=13, epochs=4)
    sites = []
    for node in ("a", "b", "undisturbed"):
        monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / node))
        sites.append(remote_site(depot, tmp_path / ("storage" if node != "undisturbed" else "another storage")))
    first = run_job(job, begin(sites[0], job))
    for _ in range(3):
        next(first)
        sites[0].epoch(job.spec.key)
    shop = begin(sites[1], job)
    assert Run(job, shop).training.epochs_done == 3
    *_, moved = run_job(job, shop)
    *_, whole = run_job(job, begin(sites[2], job))
    assert outcome(moved) == outcome(whole)
    assert len(moved.curves["train_loss"]) == 4


def test_the_user_s_plug_in_files_come_along(depot: Depot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text("WORD = 'here'\n")
    monkeypatch.setenv("KDBENCH_PLUGINS", str(plugin))
    remote_site(depot)
    copy = Path(os.environ["KDBENCH_PLUGINS"])
    assert copy != plugin and copy.read_text() == plugin.read_text()
    assert copy.is_relative_to(tmp_path / "cache/runs/study-1")


def test_a_node_with_another_kdbench_is_refused_when_it_joins_late(depot: Depot) -> None:
    with pytest.raises(KdbenchError, match=r"the source of kdbench is another one .*Install the same"):
        RemoteSite({"scratch": "s", "study": "s", "depot": Handle(depot), "kdbench_sha256": "0" * 64})


def test_what_ray_raises_for_itself_is_an_error_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(value: Any) -> Any:
        raise ray.exceptions.GetTimeoutError("no answer")

    monkeypatch.setattr(ray, "get", gone)
    with pytest.raises(OSError, match="the driver's node could not be reached"):
        site_module.asked(lambda: None)


def test_the_objects_of_a_depot_that_died_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([ray.exceptions.OwnerDiedError("00" * 28, None, ""), ["the images"]])

    def get(value: Any) -> Any:
        if value == "ask":
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return value

    monkeypatch.setattr(ray, "get", get)
    assert site_module.fetched(lambda: "ask") == "the images"


def work_folder(root: Path, epochs: int, bench: Bench) -> Path:
    """A work folder with a checkpoint of so many epochs."""
    job = job_for({"name": "kd"}, seed=14, epochs=5)
    folder = root / job.spec.key
    run = Run(job, Workshop(_teacher_in(root / "study", bench), torch.device("cpu"), use_cache=False))
    for _ in range(epochs):
        run.advance()
    run.folder.rename(folder)
    return folder


def _teacher_in(root: Path, bench: Bench) -> Store:
    store = Store(root)
    path = store.weights_path(TEACHER.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bench.store.weights_path(TEACHER.key).read_bytes())
    return store


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_the_storage_keeps_the_newest_checkpoint_and_forgets_it(
    kind: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "EVERY_S", 0.0)
    url = f"{tmp_path}/storage" if kind == "folder" else f"memory://{tmp_path.name}"
    older, newer = (work_folder(tmp_path / name, n, bench) for name, n in (("older", 1), ("newer", 3)))
    kept = CheckpointStorage(url, "study")
    assert kept.push(newer)
    fresh = tmp_path / "fresh" / newer.name
    fresh.mkdir(parents=True)
    assert kept.pull(fresh) and epochs_of(fresh / "checkpoint.safetensors") == 3
    assert sorted(p.name for p in fresh.glob("best_*")) == sorted(p.name for p in newer.glob("best_*"))
    assert kept.pull(older) and epochs_of(older / "checkpoint.safetensors") == 3
    assert not kept.pull(fresh), "what is as far is left as it is"
    kept.remove(newer.name)
    assert not kept.pull(tmp_path / "fresh" / newer.name)
    files, root = fsspec.core.url_to_fs(url)
    assert [path for path in files.find(root) if newer.name in path] == []


def test_a_damaged_checkpoint_in_the_storage_is_as_good_as_none(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "EVERY_S", 0.0)
    work = work_folder(tmp_path / "node", 2, bench)
    kept = CheckpointStorage(str(tmp_path / "storage"), "study")
    kept.push(work)
    stored = tmp_path / "storage/study" / work.name / "checkpoint.safetensors"
    content = bytearray(stored.read_bytes())
    content[-5] ^= 1
    stored.write_bytes(content)
    fresh = tmp_path / "fresh" / work.name
    fresh.mkdir(parents=True)
    assert not kept.pull(fresh) and list(fresh.iterdir()) == []


def test_a_checkpoint_is_copied_every_thirty_seconds_at_most(bench: Bench, tmp_path: Path) -> None:
    work = work_folder(tmp_path / "node", 1, bench)
    kept = CheckpointStorage(str(tmp_path / "storage"), "study")
    assert not kept.push(work)
    kept._due[work.name] = 0.0
    assert kept.push(work) and not kept.push(work)


def test_a_storage_that_fails_ends_no_training(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storage_module, "EVERY_S", 0.0)
    work = work_folder(tmp_path / "node", 1, bench)
    (tmp_path / "storage").write_text("a file")
    assert not CheckpointStorage(str(tmp_path / "storage"), "study").push(work)
    assert f"the checkpoint of {work.name} was not stored" in caplog.text


HOLD = (
    "import sys; from kdbench.search.place.scratch import Scratch; s = Scratch('live'); print('held'); sys.stdin.read()"
)


def test_folders_of_runs_that_are_over_go_and_those_in_use_stay(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == "held\n"
    left = tmp_path / "cache/runs/left over/study/work"
    left.mkdir(parents=True)
    mine = Scratch("mine")
    assert sorted(path.name for path in (tmp_path / "cache/runs").iterdir()) == ["live", "mine"]
    assert not remove_unheld(tmp_path / "cache/runs/live")
    other.stdin.close()
    other.wait(timeout=30)
    assert remove_unheld(tmp_path / "cache/runs/live")
    assert mine.folder.stat().st_mode & 0o077 == 0, "others have no business in it"


def test_on_the_driver_s_node_a_worker_uses_the_study_s_folder(bench: Bench) -> None:
    site = Site({"folder": str(bench.store.folder), "environment": {}})
    assert site.store.folder == bench.store.folder and site.storage is None
