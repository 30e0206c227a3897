"""How many images a pass without gradients takes at a time: `python benchmarks/inference.py [--write]`.

Validation, testing and filling the view cache run networks in eval mode on batches of kdbench's own choosing
(kdbench.train.engine.INFERENCE_BATCH). Each network of the pairs runs on noise images of 32x32 pixels, a batch of every
size in turn; the ratio is to the largest. The logits that come out are compared, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import measuring
import torch
from pairs import PAIRS, Config, network

from kdbench.labels import short_name
from kdbench.train.engine import INFERENCE_BATCH

BATCHES = (16, 64, 128, 512)


@torch.no_grad()
def measure(config: Config, rounds: int, machine: measuring.Machine) -> list[str]:
    """The row of a network."""
    torch.manual_seed(0)
    net = network(config).eval().to(memory_format=torch.channels_last)
    images = torch.randn(max(BATCHES), 3, 32, 32).contiguous(memory_format=torch.channels_last)
    sides = {str(size): lambda part=images[:size]: measuring.timed(lambda: net(part)) for size in BATCHES}
    found = measuring.interleaved(sides, rounds, warm_up=1, machine=machine, look_s=0.2)
    ms = {size: [1000 * s / int(size) for s in seconds] for size, seconds in found.items()}
    largest, chosen = str(max(BATCHES)), INFERENCE_BATCH["cpu"]
    parts = torch.cat([net(part).logits for part in images.split(chosen)])
    same = "to the last bit" if torch.equal(parts, net(images).logits) else "no"
    shown = [measuring.Spread.of(values).text() for values in ms.values()]
    return [short_name(config), *shown, measuring.ratios(ms[largest], ms[str(chosen)]).text(), same]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    measuring.add_write(parser, "inference")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine, chosen = measuring.Machine(), INFERENCE_BATCH["cpu"]
    networks = {short_name(config): config for pair in PAIRS.values() for config in pair}
    rows = [measure(config, options.rounds, machine) for config in networks.values()]
    header = ["network", *(f"{size}: ms an image" for size in BATCHES), f"{max(BATCHES)} / {chosen}", "same logits"]
    text = measuring.page(
        "Passes without gradients: images at a time", f"fp32, channels_last, n = {options.rounds} rounds in turns, "
        f"median (min to max); kdbench takes {chosen} on a CPU.", measuring.table(header, rows),
        f"Verdict: {machine.verdict('the machine was quiet')}.", "\n".join(measuring.conditions(machine, 1)),
    )  # fmt: skip
    measuring.publish(text, options.write)


if __name__ == "__main__":
    main()
