"""A registry maps the names that people write in a study file to the classes that they mean."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from kdbench.errors import KdbenchError, did_you_mean, listed

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing, filled by importing every module of a package.

    A module of `package` that does not start with an underscore registers what it defines with `@registry(name)`;
    nothing else has to be edited to add one.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, type[T]] = {}
        self._discovered = False

    def __call__(self, name: str) -> Callable[[type[T]], type[T]]:
        """Register the decorated class under `name`. Raise KdbenchError if the name is taken by another class."""

        def add(entry: type[T]) -> type[T]:
            taken = self._entries.get(name)
            if taken is not None and (taken.__module__, taken.__qualname__) != (entry.__module__, entry.__qualname__):
                raise KdbenchError(
                    f"{self.kind} '{name}' is registered twice: by {taken.__module__} and by {entry.__module__}. "
                    "Give one of them another name."
                )
            self._entries[name] = entry
            entry.name = name  # type: ignore[attr-defined]
            return entry

        return add

    def discover(self) -> None:
        """Import every module of the package, once."""
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.package}.{module.name}")

    def names(self) -> list[str]:
        """All names, sorted."""
        self.discover()
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        self.discover()
        return name in self._entries

    def get(self, name: str) -> type[T]:
        """The class of that name. Raise KdbenchError that lists what exists."""
        self.discover()
        if name not in self._entries:
            raise KdbenchError(self.unknown(name))
        return self._entries[name]

    def unknown(self, name: str) -> str:
        """The message for a name that is not registered."""
        names = self.names()
        return f"unknown {self.kind} '{name}'.{did_you_mean(name, names)} Known: {listed(names)}."
