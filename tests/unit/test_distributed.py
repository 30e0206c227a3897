"""A training over several processes computes what one process computes, and only methods that allow it are divided."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench.errors import KdbenchError, MethodError, StudyError
from kdbench.method import Method, Step, methods
from kdbench.methods.kd import KD
from kdbench.record import Job, TrialRecord, TrialSpec
from kdbench.search.capacity import require_gpus, spread_for, visible_gpus
from kdbench.store import Store
from kdbench.study.load import load_study
from kdbench.study.schema import Resources
from kdbench.testing import PAIRS, Scene, make_batch
from kdbench.testing.batches import Batch
from kdbench.testing.declaration import variants
from kdbench.testing.training import job_for
from kdbench.train.batch_norm import SynchronisedBatchNorm, synchronise
from kdbench.train.faults import Fault, ProcessFaultError, fault_of
from kdbench.train.group import ALONE
from kdbench.train.parcel import Parcel, pack
from kdbench.train.run import failed, run_job
from kdbench.train.splitting import ONE, Spread, splits, splittable, unsplittable
from kdbench.train.spread import environment_of_ranks, is_broken
from kdbench.train.workshop import Folder, Workshop

PAIR = PAIRS["same_architecture"]

# A weight of 3 samples in a batch of 7 is not the half: every case has batches that two processes cannot halve.
CASES: dict[str, dict[str, Any]] = {
    "no batch norm": {"method": {"name": "scratch"}, "net": "patches", "train": {"batch_size": 7}},
    "batch norm of maps": {"method": {"name": "kd"}, "net": "conv", "train": {"batch_size": 7}},
    "batch norm of vectors": {"method": {"name": "kd"}, "net": "mlp", "train": {"batch_size": 7}},
    "adamw": {"method": {"name": "kd"}, "net": "conv", "train": {"optimizer": "adamw", "lr": 0.001}},
    "clipped, with a module": {"method": {"name": "fitnet", "beta": 1.0}, "net": "conv", "train": {"clip_norm": 0.5}},
    "two students": {"method": {"name": "dml"}, "net": "conv"},
    "images without labels": {"method": {"name": "pseudo_labels", "threshold": 0.3}, "net": "conv"},
    "unused parameters": {"method": {"name": "hint", "beta": 1.0}, "net": "conv"},
    "joined methods": {
        "method": {"name": "combine", "parts": {"kd": {}, "vid": {}}, "weights": {"kd": 1.0, "vid": 0.5}},
        "net": "conv",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found, each for itself (tests/unit/distributed_ranks.py)."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "cases.json").write_text(json.dumps(CASES))
    script = Path(__file__).with_name("distributed_ranks.py")
    environment = environment_of_ranks(Spread(2), 1, cuda=False)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", [*CASES, "undivided"])
def test_two_processes_end_in_the_weights_statistics_and_curves_of_one(ranks: list[dict[str, Any]], case: str) -> None:
    assert max(found[case] for found in ranks) < 1e-12  # float64; steps of 0.05 move weights by 1e-3 and more


def test_a_batch_is_divided_into_equal_parts_the_larger_ones_first(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["shares"][:2] == [[0, 4, 4, 8], [8, 12, 4, 7]]
    assert ranks[1]["shares"][:2] == [[4, 8, 4, 8], [12, 15, 3, 7]]


def test_a_batch_of_fewer_samples_than_processes_is_not_divided(ranks: list[dict[str, Any]]) -> None:
    assert [found["shares"][2] for found in ranks] == [[15, 16, 0.5, 1], [15, 16, 0.5, 1]]


def test_the_record_says_how_many_processes_and_what_batch_norm_did(ranks: list[dict[str, Any]]) -> None:
    assert [found["facts"] for found in ranks] == 2 * [{"processes": 2, "batch_norm": "synchronised"}]
    assert ranks[0]["synchronised"] == 4  # of TinyConv


def test_batch_norms_of_another_kind_stay_and_are_named_in_the_record(ranks: list[dict[str, Any]]) -> None:
    own = ranks[0]["own_kind"]
    assert own["kinds"] == ["SynchronisedBatchNorm", "Own"]
    assert own["facts"] == {"processes": 2, "batch_norm": "per process"}
    assert own["share"] == [0, 3]  # one sample for a process would have no variance


def test_processes_whose_weights_differ_are_stopped(ranks: list[dict[str, Any]]) -> None:
    assert all("no longer equal" in found["drift"] for found in ranks)


def part(batch: Batch, low: int, high: int) -> Batch:
    return Batch(batch.images[low:high], batch.labels[low:high], batch.index[low:high])


def worst_difference(method: Method) -> float:
    """How far the loss and the gradients of a batch of 16 are from the weighted mean of those of 5 and of 11 samples.

    In float64, with batch norms in eval mode, and with weights that have moved: a student that still is its source
    network has no distance from it, whatever the sum.
    """
    scene = Scene(method, PAIR)
    for module in [*scene.modules, *scene.frozen.values()]:
        module.double()
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in scene.modules.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    for module in scene.modules.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    scene.state = {k: v.double() if v.is_floating_point() else v for k, v in scene.state.items()}
    batch = make_batch(16)
    batch = dataclasses.replace(batch, images=batch.images.double())
    parameters = list(scene.trained_parameters().values())

    def values(of: Batch, progress: float) -> list[Tensor]:
        terms = method.loss(scene.step(of, progress))
        total = torch.stack(list(terms.values())).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=True)
        return [*terms.values(), *(g for g in gradients if g is not None)]

    worst = 0.0
    for progress in (0.05, 0.5):
        triples = zip(*(values(part(batch, *of), progress) for of in ((0, 16), (0, 5), (5, 16))), strict=True)
        for whole, first, second in triples:
            size = float(whole.detach().abs().max()) + 1e-6
            worst = max(worst, float((whole - (5 * first + 11 * second) / 16).detach().abs().max()) / size)
    return worst


@pytest.mark.parametrize("name", splittable())
def test_a_method_that_says_so_is_the_mean_over_its_samples(name: str) -> None:
    cls = methods.get(name)
    for variant, method in variants(cls).items():
        assert worst_difference(method) < 1e-10, variant
    for hook in ("update", "sample", "followers"):
        assert getattr(cls, hook) is getattr(Method, hook), f"{name} has its own {hook}"


@pytest.mark.parametrize("name", ["rkd", "bss", "dist", "srd", "sp", "delta"])
def test_methods_that_relate_samples_would_be_noticed(name: str) -> None:
    assert worst_difference(methods.get(name)()) > 1e-5


def test_methods_with_state_draws_and_relations_say_no() -> None:
    assert unsplittable({"name": "crd"}) == ["crd"]
    assert unsplittable({"name": "combine", "parts": {"kd": {}, "rkd": {}, "bi_tuning": {}}}) == ["rkd", "bi_tuning"]
    assert unsplittable({"name": "combine", "parts": {"kd": {}, "vid": {}}}) == []
    assert {"scratch", "kd", "label_smoothing", "logit_mse", "fitnet"} <= set(splittable())


def test_a_method_that_inherits_the_word_with_a_loss_of_its_own_has_to_give_it_again() -> None:
    class Silent(KD):
        def loss(self, s: Step) -> dict[str, Tensor]:
            return super().loss(s)

    class Again(Silent):
        mean_over_samples = True

    class SameLoss(KD):
        reads = ("logits", "pooled")

    assert [splits(cls) for cls in (KD, Silent, Again, SameLoss, Method)] == [True, False, True, True, False]


def test_a_method_that_cannot_be_divided_fails_with_the_reason(tmp_path: Path) -> None:
    *_, record = run_job(job_for({"name": "rkd"}), Workshop(Store(tmp_path), torch.device("cpu")), Spread(2))
    assert isinstance(record, TrialRecord) and record.status == "failed"
    assert str(record.error).startswith("rkd cannot be trained over several processes")
    assert "Set gpus_per_trial: 1" in str(record.error)


STUDY = """
study: small
data: {name: digits, validation: 100, train: 200}
teacher: {model: cnn, depth: 5, width: 0.5}
networks: {other: {model: cnn, depth: 5, width: 0.5, method: METHOD, teacher: teacher}}
student: {model: cnn, depth: 5, width: 0.25}
methods:
  scratch:
  row: {method: ROW, teacher: other}
