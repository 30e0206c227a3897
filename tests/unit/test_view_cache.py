from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdbench.data.views import Views
from kdbench.errors import KdbenchError
from kdbench.method import Outputs
from kdbench.train.engine import INFERENCE_BATCH
from kdbench.train.view_cache import KEY_PARTS, ViewCache, _Resident, weights_hash
from kdbench.train.view_files import check_caches, clear, list_caches
from kdbench.train.view_table import HEADER_BYTES, ViewTable, cache_folder, check_words, open_table, put_aside, size_of

N, CLASSES, POOLED = 24, 5, 7
KEY = dict.fromkeys(KEY_PARTS, "x")


class Teacher(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Conv2d(1, POOLED, 3, padding=1)
        self.head = nn.Linear(POOLED, CLASSES)
        self.calls = 0

    def forward(self, images: Tensor) -> Outputs:
        self.calls += len(images)
        pooled = self.body(images).relu().mean((2, 3))
        return Outputs(10 * self.head(pooled), pooled)


class Setting:
    """A teacher, the views of some images, and a folder."""

    def __init__(self, folder: Path) -> None:
        generator = torch.Generator().manual_seed(1)
        images = torch.randint(0, 256, (N, 8, 8, 1), dtype=torch.uint8, generator=generator)
        self.views = Views(images, 1, True, (0.5,), (0.25,))
        self.teacher = Teacher().eval()
        self.folder = folder
        self.index = torch.arange(N).repeat_interleave(self.views.count)
        self.view = torch.arange(self.views.count).repeat(N)

    def live(self, index: Tensor, view: Tensor) -> Outputs:
        return self.teacher(self.views.batch(index, view))

    def open(self, pooled: int | None = None, **key: str) -> ViewCache:
        return ViewCache.open(self.folder, {**KEY, **key}, N, self.views.count, CLASSES, pooled, self.live)

    def read(self, cache: ViewCache) -> Outputs:
        return cache.read(self.index, self.view, self.live)

    def live_logits(self) -> Tensor:
        with torch.no_grad():
            return self.live(self.index, self.view).logits

    def quarantined(self) -> list[Path]:
        return sorted(self.folder.glob("*.quarantined-*"))


@pytest.fixture
def here(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def off(cached: Tensor, live: Tensor) -> bool:
    """Whether values differ by more than the rounding to fp16: half a step of 2^-10, 2^-25 near zero."""
    return bool(((cached - live).abs() > 2**-11 * live.abs() + 2**-25).any())


def filled(cache: ViewCache) -> int:
    """Entries that every table has."""
    return min(int(table.filled().sum()) for table in cache.tables)


def test_cached_equals_live_within_fp16_rounding(here: Setting) -> None:
    cache = here.open(pooled=POOLED)
    first, second = here.read(cache), here.read(cache)
    with torch.no_grad():
        live = here.live(here.index, here.view)
    assert not off(first.logits, live.logits) and not off(first.pooled, live.pooled)
    assert torch.equal(first.logits, second.logits) and torch.equal(first.pooled, second.pooled)
    assert first.logits.dtype == torch.float32 and cache.computed == N * here.views.count
    assert filled(cache) == N * here.views.count


def test_another_view_of_the_same_images_is_off(here: Setting) -> None:
    cached = here.read(here.open()).logits
    with torch.no_grad():
        wrong = here.live(here.index, (here.view + 1) % here.views.count).logits
        by_index_only = here.live(here.index, torch.full_like(here.view, here.views.identity)).logits
    assert off(cached, wrong) and off(cached, by_index_only)


def test_a_table_of_another_teacher_is_put_aside(here: Setting, caplog: pytest.LogCaptureFixture) -> None:
    here.read(here.open())
    here.teacher = Teacher(seed=1).eval()
    cache = here.open()
    assert "64 of 64 sampled entries differ from the live teacher, by up to" in caplog.text
    assert len(here.quarantined()) == 1 and filled(cache) == 0
    assert not off(here.read(cache).logits, here.live_logits())


def test_the_new_table_of_a_faster_process_is_left_alone(here: Setting) -> None:
    path = here.open().tables[0].path
    old = path.stat().st_ino
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    new.replace(path)
    put_aside(path, old, "judged before it was replaced")
    assert path.exists() and not here.quarantined()
    put_aside(path, path.stat().st_ino, "judged now")
    assert not path.exists() and len(here.quarantined()) == 1


def test_a_table_of_shifted_views_is_put_aside(here: Setting) -> None:
    here.read(here.open())
    batch = here.views.batch
    here.views.batch = lambda index, view: batch(index, (view + 1) % here.views.count)  # type: ignore[method-assign]
    here.open()
    assert len(here.quarantined()) == 1


def test_the_right_teacher_finds_its_table_and_computes_nothing(here: Setting) -> None:
    expected = here.read(here.open()).logits
    cache = here.open()
    verified = here.teacher.calls
    assert torch.equal(here.read(cache).logits, expected)
    assert cache.computed == 0 and here.teacher.calls == verified and not here.quarantined()


def test_verification_runs_the_teacher_on_64_entries(here: Setting) -> None:
    here.read(here.open())
    before = here.teacher.calls
    here.open()
    assert here.teacher.calls - before == 64


def test_every_part_of_the_key_has_a_table_of_its_own(here: Setting) -> None:
    here.read(here.open())
    for part in KEY_PARTS:
        assert filled(here.open(**{part: "other"})) == 0
    assert len(list_caches(here.folder)) == 1 + len(KEY_PARTS)


@pytest.mark.parametrize("wrong", [{"precision": None}, {"colour": "red"}])
def test_a_key_that_leaves_a_part_out_is_refused(here: Setting, wrong: dict[str, Any]) -> None:
    key = {k: v for k, v in {**KEY, **wrong}.items() if v is not None}
    with pytest.raises(KdbenchError, match=f"missing or unknown: {next(iter(wrong))}"):
        ViewCache.open(here.folder, key, N, here.views.count, CLASSES, None, here.live)


def test_only_what_is_missing_is_computed(here: Setting) -> None:
    cache = here.open()
    cache.read(torch.tensor([3, 4]), torch.tensor([0, 0]), here.live)
    before = here.teacher.calls
    outputs = cache.read(torch.tensor([4, 5, 3, 6]), torch.tensor([0, 0, 0, 0]), here.live)
    assert cache.computed == 4 and here.teacher.calls - before == 2
    with torch.no_grad():
        assert not off(outputs.logits, here.live(torch.tensor([4, 5, 3, 6]), torch.zeros(4, dtype=torch.int64)).logits)


def test_what_another_process_fills_meanwhile_is_not_computed_again(here: Setting) -> None:
    mine, other = here.open(), here.open()

    def interrupted(index: Tensor, view: Tensor) -> Outputs:
        if not other.computed:
            other.fill(here.index, here.view, here.live)  # all of it, while this one computes its first batch
        return here.live(index, view)

    logits = mine.read(here.index, here.view, interrupted).logits
    assert other.computed == len(here.index)
    assert 0 < mine.computed <= INFERENCE_BATCH["cpu"]
    assert not off(logits, here.live_logits())


def test_an_entry_does_not_depend_on_the_batch_that_filled_it(here: Setting, tmp_path: Path) -> None:
    whole = here.read(here.open()).logits
    here.folder = tmp_path / "other"
    single = here.open()
    pairs = zip(here.index.split(1), here.view.split(1), strict=True)
    assert torch.equal(torch.cat([single.read(i, v, here.live).logits for i, v in pairs]), whole)


def test_pooled_features_share_the_table_of_logits(here: Setting) -> None:
    here.read(here.open())
    cache = here.open(pooled=POOLED)
    outputs = here.read(cache)
    assert outputs.pooled.shape == (len(here.index), POOLED) and cache.computed == len(here.index)
    without = here.open()
    assert here.read(without).pooled.shape == (len(here.index), 0) and without.computed == 0


def test_filling_ahead_and_gathering_equals_reading(here: Setting, tmp_path: Path) -> None:
    expected = here.read(here.open(pooled=POOLED))
    here.folder = tmp_path / "other"
    for resident in (False, True):
        cache = here.open(pooled=POOLED)
        if resident:  # the device table of a GPU, on the CPU
            cache._resident = _Resident(cache.tables, torch.device("cpu"))
        order = torch.randperm(len(here.index), generator=torch.Generator().manual_seed(0))
        computed = cache.fill(here.index[order], here.view[order], here.live)
        assert computed == (0 if resident else len(order))
        outputs = cache.gather(here.index, here.view)
        assert torch.equal(outputs.logits, expected.logits) and torch.equal(outputs.pooled, expected.pooled)


def test_outputs_that_do_not_fit_fp16_are_refused(here: Setting) -> None:
    cache = here.open()
    with torch.no_grad():
        here.teacher.head.bias[2] = 1e5
    with pytest.raises(KdbenchError, match=r"do not fit fp16 \(largest 1e\+06, limit 65504\)\. Train with the live"):
        here.read(cache)
    assert filled(cache) == 0


def test_a_teacher_of_another_width_is_refused(here: Setting) -> None:
    cache = ViewCache.open(here.folder, KEY, N, here.views.count, CLASSES + 1, None, here.live)
    with pytest.raises(KdbenchError, match=r"the teacher gave \(5,\), not 6 numbers"):
        here.read(cache)


def test_a_full_disk_only_stops_the_storing(
    here: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = here.open()
    monkeypatch.setattr(os, "pwrite", refuse)
    for _ in range(2):
        assert not off(here.read(cache).logits, here.live_logits())
    assert caplog.text.count("No space left on device; the teacher runs live") == 1


def test_a_folder_that_cannot_be_written_is_named(here: Setting) -> None:
    (here.folder / "file").write_text("")
    here.folder = here.folder / "file"
    with pytest.raises(KdbenchError, match=r"file/\w+-logits\.views: .*Set KDBENCH_CACHE to a folder"):
        here.open()


@pytest.mark.parametrize("size", [0, 100, HEADER_BYTES, HEADER_BYTES + 50, -1])
def test_a_truncated_file_is_put_aside(here: Setting, size: int, caplog: pytest.LogCaptureFixture) -> None:
    path = here.open().tables[0].path
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    cache = here.open()
    assert f"{path}: truncated: " in caplog.text and "a new table is begun" in caplog.text
    assert len(here.quarantined()) == 1
    assert not off(here.read(cache).logits, here.live_logits())


def flip(path: Path, at: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


@pytest.mark.parametrize("at", [0, 9, 13, 60])
def test_a_flipped_bit_in_the_header_is_put_aside(here: Setting, at: int, caplog: pytest.LogCaptureFixture) -> None:
    path = here.open().tables[0].path
    flip(path, at)
    here.open()
    assert len(here.quarantined()) == 1
    assert "not a view table" in caplog.text or "does not fit its checksum" in caplog.text


def test_a_file_under_the_name_of_another_is_put_aside(here: Setting, caplog: pytest.LogCaptureFixture) -> None:
    first, second = here.open().tables[0].path, here.open(split="other").tables[0].path
    second.unlink()
    first.rename(second)
    here.open(split="other")
    assert "made for something else" in caplog.text and len(here.quarantined()) == 1


def test_a_flipped_bit_in_a_sampled_row_puts_the_file_aside(here: Setting, caplog: pytest.LogCaptureFixture) -> None:
    cache = here.open()
    cache.read(here.index[:64], here.view[:64], here.live)
    flip(cache.tables[0].path, HEADER_BYTES + 4 * cache.tables[0].entries + 2 * CLASSES * 17 + 1, bit=6)
    here.open()
    assert "1 of 64 sampled entries do not fit their checksum" in caplog.text and len(here.quarantined()) == 1


def test_a_flipped_bit_in_any_row_counts_as_missing(here: Setting, caplog: pytest.LogCaptureFixture) -> None:
    cache = here.open()
    here.read(cache)
    path = cache.tables[0].path
    flip(path, HEADER_BYTES + 4 * cache.tables[0].entries + 2 * CLASSES * 100 + 3, bit=2)
    assert check_caches(here.folder) == {path: 1}
    assert not off(here.read(cache).logits, here.live_logits())
    assert cache.computed == len(here.index) + 1 and "1 entries do not fit their checksum" in caplog.text
    assert check_caches(here.folder) == {path: 0}


def test_every_single_flipped_bit_of_a_row_changes_its_checksum() -> None:
    row = np.random.default_rng(0).standard_normal(12).astype(np.float16)
    place = np.array([77])
    word = check_words(row[None], place)
    flipped = np.repeat(row[None].view(np.uint16), 12 * 16, axis=0)
    for n in range(12 * 16):
        flipped[n, n // 16] ^= np.uint16(1 << (n % 16))
    assert not (check_words(flipped.view(np.float16), np.repeat(place, 12 * 16)) == word).any()
    assert check_words(row[None], place + 1) != word


FILLER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from kdbench.train.view_table import open_table

path, begin, kill_at, half = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
table = open_table(path, {}, 3000, 10)
calls, pwrite = 0, os.pwrite

def deadly(file, data, at):
    global calls
    calls += 1
    if calls == kill_at:
        pwrite(file, data[: len(data) * half // 2], at)
        os.kill(os.getpid(), signal.SIGKILL)
    return pwrite(file, data, at)

os.pwrite = deadly
order = np.roll(np.arange(3000), -begin)
for part in np.split(order, 300):
    rows = np.sin(part[:, None] * 10 + np.arange(10)).astype(np.float16)
    table.write(part, rows)
    stored, sound = table.read(part)
    assert sound.all() and (stored == rows).all()
"""


def filler(path: Path, begin: int = 0, kill_at: int = 0, half: int = 0) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", FILLER, str(path), str(begin), str(kill_at), str(half)])


def expected_rows() -> np.ndarray:
    return np.sin(np.arange(30_000)).reshape(3000, 10).astype(np.float16)


def test_two_processes_fill_one_table(tmp_path: Path) -> None:
    path = tmp_path / "t.views"
    both = [filler(path), filler(path, begin=1500)]
    assert [process.wait() for process in both] == [0, 0]
    table = open_table(path, {}, 3000, 10)
    rows, sound = table.read(np.arange(3000))
    assert sound.all() and np.array_equal(rows, expected_rows())
    assert [file.name for file in tmp_path.iterdir()] == ["t.views"]


# The first call of a batch writes a row, the second its check word: killed before, in the middle of, and after each.
@pytest.mark.parametrize(("kill_at", "half"), [(201, 0), (201, 1), (201, 2), (202, 0), (202, 1), (202, 2)])
def test_a_filler_that_is_killed_leaves_nothing_wrong(tmp_path: Path, kill_at: int, half: int) -> None:
    path = tmp_path / "t.views"
    assert filler(path, kill_at=kill_at, half=half).wait() == -signal.SIGKILL
    table = open_table(path, {}, 3000, 10)
    rows, sound = table.read(np.arange(3000))
    assert np.count_nonzero(sound) == (101 if (kill_at, half) == (202, 2) else 100)
    assert np.array_equal(rows[sound], expected_rows()[sound])
    table.write(np.arange(3000), expected_rows())
    assert table.read(np.arange(3000))[1].all()


def test_a_new_table_takes_no_room_on_the_disk(tmp_path: Path) -> None:
    entries = 50_000 * 162
    table = open_table(tmp_path / "t.views", {}, entries, 10)
    stat = table.path.stat()
    assert stat.st_size == size_of(entries, 10) == 4096 + 8_100_000 * 24 and stat.st_blocks * 512 < 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's count of mapped pages")
def test_reading_what_is_not_filled_takes_no_memory(tmp_path: Path) -> None:
    def mapped() -> int:  # bytes of files that this process has in its resident set
        return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")

    table = open_table(tmp_path / "holes.views", {}, entries=1_000_000, width=64)  # 128 MB
    before = mapped()
    rows, sound = table.read(np.arange(0, table.entries, 32))  # every page of the rows
    assert not sound.any()
    assert not rows.any()
    assert mapped() - before < 20e6


def test_caches_are_listed_and_cleared(here: Setting) -> None:
    here.read(here.open(pooled=POOLED))
    here.teacher = Teacher(seed=1).eval()
    here.open()
    flip(here.open(data="b").tables[0].path, 0)
    (here.folder / "notes.txt").write_text("mine")
    files = list_caches(here.folder)
    states = sorted(file.state for file in files)
    assert states == ["not a view table of this version", "put aside", "sound", "sound"]
    pooled = next(file for file in files if file.what == "pooled")
    assert pooled.key == KEY and pooled.filled == pooled.entries == len(here.index) and pooled.disk_bytes > 0
    assert clear(here.folder) > 0
    assert [path.name for path in here.folder.iterdir()] == ["notes.txt"] and list_caches(here.folder) == []


def test_the_folder_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    for no_folder in ("", "off"):
        monkeypatch.setenv("KDBENCH_CACHE", no_folder)
        assert cache_folder().parts[-2:] == ("kdbench", "views")


def test_a_relative_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_CACHE", "here/../caches")
    assert cache_folder() == tmp_path.resolve() / "caches"


def test_a_table_that_may_not_be_opened_is_listed_with_the_reason(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = here.open().tables[0].path

    def refused(self: ViewTable, path: Path, *_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(ViewTable, "__init__", refused)
    (file,) = list_caches(here.folder)
    assert file.state == f"[Errno 13] Permission denied: '{path}'" and check_caches(here.folder) == {}


def test_caches_are_listed_without_torch() -> None:
    code = "import sys; from kdbench.train import view_files; view_files.list_caches(); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


def test_weights_of_equal_value_have_one_hash_and_others_another() -> None:
    state = {"a": torch.arange(3.0), "n": torch.tensor(4)}
    assert weights_hash(state) == weights_hash({"n": torch.tensor(4), "a": torch.arange(3.0)})
    value = {**state, "a": torch.tensor([0, 1, 3.0])}
    name = {"b": state["a"], "n": state["n"]}
    dtype = {**state, "n": torch.tensor(4, dtype=torch.int32)}
    assert len({weights_hash(each) for each in (state, value, name, dtype)}) == 4


def test_warnings_go_to_the_log_of_the_view_cache(here: Setting, caplog: pytest.LogCaptureFixture) -> None:
    os.truncate(here.open().tables[0].path, 0)
    here.open()
    assert {(r.name, r.levelno) for r in caplog.records} == {("kdbench.train.view_cache", logging.WARNING)}


def test_the_table_is_read_without_torch() -> None:
    code = "import sys, kdbench.train.view_table; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False" and ViewTable
