"""Images as they travel through Ray's object store: plain values, and arrays that every worker of a node maps."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench.data import Splits
from kdbench.data.config import DataConfig
from kdbench.data.splits import Labelled

PLAIN = ("classes", "image_shape", "mean", "std", "crop", "flip", "hash", "class_names")


def pack(splits: Splits) -> dict[str, Any]:
    """Training, validation and unlabelled images, and what is known of them. Never the test images."""
    return {
        "config": splits.config.to_json(),
        **{name: getattr(splits, name) for name in PLAIN},
        "train": _arrays(splits.train),
        "validation": _arrays(splits.validation),
        "indices": {name: positions.numpy() for name, positions in splits.indices.items()},
        "unlabelled": None if splits.unlabelled is None else splits.unlabelled.numpy(),
    }


def unpack(parcel: dict[str, Any]) -> Splits:
    """Inverse of `pack`. The tensors share their memory with the parcel and must not be written, as all of Splits."""
    config = parcel["config"]
    classes = config.get("classes")
    return Splits(
        config=DataConfig(**{**config, "classes": None if classes is None else tuple(classes)}),
        **{name: parcel[name] for name in PLAIN},
        train=_labelled(parcel["train"]),
        validation=_labelled(parcel["validation"]),
        test=None,
        test_hash=None,
        indices={name: _tensor(positions) for name, positions in parcel["indices"].items()},
        unlabelled=None if parcel["unlabelled"] is None else _tensor(parcel["unlabelled"]),
    )


def pack_test(splits: Splits) -> dict[str, Any] | None:
    """The test images and their hash; None where the data have none."""
    return None if splits.test is None else {"test": _arrays(splits.test), "test_hash": splits.test_hash}


def with_test(splits: Splits, parcel: dict[str, Any] | None) -> Splits:
    """The splits together with what `pack_test` gave."""
    if parcel is None:
        return splits
    return replace(splits, test=_labelled(parcel["test"]), test_hash=parcel["test_hash"])


def _arrays(part: Labelled) -> tuple[np.ndarray, np.ndarray]:
    return part.images.numpy(), part.labels.numpy()


def _labelled(arrays: tuple[np.ndarray, np.ndarray]) -> Labelled:
    return Labelled(_tensor(arrays[0]), _tensor(arrays[1]))


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # and nobody writes it
        return torch.from_numpy(array)
