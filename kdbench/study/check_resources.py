"""Check what the resources of a study say about its cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdbench.redact import redact
from kdbench.study.explain import Finding
from kdbench.study.words import got


def check_resources(resources: dict[str, Any]) -> Iterator[Finding]:
    """The address of the cluster and the place of its checkpoints."""
    local = resources.get("executor") == "local"
    for field in ("ray_address", "storage"):
        if local and resources.get(field) is not None:
            yield Finding(("resources", field), "no effect with executor: local. Remove it, or use executor: ray.")
    address, storage = resources.get("ray_address"), resources.get("storage")
    if isinstance(address, str) and not local:
        if address.startswith("ray://"):
            what = (
                "is an address of Ray Client. Allowed: auto, or host:port of the head node, on a node of the cluster."
            )
            yield Finding(("resources", "ray_address"), f"got {got(redact(address))}, which {what}")
        elif address not in ("auto", "local") and not address.rpartition(":")[2].isdecimal():
            what = "Allowed: auto, local, or host:port of the head node, such as 10.0.0.1:6379."
            yield Finding(("resources", "ray_address"), f"got {got(redact(address))}. {what}")
    if isinstance(storage, str) and not local and "://" not in storage and not Path(storage).is_absolute():
        what = f"got {got(storage)}. Allowed: a folder with its whole path, or a URL such as s3://bucket/prefix."
        yield Finding(("resources", "storage"), what)
