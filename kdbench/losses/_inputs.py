"""What every loss does with its inputs first."""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.errors import MethodError


def full_precision(tensor: Tensor) -> Tensor:
    """Return bf16 and fp16 tensors as float32, others as they are: sums of exponentials and squares need the digits."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raise MethodError where shapes differ; torch would broadcast some of them silently."""
    if student.shape != teacher.shape:
        raise MethodError(
            f"{what} of the student have the shape {tuple(student.shape)}, those of the teacher "
            f"{tuple(teacher.shape)}; this loss needs equal shapes"
        )
