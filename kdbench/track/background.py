"""A mirror that is written beside a running study and can never disturb it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from kdbench.record import TrialRecord
from kdbench.track.mirror import Mirror

log = logging.getLogger("kdbench.track")


class BackgroundMirror:
    """Writes records to MLflow in one thread of its own, which starts with the first record.

    No method waits for MLflow (except `close`, within a bound) or raises. The first error, be it a missing MLflow, a
    server that is down, or a full disk, is logged as one line and kept in `error`; what comes later is dropped, because
    `kdbench sync` can write it from the records at any time.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.error: str | None = None
        self._mirror = Mirror(folder, uri)
        self._queue: queue.SimpleQueue[list[TrialRecord] | TrialRecord | None] = queue.SimpleQueue()
        self._pending: dict[str, None] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def write(self, record: TrialRecord) -> None:
        """Queue one record."""
        self._put(record, [record.key])

    def sync(self, records: Iterable[TrialRecord]) -> None:
        """Queue all records of earlier runs of the study, so that the mirror lacks none of them."""
        listed = list(records)
        self._put(listed, [record.key for record in listed])

    def settle(self, timeout: float = 30.0) -> None:
        """Wait until what is queued is written, or given up, for at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self._pending and self.error is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def close(self, timeout: float = 30.0) -> tuple[str, ...]:
        """Write what is queued, for at most `timeout` seconds; return the keys that are not known to be written."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._queue.put(None)
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            return tuple(self._pending)

    def _put(self, item: list[TrialRecord] | TrialRecord, keys: list[str]) -> None:
        with self._lock:
            if self._closed or not keys:
                return
            self._pending.update(dict.fromkeys(keys))
            if self.error is not None:
                return
            self._queue.put(item)
            if self._thread is None:
                # A daemon: a store that hangs must not keep the process from ending.
                self._thread = threading.Thread(target=self._work, name="kdbench-mlflow", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.error is not None:
                continue
            try:
                records = item if isinstance(item, list) else [item]
                if isinstance(item, list):
                    self._mirror.sync(item)
                else:
                    self._mirror.write(item)
            except Exception as error:
                self._give_up(error)
                continue
            with self._lock:
                for record in records:
                    self._pending.pop(record.key, None)

    def _give_up(self, error: Exception) -> None:
        text = " ".join(f"{error}".split()) or type(error).__name__
        with self._lock:
            self.error = text
        log.warning("the MLflow mirror stops here and the study goes on (later: kdbench sync): %s", text)
