"""Which student of a study is the best by validation, and that student as a network that needs no kdbench to run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench.combine import kind_from
from kdbench.errors import KdbenchError
from kdbench.labels import model_label
from kdbench.record import Job, TrialRecord
from kdbench.store import Store
from kdbench.track.payload import config_digest

if TYPE_CHECKING:
    from torch import nn

CHOSEN_BY = "val_top1_pct"


@dataclass(frozen=True)
class Best:
    """The most accurate student of a study on validation data.

    record: the final training whose weights it has. val_top1_pct, test_top1_pct: means over the `seeds` final trainings
    of its configuration; None where the test split was not measured.
    """

    record: TrialRecord
    seeds: int
    val_top1_pct: float
    test_top1_pct: float | None

    @property
    def text(self) -> str:
        """One sentence for a person."""
        spec = self.record.spec
        test = "" if self.test_top1_pct is None else f" On test images, the same mean is {self.test_top1_pct:.2f} %."
        return (
            f"{model_label(spec.model)} trained by {spec.row} ({spec.slot.get('pair', 'no pair')}): the best mean "
            f"validation accuracy of the study, {self.val_top1_pct:.2f} % over {self.seeds} seeds.{test} "
            f"These are the weights of seed {spec.slot.get('final', 0)}."
        )


def best_student(records: Iterable[TrialRecord]) -> Best | None:
    """The best student of a study, or None where no final training has finished.

    The configuration is chosen by its mean validation accuracy over seeds, and of its seeds that with the highest
    validation accuracy, so test accuracy has no part in it. Equal values go to the first by pair, row and seed.
    """
    groups: dict[tuple[str, str, str], list[TrialRecord]] = {}
    for record in records:
        if record.spec.phase == "final" and record.status == "finished" and CHOSEN_BY in record.result:
            spec = record.spec
            groups.setdefault((str(spec.slot.get("pair", "")), spec.row, config_digest(spec)), []).append(record)
    found = [_best_of(trained) for _, trained in sorted(groups.items())]
    return max(found, key=lambda best: best.val_top1_pct) if found else None


def _best_of(trained: list[TrialRecord]) -> Best:
    """The best seed of one configuration, with the means over all of its seeds."""
    by_seed = sorted(trained, key=lambda record: int(record.spec.slot.get("final", 0)))
    test = [record.result["test_top1_pct"] for record in by_seed if "test_top1_pct" in record.result]
    return Best(
        record=max(by_seed, key=lambda record: record.result[CHOSEN_BY]),
        seeds=len(by_seed),
        val_top1_pct=sum(record.result[CHOSEN_BY] for record in by_seed) / len(by_seed),
        test_top1_pct=sum(test) / len(test) if len(test) == len(by_seed) else None,
    )


@dataclass(frozen=True)
class Deployable:
    """A student with the normalisation of its data inside.

    net: takes uint8 images (B, C, H, W), or float32 rows (B, F), and returns float32 logits (B, classes).
    shape: of one image or row. class_names: empty where the data set names none.
    """

    net: nn.Module
    shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...]


def deployable(best: Best, store: Store, records: Mapping[str, TrialRecord]) -> Deployable:
    """The student with its stored weights, on the CPU and in evaluation mode.

    Raise KdbenchError where its weights, its data, or a network that its method builds on are not on this machine.
    """
    import torch

    from kdbench.train.evaluation import student_of
    from kdbench.train.workshop import Workshop

    spec = best.record.spec
    shop = Workshop(store, torch.device("cpu"))
    needed = [key for key in (spec.teacher, spec.init, *spec.members) if key is not None]
    if kind_from(spec.method).adapts and (missing := [key for key in needed if key not in records]):
        raise KdbenchError(f"the student {spec.key} is built on networks without a record: {', '.join(missing)}")
    members = tuple(records[key].spec for key in needed if key in records)
    net = student_of(Job(spec, init=spec, members=members), shop).eval()
    splits = shop.splits(spec.data)
    return Deployable(
        with_normalisation(net, splits.mean, splits.std, splits.image_shape),
        tuple(splits.image_shape),
        splits.classes,
        tuple(splits.class_names or ()),
    )


def with_normalisation(
    net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, ...]
) -> nn.Module:
    """A network that normalises as training did and returns the logits of `net`.

    mean, std: by channel of pixels in [0, 1], or by column of a table. shape: of one image (C, H, W) or row (F,).
    """
    import torch
    from torch import Tensor, nn

    class Normalised(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            images = len(shape) == 3
            self.net, self.scale, wide = net, 255.0 if images else 1.0, torch.float32 if images else torch.float64
            for name, values in (("mean", mean), ("std", std)):
                tensor = torch.tensor(values, dtype=wide)
                self.register_buffer(name, tensor.view(1, -1, 1, 1) if images else tensor.view(1, -1))

        def forward(self, x: Tensor) -> Tensor:
            scaled = (x.to(self.mean.dtype) / self.scale - self.mean) / self.std
            logits: Tensor = self.net(scaled.to(torch.float32)).logits
            return logits.to(torch.float32)

    return Normalised().eval()
