"""A mirror that is written beside a running study and can never disturb it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from kdbench.record import TrialRecord
from kdbench.redact import shown
from kdbench.track.mirror import Mirror

CLOSE_S = 20.0  # how long the end of a study waits for MLflow
SETTLE_S = 20.0  # how long a study waits for MLflow before its end, in all
PAUSE_S = 60.0  # before a store that failed is tried again; twice as long after each further failure
LONGEST_PAUSE_S = 900.0
STALE_S = 30.0  # a failure that is older says little about now, so the end of a study tries once more

log = logging.getLogger("kdbench.track")


class BackgroundMirror:
    """Writes records to MLflow in one thread of its own, which starts with the first record.

    No method waits for MLflow (except `close` and `settle`, within a bound) or raises. An error, be it a missing
    MLflow, a server that is down, or a full disk, is logged as one line and kept in `error` until MLflow is written
    again, which is tried after a pause. What is not written by the end `kdbench sync` writes from the records.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.error: str | None = None
        self._where = folder, uri
        self._mirror = Mirror(folder, uri)
        self._pending: dict[str, TrialRecord] = {}
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._patience_s = SETTLE_S
        self._pause_s = PAUSE_S
        self._failed_at = self._retry_at = -float("inf")

    def write(self, record: TrialRecord) -> None:
        """Queue one record."""
        self.sync([record])

    def sync(self, records: Iterable[TrialRecord]) -> None:
        """Queue records, such as all of earlier runs of the study, so that the mirror lacks none of them."""
        listed = {record.key: record for record in records}
        with self._news:
            if self._closed or not listed:
                return
            self._pending.update(listed)
            self._news.notify_all()
            if self._thread is None:
                # A daemon: a store that hangs must not keep the process from ending.
                self._thread = threading.Thread(target=self._work, name="kdbench-mlflow", daemon=True)
                self._thread.start()

    def settle(self, timeout: float = SETTLE_S) -> None:
        """Wait until what is queued is written, or has failed: `timeout` seconds, and SETTLE_S in all calls."""
        began = time.monotonic()
        with self._news:
            self._news.wait_for(
                lambda: not self._pending or self.error is not None, timeout=min(timeout, self._patience_s)
            )
        self._patience_s = max(0.0, self._patience_s - (time.monotonic() - began))

    def close(self, timeout: float = CLOSE_S) -> tuple[str, ...]:
        """Write what is queued, for at most `timeout` seconds; return the keys that are not known to be written."""
        with self._news:
            self._closed = True
            if time.monotonic() - self._failed_at > STALE_S:
                self._retry_at = self._failed_at
            self._news.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
        with self._news:
            return tuple(self._pending)

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._put(batch)
            except Exception as error:
                self._failed(error)
            else:
                self._written(batch)

    def _next(self) -> list[TrialRecord]:
        """Wait for what is to be written. Nothing: there will be no more, or none that could be written."""
        with self._news:
            while True:
                pause_s = self._retry_at - time.monotonic()
                if self._pending and pause_s <= 0:
                    return list(self._pending.values())
                if self._closed:
                    return []
                self._news.wait(pause_s if self._pending else None)

    def _put(self, batch: list[TrialRecord]) -> None:
        """Write records. A latency is added to runs of other records, so it comes last and on its own."""
        trials = [record for record in batch if record.spec.phase != "latency"]
        if len(trials) > 1:  # what piled up while the store was slow costs one search
            self._mirror.sync(trials)
        for record in trials if len(trials) == 1 else []:
            self._mirror.write(record)
        for record in batch:
            if record.spec.phase == "latency":
                self._mirror.write(record)

    def _written(self, batch: list[TrialRecord]) -> None:
        with self._news:
            for record in batch:
                if self._pending.get(record.key) is record:
                    del self._pending[record.key]
            failed, self.error, self._pause_s = self.error, None, PAUSE_S
            self._news.notify_all()
        if failed is not None:
            log.warning("MLflow can be written again, and lacks nothing")

    def _failed(self, error: Exception) -> None:
        text = shown(" ".join(f"{error}".split())) or type(error).__name__
        with self._news:
            first, self.error = self.error is None, text
            self._failed_at = time.monotonic()
            self._retry_at, self._pause_s = self._failed_at + self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._news.notify_all()
        self._mirror = Mirror(*self._where)  # what this one knows of the store may not hold any more
        if first:
            log.warning("MLflow lacks what comes now, and the study goes on (later: kdbench sync): %s", text)
