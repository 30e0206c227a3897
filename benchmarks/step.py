"""The ablation of kdbench's training step: all its features, and each of them off in turn.

    python benchmarks/step.py [PAIR ...] [--rounds 9] [--isa] [--write]

Pairs: resnet20-8, resnet56-20, wrn-40-2-16-2, resnet32x4-8x4. A student is trained by vanilla distillation on 2,048
noise images of 32x32 pixels. Sides take turns, a step each; a feature's gain is the ratio of medians of the step
without it and of the whole. The teacher's folded batch norm and its precision count only where it runs, so they are
measured against the live teacher.

--isa measures again in children under ONEDNN_MAX_CPU_ISA, from AVX2 up to what this processor has; one that has no
more than AVX2 is measured once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import measuring
import torch
from pairs import CROP, MEAN, PAIRS, STD, Scene, Side
from torch import Tensor

from kdbench.data.views import Views
from kdbench.train.engine import Engine
from kdbench.train.recipe import cpu_has_bf16

CPU = torch.device("cpu")
WHOLE, PIL = "whole", "PIL in place of resident views"
LIVE = "live teacher in place of the view cache"
# What oneDNN may use at most, and the flag that the processor must have for it.
ISAS = {"AVX2": "avx2", "AVX512_CORE": "avx512f", "AVX512_CORE_BF16": "avx512_bf16", "AVX512_CORE_AMX": "amx_bf16"}


def sides() -> dict[str, tuple[Side, str]]:
    """Every side by name, and the side that it is compared with. PIL is told by its name."""
    whole = Side(Engine("bf16" if cpu_has_bf16() else "fp32"))
    live = replace(whole, cached=False)
    found = {
        WHOLE: (whole, WHOLE),
        PIL: (whole, WHOLE),
        "NCHW in place of channels_last": (whole.engined(memory_format="contiguous"), WHOLE),
        "foreach in place of fused": (whole.engined(optimizer="foreach"), WHOLE),
        "no guard": (replace(whole, guarded=False), WHOLE),
        LIVE: (live, WHOLE),
        "live, batch norm apart": (live.engined(batch_norm="apart"), LIVE),
    }
    if cpu_has_bf16():
        found["fp32 in place of bf16"] = (whole.engined(precision="fp32"), WHOLE)
        found["live, fp32"] = (live.engined(precision="fp32"), LIVE)
    return found


class ThroughPil:
    """Views (to be used as such) whose batches go through PIL and torchvision, image by image, in this process."""

    def __init__(self, views: Views, images: Tensor) -> None:
        from PIL import Image
        from torchvision import transforms

        self._views = views
        self._pictures = [Image.fromarray(image.numpy()) for image in images]
        self._transform = transforms.Compose([
            transforms.RandomCrop(32, padding=CROP), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return getattr(self._views, name)

    def __len__(self) -> int:
        return len(self._views)

    def batch(self, index: Tensor, view: Tensor) -> Tensor:
        """Random views of the images at `index`, whatever `view` says."""
        return torch.stack([self._transform(self._pictures[i]) for i in index.tolist()])


def measure(pair: str, batch: int, rounds: int, machine: measuring.Machine) -> list[list[str]]:
    """Rows of a pair's table."""
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(pair, batch, Path(folder), CPU)
        pictures = ThroughPil(scene.views, scene.images)
        steppers = {name: scene.stepper(side, pictures if name == PIL else None) for name, (side, _) in sides().items()}

        def of(step: Callable[[], object]) -> Callable[[], float]:
            return lambda: measuring.timed(step)

        found = measuring.interleaved(
            {name: of(step) for name, step in steppers.items()}, rounds, warm_up=3, machine=machine, look_s=0.2
        )
    rows = []
    for name, (_, reference) in sides().items():
        ms = measuring.Spread.of([1000 * taken for taken in found[name]])
        rows.append([name, ms.text(1), measuring.ratios(found[name], found[reference]).text()])
    return rows


def under_isa(options: argparse.Namespace) -> list[str]:
    """The tables of children that oneDNN keeps from using more than an instruction set, for each that there is."""
    parts, there = [], [isa for isa, flag in ISAS.items() if flag in measuring.cpu_flags()]
    for isa in there if len(there) > 1 else []:
        command = [sys.executable, __file__, *options.pairs, "--rounds", str(options.rounds), "--batch",
                   str(options.batch), "--rows"]  # fmt: skip
        done = subprocess.run(
            command, env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa}, stdout=subprocess.PIPE, text=True, check=True
        )
        parts += [f"## oneDNN at most {isa}", *tables(json.loads(done.stdout))]
    return parts


def tables(rows: dict[str, list[list[str]]]) -> list[str]:
    """Each pair's table under its name."""
    header = ["step", "ms (min to max)", "ratio to its reference (min to max)"]
    return [part for pair, found in rows.items() for part in (f"### {pair}", measuring.table(header, found))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", choices=[*PAIRS, []], metavar="PAIR", help="all where none is named")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", action="store_true", help="also in children under ONEDNN_MAX_CPU_ISA")
    parser.add_argument("--rows", action="store_true", help=argparse.SUPPRESS)
    measuring.add_write(parser, "step")
    options = parser.parse_args(arguments)
    options.pairs = options.pairs or list(PAIRS)
    torch.set_num_threads(options.threads)
    machine = measuring.Machine()
    rows = {}
    for pair in options.pairs:
        rows[pair] = measure(pair, options.batch, options.rounds, machine)
        print(f"{pair}: measured", file=sys.stderr)
    if options.rows:
        print(json.dumps(rows))
        return
    more = under_isa(options) if options.isa else []
    references = (
        f"Steps of kd, batch {options.batch}, n = {options.rounds} rounds in turns, median. The reference of a row is "
        "the whole step; of 'live, ...' it is the step with a live teacher. Above 1: the feature that is off pays."
    )
    said = machine.verdict("the machine was quiet")
    conditions = "\n".join(measuring.conditions(machine, options.threads))
    text = measuring.page(
        "The training step, each feature off in turn", references, *tables(rows), *more, f"Verdict: {said}.", conditions
    )
    measuring.publish(text, options.write)


if __name__ == "__main__":
    main()
