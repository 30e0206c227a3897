"""The data of a training as a plain mapping: what is allowed in it, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from kdbench.data._base import DataInfo
from kdbench.data.find import describe
from kdbench.errors import DataError, did_you_mean, listed

ROTATIONS = (0, 90, 180, 270)


@dataclass(frozen=True)
class DataConfig:
    """Which images are trained on, and how they are augmented; every field resolved.

    name: data set. validation: images set aside for validation, stratified by class; by default the set's own
    validation split, or a tenth of the training images. split_seed: of that choice. train: use only that many of the
    remaining images (None: all). classes: keep only these classes, relabelled from 0 in this order (None: all).
    rotate: turn all images counter-clockwise by that many degrees. crop: padding in pixels of the random crop. flip:
    mirror half of the images.
    """

    name: str
    validation: int | None = None
    split_seed: int = 0
    train: int | None = None
    classes: tuple[int, ...] | None = None
    rotate: int = 0
    crop: int | None = None
    flip: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary, as stored."""
        return asdict(self)

    def n_classes(self, info: DataInfo) -> int:
        """Number of classes that are left."""
        return info.classes if self.classes is None else len(self.classes)

    def image_shape(self, info: DataInfo) -> tuple[int, int, int]:
        """(C, H, W) after the rotation."""
        channels, height, width = info.image_shape
        return (channels, width, height) if self.rotate in (90, 270) else (channels, height, width)


def problems(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """All that is wrong with a configuration: pairs of field and sentence. Imports no torch and reads no images."""
    names = [f.name for f in fields(DataConfig)]
    found = [
        (str(key), f"unknown field.{did_you_mean(str(key), names)} Fields: {listed(names)}.")
        for key in config
        if key not in names
    ]
    if not isinstance(config.get("name"), str):
        return [*found, ("name", f"{config.get('name')!r}. Allowed: the name of a data set.")]
    try:
        info = describe(config["name"])
    except DataError as error:
        return [*found, ("name", str(error))]
    return [*found, *_numbers(config, info), *_tasks(config, info)]


def _numbers(config: Mapping[str, Any], info: DataInfo) -> list[tuple[str, str]]:
    def outside(field: str, low: int, high: float, what: str) -> list[tuple[str, str]]:
        value = config.get(field)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is None or (whole and low <= value <= high):
            return []
        limits = f"at least {low}" if high == float("inf") else f"{low} to {high:g}"
        return [(field, f"{value!r}. Allowed: {what}, {limits}.")]

    images = f"images of the {info.n_train} for training"
    found = [
        *outside("split_seed", 0, float("inf"), "a whole number"),
        *outside("train", 1, info.n_train, images),
        *outside("crop", 0, min(info.image_shape[1:]) - 1, "pixels of padding"),
    ]
    if "split_seed" in config and config["split_seed"] is None:
        found.append(("split_seed", "None. Allowed: a whole number, at least 0."))
    if info.n_validation and config.get("validation") not in (None, 0, info.n_validation):
        own = f"'{info.name}' has its own validation split of that many images"
        found.append(("validation", f"{config['validation']!r}. Allowed: {info.n_validation} or nothing, since {own}."))
    elif not info.n_validation:
        found += outside("validation", 0, info.n_train - 1, images)
    return found


def _tasks(config: Mapping[str, Any], info: DataInfo) -> list[tuple[str, str]]:
    found = []
    if config.get("rotate", 0) not in ROTATIONS or isinstance(config.get("rotate"), bool):
        found.append(("rotate", f"{config['rotate']!r}. Allowed: {listed(map(str, ROTATIONS))} degrees."))
    if not isinstance(config.get("flip"), bool | None):
        found.append(("flip", f"{config['flip']!r}. Allowed: true, false, or nothing for the data set's default."))
    classes = config.get("classes")
    if classes is None:
        return found
    allowed = f"Allowed: a list of at least two different classes of '{info.name}', 0 to {info.classes - 1}."
    if not isinstance(classes, list | tuple):
        found.append(("classes", f"{classes!r}. {allowed}"))
    elif odd := [c for c in classes if type(c) is not int or not 0 <= c < info.classes]:
        found.append(("classes", f"{listed(map(repr, odd))}. {allowed}"))
    elif len(set(classes)) != len(classes) or len(classes) < 2:
        found.append(("classes", f"{list(classes)}. {allowed}"))
    return found


def resolve(config: Mapping[str, Any]) -> tuple[DataConfig, DataInfo]:
    """The configuration with every default filled in but `validation`, and the facts of its data set.

    `validation` stays None until the images are counted (see `load`). Raise DataError with one line for each problem.
    """
    if found := problems(config):
        raise DataError("\n".join(f"data.{field}: {sentence}" for field, sentence in found))
    info = describe(config["name"])
    classes, crop, flip = config.get("classes"), config.get("crop"), config.get("flip")
    values = {
        **config,
        "classes": None if classes is None else tuple(classes),
        "crop": info.crop if crop is None else crop,
        "flip": info.flip if flip is None else flip,
    }
    return DataConfig(**values), info
