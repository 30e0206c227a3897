"""What the processes of a training need on a machine that has neither the data nor the study's folder: left in files.

A worker that gets its images from elsewhere hands them on to the processes that it starts; safetensors and JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench import data
from kdbench.data.config import DataConfig
from kdbench.data.splits import Labelled, Splits
from kdbench.errors import DataError
from kdbench.record import Job, TrialSpec, canonical_json
from kdbench.store import Store
from kdbench.train import checkpoint
from kdbench.train.workshop import TEST_PHASES, Folder, Workshop

PLAIN = ("classes", "image_shape", "mean", "std", "crop", "flip", "hash", "test_hash", "class_names")
LABELLED = ("train", "validation", "test")


def pack(job: Job, shop: Workshop, folder: Path) -> str | None:
    """Leave the splits of a job and of its networks in a folder, and the networks' weights where the store has them;
    returns the folder. None where every process of this machine finds them by itself.

    The test images are among them only where the job may see them.
    """
    if isinstance(shop.source, Folder):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for spec in (job.spec, *job.needs):
        path = _path(folder, spec.data)
        if not path.exists():
            _write(path, shop.source.splits(spec.data, test=spec is job.spec and spec.phase in TEST_PHASES))
    for spec in job.needs:
        shop.source.weights(spec, "network")
    return str(folder)


class Parcel:
    """The source (see kdbench/train/workshop.py) that reads what `pack` left."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder

    def splits(self, config: Mapping[str, Any], *, test: bool = False) -> Splits:
        """The images of a data configuration. Raise DataError for one that is not here."""
        path = _path(self.folder, config)
        if not path.exists():
            raise DataError(f"the images of '{data.label(config)}' were not handed to the processes of this training")
        splits = _read(path)
        if test and splits.test is None:
            raise DataError(f"the test images of '{data.label(config)}' were not handed to this training")
        return splits

    def weights(self, spec: TrialSpec, role: str) -> Path:
        """The file where the store has it."""
        return Folder(self.store).weights(spec, role)


def _path(folder: Path, config: Mapping[str, Any]) -> Path:
    return folder / f"{hashlib.sha256(canonical_json(dict(config)).encode()).hexdigest()[:16]}.safetensors"


def _write(path: Path, splits: Splits) -> None:
    tensors = {f"indices.{name}": positions for name, positions in splits.indices.items()}
    for name in LABELLED:
        if (part := getattr(splits, name)) is not None:
            tensors |= {f"{name}.images": part.images, f"{name}.labels": part.labels}
    if splits.unlabelled is not None:
        tensors["unlabelled"] = splits.unlabelled
    facts = {name: getattr(splits, name) for name in PLAIN}
    checkpoint.save(path, tensors, {**facts, "config": splits.config.to_json()})


def _read(path: Path) -> Splits:
    tensors, facts = checkpoint.load(path)
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.pop("config").items()}
    parts = {
        name: Labelled(tensors[f"{name}.images"], tensors[f"{name}.labels"]) if f"{name}.images" in tensors else None
        for name in LABELLED
    }
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    indices = {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith("indices.")}
    return Splits(config=DataConfig(**config), indices=indices, unlabelled=tensors.get("unlabelled"), **parts, **plain)  # type: ignore[arg-type]
