from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench import data
from kdbench.errors import DataError


def arrays(classes: int = 3, **changed: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    out: dict[str, Any] = {}
    for split, n in (("train", 60), ("test", 12)):
        out[f"{split}_images"] = random.integers(0, 256, (n, 6, 5, 3), dtype=np.uint8)
        out[f"{split}_labels"] = np.arange(n) % classes
    return {k: v for k, v in {**out, **changed}.items() if v is not None}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    return tmp_path


def write(root: Path, name: str = "mine", **changed: Any) -> Path:
    path = root / f"{name}.npz"
    np.savez(path, **arrays(**changed))
    return path


def test_any_file_of_the_data_root_is_a_data_set(root: Path) -> None:
    write(root)
    assert "mine" in data.known() and "cifar10" in data.known()
    info = data.describe("mine")
    assert (info.classes, info.image_shape, info.n_train, info.n_test, info.n_validation) == (3, (3, 6, 5), 60, 12, 0)
    assert (info.crop, info.flip, info.mean) == (0, False, None)
    splits = data.load({"name": "mine", "validation": 12, "rotate": 90}, test=True)
    assert splits.image_shape == (3, 5, 6) and splits.train.images.shape == (48, 5, 6, 3)
    assert splits.mean == pytest.approx(arrays()["train_images"].mean((0, 1, 2)) / 255)


def test_grey_images_and_columns_of_labels_are_read_as_medmnist_writes_them(root: Path) -> None:
    new = {
        "train_images": np.zeros((60, 6, 5), np.uint8),
        "train_labels": (np.arange(60) % 3)[:, None].astype(np.uint8),
    }
    write(root, **new, test_images=np.zeros((12, 6, 5), np.uint8))
    splits = data.load({"name": "mine", "validation": 0})
    assert splits.train.images.shape == (60, 6, 5, 1) and splits.train.labels.tolist() == [0, 1, 2] * 20


def test_a_validation_split_of_the_file_is_used_as_it_is(root: Path) -> None:
    own = np.full((9, 6, 5, 3), 77, np.uint8)
    write(root, val_images=own, val_labels=np.arange(9) % 3)
    splits = data.load({"name": "mine"})
    assert len(splits.train) == 60 and splits.validation.images.unique().tolist() == [77]
    assert data.load({"name": "mine", "validation": 9}).hash == splits.hash
    assert len(data.load({"name": "mine", "validation": 0}).validation) == 0
    assert data.load({"name": "mine", "classes": [2, 1]}).validation.labels.tolist() == [1, 0, 1, 0, 1, 0]
    with pytest.raises(DataError, match=r"Allowed: 9 or nothing, since 'mine' has its own validation split of that"):
        data.load({"name": "mine", "validation": 20})


def test_without_test_the_test_arrays_are_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root)
    read: list[str] = []
    original = np.lib.npyio.NpzFile.__getitem__
    monkeypatch.setattr(
        np.lib.npyio.NpzFile, "__getitem__", lambda file, key: (read.append(key), original(file, key))[1]
    )
    data.load({"name": "mine"})
    assert set(read) == {"train_images", "train_labels"}
    data.load({"name": "mine"}, test=True)
    assert set(read) == {"train_images", "train_labels", "test_images", "test_labels"}


def test_a_text_beside_the_file_is_part_of_the_facts(root: Path) -> None:
    write(root, train_images=np.zeros((60, 32, 32, 3), np.uint8), test_images=np.zeros((12, 32, 32, 3), np.uint8))
    (root / "mine.npz").rename(root / "cifar100.npz")
    (root / "cifar100.txt").write_text("98 images are\n  JPEG copies\n")
    write(root)
    (root / "mine.txt").write_text("from the lab")
    assert data.describe("mine").note == "from the lab"
    assert data.describe("cifar100").note.endswith("as published; 98 images are JPEG copies")


