"""What trainings of one process that take turns have in common: the images and the teacher's outputs of a batch.

Who comes first computes them, and the others get the same. What is remembered is only the last batch, and a batch is
known by its tensors themselves, so a training that is at another place gets what is its own, and nothing but time is
lost.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from kdbench.data.views import Views
from kdbench.method import Outputs
from kdbench.train.teachers import Teacher

SHARED = "shared"  # the account of what is done once for all


class Meter:
    """Who spends the time: seconds by account, of which one is charged at a time."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str | None, float] = defaultdict(float)
        self._account: str | None = None
        self._since = time.monotonic()

    @contextmanager
    def charge(self, account: str) -> Iterator[None]:
        """Charge the block to an account; what is charged to another inside of it does not count."""
        before = self._account
        self._switch(account)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, account: str | None) -> None:
        now = time.monotonic()
        self._seconds[self._account] += now - self._since
        self._account, self._since = account, now

    def seconds(self, account: str) -> float:
        """What an account has been charged by now."""
        self._switch(self._account)
        return self._seconds[account]


class SharedViews:
    """Views (to be used as such) that remember the last batch of images.

    A batch is known by where in memory its views `view` are; trainings that share one slice them from the same tensor.
    """

    def __init__(self, views: Views, meter: Meter) -> None:
        self.views, self.meter = views, meter
        self._view: Tensor | None = None  # kept, so that its memory is not used for another
        self._images: Tensor | None = None
        self._version = 0

    def __getattr__(self, name: str) -> Any:
        if name == "views":  # not there yet, as while it is copied
            raise AttributeError(name)
        return getattr(self.views, name)

    def __len__(self) -> int:
        return len(self.views)

    def batch(self, index: Tensor, view: Tensor) -> Tensor:
        """As of the views."""
        if self._images is None or not same_place(self._view, view) or self._images._version != self._version:
            with self.meter.charge(SHARED):
                self._view, self._images = view, self.views.batch(index, view)
                self._version = self._images._version
        return self._images


class SharedTeacher:
    """A teacher that remembers its outputs for the last batch of SharedViews. net: the network behind it, if any."""

    def __init__(self, teacher: Teacher, meter: Meter) -> None:
        self.teacher, self.meter = teacher, meter
        self.net = getattr(teacher, "net", None)
        self._images: Tensor | None = None
        self._version = 0
        self._outputs: Outputs | None = None

    def prepare(self, index: Tensor, view: Tensor) -> None:
        """As of the teacher."""
        with self.meter.charge(SHARED):
            self.teacher.prepare(index, view)

    def __call__(self, images: Tensor, index: Tensor, view: Tensor) -> Outputs:
        """As of the teacher: copies of its outputs, so that a loss which writes to them does not do so for others."""
        if self._outputs is None or images is not self._images or images._version != self._version:
            with self.meter.charge(SHARED):
                self._outputs = self.teacher(images, index, view)
                self._images, self._version = images, images._version
        return dataclasses.replace(
            self._outputs,
            logits=self._outputs.logits.clone(),
            pooled=self._outputs.pooled.clone(),
            features=Copies(self._outputs.features),
            preactivations=Copies(self._outputs.preactivations),
        )


class Copies(Mapping[str, Tensor]):
    """Copies of maps by name, each made when it is first read: most losses read few."""

    def __init__(self, maps: Mapping[str, Tensor]) -> None:
        self.maps = maps
        self._own: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._own:
            self._own[name] = self.maps[name].clone()
        return self._own[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)


def same_place(one: Tensor | None, other: Tensor) -> bool:
    """Whether two tensors are the same part of the same memory."""
    return one is not None and (one.data_ptr(), one.shape, one.stride()) == (
        other.data_ptr(),
        other.shape,
        other.stride(),
    )
