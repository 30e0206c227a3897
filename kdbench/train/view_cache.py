"""A frozen teacher's outputs for every view of every image, computed once for all trainings of a node.

RandomCrop with padding 4 and mirroring has 162 views of an image, and a frozen teacher in eval mode is a function of
the view: the table of its logits is finite (0.16 GB for CIFAR-10, 1.6 GB for CIFAR-100, in fp16). It is filled as
training asks for it. Student and teacher see the same crop, and seeds and orders stay independent, because what is
stored is keyed by image and view, never by image alone.

Values are computed in fp32 and rounded to fp16, and a computed value is handed out rounded too, so that what a training
reads does not depend on who filled the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench.errors import KdbenchError, listed
from kdbench.method import Outputs
from kdbench.record import canonical_json
from kdbench.train.engine import INFERENCE_BATCH
from kdbench.train.view_table import SUFFIX, ViewTable, cache_folder, open_table, put_aside, size_of

Compute = Callable[[Tensor, Tensor], Outputs]

KEY_PARTS = ("teacher", "data", "split", "normalisation", "views", "folding", "precision")
SAMPLES = 64
# Two fp16 steps of the row's largest value: rounding is half a step, and another machine's fp32 is far below the rest.
TOLERANCE = 2.0**-10


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values of a state dict: the `teacher` of a key."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\x1f{value.dtype}\x1f{tuple(value.shape)}\x1f".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class ViewCache:
    """The outputs of one teacher for all views of one split. `ViewCache.open` makes one.

    computed: entries that this process had to compute. bytes: size of the tables when full.

    On a GPU the tables are kept in device memory too where they take at most half of what is free; else rows are sent
    from pinned memory.
    """

    def __init__(self, tables: list[ViewTable], n_images: int, views: int, device: torch.device) -> None:
        self.tables, self.n_images, self.views, self.device = tables, n_images, views, device
        self.computed = 0
        self.bytes = sum(size_of(table.entries, table.width) for table in tables)
        self._resident = _Resident.where_it_fits(tables, device)

    @classmethod
    def open(
        cls, folder: Path | None, key_parts: Mapping[str, Any], n_images: int, views: int, classes: int,
        pooled: int | None, verify: Compute, device: torch.device | str = "cpu",
    ) -> ViewCache:  # fmt: skip
        """Open the cache of a key, made if it is missing, and check 64 random entries against the live teacher.

        folder: None for the default of `cache_folder`. key_parts: all that the outputs depend on, exactly the names
        of KEY_PARTS, as JSON values. classes: of the logits. pooled: width of the pooled features, or None if they
        are not needed. verify: the live teacher in fp32 and eval mode, from index and view (B,) on `device` to
        outputs. A table that does not fit is put aside with a warning and a new one begun. Raise KdbenchError for a
        wrong key, and for a folder that cannot be written.
        """
        if set(key_parts) != set(KEY_PARTS):
            odd = listed(sorted(set(key_parts) ^ set(KEY_PARTS)))
            raise KdbenchError(f"the key of a view cache has the parts {listed(KEY_PARTS)}; missing or unknown: {odd}")
        widths = {"logits": classes, **({"pooled": pooled} if pooled else {})}

        def tables() -> list[ViewTable]:
            opened = []
            for what, width in widths.items():
                facts = {"key": dict(key_parts), "what": what, "images": n_images, "views": views}
                name = hashlib.sha256(canonical_json({**facts, "width": width}).encode()).hexdigest()[:16]
                path = (folder or cache_folder()) / f"{name}-{what}{SUFFIX}"
                opened.append(open_table(path, facts, n_images * views, width))
            return opened

        cache = cls(tables(), n_images, views, torch.device(device))
        if reason := cache.mismatch(verify):
            for table in cache.tables:
                table.close()
                put_aside(table.path, table.inode, reason)
            cache = cls(tables(), n_images, views, torch.device(device))
        return cache

    def read(self, index: Tensor, view: Tensor, compute: Compute) -> Outputs:
        """Outputs for views `view` of the images `index`, int64 (B,): logits (B, C), pooled (B, D), float32.

        What is missing is computed by `compute` (as `verify` in `open`) and stored. pooled is (B, 0) where it was not
        asked for. Index and view are best given on the CPU: elsewhere this waits for the device; `fill` and `gather`
        do not.
        """
        entries = (index * self.views + view).cpu().numpy()
        return self._outputs([self._send(torch.from_numpy(rows)) for rows in self._ensure(entries, compute)])

    def fill(self, index: Tensor, view: Tensor, compute: Compute) -> int:
        """Make sure of the entries of a whole epoch, int64 (N,), in large batches; returns how many were computed."""
        before = self.computed
        entries = (index * self.views + view).cpu().numpy()
        for low in range(0, len(entries), 1 << 14):
            part = entries[low : low + (1 << 14)]
            rows = self._ensure(part, compute)
            if self._resident is not None:
                self._resident.upload(part, rows)
        return self.computed - before

    def gather(self, index: Tensor, view: Tensor) -> Outputs:
        """As `read`, for entries that `fill` has made sure of: on a GPU nothing waits. They are not checked again."""
        entries = index * self.views + view
        if self._resident is not None:
            return self._outputs(self._resident.gather(entries))
        on_host = entries.cpu().numpy()
        return self._outputs([self._send(torch.from_numpy(table.read(on_host)[0])) for table in self.tables])

    def mismatch(self, compute: Compute, samples: int = SAMPLES) -> str:
        """Compare random filled entries with the live teacher; say what is wrong, or nothing."""
        filled = np.flatnonzero(np.logical_and.reduce([table.filled() for table in self.tables]))
        if not len(filled):
            return ""
        chosen = np.random.default_rng().choice(filled, min(samples, len(filled)), replace=False)
        live = self._live(chosen, compute)
        for table, fresh in zip(self.tables, live, strict=True):
            stored, sound = table.read(chosen)
            if not sound.all():
                return f"{np.count_nonzero(~sound)} of {len(chosen)} sampled entries do not fit their checksum"
            error = np.abs(stored.astype(np.float32) - fresh)
            off = (error > TOLERANCE * np.abs(fresh).max(axis=1, keepdims=True)).any(axis=1)
            if off.any():
                return (
                    f"{np.count_nonzero(off)} of {len(chosen)} sampled entries differ from the live teacher, "
                    f"by up to {error.max():.3g}"
                )
        return ""

    def _ensure(self, entries: np.ndarray, compute: Compute) -> list[np.ndarray]:
        """Rows fp16 of every table; what is missing, torn or damaged in any of them is computed and stored."""
        read = [table.read(entries) for table in self.tables]
        missing = np.flatnonzero(~np.logical_and.reduce([sound for _, sound in read]))
        size = INFERENCE_BATCH[self.device.type]
        batches = [missing[low : low + size] for low in range(0, len(missing), size)]
        # In an order of its own: another process that needs the same at the same time begins elsewhere.
        for turn, number in enumerate(np.random.default_rng().permutation(len(batches))):
            where = batches[number]
            if turn and self._filled_meanwhile(entries, where, read):
                continue
            self.computed += len(where)
            for table, (rows, _), fresh in zip(self.tables, read, self._live(entries[where], compute), strict=True):
                with np.errstate(over="ignore"):
                    rounded = fresh.astype(np.float16)
                if not np.isfinite(rounded).all():
                    raise KdbenchError(
                        f"the teacher's outputs do not fit fp16 (largest {np.abs(fresh).max():.3g}, limit 65504). "
                        "Train with the live teacher instead of the view cache."
                    )
                rows[where] = rounded
                table.write(entries[where], rounded)
        return [rows for rows, _ in read]

    def _filled_meanwhile(
        self, entries: np.ndarray, where: np.ndarray, read: list[tuple[np.ndarray, np.ndarray]]
    ) -> bool:
        """Whether another process has computed this whole batch by now; then its rows are put into `read`."""
        again = [table.read(entries[where]) for table in self.tables]
        whole = all(sound.all() for _, sound in again)
        if whole:
            for (rows, _), (fresh, _) in zip(read, again, strict=True):
                rows[where] = fresh
        return whole

    def _live(self, entries: np.ndarray, compute: Compute) -> list[np.ndarray]:
        """The live teacher's rows in fp32, one array (B, width) for each table."""
        # A matrix product of one row takes another path through BLAS than one of two, and differs in the last bit.
        padded = np.repeat(entries, 2) if len(entries) == 1 else entries
        index, view = (torch.from_numpy(part).to(self.device) for part in np.divmod(padded, self.views))
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            outputs = compute(index, view)
        found = [outputs.logits, outputs.pooled][: len(self.tables)]
        rows = [part.detach().float().cpu().numpy()[: len(entries)] for part in found]
        for table, part in zip(self.tables, rows, strict=True):
            if part.shape != (len(entries), table.width):
                raise KdbenchError(
                    f"view cache {table.path}: the teacher gave {part.shape[1:]}, not {table.width} numbers"
                )
        return rows

    def _send(self, rows: Tensor) -> Tensor:
        if self.device.type == "cuda":
            rows = rows.pin_memory()
        return rows.to(self.device, non_blocking=True)

    def _outputs(self, rows: list[Tensor]) -> Outputs:
        logits, *pooled = (part.float() for part in rows)
        return Outputs(logits, pooled[0] if pooled else logits.new_empty(len(logits), 0))


