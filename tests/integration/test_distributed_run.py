"""Trainings over two processes as a worker runs them: killed, hanging, failing, and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import facts, kdbench_cli, write_study

from kdbench.record import Job, TrialRecord
from kdbench.testing.training import Bench, job_for, timeless
from kdbench.train import checkpoint
from kdbench.train.faults import fault_of
from kdbench.train.run import run_job
from kdbench.train.splitting import Spread
from kdbench.train.spread import run_spread

TWO = Spread(2)

PLUGIN = '''
from dataclasses import dataclass
import time
import torch
from kdbench.losses import kl
from kdbench.method import Method, hp, register, static


@register("misbehaving")
@dataclass(frozen=True)
class Misbehaving(Method):
    """Fit the labels, and do in the second epoch what `act` says, in the second process alone."""

    act: str = static("nothing")

    reads = ()
    frozen = ()
    mean_over_samples = True

    def loss(self, s):
        loss = kl.cross_entropy(s.student.logits, s.labels)
        if s.progress >= 1 / 3 and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            if self.act == "raise":
                raise ValueError("the second process does not like this batch")
            if self.act == "memory":
                raise MemoryError("no room for the second process")
            if self.act == "hang":
                time.sleep(3600)
            if self.act == "nan":
                loss = loss * float("nan")
        return {"ce": loss}
'''


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A folder with a teacher."""
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def undisturbed(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialRecord, dict[str, torch.Tensor]]:
    """What two processes make of a training that nobody disturbs, and its weights."""
    job = job_for({"name": "kd"})
    *_, record = run_job(job, bench.shop(), TWO)
    assert isinstance(record, TrialRecord)
    weights = checkpoint.load(bench.store.weights_path(job.spec.key))[0]
    forget(bench, job)
    return record, weights


def forget(bench: Bench, job: Job) -> None:
    """Remove what a training left."""
    shutil.rmtree(bench.store.work_folder(job.spec.key), ignore_errors=True)
    bench.store.weights_path(job.spec.key).unlink(missing_ok=True)


def processes_of(parent: int) -> list[int]:
    """Process ids of the processes of a training that a process has started, in the order in which it did."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = b"kdbench.train.distributed" in (folder / "cmdline").read_bytes()
            if ours and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
        except OSError:  # gone meanwhile
            continue
    return sorted(found)


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_two_processes_make_what_one_makes_but_for_rounding(
    bench: Bench, undisturbed: tuple[TrialRecord, dict[str, torch.Tensor]]
) -> None:
    record, weights = undisturbed
    job = job_for({"name": "kd"})
    alone = bench.train(job)
    assert record.status == "finished", record.error
    for name, weight in alone.weights.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-6)  # float32
    assert set(record.result) == set(alone.record.result) and set(record.curves) == set(alone.record.curves)
    for name, values in alone.record.curves.items():
        if name != "epoch_wall_s" and not name.endswith("_pct"):
            assert record.curves[name] == pytest.approx(values, rel=1e-4), name
    assert record.result["train_device_s"] == pytest.approx(2 * record.result["train_wall_s"])
    assert record.environment["processes"] == 2 and record.environment["batch_norm"] == "synchronised"
    assert "processes" not in alone.record.environment
    assert record.key == alone.record.key
    forget(bench, job)


def test_a_killed_process_ends_the_others_and_the_training_goes_on_from_its_checkpoint_bit_equal(
    bench: Bench, undisturbed: tuple[TrialRecord, dict[str, torch.Tensor]]
) -> None:
    job = job_for({"name": "kd"})
    items = run_job(job, bench.shop(), TWO)
    assert isinstance(next(items), dict)
    first, second = processes_of(os.getpid())
    os.kill(second, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(
        RuntimeError, match="of 2 processes that trained together, process 2 was ended by SIGKILL"
    ) as told:
        list(items)
    assert time.monotonic() - began < 30
    fault = fault_of(told.value)
    assert fault is not None and fault.kind == "worker"
    assert not alive(first) and not alive(second)
    *points, record = run_job(job, bench.shop(), TWO)
    assert isinstance(record, TrialRecord) and record.attempts == 2 and len(points) < 3
    whole, weights = undisturbed
    assert timeless(record.curves) == timeless(whole.curves)
    clocks = dict.fromkeys(("train_wall_s", "train_device_s"))
    assert {**record.result, **clocks} == {**whole.result, **clocks}
    for name, weight in checkpoint.load(bench.store.weights_path(job.spec.key))[0].items():
        assert torch.equal(weight, weights[name]), name
    forget(bench, job)


@pytest.mark.slow
def test_another_number_of_processes_goes_on_with_a_training(
    bench: Bench, undisturbed: tuple[TrialRecord, dict[str, torch.Tensor]]
) -> None:
    job = job_for({"name": "kd"})
    bench.begin(job, 2)  # by one process
    *points, record = run_job(job, bench.shop(), TWO)
    assert isinstance(record, TrialRecord) and len(points) == 1 and record.status == "finished"
    whole, weights = undisturbed
    assert record.curves["train_loss"] == pytest.approx(whole.curves["train_loss"], rel=1e-4)
    for name, weight in checkpoint.load(bench.store.weights_path(job.spec.key))[0].items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-4, atol=1e-6)
    forget(bench, job)


@pytest.fixture
def misbehaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start a training whose second process does something in the second epoch; what comes of it."""
    plugin = tmp_path / "misbehaving.py"
    plugin.write_text(PLUGIN)
    monkeypatch.setenv("KDBENCH_PLUGINS", str(plugin))
    from kdbench.method import methods
    from kdbench.plugins import load_file

    before = methods.registered()
    load_file(plugin)
    yield lambda act, **train: job_for({"name": "misbehaving", "act": act}, **train)
    methods.reset(before)


