"""Outputs on their way out: gathered into batches, but never kept while nothing happens."""

from __future__ import annotations

import threading
import time

from modal._protocol.messages.call import BATCH_BYTES, BATCH_INPUTS
from modal._protocol.messages.worker import RunOutputs

from intermodal.runner.link import Link

HOLD_SECONDS = 0.002  # how long an output may wait for company while the next input runs


class Outbox:
    """Safe to use from several threads."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._tokens: list[int] = []
        self._statuses: list[int] = []
        self._values: list[bytes] = []
        self._blobs: list[str] = []
        self._durations: list[float] = []
        self._any_blob = False
        self._bytes = 0
        self._oldest = 0.0

    def put(self, token: int, status: int, value: bytes, blob: str = "", duration: float = 0.0) -> None:
        """Keep one output; sends when the batch is full or its first output has waited long enough."""
        with self._lock:
            if not self._tokens:
                self._oldest = time.perf_counter()
            self._tokens.append(token)
            self._statuses.append(status)
            self._values.append(value)
            self._blobs.append(blob)
            self._durations.append(round(duration, 6))
            self._any_blob = self._any_blob or bool(blob)
            self._bytes += len(value)
            full = len(self._tokens) >= BATCH_INPUTS or self._bytes >= BATCH_BYTES
            if full or time.perf_counter() - self._oldest > HOLD_SECONDS:
                self._flush()

    def flush(self) -> None:
        """Send what is there."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if not self._tokens:
            return
        blobs = self._blobs if self._any_blob else []
        message = RunOutputs(self._tokens, self._statuses, self._values, blobs, self._durations)
        self._tokens, self._statuses, self._values = [], [], []
        self._blobs, self._durations = [], []
        self._any_blob, self._bytes = False, 0
        self._link.send(message)

    def __len__(self) -> int:
        return len(self._tokens)
