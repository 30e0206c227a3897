"""torch, imported at its first use.

Files of `kdbench/methods` and `kdbench/models` are read whenever a study file is validated, which has to answer in
under a second; importing torch alone takes longer. `from kdbench.lazy import torch` in such a file gives the whole of
torch inside functions at the cost of one attribute look-up. (`importlib.util.LazyLoader` would make `import torch`
itself lazy, but for the whole process, plug-ins and libraries included.)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
else:

    class _Lazy:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

        def __repr__(self) -> str:
            return f"<{self._name}, imported at its first use>"

    torch = _Lazy("torch")
