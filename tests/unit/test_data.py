from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from kdbench import data
from kdbench.data import torchvision as download
from kdbench.data.sets.digits import Digits
from kdbench.data.splits import moments
from kdbench.data.stratify import choose
from kdbench.errors import DataError

DIGITS = {"name": "digits", "validation": 300}


def available() -> list[object]:
    found: list[object] = ["digits"]
    names = ("cifar10", "cifar100")
    return found + [pytest.param(name, marks=pytest.mark.cifar) for name in names if data.describe(name).available]


def test_describing_data_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from kdbench import data; data.describe('digits'); data.known(); data.describe('cifar10');"
        "data.problems({'name': 'digits', 'validation': 300});"
        "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    env = {**os.environ, "KDBENCH_DATA": "/nowhere"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert out.strip() == "[]"


def test_a_relative_data_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_DATA", "sets")
    assert data.data_root() == tmp_path.resolve() / "sets"


def test_the_facts_of_digits_are_those_of_its_arrays() -> None:
    info = data.describe("digits")
    images, labels = Digits().read(Path(), "train")
    test_images, test_labels = Digits().read(Path(), "test")
    assert images.shape == (info.n_train, 8, 8, 1) and test_images.shape == (info.n_test, 8, 8, 1)
    assert info.image_shape == (1, 8, 8) and info.classes == len(np.unique(labels))
    mean, std = moments(images)
    assert info.mean == pytest.approx(mean, abs=5e-5) and info.std == pytest.approx(std, abs=5e-5)
    # load_digits has 178, 182, 177, 183, 181, 182, 181, 179, 174, 180 images of 0 to 9. Times 360 / 1797: 35.66, 36.46,
    # 35.46, 36.66, 36.26, 36.46, 36.26, 35.86, 34.86, 36.06; the five largest remainders go to 7, 8, 3, 0 and 1.
    assert np.bincount(test_labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]


def test_digits_scale_sixteen_levels_to_a_byte() -> None:
    images, _ = Digits().read(Path(), "train")
    # x * 255 / 16 = 15.9375 x, rounded: 1 -> 16, 8 -> 127.5 -> 128 (to even), 15 -> 239, 16 -> 255
    levels = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    assert np.unique(images).tolist() == levels


def test_the_parts_of_digits_are_disjoint_and_complete() -> None:
    from sklearn.datasets import load_digits

    parts = [Digits().read(Path(), split)[0] for split in ("train", "test")]
    rows = np.concatenate(parts).reshape(1797, 64)
    whole = np.rint(load_digits().images * (255 / 16)).astype(np.uint8).reshape(1797, 64)
    assert sorted(map(bytes, rows)) == sorted(map(bytes, whole))


def test_splits_are_disjoint_stratified_and_the_same_every_time() -> None:
    first, second = data.load(DIGITS), data.load(DIGITS)
    assert first.hash == second.hash
    train, validation = first.indices["train"].tolist(), first.indices["validation"].tolist()
    assert len(train) == 1137 and len(validation) == 300 and not set(train) & set(validation)
    shares = torch.bincount(first.validation.labels).float() / 300
    whole = torch.bincount(torch.cat([first.train.labels, first.validation.labels])).float() / 1437
    assert (shares - whole).abs().max() < 1 / 300


def test_a_split_never_changes_from_one_release_to_the_next() -> None:
    labels = np.arange(1000) % 7
    # Recorded with numpy 2.4; the stream of RandomState is frozen (NEP 19). One image each of the classes 0 to 4, whose
    # 143 images of 1000 leave larger remainders of 5 than the 142 of class 6, and which come before class 5.
    assert choose(labels, 5, 12345678901234567).tolist() == [135, 154, 165, 472, 932]


def test_another_split_seed_gives_another_split_and_another_hash() -> None:
    first, second = data.load(DIGITS), data.load({**DIGITS, "split_seed": 1})
    assert first.hash != second.hash
    assert first.indices["validation"].tolist() != second.indices["validation"].tolist()


