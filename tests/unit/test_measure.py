"""Size, FLOPs and latency."""

from __future__ import annotations

import struct
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdbench.errors import KdbenchError
from kdbench.models import model_from
from kdbench.record import METRICS
from kdbench.train.measure import flops, latency, parameter_count, size_bytes


def cnn():
    return model_from({"name": "cnn"}).network((1, 8, 8), 10)


class Slow(nn.Module):
    """Waits in every forward, and counts them."""

    def __init__(self, wait_s: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.wait_s = wait_s
        self.seen: list[tuple[tuple[int, ...], torch.dtype, bool, bool, int]] = []

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        self.seen.append(
            (tuple(x.shape), x.dtype, self.training, torch.is_inference_mode_enabled(), torch.get_num_threads())
        )
        time.sleep(self.wait_s)
        return self.linear(x)


def test_shared_parameters_count_once_and_running_statistics_not_at_all():
    shared = nn.Linear(3, 3)
    assert parameter_count(nn.Sequential(shared, nn.BatchNorm1d(3), shared)) == 3 * 3 + 3 + 2 * 3


def test_frozen_parameters_count_too():
    net = nn.Linear(3, 2)
    net.weight.requires_grad_(False)
    assert parameter_count(net) == 8


def test_size_is_that_of_the_file_that_safetensors_writes(tmp_path):
    net = cnn()
    save_file(net.state_dict(), tmp_path / "student.safetensors")
    assert size_bytes(net) == (tmp_path / "student.safetensors").stat().st_size


def test_size_is_header_and_four_bytes_a_number():
    net = nn.Linear(5, 3)
    from safetensors.torch import save

    header = 8 + struct.unpack("<Q", save(net.state_dict())[:8])[0]
    assert size_bytes(net) == header + 4 * (5 * 3 + 3)


def test_channels_last_and_tied_weights_do_not_change_the_size_rule():
    net = cnn()
    assert size_bytes(net.to(memory_format=torch.channels_last)) == size_bytes(cnn())
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert size_bytes(tied) == size_bytes(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))


def test_flops_of_resnet20_are_twice_its_multiply_adds_by_hand():
    # stem 3x16x9 on 32x32; each stage: six 3x3 convolutions of equal cost, but the first of stages 2 and 3 costs half
    stage = 16 * 16 * 9 * 32 * 32
    multiply_adds = 3 * 16 * 9 * 1024 + 6 * stage + 2 * (stage // 2 + 5 * stage) + 64 * 10
    net = model_from({"name": "resnet", "depth": 20, "shortcut": "A"}).network((3, 32, 32), 10)
    assert multiply_adds == 40_551_040  # 40.6 M, the usual figure for CIFAR ResNet-20
    assert flops(net, (3, 32, 32)) == 2 * multiply_adds


def test_counting_flops_leaves_mode_and_statistics_alone():
    net = cnn()
    net.get_submodule("stage1").eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert flops(net, (1, 8, 8)) > 0
    assert net.training and not net.get_submodule("stage1").training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_latency_has_the_names_of_the_metrics_and_ordered_percentiles():
    result, conditions = latency(cnn(), (1, 8, 8), repeats=100, warmup=2)
    assert set(result) == {name for name in METRICS if name.startswith("latency_")}
    for batch in (1, 256):
        low, middle, high = (result[f"latency_b{batch}_p{p}_ms"] for p in (5, 50, 95))
        assert 0 < low <= middle <= high
    assert conditions["repeats"] == {"b1": 100, "b256": 100}
    assert (conditions["dtype"], conditions["threads"], conditions["memory_format"]) == ("float32", 1, "channels_last")
    assert conditions["device_type"] == "cpu" and conditions["device"] and conditions["backend"].startswith("eager")


def test_latency_runs_in_evaluation_and_inference_mode_with_fixed_threads_and_restores_them():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        net = Slow()
        latency(net, (4,), (3,), threads=2, repeats=7, warmup=2, dtype=torch.bfloat16)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert net.seen == [((3, 4), torch.bfloat16, False, True, 2)] * 9


def test_latency_of_a_slow_network_stops_in_time_and_says_how_often_it_ran():
    net = Slow(0.02)
    conditions = latency(net, (4,), (1,), max_s=0.2).conditions
    assert 5 <= conditions["repeats"]["b1"] <= 11  # of 20 ms or more, in 0.2 s
    assert conditions["repeats"]["b1"] < len(net.seen) <= conditions["repeats"]["b1"] + 10


def test_latency_runs_at_least_five_times_even_beyond_its_time():
    assert latency(Slow(0.02), (4,), (1,), max_s=0.001).conditions["repeats"] == {"b1": 5}


def test_latency_leaves_the_network_itself_alone():
    net = cnn()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    latency(net, (1, 8, 8), (1,), repeats=1, warmup=1, dtype=torch.bfloat16)
    assert net.training
    assert all(torch.equal(value, before[key]) and value.is_contiguous() for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    "wrong", [{"repeats": 0}, {"warmup": 0}, {"threads": 0}, {"max_s": 0}, {"batch_sizes": (0,)}, {"batch_sizes": ()}]
)
def test_latency_refuses_numbers_that_are_not_positive(wrong):
    with pytest.raises(KdbenchError, match="positive"):
        latency(cnn(), (1, 8, 8), **wrong)


@pytest.mark.parametrize("device", ["meta", "gpu", "cuda:99"])
def test_latency_refuses_a_device_that_is_not_there(device):
    with pytest.raises(KdbenchError, match=r"cpu"):
        latency(cnn(), (1, 8, 8), device=device)


def test_measure_and_metrics_import_without_safetensors():
    code = (
        "import sys; sys.modules['safetensors'] = None; import kdbench.train.measure, kdbench.train.metrics; "
        "print([m for m in ('ray', 'mlflow', 'optuna', 'sklearn', 'timm', 'torchvision') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
