"""A distillation by torchdistill: `python benchmarks/rivals/library.py TRIAL.json`, in an environment that has it.

The loop is torchdistill's own (DistillationBox, WeightedSumLoss, KDLoss, MetricLogger, save_ckpt), called as its
example image_classification.py calls it; this file is what its user writes: a configuration and a main function. Only
the networks are kdbench's, so that all rivals train the same. Its KDLoss weighs CE by alpha, the rest by 1 - alpha.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler, SequentialSampler
from torchdistill.common.main_util import save_ckpt
from torchdistill.core.distillation import get_distillation_box
from torchdistill.misc.log import MetricLogger, SmoothedValue, set_basic_log_config

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rivals.trial import LOG_EVERY, Trial, datasets

CPU = torch.device("cpu")


class Logits(nn.Module):
    """A network of kdbench that returns its logits alone, as torchdistill expects of a classifier."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.net(images).logits
        return logits


def configuration(trial: Trial) -> dict[str, Any]:
    """The `train` section of torchdistill's sample configuration of vanilla distillation on CIFAR-10."""

    def loader(name: str, sampler: Any, workers: int) -> dict[str, Any]:
        return {"dataset_id": name, "sampler": {"class_or_func": sampler},
                "kwargs": {"batch_size": trial.batch_size, "num_workers": workers}}  # fmt: skip

    kd = {"student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".",
          "teacher_module_io": "output", "temperature": 4.0, "alpha": 0.1, "reduction": "batchmean"}  # fmt: skip
    sgd = {"lr": trial.lr, "momentum": trial.momentum, "weight_decay": trial.weight_decay}
    forward = {"forward_proc": "forward_batch_only"}
    return {
        "log_freq": LOG_EVERY,
        "num_epochs": trial.epochs,
        "train_data_loader": loader("train", RandomSampler, trial.workers),
        "val_data_loader": loader("validation", SequentialSampler, trial.workers // 2),
        "teacher": {**forward, "sequential": [], "requires_grad": False, "frozen_modules": []},
        "student": {**forward, "sequential": [], "requires_grad": True, "frozen_modules": []},
        "optimizer": {"key": "SGD", "kwargs": sgd},
        "scheduler": {"key": "MultiStepLR", "kwargs": {"milestones": list(trial.milestones), "gamma": trial.gamma}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}},
        },
    }


def train_one_epoch(box: Any, epoch: int) -> None:
    """One epoch as in the example: every step of it is the library's."""
    logger = MetricLogger(delimiter="  ")
    logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
    for images, labels, extra in logger.log_every(box.train_data_loader, LOG_EVERY, f"Epoch: [{epoch}]"):
        loss = box.forward_process(images, labels, extra)
        box.post_forward_process(loss=loss)
        logger.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Any) -> float:
    """Top-1 accuracy in per cent."""
    model.eval()
    logger = MetricLogger(delimiter="  ")
    for images, labels in logger.log_every(loader, LOG_EVERY, "Validation:"):
        right = (model(images).argmax(dim=1) == labels).float().mean()
        logger.meters["acc1"].update(100 * right.item(), n=len(labels))
    return float(logger.meters["acc1"].global_avg)


def main() -> None:
    """Train, evaluate after each epoch, keep the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", type=Path)
    options = parser.parse_args()
    trial = Trial.read(options.trial)
    set_basic_log_config()
    train, validation, classes = datasets(trial)
    teacher, student = (Logits(net) for net in trial.networks(classes))
    known = {"train": train, "validation": validation}
    box = get_distillation_box(teacher, student, known, configuration(trial), CPU, None, False, 1)
    best = 0.0
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        train_one_epoch(box, epoch)
        top1 = evaluate(student, box.val_data_loader)
        if top1 > best:
            best = top1
            save_ckpt(student, box.optimizer, box.lr_scheduler, best, vars(options), trial.out)
        box.post_epoch_process()
        print(f"epoch {epoch}: val top-1 {top1:.2f} %", flush=True)
    box.clean_modules()


if __name__ == "__main__":
    main()