search: {trials: 1}
train: {epochs: 2, batch_size: 50, lr: 0.05}
resources: {RESOURCES}
"""


def mistakes(tmp_path: Path, resources: str, row: str = "kd", method: str = "kd") -> list[str]:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("RESOURCES", resources).replace("ROW", row).replace("METHOD", method))
    try:
        load_study(path)
    except StudyError as error:
        return [line.split(": ", 1)[1] for line in error.problems]
    return []


@pytest.mark.parametrize(
    "resources",
    [
        "gpus_per_trial: 4", "gpus_per_trial: 0.5", "gpus_per_trial: 1, gpus_per_teacher: 4", "gpus_per_teacher: 2",
        "cpus_per_trial: 2, processes_per_trial: 2", "cpus_per_trial: 4, gpus_per_trial: 0, processes_per_trial: 4",
    ],
)  # fmt: skip
def test_a_study_may_ask_for_several_gpus_or_processes(tmp_path: Path, resources: str) -> None:
    assert mistakes(tmp_path, resources) == []


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ("gpus_per_trial: 1.5", "resources.gpus_per_trial: got 1.5. Allowed: auto, a share of a GPU up to 1, or a"),
        ("gpus_per_trial: 2, processes_per_trial: 2", "resources.processes_per_trial: no effect with gpus_per_trial"),
        ("processes_per_trial: 2", "resources.processes_per_trial: got 2. Allowed: up to the 1 of cpus_per_trial"),
        ("gpus_per_teacher: 0", "resources.gpus_per_teacher: got 0."),
        ("processes_per_trial: 0", "resources.processes_per_trial: got 0."),
        ("ray_address: auto, gpus_per_teacher: 4", "resources.gpus_per_teacher: got 4. Allowed on a cluster: up to"),
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, resources: str, said: str) -> None:
    (found,) = mistakes(tmp_path, resources)
    assert found.startswith(said)


def test_a_row_whose_method_cannot_be_divided_is_refused_with_those_that_can(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, "gpus_per_trial: 4", row="rkd")
    assert found.startswith("methods.row: got resources.gpus_per_trial: 4, but rkd cannot be trained over several")
    assert "Set resources.gpus_per_trial: 1, or use methods that can: ab, agreement," in found


def test_a_network_that_cannot_be_divided_is_refused_where_teachers_are(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, "gpus_per_teacher: 2", method="crd")
    assert found.startswith("networks.other: got resources.gpus_per_teacher: 2, but crd cannot")
    assert mistakes(tmp_path, "gpus_per_trial: 4, gpus_per_teacher: 1", method="crd") == []
    assert mistakes(tmp_path, "gpus_per_teacher: 4", row="rkd") == []


def resources(**values: Any) -> Resources:
    return Resources(**values)


def test_a_training_has_a_process_for_each_of_its_gpus() -> None:
    several = resources(gpus_per_trial=4)
    assert spread_for(several, "search", 8) == spread_for(several, "teacher", 8) == Spread(4)
    assert spread_for(resources(gpus_per_trial=0.5), "search", 8) == ONE
    assert spread_for(resources(), "teacher", 8) == ONE


def test_a_teacher_may_have_all_gpus_of_a_machine_that_is_the_studys_own() -> None:
    own = resources(gpus_per_trial=1, gpus_per_teacher=2)
    assert spread_for(own, "teacher", 4, ("0", "1", "2", "3")) == Spread(2, ("0", "1"))
    assert spread_for(own, "final", 4, ("0", "1", "2", "3")) == ONE


def test_processes_count_only_where_there_are_no_gpus() -> None:
    asked = resources(processes_per_trial=2, cpus_per_trial=2)
    assert spread_for(asked, "search", 0) == spread_for(asked, "teacher", 0) == Spread(2)
    assert spread_for(asked, "search", 1) == ONE
    assert spread_for(resources(processes_per_trial=2, gpus_per_trial=0), "search", 8) == Spread(2)


def test_too_few_gpus_are_an_error_before_the_first_training(monkeypatch: pytest.MonkeyPatch) -> None:
    require_gpus(resources(gpus_per_trial=4), 4, own_machine=True)
    with pytest.raises(KdbenchError, match="gpus_per_teacher: got 4, but there are 0 GPUs"):
        require_gpus(resources(gpus_per_teacher=4), 0, own_machine=True)
    with pytest.raises(KdbenchError, match="Allowed on a cluster: up to gpus_per_trial"):
        require_gpus(resources(gpus_per_teacher=4), 8, own_machine=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(KdbenchError, match="a training over 4 GPUs has 2 of them here"):
        environment_of_ranks(Spread(4), 1, cuda=True)


def test_gpus_have_the_names_that_the_user_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(2) == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5e,7")
    assert visible_gpus(2) == ("3", "GPU-5e")


def test_processes_talk_over_the_loopback_device_and_see_their_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment_of_ranks(Spread(2, ("4", "6", "7")), 3, cuda=True)
    assert found["CUDA_VISIBLE_DEVICES"] == "4,6" and found["OMP_NUM_THREADS"] == "3"
    assert found["GLOO_SOCKET_IFNAME"] == found["NCCL_SOCKET_IFNAME"]
    assert found["GLOO_SOCKET_IFNAME"].startswith("lo")


def test_a_fault_of_another_process_is_the_fault_of_the_training() -> None:
    fault = Fault("memory", "MemoryError: no room", "loop.py:7")
    assert fault_of(ProcessFaultError(fault)) == fault
    assert fault_of(RuntimeError("a method's own")) is None


def record_of(error: Exception) -> TrialRecord:
    return failed(job_for({"name": "kd"}).spec, error, 1.0, [])


def test_a_lost_connection_is_told_from_an_error_of_the_method() -> None:
    # As gloo of torch 2.15 words it.
    text = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:40163"
    assert is_broken(record_of(RuntimeError(text)))
    assert is_broken(record_of(torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp")))
    assert not is_broken(record_of(MethodError("loss() must return scalars")))


def test_a_process_that_trains_alone_agrees_with_itself() -> None:
    share = ALONE.share(3, 10)
    assert (share.low, share.high, share.samples, share.of) == (3, 10, 7, 7)
    assert ALONE.agree(5) == 5 and ALONE.facts() == {}


def test_synchronising_keeps_the_module_its_weights_and_its_hooks() -> None:
    inner = nn.BatchNorm1d(4)
    net = nn.Sequential(nn.Linear(4, 4), inner, nn.ReLU(), inner)
    weights, state = inner.weight, net.state_dict()
    changed, left = synchronise([net, net])
    assert net[1] is inner and inner.weight is weights and isinstance(inner, SynchronisedBatchNorm)
    assert list(net.state_dict()) == list(state) and left == [] and set(changed) == {inner}
    assert torch.equal(net.eval()(torch.ones(3, 4)), net(torch.ones(3, 4)))


class Other:
    def __init__(self, store: Store) -> None:
        self.inner, self.asked = Folder(store), []

    def splits(self, config: Any, *, test: bool = False) -> Any:
        self.asked.append(test)
        return self.inner.splits(config, test=test)

    def weights(self, spec: TrialSpec, role: str) -> Path:
        return self.inner.store.weights_path(spec.key)


@pytest.mark.parametrize("phase", ["search", "final"])
def test_processes_get_the_images_of_a_worker_without_data_and_test_images_only_where_allowed(
    tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    source = Other(store)
    shop = Workshop(store, torch.device("cpu"), source=source)
    job = Job(replace(job_for({"name": "scratch"}, phase).spec, data={"name": "digits", "classes": [1, 2, 3]}))
    folder = pack(job, shop, tmp_path / "parcel")
    assert folder is not None and source.asked == [phase == "final"]
    monkeypatch.setattr("kdbench.data.load", None)  # what is read now comes from the parcel
    found, given = Parcel(store, Path(folder)).splits(job.spec.data), Folder(store)
    assert given is not None and found.classes == 3 and found.config.classes == (1, 2, 3)
    assert (found.test is None) == (phase == "search")
    with pytest.raises(KdbenchError, match="were not handed"):
        Parcel(store, Path(folder)).splits({"name": "digits", "split_seed": 5})


def test_a_parcel_holds_the_same_splits(tmp_path: Path) -> None:
    store = Store(tmp_path)
    job = Job(replace(job_for({"name": "scratch"}).spec, data={"name": "digits", "validation": 100, "unlabelled": 50}))
    shop = Workshop(store, torch.device("cpu"), source=Other(store))
    want = shop.source.splits(job.spec.data, test=True)
    got = Parcel(store, Path(str(pack(job, shop, tmp_path / "parcel")))).splits(job.spec.data, test=True)
    for name in ("classes", "image_shape", "mean", "std", "crop", "flip", "hash", "test_hash", "class_names", "config"):
        assert getattr(got, name) == getattr(want, name), name
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(got, name).images, getattr(want, name).images)
        assert torch.equal(getattr(got, name).labels, getattr(want, name).labels)
    assert got.unlabelled is not None and torch.equal(got.unlabelled, want.unlabelled)
    assert all(torch.equal(got.indices[name], want.indices[name]) for name in want.indices)


def test_a_worker_with_the_folder_packs_nothing(tmp_path: Path) -> None:
    shop = Workshop(Store(tmp_path), torch.device("cpu"))
    assert pack(job_for({"name": "scratch"}), shop, tmp_path / "parcel") is None
    assert not (tmp_path / "parcel").exists()
