"""Names that become paths stay below their root: real links, real archives, names that climb."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from untrusted import STUDY, file, record

from kdbench import data
from kdbench.errors import DataError, KdbenchError, StudyError
from kdbench.scaffold import write_method
from kdbench.store import Store, write_atomic
from kdbench.study.load import load_study

CLIMBING = ["..", "../x", "/etc/passwd", "a/b", "a\\b", ".hidden", "", "x\n", "x\x00", "é", "-rf", "~", "x" * 101]


@pytest.mark.parametrize("key", CLIMBING)
def test_a_key_that_is_no_plain_name_becomes_no_path(tmp_path: Path, key: str) -> None:
    store = Store(tmp_path)
    for path_of in (store.record_path, store.weights_path, store.work_folder):
        with pytest.raises(KdbenchError, match="as the key of a training"):
            path_of(key)


@pytest.mark.parametrize("name", CLIMBING)
def test_a_study_of_such_a_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.yaml"
    written = name.encode("unicode_escape").decode().replace("\\\\", "\\\\")
    path.write_text(STUDY.replace("study: small", f'study: "{written}"'))
    with pytest.raises(StudyError, match="study"):
        load_study(path)


@pytest.mark.parametrize("place", ["data: {name: digits,", "data: {folder: x, name: digits,"])
@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a\\0b", "a\\eb", "x" * 300])
def test_a_data_set_of_such_a_name_is_refused(tmp_path: Path, place: str, name: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY.replace("data: {name: digits,", place.replace("digits", f'"{name}"')))
    with pytest.raises(StudyError, match=r"s\.yaml:\d+:\d+: data"):
        load_study(path)


@pytest.mark.parametrize("name", ["../../evil", "/evil", "Evil", "a.b", "a b", "x\n", "", "..", "import"])
def test_a_new_method_of_such_a_name_is_not_written(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    with pytest.raises(KdbenchError):
        write_method(name, folder)
    assert list(tmp_path.rglob("*.py")) == []


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    file(folder, record().to_json())
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    return folder


def test_a_record_behind_a_link_that_leads_out_is_not_read(study: Path, outside: Path) -> None:
    (study / "records").mkdir()
    link = study / "records" / f"{record().key}.json"
    link.symlink_to(outside / "records" / link.name)
    records, messages = Store(study).read_all()
    assert not records and "a symbolic link leads out of the study's folder" in messages[0]
    assert (outside / "records" / link.name).exists()


def test_a_records_folder_behind_such_a_link_is_neither_read_nor_written(study: Path, outside: Path) -> None:
    (study / "records").symlink_to(outside / "records")
    before = sorted(outside.rglob("*"))
    store = Store(study)
    for attempt in (lambda: store.read_all(), lambda: store.write(record())):
        with pytest.raises(KdbenchError, match="leads out of the study's folder"):
            attempt()
    assert sorted(outside.rglob("*")) == before


def test_weights_and_work_behind_such_a_link_have_no_path(study: Path, outside: Path) -> None:
    store = Store(study)
    (study / "weights").symlink_to(outside)
    (study / "work").mkdir()
    (study / "work" / "abc").symlink_to("../../outside")
    with pytest.raises(KdbenchError, match="leads out"):
        store.weights_path("abc")
    with pytest.raises(KdbenchError, match="leads out"):
        store.work_folder("abc")
    assert store.work_folder("def") == study / "work" / "def"


def test_a_lock_behind_such_a_link_does_not_empty_the_file_behind_it(study: Path, outside: Path) -> None:
    (study / "lock").symlink_to(outside / "secret.txt")
    with pytest.raises(KdbenchError, match="leads out"), Store(study).lock():
        pass
    assert (outside / "secret.txt").read_text() == "secret"


def test_a_link_within_the_folder_and_a_link_to_the_folder_are_fine(study: Path, tmp_path: Path) -> None:
    (study / "elsewhere").mkdir()
    (study / "records").symlink_to("elsewhere")
    (tmp_path / "link").symlink_to(study)
    store = Store(tmp_path / "link")
    store.write(record())
    assert store.read(record().key) == record()


def test_a_link_that_waits_under_the_temporary_name_is_not_written_through(study: Path, outside: Path) -> None:
    import os

    target = study / "file.json"
    (study / f".file.json.{os.getpid()}.partial").symlink_to(outside / "secret.txt")
    write_atomic(target, b"new")
    assert target.read_bytes() == b"new" and not target.is_symlink()
    assert (outside / "secret.txt").read_text() == "secret"


def test_a_link_that_waits_under_the_final_name_is_replaced_and_not_followed(study: Path, outside: Path) -> None:
    (study / "current.json").symlink_to(outside / "secret.txt")
    write_atomic(study / "current.json", b"{}")
    assert (outside / "secret.txt").read_text() == "secret"


def test_an_image_behind_a_link_that_leaves_its_folder_is_refused(tmp_path: Path, outside: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.png").symlink_to(outside / "secret.txt")
    with pytest.raises(DataError, match="a symbolic link that leaves the folder"):
        data.describe({"folder": str(tmp_path / "images")})


def test_members_of_an_archive_that_climb_are_read_in_place_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setenv("KDBENCH_DATA", str(root))
    with zipfile.ZipFile(root / "odd.npz", "w") as archive:
        for name in ("../../climbed.npy", "/tmp/absolute.npy", "train_images.npy"):
            content = io.BytesIO()
            np.save(content, np.zeros((4, 8, 8), np.uint8))
            archive.writestr(name, content.getvalue())
        link = zipfile.ZipInfo("linked.npy")
        link.external_attr = 0o120777 << 16  # a symbolic link, as Unix archives mark one
        archive.writestr(link, str(tmp_path / "secret"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError):
        data.describe("odd")
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/absolute.npy").exists()
