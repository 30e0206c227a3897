"""Losses on logits that compare class probabilities: cross entropy and Kullback-Leibler divergence.

All work in log space and at least in float32, so that they stay finite for large logits and under autocast.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from kdbench.losses._inputs import full_precision, same_shape


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of the labels in nats, mean over the batch.

    logits: (B, C). labels: (B,) int64. Returns a scalar.
    """
    return functional.cross_entropy(full_precision(logits), labels)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float | Tensor) -> Tensor:
    """Cross entropy against (1 - smoothing) * one-hot + smoothing / C, mean over the batch.

    logits: (B, C). labels: (B,) int64. smoothing: in [0, 1]. Returns a scalar.
    """
    log_p = functional.log_softmax(full_precision(logits), dim=1)
    nll = -log_p.gather(1, labels[:, None]).mean()
    uniform = -log_p.mean()
    return (1 - smoothing) * nll + smoothing * uniform


def distillation(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)) in nats: sum over classes, mean over the batch.

    student, teacher: logits (B, C). temperature: T > 0. Returns a scalar. The factor T^2 keeps the size of the gradient
    when T changes (Hinton, Vinyals, Dean 2015, section 2). Raise MethodError where the numbers of classes differ.
    """
    same_shape(student, teacher, "logits")
    log_q = functional.log_softmax(full_precision(student) / temperature, dim=1)
    log_p = functional.log_softmax(full_precision(teacher) / temperature, dim=1)
    return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2
