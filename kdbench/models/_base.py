"""What every model family offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from kdbench.fields import build
from kdbench.registry import Registry

if TYPE_CHECKING:
    from kdbench.nets.base import Network


class Model:
    """Base class of model families: a frozen dataclass whose fields are declared with size() or static()."""

    name: ClassVar[str] = ""

    def problems(self) -> list[str]:
        """Combinations of sizes that cannot be built, as sentences; empty if all is well. Must not import torch."""
        return []

    def network(self, input_shape: tuple[int, ...], classes: int) -> Network:
        """Build the network with random weights drawn from torch's global generator.

        input_shape: (channels, height, width) of an image, or (features,) of a row of numbers.
        """
        raise NotImplementedError


models: Registry[Model] = Registry("model", "kdbench.models")
register = models


def model_from(config: Mapping[str, Any]) -> Model:
    """Build the family's instance from `{"name": "resnet", "depth": 20, ...}`."""
    values = dict(config)
    return build(models.get(values.pop("name")), values)  # type: ignore[no-any-return]
