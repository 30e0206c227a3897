"""Model families: the sizes that a study can set or search, and how to build the network. No torch until `build`."""

from kdbench.models._base import Model, model_from, models, register

__all__ = ["Model", "model_from", "models", "register"]