def test_the_validation_split_does_not_depend_on_what_is_done_with_the_rest() -> None:
    plain = data.load(DIGITS).indices["validation"].tolist()
    for change in ({"train": 100}, {"rotate": 90}, {"crop": 2}, {"flip": True}):
        assert data.load({**DIGITS, **change}).indices["validation"].tolist() == plain


def test_augmentation_is_no_part_of_the_hash_but_pixels_and_labels_are() -> None:
    plain = data.load(DIGITS).hash
    assert data.load({**DIGITS, "crop": 2, "flip": True}).hash == plain
    others = [data.load({**DIGITS, **change}).hash for change in ({"rotate": 180}, {"train": 100}, {"validation": 0})]
    assert len({plain, *others}) == 4


def test_train_takes_so_many_of_the_images_that_validation_leaves() -> None:
    splits = data.load({**DIGITS, "train": 100})
    whole = set(data.load(DIGITS).indices["train"].tolist())
    assert len(splits.train) == 100 and set(splits.indices["train"].tolist()) <= whole
    assert torch.bincount(splits.train.labels).min() >= 9


def test_classes_are_kept_and_numbered_in_the_order_given() -> None:
    splits = data.load({"name": "digits", "validation": 50, "classes": [7, 5, 9]}, test=True)
    images, labels = Digits().read(Path(), "train")
    for part in ("train", "validation"):
        mine = getattr(splits, part)
        rows = splits.indices[part].numpy()
        assert np.array_equal(mine.images.numpy(), images[rows])
        assert [[7, 5, 9][label] for label in mine.labels.tolist()] == labels[rows].tolist()
    assert splits.classes == 3 and splits.test is not None and splits.test.labels.unique().tolist() == [0, 1, 2]


def test_rotation_turns_counter_clockwise() -> None:
    plain, turned = data.load(DIGITS), data.load({**DIGITS, "rotate": 90})
    # Counter-clockwise: what was the right column, read from top to bottom, is now the top row.
    assert torch.equal(turned.train.images[:, 0], plain.train.images[:, :, -1])
    assert torch.equal(turned.train.labels, plain.train.labels)


def test_test_images_are_there_only_when_asked_for() -> None:
    without, with_test = data.load(DIGITS), data.load(DIGITS, test=True)
    assert without.test is None and without.test_hash is None
    assert with_test.test is not None and len(with_test.test) == 360 and with_test.test_hash
    assert with_test.hash == without.hash


def test_validation_may_be_left_out_or_be_none() -> None:
    assert len(data.load({"name": "digits"}).validation) == 143  # a tenth of 1437
    none = data.load({"name": "digits", "validation": 0})
    assert len(none.validation) == 0 and len(none.train) == 1437


def test_splits_json_holds_positions_and_hashes() -> None:
    stored = json.loads(json.dumps(data.split_indices(data.load(DIGITS))))
    assert stored["hash"] == data.load(DIGITS).hash and len(stored["train"]) == 1137
    assert stored["config"]["validation"] == 300
    assert stored["test"] is None and stored["test_hash"] is None
    with_test = data.load(DIGITS, test=True)
    assert data.split_indices(with_test) == {**stored, "test": 360, "test_hash": with_test.test_hash}


