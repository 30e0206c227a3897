"""Whether a teacher is looked up in the view cache. Without torch, because a run asks before it trains anything."""

from __future__ import annotations

import os

from kdbench.method import Method


def cache_in_use() -> bool:
    """Whether teachers are looked up in the view cache where they can be: unless KDBENCH_CACHE is `off`."""
    return os.environ.get("KDBENCH_CACHE") != "off"


def served_by_cache(method: Method) -> bool:
    """Whether a method looks at nothing of its teacher but logits and pooled features of the views themselves."""
    return set(method.reads) <= {"logits", "pooled"} and not method.has_inputs and not method.unlabelled
