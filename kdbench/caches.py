"""Where kdbench keeps what it can compute again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of view caches, absolute: KDBENCH_CACHE, else `views` in the user's cache folder of kdbench.

    `off` in KDBENCH_CACHE makes trainings go without; it names no folder.
    """
    if (named := os.environ.get("KDBENCH_CACHE")) and named != "off":
        return Path(named).expanduser().resolve()
    import platformdirs  # inside, so that training itself needs nothing but torch and numpy

    return Path(platformdirs.user_cache_dir("kdbench")) / "views"