@pytest.mark.parametrize("name", available())
def test_every_available_set_loads_as_it_is_described(name: str) -> None:
    info = data.describe(name)
    splits = data.load({"name": name, "validation": info.n_train // 2, "train": 1000 if info.n_train > 2000 else None})
    channels, height, width = info.image_shape
    assert splits.validation.images.shape == (info.n_train // 2, height, width, channels)
    assert splits.train.images.dtype == torch.uint8 and splits.train.labels.dtype == torch.int64
    assert splits.train.labels.unique().tolist() == list(range(info.classes))
    assert (splits.crop, splits.flip, splits.mean) == (info.crop, info.flip, info.mean)


BROKEN = [
    ({"validation": 1437}, "data.validation: 1437. Allowed: images of the 1437 for training, 0 to 1436."),
    ({"validation": True}, "data.validation: True. Allowed: images"),
    ({"train": 0}, "data.train: 0. Allowed: images of the 1437 for training, 1 to 1437."),
    ({"train": 1300}, "data.train: 1300. Allowed: 1 to 1294, what validation leaves."),
    ({"validation": 300, "classes": [0, 1]}, "data.validation: 300 of the 287 images of 'digits' leave none"),
    ({"classes": [0, 10]}, "data.classes: 10. Allowed: a list of at least two different classes of 'digits', 0 to 9."),
    ({"classes": [3, 3]}, "data.classes: [3, 3]. Allowed:"),
    ({"classes": [3]}, "data.classes: [3]. Allowed:"),
    ({"classes": "0-4"}, "data.classes: '0-4'. Allowed:"),
    ({"rotate": 45}, "data.rotate: 45. Allowed: 0, 90, 180, 270 degrees."),
    ({"crop": 8}, "data.crop: 8. Allowed: pixels of padding, 0 to 7."),
    ({"flip": 1}, "data.flip: 1. Allowed: true, false"),
    ({"split_seed": None}, "data.split_seed: None. Allowed: a whole number, at least 0."),
    ({"valdation": 5}, "data.valdation: unknown field. Did you mean 'validation'? Fields: name, validation"),
    ({"name": "digit"}, "data.name: unknown data set 'digit'. Did you mean 'digits'? Known:"),
    ({"name": "../digits"}, "data.name: unknown data set '../digits'."),
    ({"name": None}, "data.name: None. Allowed: the name of a data set."),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_a_wrong_configuration_says_what_is_allowed(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as error:
        data.load({"name": "digits", **change})
    assert str(error.value).startswith(message)


def test_all_mistakes_are_told_at_once() -> None:
    found = data.problems({"name": "digits", "rotate": 1, "crop": 99, "x": 0})
    assert [field for field, _ in found] == ["x", "crop", "rotate"]


def test_constant_channels_can_be_divided_by() -> None:
    assert moments(np.full((2, 3, 3, 1), 51, np.uint8)) == ((pytest.approx(0.2),), (1.0,))


def test_moments_are_those_of_numpy() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 5, 4, 3), dtype=np.uint8)
    mean, std = moments(images)
    assert mean == pytest.approx((images / 255).mean((0, 1, 2))) and std == pytest.approx((images / 255).std((0, 1, 2)))


def test_without_file_and_network_one_error_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    began = time.monotonic()
    with pytest.raises(DataError) as error:
        data.load({"name": "cifar10"})
    assert time.monotonic() - began < 8 and error.value.__cause__ is None
    for part in ("'cifar10'", str(tmp_path), "Name or service not known", "Set KDBENCH_DATA", "cifar10.npz"):
        assert part in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PROBE_S", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(2) or [])
    assert download.unreachable("http://kdbench.invalid/") == "no answer within 0.2 s"


class Published:
    """Stands for a class of torchvision.datasets."""

    url = "http://kdbench.invalid/"
    fails: Exception | None = None

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        if self.fails:
            raise self.fails
        n = 20 if train else 10
        self.data = np.full((n, 32, 32, 3), 7 if train else 9, np.uint8)
        self.targets = [i % 10 for i in range(n)]


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path / "root"))
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Published)
    monkeypatch.setattr(download, "unreachable", lambda url: "")
    return tmp_path / "root"


def test_a_known_set_is_downloaded_once_into_the_data_root(online: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not data.describe("cifar10").available
    splits = data.load({"name": "cifar10", "validation": 5}, test=True)
    assert splits.test is not None and splits.test.images.unique().tolist() == [9] and len(splits.train) == 15
    assert [path.name for path in online.iterdir()] == ["cifar10.npz"]
    info = data.describe("cifar10")
    assert info.available and (info.n_train, info.n_test) == (20, 10)
    monkeypatch.setattr(Published, "fails", RuntimeError("asked twice"))
    data.prepare("cifar10")


def test_a_failed_download_leaves_nothing_behind(online: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Published, "fails", RuntimeError("File not found or corrupted."))
    with pytest.raises(DataError, match=r"the download failed: File not found or corrupted\. Set KDBENCH_DATA"):
        data.prepare("cifar10")
    assert list(online.iterdir()) == []
