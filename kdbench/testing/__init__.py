"""Checks that every method must pass, kdbench's own and those of plug-ins.

`check_method(methods.get("mine"))` runs it on tiny networks; `check_training(methods.get("mine"), folder)` trains it on
real images, and needs a folder to do so.
"""

from __future__ import annotations

from kdbench.testing.batches import Batch, make_batch
from kdbench.testing.conformance import CHECKS, check_method, combinations, run_check
from kdbench.testing.declaration import check_declaration, check_docstring, variants
from kdbench.testing.networks import PAIRS, Pair, TinyConv, TinyMLP, TinyPatches
from kdbench.testing.scene import Scene
from kdbench.testing.training import Bench, check_training

__all__ = [
    "CHECKS",
    "PAIRS",
    "Batch",
    "Bench",
    "Pair",
    "Scene",
    "TinyConv",
    "TinyMLP",
    "TinyPatches",
    "check_declaration",
    "check_docstring",
    "check_method",
    "check_training",
    "combinations",
    "make_batch",
    "run_check",
    "variants",
]
