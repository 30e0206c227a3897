"""How near the steps of student and teacher come to what this machine can do: FLOPs, bytes, and shares of its limits.

    python benchmarks/roofline.py [PAIR ...] [--rounds 5] [--write]

Limits are measured, not read off a data sheet: the fastest matrix product of float32 (and of bfloat16 where the CPU has
units for it), and the bandwidth of a copy of more than the caches hold. FLOPs: torch's FlopCounterMode, a
multiply-add counts as two. Bytes: what the operations would move if nothing stayed in a cache, each reading its inputs
and writing its outputs once; that is no lower bound, so a step may exceed 100 % of the bandwidth where caches help.
The bound of a step is the longer of the two times; its share is that bound over the measured time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import measuring
import torch
from pairs import MEAN, PAIRS, STD, Config, calibrated, network
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kdbench.data.views import Views
from kdbench.train.folding import folded
from kdbench.train.recipe import Recipe, cpu_has_bf16

GEMM_SIZE, COPY_BYTES = 2048, 256 << 20
FREE = ("view", "permute", "transpose", "expand", "slice", "select", "detach", "alias", "t", "as_strided", "unsqueeze")


class Moved(TorchDispatchMode):
    """Adds up the bytes that operations read and write; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__.strip("_") not in FREE:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


@dataclass(frozen=True)
class Limits:
    """What this machine can do at most, in FLOP/s by precision and in bytes/s read and written."""

    flops: dict[str, measuring.Spread]
    bandwidth: measuring.Spread


def limits(rounds: int) -> Limits:
    """Measure them; the best round is the limit."""
    kinds = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if cpu_has_bf16() else {})
    found = {}
    for name, kind in kinds.items():
        one, other = torch.randn(2, GEMM_SIZE, GEMM_SIZE).to(kind).unbind()
        found[name] = measured(lambda one=one, other=other: one @ other, rounds, 2 * GEMM_SIZE**3)
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    return Limits(found, measured(lambda: target.copy_(source), rounds, 2 * COPY_BYTES))


def measured(work: Callable[[], object], rounds: int, amount: float) -> measuring.Spread:
    """`amount` per second, of some rounds after a first one that does not count."""
    work()
    return measuring.Spread.of([amount / measuring.timed(work) for _ in range(rounds)])


def student_step(config: Config, batch: int, precision: str) -> Callable[[], object]:
    """A step of a network that trains on labels alone: forward, backward and update."""
    net = network(config).to(memory_format=torch.channels_last).train()
    optimizer = Recipe(lr=0.01).build_optimizer({1.0: list(net.parameters())}, {})
    images = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = net(images).logits
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def teacher_step(config: Config, batch: int, precision: str) -> Callable[[], object]:
    """A forward pass of a frozen network with its batch norms folded."""
    noise = torch.randint(256, (64, 32, 32, 3), dtype=torch.uint8)
    net = calibrated(network(config), Views(noise, 0, False, MEAN, STD)).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    fast = folded(net, images[:2])

    def step() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            fast(images)

    return step


def row(name: str, step: Callable[[], object], precision: str, found: Limits, rounds: int) -> list[str]:
    """A step's line of the table."""
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    with Moved() as moved:
        step()
    seconds = measuring.Spread.of([measuring.timed(step) for _ in range(rounds)])
    flops, peak = counter.get_total_flops(), found.flops[precision].high
    compute_s, memory_s = flops / peak, moved.total / found.bandwidth.high
    bound = "compute" if compute_s > memory_s else "memory"
    return [
        name, precision, f"{1000 * seconds.median:.1f} ({1000 * seconds.low:.1f} to {1000 * seconds.high:.1f})",
        f"{flops / 1e9:.2f}", f"{moved.total / 1e9:.2f}", f"{flops / moved.total:.1f}",
        f"{100 * compute_s / seconds.median:.0f} %", f"{100 * memory_s / seconds.median:.0f} %",
        f"{100 * max(compute_s, memory_s) / seconds.median:.0f} % ({bound})",
    ]  # fmt: skip


HEADER = ["step", "precision", "ms (min to max)", "GFLOP", "GB", "FLOP/byte", "of GEMM peak", "of copy bandwidth",
          "of its bound"]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", choices=[*PAIRS, []], metavar="PAIR", help="all where none is named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    measuring.add_write(parser, "roofline")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    machine = measuring.Machine()
    machine.look()
    found = limits(options.rounds)
    rows = []
    for pair in options.pairs or PAIRS:
        for precision in found.flops:
            for role, make, config in zip(
                ("teacher", "student"), (teacher_step, student_step), PAIRS[pair], strict=True
            ):
                step = make(config, options.batch, precision)
                rows.append(row(f"{pair} {role}", step, precision, found, options.rounds))
        machine.look()
        print(f"{pair}: measured", file=sys.stderr)
    peaks = ", ".join(f"{name} {peak.high / 1e9:.1f} GFLOP/s" for name, peak in found.flops.items())
    told = (
        f"Limits (best of {options.rounds} rounds, {options.threads} threads): matrix product of {GEMM_SIZE} squared: "
        f"{peaks}; copy: {found.bandwidth.high / 1e9:.1f} GB/s read and written. Batch {options.batch}, 32x32 images; "
        "teacher: forward, batch norms folded; student: forward, backward, update."
    )
    verdict = f"Verdict: {machine.verdict('the machine was quiet')}."
    conditions = "\n".join(measuring.conditions(machine, options.threads))
    measuring.publish(
        measuring.page("Shares of the machine's limits", told, measuring.table(HEADER, rows), verdict, conditions),
        options.write,
    )


if __name__ == "__main__":
    main()