class _Resident:
    """A copy of the tables in device memory, filled as entries are asked for."""

    def __init__(self, tables: list[ViewTable], device: torch.device) -> None:
        shapes = [(table.entries, table.width) for table in tables]
        self.rows = [torch.zeros(shape, dtype=torch.float16, device=device) for shape in shapes]
        self.here = np.zeros(tables[0].entries, dtype=bool)

    @classmethod
    def where_it_fits(cls, tables: list[ViewTable], device: torch.device) -> _Resident | None:
        """A copy on a GPU that has twice the room, else None."""
        if device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(device)
        needed = sum(table.entries * table.width * 2 for table in tables)
        return cls(tables, device) if 2 * needed <= free else None

    def upload(self, entries: np.ndarray, rows: list[np.ndarray]) -> None:
        """Copy what is not here yet."""
        new = np.flatnonzero(~self.here[entries])
        where = torch.from_numpy(entries[new])
        for mine, fresh in zip(self.rows, rows, strict=True):
            mine[where.to(mine.device)] = torch.from_numpy(fresh[new]).to(mine.device)
        self.here[entries] = True

    def gather(self, entries: Tensor) -> list[Tensor]:
        """Rows fp16 (B, width) of each table."""
        return [mine.index_select(0, entries) for mine in self.rows]