def test_an_error_in_one_process_is_the_methods_result(bench: Bench, misbehaving: Any) -> None:
    *points, record = run_job(misbehaving("raise"), bench.shop(), TWO)
    assert len(points) == 1 and record.status == "failed"
    assert record.error == "ValueError: the second process does not like this batch"
    assert "misbehaving.py" in record.environment["traceback"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_is_a_divergence(bench: Bench, misbehaving: Any) -> None:
    *points, record = run_job(misbehaving("nan"), bench.shop(), TWO)
    assert len(points) == 2 and record.status == "diverged"
    assert record.error == "the loss is not finite after epoch 2"


@pytest.mark.slow
def test_a_fault_of_one_process_is_the_workers(bench: Bench, misbehaving: Any) -> None:
    with pytest.raises(RuntimeError) as told:
        list(run_job(misbehaving("memory"), bench.shop(), TWO))
    fault = fault_of(told.value)
    assert fault is not None and fault.kind == "memory"
    assert fault.reason == "MemoryError: no room for the second process" and fault.place.startswith("misbehaving.py")
    assert processes_of(os.getpid()) == []


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_training_when_the_others_have_waited_long_enough(
    bench: Bench, misbehaving: Any
) -> None:
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="2 processes that trained together lost touch") as told:
        list(run_spread(misbehaving("hang"), bench.shop(), TWO, timeout_s=10))
    assert time.monotonic() - began < 200  # and not for ever, on a machine that has much else to do
    fault = fault_of(told.value)
    assert fault is not None and fault.kind == "worker"
    assert processes_of(os.getpid()) == []


@pytest.mark.slow
def test_a_training_over_its_time_limit_is_timed_out(bench: Bench) -> None:
    *points, record = run_job(job_for({"name": "scratch"}, time_limit_s=1e-6, epochs=50), bench.shop(), TWO)
    assert isinstance(record, TrialRecord) and record.status == "timed_out" and len(points) == 1


@pytest.mark.slow
def test_the_processes_end_with_the_worker_that_started_them(bench: Bench) -> None:
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from kdbench.store import Store\n"
        "from kdbench.testing.training import job_for\n"
        "from kdbench.train.run import run_job\n"
        "from kdbench.train.splitting import Spread\n"
        "from kdbench.train.workshop import Workshop\n"
        "shop = Workshop(Store(Path(sys.argv[1])), torch.device('cpu'))\n"
        "for point in run_job(job_for({'name': 'scratch'}, epochs=100000), shop, Spread(2)):\n"
        "    print('epoch', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(bench.store.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None and worker.stdout.readline() == "epoch\n"
        both = processes_of(worker.pid)
        assert len(both) == 2
        worker.kill()
    until = time.monotonic() + 20
    while any(map(alive, both)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, both))


@pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_study_trains_its_teacher_over_two_processes(tmp_path: Path, executor: str) -> None:
    study = write_study(tmp_path, executor=executor)
    spread = ["--set", "resources.cpus_per_trial=2", "--set", "resources.processes_per_trial=2"]
    spread += ["--set", "resources.cpus_per_teacher=2", "--set", "methods={kd: }", "--set", "source=null"]
    result = kdbench_cli("run", study, "--results", tmp_path, "--until", "teachers", "--no-report", *spread)
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "small/records").glob("*.json")
    record = json.loads(path.read_text())
    assert record["status"] == "finished" and record["environment"]["processes"] == 2
    assert record["environment"]["threads"] == 1  # each of two processes on two cores
    if executor == "ray":
        return
    plain = ["--set", "methods={kd: }", "--set", "source=null"]
    assert (
        kdbench_cli("run", study, "--results", tmp_path / "one", "--until", "teachers", "--no-report", *plain).exit_code
        == 0
    )
    assert list(facts(tmp_path / "one/small")) == [path.stem]  # the same training, whatever it ran on
