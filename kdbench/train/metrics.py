"""Classification metrics from logits, as functions of tensors; named as in kdbench.record.METRICS."""

from __future__ import annotations

import torch
from numpy.typing import NDArray
from torch import Tensor

from kdbench.errors import KdbenchError

CALIBRATION_BINS = 15
TOP_K = 5

Array = Tensor | NDArray


def evaluate(logits: Array, labels: Array, teacher_logits: Array | None = None) -> dict[str, float]:
    """Top-1, top-5, NLL, macro precision and recall, ECE, and agreement with the teacher where its logits are given.

    logits, teacher_logits: (N, C). labels: (N,) integers in [0, C). All in percent, but `nll` in nats.
    Everything is computed on the device of `logits`, and fetched once.

    Ties go to the class of lower index. A row whose logits are NaN or infinitely large counts as wrong and makes `nll`
    and `ece_pct` NaN. With fewer than six classes `top5_pct` is top-min(5, C), so 100. Precision and recall
    average over the classes that occur among labels or predictions, 0 where nothing was predicted (scikit-learn's
    macro average).
    Raise KdbenchError for shapes that do not fit, no samples, or labels outside [0, C).
    """
    scores, targets = torch.as_tensor(logits), torch.as_tensor(labels)
    _check_shapes(scores, targets)
    scores = _precise(scores)
    targets = targets.to(scores.device, torch.int64)
    classes = scores.shape[1]
    valid = ((targets >= 0) & (targets < classes)).all()
    targets = targets.clamp(0, classes - 1)

    predictions = scores.argmax(1)
    rank = _rank(scores, targets)
    correct = rank == 0
    log_probabilities = scores.log_softmax(1)
    precision, recall = _macro(predictions, targets, correct, classes, scores.dtype)
    values = {
        "top1_pct": 100 * _mean(correct),
        "top5_pct": 100 * _mean(rank < min(TOP_K, classes)),
        "nll": -log_probabilities.gather(1, targets[:, None]).mean(),
        "macro_precision_pct": 100 * precision,
        "macro_recall_pct": 100 * recall,
        "ece_pct": 100 * calibration_error(log_probabilities.amax(1).exp(), correct),
    }
    if teacher_logits is not None:
        values["agreement_pct"] = 100 * _mean(predictions == _teacher(teacher_logits, scores).argmax(1))
    fetched = torch.stack([valid.to(scores.dtype), *(value.to(scores.dtype) for value in values.values())]).tolist()
    if not fetched[0]:
        raise KdbenchError(f"labels must lie in 0..{classes - 1} for logits of {classes} classes; some do not")
    return dict(zip(values, fetched[1:], strict=True))


def fidelity(logits: Array, teacher_logits: Array) -> dict[str, float]:
    """How closely a student follows its teacher, whatever the labels: `agreement_pct`, the share of samples on which
    both predict the same class, and `agreement_kl_nat`, the mean of KL(teacher || student).

    logits, teacher_logits: (N, C). Raise KdbenchError for shapes that do not fit.

    Source: Stanton, Izmailov, Kirichenko, Alemi, Wilson 2021, arXiv:2106.05945, section 3.
    """
    scores = _precise(torch.as_tensor(logits))
    teacher = _precise(_teacher(teacher_logits, scores))
    gap = teacher.log_softmax(1) - scores.log_softmax(1)
    probabilities = teacher.softmax(1)
    per_sample = torch.where(probabilities > 0, probabilities * gap, torch.zeros_like(gap)).sum(1)
    agreement = 100 * _mean(scores.argmax(1) == teacher.argmax(1))
    return {"agreement_pct": agreement.item(), "agreement_kl_nat": per_sample.mean().item()}


def _teacher(teacher_logits: Array, scores: Tensor) -> Tensor:
    """The teacher's logits on the device of the student's. Raise KdbenchError where their shapes differ."""
    teacher = torch.as_tensor(teacher_logits).to(scores.device)
    if teacher.shape != scores.shape:
        raise KdbenchError(
            f"the teacher's logits have shape {tuple(teacher.shape)}, the student's {tuple(scores.shape)}"
        )
    return teacher


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = CALIBRATION_BINS) -> Tensor:
    """Expected calibration error in [0, 1]: sum over bins of share * |accuracy - mean confidence|.

    confidence: (N,) probability of the predicted class. correct: (N,) whether it is the label. Bins are of equal width,
    ((k - 1) / bins, k / bins].

    Source: Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599, section 2, equation 3.
    """
    edge = (confidence * bins).ceil() - 1
    member = edge.clamp(0, bins - 1)[:, None] == torch.arange(bins, device=confidence.device)
    gap = (correct.to(confidence.dtype) - confidence)[:, None]
    # share * |accuracy - confidence| of a bin is |sum of (correct - confidence)| / N. NaN is kept on purpose.
    error = torch.where(member, gap, torch.zeros_like(gap)).sum(0).abs().sum() / confidence.numel()
    return torch.where(confidence.isnan().any(), confidence.new_tensor(float("nan")), error)


def _check_shapes(scores: Tensor, targets: Tensor) -> None:
    if scores.ndim != 2 or targets.ndim != 1 or len(scores) != len(targets):
        raise KdbenchError(
            f"logits must be (N, C) and labels (N,), but got {tuple(scores.shape)} and {tuple(targets.shape)}"
        )
    if 0 in scores.shape:
        raise KdbenchError(f"logits must have at least one sample and one class, but got {tuple(scores.shape)}")
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise KdbenchError(f"labels must be integers, but got {targets.dtype}")


def _precise(scores: Tensor) -> Tensor:
    """In float64, which keeps sums over any test set exact to all printed digits; float32 where there is none (MPS)."""
    return scores.detach().to(torch.float32 if scores.device.type == "mps" else torch.float64)


def _mean(hits: Tensor) -> Tensor:
    return _precise(hits).mean()


def _rank(scores: Tensor, targets: Tensor) -> Tensor:
    """(N,) number of classes placed before the label; C for rows that are no ranking (NaN, +inf)."""
    own = scores.gather(1, targets[:, None])
    lower = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]
    rank = ((scores > own) | ((scores == own) & lower)).sum(1)
    broken = ~torch.isfinite(scores.amax(1)) | torch.isnan(scores).any(1)
    return torch.where(broken, scores.shape[1], rank)


def _macro(
    predictions: Tensor, targets: Tensor, correct: Tensor, classes: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Macro precision and recall in [0, 1]. Counts by comparison: bincount would wait for the device."""
    every = torch.arange(classes, device=targets.device)
    labelled = targets[:, None] == every
    predicted = (predictions[:, None] == every).sum(0)
    hits = (labelled & correct[:, None]).sum(0)
    actual = labelled.sum(0)
    occurring = ((predicted + actual) > 0).sum()
    precision = (hits / predicted.clamp(min=1).to(dtype)).sum() / occurring
    recall = (hits / actual.clamp(min=1).to(dtype)).sum() / occurring
    return precision, recall
