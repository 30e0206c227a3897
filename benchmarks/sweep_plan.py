"""What benchmarks/sweep.py measures: pairs, settings, sides, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pair:
    """Teacher and student, and images for which a trial of the field's loop takes about half a minute for 2 epochs."""

    teacher: dict[str, Any]
    student: dict[str, Any]
    images: int
    target: float | None  # times as many trials per hour as the field's loop, of 16, on a CPU with AMX (issue 3)


def resnet(depth: int, width: float = 1.0) -> dict[str, Any]:
    """Configuration of a CIFAR ResNet."""
    return {"name": "resnet", "depth": depth, "width": width}


def wrn(depth: int) -> dict[str, Any]:
    """Configuration of a wide ResNet of width 2."""
    return {"name": "wrn", "depth": depth, "width": 2.0}


PAIRS = {
    "resnet20-resnet8": Pair(resnet(20), resnet(8), 2000, 5.0),
    "resnet56-resnet20": Pair(resnet(56), resnet(20), 1000, 6.0),
    "wrn-40-2-wrn-16-2": Pair(wrn(40), wrn(16), 600, None),
    "resnet32x4-resnet8x4": Pair(resnet(32, 4.0), resnet(8, 4.0), 300, 10.0),
}
COLUMNS = {"kd": ("kd",), "mixed": ("kd", "fitnet")}  # the first reads logits, which the cache has; the second features
RIVALS = ("field", "cheap", "torchdistill")
LOADERS = 2  # DataLoader workers of each rival: the field's scripts have 2 to 16, and more only wait on few cores
SEARCH_BATCH = 4  # trials that are proposed together: with one at a time the second worker would wait
BATCH, LR, MOMENTUM, WEIGHT_DECAY, GAMMA, VALIDATION = 64, 0.05, 0.9, 5e-4, 0.1, 500


@dataclass(frozen=True)
class Cell:
    """One thing to measure. images: for training. side: kdbench, kdbench-mlflow or a rival. trials: n."""

    pair: str
    images: int
    epochs: int
    column: str
    side: str
    trials: int
    round: int


def plan(
    pairs: Sequence[str], settings: Sequence[tuple[float, int]], trials: Sequence[int], rivals: Sequence[str],
    rivals_up_to: int, rounds: int, columns: Sequence[str] = tuple(COLUMNS),
) -> list[Cell]:  # fmt: skip
    """All measurements, the sides of one comparison side by side, in turn from left and from right.

    The second setting and those after it are measured for plain kd alone, at the largest number of trials.
    """
    found = []
    for number in range(rounds):
        for place, (factor, epochs) in enumerate(settings):
            for pair in pairs:
                images = max(round(PAIRS[pair].images * factor), BATCH)
                for column in columns if place == 0 else ["kd"]:
                    for n in _sizes(trials, column, rivals_up_to, place):
                        sides = _sides(column, n, max(trials), rivals, rivals_up_to, place)
                        order = sides if number % 2 == 0 else sides[::-1]
                        found += [Cell(pair, images, epochs, column, side, n, number) for side in order]
    return found


def _sizes(trials: Sequence[int], column: str, rivals_up_to: int, place: int) -> list[int]:
    """Numbers of trials that are measured; a mixed sweep has two trials at least."""
    compared = max([n for n in trials if n <= rivals_up_to], default=min(trials))
    chosen = trials if place == 0 else sorted({compared, max(trials)})
    return [n for n in chosen if n >= len(COLUMNS[column])]


def _sides(column: str, n: int, most: int, rivals: Sequence[str], up_to: int, place: int) -> list[str]:
    sides = ["kdbench"] + (["kdbench-mlflow"] if column == "kd" and n == most and place == 0 else [])
    able = [rival for rival in rivals if column == "kd" or rival != "torchdistill"]
    return sides + (able if n <= up_to else [])


def milestones(epochs: int) -> tuple[int, ...]:
    """Epochs after which the learning rate falls: at 62.5, 75 and 87.5 %, as 150, 180 and 210 of 240 are."""
    chosen = {max(round(epochs * share), 1) for share in (0.625, 0.75, 0.875)}
    return tuple(sorted(epoch for epoch in chosen if epoch < epochs))
