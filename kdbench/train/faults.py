"""What ends a training from outside: memory, device, disk, network. Everything else is the method's own doing.

After such an end trying again may help, so it must not count against a method. Pure functions on errors.
"""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdbench.errors import DamagedError
from kdbench.lazy import torch

Kind = Literal["memory", "device", "disk", "worker", "node"]

OF_THE_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EAGAIN,
    errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH,
    errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE,
}  # fmt: skip
NOT_ALLOWED = {errno.EACCES, errno.EPERM}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
OF_THE_DEVICE = ("cuda error", "cublas_status", "cudnn_status", "nccl", "hip error", "device-side assert")


@dataclass(frozen=True)
class Fault:
    """One such end.

    kind: `memory` and `device` (which leave a process that should not be used again), `disk` (and network), `worker`
    (the process died), `node` (the machine or Ray itself was lost). reason: one line. place: where in the program, or
    "" where nobody knows.
    """

    kind: Kind
    reason: str
    place: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain dictionary, as sent from a worker to the driver."""
        return {"kind": self.kind, "reason": self.reason, "place": self.place}

    @classmethod
    def from_json(cls, value: Any) -> Fault:
        """Inverse of `to_json`."""
        return cls(value["kind"], value["reason"], value["place"])


class ProcessFaultError(RuntimeError):
    """A fault that another process of the same training met, or that it died."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.reason)


def fault_of(error: BaseException, folder: Path | None = None) -> Fault | None:
    """The fault behind an error, or None for an error of the method, the model, the data or the study.

    The causes that an error names (`raise ... from`) count as well. folder: of the study; that kdbench may not write
    there is a fault, while other files that may not be read are the method's business.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ProcessFaultError):
            return cause.fault
        if (kind := _kind(cause, folder)) is not None:
            return Fault(kind, _line(error), _place(cause))
        cause = cause.__cause__
    return None


def _kind(error: BaseException, folder: Path | None) -> Kind | None:
    text = str(error).lower()
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "memory"
    if isinstance(error, DamagedError):
        return "disk"  # the next run finds it, and has the network trained again
    if isinstance(error, OSError):
        return _kind_of_os_error(error, folder)
    if isinstance(error, RuntimeError):  # what PyTorch raises for its allocator, CUDA and its libraries
        if any(words in text for words in OUT_OF_MEMORY):
            return "memory"
        if type(error).__name__ == "AcceleratorError" or text.startswith(OF_THE_DEVICE):
            return "device"
    return None


def _kind_of_os_error(error: OSError, folder: Path | None) -> Kind | None:
    if error.errno == errno.ENOMEM:
        return "memory"
    if error.errno in OF_THE_MACHINE or (error.errno is None and isinstance(error, (ConnectionError, TimeoutError))):
        return "disk"
    ours = folder is not None and isinstance(error.filename, str) and Path(error.filename).is_relative_to(folder)
    return "disk" if error.errno in NOT_ALLOWED and ours else None


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
