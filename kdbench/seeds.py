"""Random seeds by name, never by the order of calls, so that adding a draw never shifts another."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, *names: str | int) -> int:
    """Derive a seed in [0, 2**63) from a study or trial seed and the name of what is drawn.

    `seed_for(7, "order", 3)` is the seed of the data order of epoch 3 in trial seed 7. The same arguments give the
    same seed on every machine and Python version.
    """
    text = "\x1f".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