def test_a_changed_file_changes_the_hash(root: Path) -> None:
    write(root)
    first = data.load({"name": "mine"}).hash
    images = arrays()["train_images"].copy()
    images[17, 3, 3, 1] ^= 1
    write(root, train_images=images)
    assert data.load({"name": "mine"}).hash != first


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"test_labels": None}, "test_labels: missing; the file has train_images, train_labels, test_images. Needed:"),
    ({"val_images": np.zeros((3, 6, 5, 3), np.uint8)}, "val_labels: missing"),
    ({"train_images": np.zeros((60, 6, 5, 3))}, "train_images: dtype float64. Allowed: uint8"),
    ({"train_images": np.zeros((60, 30), np.uint8)}, "train_images: shape (60, 30). Allowed: (N, H, W)"),
    ({"train_images": np.zeros((60, 3, 32, 32), np.uint8)}, "train_images: shape (60, 3, 32, 32). Allowed: (N, H, W)"),
    ({"train_images": np.zeros((0, 6, 5, 3), np.uint8)}, "train_images: shape (0, 6, 5, 3). Allowed: (N, H, W)"),
    ({"test_images": np.zeros((12, 6, 6, 3), np.uint8)}, "test_images: shape (12, 6, 6, 3) beside train_images"),
    ({"train_labels": np.arange(59) % 3}, "train_labels: 59 labels for 60 images. Allowed: one label"),
    ({"train_labels": np.zeros(60)}, "train_labels: dtype float64. Allowed: an integer dtype."),
    ({"train_labels": np.zeros((60, 14), int)}, "train_labels: shape (60, 14). Allowed: (N,) or (N, 1)"),
    ({"train_labels": np.array(["a"] * 60)}, "train_labels: dtype <U1. Allowed: an integer dtype."),
    ({"train_labels": np.array([{}] * 60)}, "train_labels: pickled objects, which are never loaded."),
    ({"train_images": np.array([{}] * 60)}, "train_images: pickled objects, which are never loaded."),
    (
        {"train_labels": np.arange(60) % 3 + 1},
        "train_labels: 3 distinct labels from 1 to 3. Allowed: every class from 0",
    ),
    ({"train_labels": np.arange(60) % 3 - 1}, "train_labels: 3 distinct labels from -1 to 1. Allowed:"),
    ({"train_labels": np.arange(60) % 3 * 2}, "train_labels: 3 distinct labels from 0 to 4. Allowed: every class"),
    ({"train_labels": np.zeros(60, int)}, "train_labels: one class only. Allowed: at least two classes."),
]


@pytest.mark.parametrize(("changed", "message"), BROKEN)
def test_a_malformed_file_is_named_with_key_got_and_allowed(root: Path, changed: dict[str, Any], message: str) -> None:
    path = write(root, **changed)
    with pytest.raises(DataError) as error:
        data.describe("mine")
    assert str(error.value).startswith(f"{path}: {message}")
    assert data.listing()["mine"]["error"] == str(error.value)


def test_a_bad_file_does_not_hide_the_others_from_the_listing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root)
    (root / "no archive.npz").write_bytes(b"x")
    (root / "folder.npz").mkdir()
    locked = io.BytesIO()
    with zipfile.ZipFile(locked, "w") as archive:
        archive.writestr("train_images.npy", b"")
    # The bit of the general-purpose flags that says "encrypted", in the local header and in the central directory.
    content = bytearray(locked.getvalue())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + place] |= 1
    (root / "locked.npz").write_bytes(content)
    rows = data.listing()
    assert "error" not in rows["mine"] and rows["mine"]["n_train"] == 60
    for name in ("no archive", "folder", "locked"):
        assert set(rows[name]) == {"name", "error"} and name in rows[name]["error"]
    assert "encrypted" in rows["locked"]["error"]


def test_labels_of_the_test_split_are_checked_when_it_is_read(root: Path) -> None:
    path = write(root, test_labels=np.full(12, 3))
    data.load({"name": "mine"})
    with pytest.raises(DataError) as error:
        data.load({"name": "mine"}, test=True)
    assert str(error.value).startswith(f"{path}: test_labels: 1 distinct labels from 3 to 3. Allowed: 0 to 2.")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99, -1])
def test_a_truncated_file_is_told(root: Path, keep: float) -> None:
    path = write(root)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(DataError, match=r"mine\.npz: not a readable \.npz file: .* truncated or damaged"):
        data.load({"name": "mine"})


def test_a_flipped_bit_in_the_pixels_is_told(root: Path) -> None:
    path = write(root)
    damaged = bytearray(path.read_bytes())
    damaged[3000] ^= 16  # within train_images, the first array
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"train_images: .*mine\.npz: not a readable \.npz file: Bad CRC-32"):
        data.load({"name": "mine"})


def test_a_known_name_with_other_images_is_refused(root: Path) -> None:
    path = write(root, "cifar10")
    with pytest.raises(DataError) as error:
        data.describe("cifar10")
    assert str(error.value) == f"{path}: train_images: images of shape (6, 5, 3). Allowed for cifar10: (32, 32, 3)."


def test_labels_of_a_known_set_stay_within_its_classes(root: Path) -> None:
    images = {"train_images": np.zeros((60, 32, 32, 3), np.uint8), "test_images": np.zeros((12, 32, 32, 3), np.uint8)}
    write(root, "cifar10", **images, train_labels=np.arange(60) % 11)
    with pytest.raises(DataError, match=r"train_labels: 11 distinct labels from 0 to 10\. Allowed: 0 to 9\."):
        data.load({"name": "cifar10"})
