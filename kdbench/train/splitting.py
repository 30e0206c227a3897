"""Over how many processes a training is spread, and which methods allow it. Without torch: a study is checked by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kdbench.errors import listed
from kdbench.method import Method, methods


@dataclass(frozen=True)
class Spread:
    """Over how many processes a training is spread. gpus: those that it may use, as CUDA_VISIBLE_DEVICES names them;
    empty for those that the worker has, or none."""

    processes: int = 1
    gpus: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, as sent to a worker."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Spread:
        """Inverse of `to_json`."""
        return cls(value["processes"], tuple(value["gpus"]))


ONE = Spread()


def splits(cls: type[Method]) -> bool:
    """Whether the loss of a batch is, by the method's own word, the mean over its samples.

    The word holds for the class that gives it and for what changes no loss: one that inherits it with a loss of its own
    has to give it again.
    """
    for kind in cls.__mro__:
        if "mean_over_samples" in vars(kind):
            return bool(vars(kind)["mean_over_samples"])
        if "loss" in vars(kind):
            return False
    return False


def unsplittable(config: Mapping[str, Any]) -> list[str]:
    """Names of the methods of a spec's `method` that cannot be trained over several processes: none if it can."""
    names = config.get("parts", (config["name"],))
    return [name for name in names if not splits(methods.get(name))]


def splittable() -> list[str]:
    """Names of all methods that can."""
    return [name for name in methods.names() if splits(methods.get(name))]


def refusal(names: list[str], remedy: str) -> str:
    """Why these methods cannot, and what to do."""
    return (
        f"{listed(names)} cannot be trained over several processes: the loss of a batch is not the mean over its "
        f"samples, or the method keeps a state or draws of its own. {remedy}, or use methods that can: "
        f"{listed(splittable())}."
    )
