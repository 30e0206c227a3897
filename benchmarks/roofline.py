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

GEMM_SIZES, COPY_BYTES = (512, 1024, 2048), 256 << 20
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
        sizes = []
        for size in GEMM_SIZES:
            one, other = torch.randn(2, size, size).to(kind).unbind()
            sizes.append(measured(lambda one=one, other=other: one @ other, rounds, 2 * size**3))
        found[name] = max(sizes, key=lambda spread: spread.high)
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


@dataclass(frozen=True)
class Cost:
    """What a step costs: its time in s, its FLOPs, its bytes."""

    name: str
    precision: str
    seconds: measuring.Spread
    flops: int
    moved: int


def cost(name: str, step: Callable[[], object], precision: str, rounds: int) -> Cost:
    """Measure a step."""
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    with Moved() as moved:
        step()
    seconds = measuring.Spread.of([measuring.timed(step) for _ in range(rounds)])
    return Cost(name, precision, seconds, counter.get_total_flops(), moved.total)


def row(of: Cost, found: list[Limits]) -> list[str]:
    """A step's line of the table. found: limits as measured before, between and after; the best counts."""
    seconds, flops, moved = of.seconds, of.flops, of.moved
    compute_s = flops / max(limit.flops[of.precision].high for limit in found)
    memory_s = moved / max(limit.bandwidth.high for limit in found)
    bound = "compute" if compute_s > memory_s else "memory"
    return [
        of.name, of.precision, f"{1000 * seconds.median:.1f} ({1000 * seconds.low:.1f} to {1000 * seconds.high:.1f})",
        f"{flops / 1e9:.2f}", f"{moved / 1e9:.2f}", f"{flops / moved:.1f}",
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
    found = [limits(options.rounds)]
    costs = []
    for pair in options.pairs or PAIRS:
        for precision in found[0].flops:
            for role, make, config in zip(
                ("teacher", "student"), (teacher_step, student_step), PAIRS[pair], strict=True
            ):
                step = make(config, options.batch, precision)
                costs.append(cost(f"{pair} {role}", step, precision, options.rounds))
        machine.look()
        found.append(limits(options.rounds))
        print(f"{pair}: measured", file=sys.stderr)
    peaks = ", ".join(
        f"{name} {max(limit.flops[name].high for limit in found) / 1e9:.1f} GFLOP/s" for name in found[0].flops
    )
    copied = max(limit.bandwidth.high for limit in found)
    told = (
        f"Limits (best of {len(found)} times {options.rounds} rounds, {options.threads} threads): matrix product of "
        f"{', '.join(map(str, GEMM_SIZES))} squared: {peaks}; copy: {copied / 1e9:.1f} GB/s "
        f"read and written. Batch {options.batch}, 32x32 images; "
        "teacher: forward, batch norms folded; student: forward, backward, update."
    )
    verdict = f"Verdict: {machine.verdict('the machine was quiet')}."
    conditions = "\n".join(measuring.conditions(machine, options.threads))
    measuring.publish(
        measuring.page(
            "Shares of the machine's limits",
            told,
            measuring.table(HEADER, [row(of, found) for of in costs]),
            verdict,
            conditions,
        ),
        options.write,
    )


if __name__ == "__main__":
    main()
