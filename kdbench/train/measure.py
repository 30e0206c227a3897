"""Size, FLOPs and latency of a network; results are named as in kdbench.record.METRICS."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdbench.errors import KdbenchError
from kdbench.train.environment import cpu_name

PERCENTILES = (5, 50, 95)
FEWEST_REPEATS = 5  # even where one forward takes longer than the time that is allowed


def parameter_count(net: nn.Module) -> int:
    """Number of parameters, trained or frozen; shared ones count once, running statistics not at all."""
    return sum(parameter.numel() for parameter in net.parameters())


def size_bytes(net: nn.Module) -> int:
    """Bytes of the state dict as a safetensors file: weights, running statistics and the file's header."""
    from safetensors.torch import save

    return len(save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in net.state_dict().items()}))


def flops(net: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Floating-point operations of one forward of one image: 2 per multiply-add of convolutions and matrix products.

    Counted by torch.utils.flop_counter in evaluation mode; activations, normalisation and pooling are not counted.
    """
    reference = next(net.parameters())
    image = torch.zeros(1, *input_shape, device=reference.device, dtype=reference.dtype)
    counter = FlopCounterMode(display=False)
    with _evaluating(net), torch.no_grad(), counter:
        net(image)
    return counter.get_total_flops()


class Latency(NamedTuple):
    """Measured latencies and what they were measured under.

    result: `latency_b{batch}_p{5, 50, 95}_ms` of one forward of a whole batch.
    conditions: device, dtype, threads, backend, versions, and `repeats` that were done per batch size.
    """

    result: dict[str, float]
    conditions: dict[str, Any]


def latency(
    net: nn.Module,
    input_shape: tuple[int, ...],
    batch_sizes: Sequence[int] = (1, 256),
    device: str | torch.device = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    threads: int = 1,
    repeats: int = 100,
    warmup: int = 10,
    max_s: float = 30.0,
) -> Latency:
    """Time forwards of a copy of `net` in evaluation mode, channels_last, eager; nothing else may run on the device.

    repeats: forwards timed for each batch size, one after the other, each from idle to done. A batch size may take
    `max_s` seconds: after that the repeats stop, but not before five; `conditions["repeats"]` says how many were done.
    warmup: forwards before that, not timed, at most a quarter of `max_s`, at least one.
    threads: of the CPU for one operation, restored afterwards. On CUDA times are between events on the device's stream.
    Raise KdbenchError for a device that is not there, or numbers that are not positive.
    """
    where = _device(device)
    if min(*batch_sizes, threads, repeats, warmup) < 1 or not batch_sizes or max_s <= 0:
        raise KdbenchError("latency needs positive batch sizes, threads, repeats, warmup and max_s")
    frozen = copy.deepcopy(net).to(where, dtype).to(memory_format=torch.channels_last).eval()
    result, done = {}, {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), torch.cuda.device(where) if where.type == "cuda" else nullcontext():
            for batch_size in batch_sizes:
                batch = _batch(batch_size, input_shape, where, dtype)
                times = _times_ms(partial(frozen, batch), where, repeats, warmup, max_s)
                done[f"b{batch_size}"] = len(times)
                for percentile, value in zip(PERCENTILES, np.percentile(times, PERCENTILES), strict=True):
                    result[f"latency_b{batch_size}_p{percentile}_ms"] = float(value)
    finally:
        torch.set_num_threads(before)
    return Latency(result, {**_conditions(where, dtype, threads), "warmup": warmup, "repeats": done})


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and every module's own mode again afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _device(device: str | torch.device) -> torch.device:
    try:
        where = torch.device(device)
    except RuntimeError:
        where = torch.device("meta")
    if where.type not in ("cpu", "cuda"):
        raise KdbenchError(f"latency is measured on cpu, cuda or cuda:N, but got '{device}'")
    found = torch.cuda.device_count() if where.type == "cuda" else 1
    if (where.index or 0) >= found:
        raise KdbenchError(f"latency on '{device}' was asked for, but torch finds {found} CUDA devices. Use cpu.")
    return where


def _batch(batch_size: int, input_shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(batch_size, *input_shape, generator=generator).to(device, dtype)
    return batch.to(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def _times_ms(run: Callable[[], Any], device: torch.device, repeats: int, warmup: int, max_s: float) -> list[float]:
    """Milliseconds of each repeat, see `latency`."""
    once = _cuda_ms if device.type == "cuda" else _cpu_ms
    start = time.perf_counter()
    for _ in range(warmup):
        once(run)
        if time.perf_counter() - start > max_s / 4:
            break
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < repeats and (len(times) < FEWEST_REPEATS or time.perf_counter() - start < max_s):
        times.append(once(run))
    return times


def _cpu_ms(run: Callable[[], Any]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


def _cuda_ms(run: Callable[[], Any]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _conditions(device: torch.device, dtype: torch.dtype, threads: int) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else cpu_name(),
        "device_type": device.type,
        "driver": _first_line("/proc/driver/nvidia/version") if cuda else "",
        "dtype": str(dtype).removeprefix("torch."),
        "threads": threads,
        "memory_format": "channels_last",
        "backend": f"eager, cuda {torch.version.cuda}, cudnn {torch.backends.cudnn.version()}"
        if cuda
        else f"eager, {torch.backends.cpu.get_cpu_capability()}, "
        + ("oneDNN" if torch.backends.mkldnn.is_available() else "no oneDNN"),
        "torch": torch.__version__,
    }


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").partition("\n")[0]
    except OSError:
        return "unknown"
