"""Check the section `evaluation` of a study against its data and its teachers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdbench.data import DataInfo, describe
from kdbench.data.corruptions import CORRUPTIONS, possible
from kdbench.errors import DataError, listed
from kdbench.study.explain import Finding
from kdbench.study.words import got
from kdbench.study.yaml_source import Path

AT = ("evaluation", "corruptions")


def check_evaluation(raw: Mapping[str, Any], images: Mapping[str, Any]) -> Iterator[Finding]:
    """What the section asks for that the study cannot give. images: the right fields of the study's section `data`."""
    section = raw.get("evaluation")
    if not isinstance(section, dict):
        return
    corruptions = section.get("corruptions")
    if section.get("agreement") is True and raw.get("teacher") is None and not raw.get("pairs"):
        yield Finding(("evaluation", "agreement"), "there is no teacher to agree with. Add a teacher, or remove it.")
    if corruptions is None and section.get("agreement", False) is False:
        yield Finding(("evaluation",), "nothing is measured. Add agreement: true or corruptions, or remove it.", "key")
    if not isinstance(corruptions, dict):
        return
    for field in ("names", "severities"):
        yield from _twice((*AT, field), corruptions.get(field))
    try:
        yield from _check_images(corruptions, describe(images))
    except DataError:
        return  # reported with the data


def _twice(path: Path, written: Any) -> Iterator[Finding]:
    values = written if isinstance(written, list) else []
    for i, value in enumerate(values):
        if value in values[:i]:
            yield Finding((*path, i), f"got {got(value)} twice. Keep one of them.")


def _check_images(corruptions: Mapping[str, Any], info: DataInfo) -> Iterator[Finding]:
    """Whether there are such images."""
    if len(info.image_shape) != 3:
        yield Finding(AT, f"'{info.name}' holds rows of numbers, and only images are corrupted. Remove it.", "key")
        return
    names, images = corruptions.get("names"), corruptions.get("images")
    able = possible(info.image_shape[0])
    for i, name in enumerate(names if isinstance(names, list) else ()):
        if name in CORRUPTIONS and name not in able:
            what = f"{name} needs images in colour, and those of '{info.name}' are grey. Allowed: {listed(able)}."
            yield Finding((*AT, "names", i), what)
    if type(images) is int and info.n_test and images > info.n_test:
        yield Finding((*AT, "images"), f"got {images}. Allowed: up to the {info.n_test} test images of '{info.name}'.")
