"""What uploads and downloads of many files share: threads, batches, and how far they are."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, TypeVar

from modal._protocol.messages.volume import PORTION

T = TypeVar("T")

PARALLEL = 8  # threads that hash, send and fetch
BATCH_BYTES = 4 << 20  # of small files in one message
BATCH_FILES = 1000
SMALL = 1 << 20  # bytes; larger files travel alone

Progress = Callable[[int, int, int, int], None]  # files done, files in all, bytes done, bytes in all


class Advance:
    """How far an upload or download has come, told to whoever draws it. Any number of threads may tell."""

    def __init__(self, progress: Optional[Progress], files: int, size: int) -> None:
        self._progress = progress
        self._totals = (files, size)
        self._lock = threading.Lock()
        self._partly: Dict[str, int] = {}  # of files that are under way: bytes that have come
        self._files = 0
        self._bytes = 0
        self._stopped = False

    def at(self, name: str, position: int) -> None:
        """So much of the file is done; it may be less than before, where a part is sent again.

        Raises Stopped after `stop`.
        """
        self.go_on()
        if self._progress is None:
            return
        with self._lock:
            self._bytes += position - self._partly.get(name, 0)
            self._partly[name] = position
            self._tell()

    def done(self, name: str, size: int) -> None:
        """All of the file is."""
        with self._lock:
            self._files += 1
            self._bytes += size - self._partly.pop(name, 0)
            self._tell()

    def go_on(self) -> None:
        """Raises Stopped after `stop`."""
        if self._stopped:
            raise Stopped

    def stop(self) -> None:
        """Another thread has failed, or the user has had enough: what is under way is to end."""
        self._stopped = True

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._files, self._totals[0], self._bytes, self._totals[1])


class Stopped(Exception):
    """The transfer has been given up."""


def in_threads(work: Callable[[Any], Any], items: List[Any], advance: Optional[Advance] = None) -> List[Any]:
    """The results in order; the first failure ends it, and what is under way where `advance` is told of it."""
    if not items:
        return []
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(PARALLEL, len(items)), "modal-volume") as pool:
        pending = [pool.submit(work, item) for item in items]
        try:
            return [one.result() for one in pending]
        except BaseException:
            for one in pending:
                one.cancel()
            if advance is not None:
                advance.stop()
            raise


def batches(items: Iterable[T], cost: Callable[[T], Optional[Tuple[int, int]]]) -> Iterator[List[T]]:
    """What travels in one message. `cost`: bytes of an item's content and of its entry; None: it travels alone."""
    batch: List[T] = []
    size = header = 0
    for item in items:
        costs = cost(item)
        if costs is None:
            yield [item]
            continue
        full = size + costs[0] > BATCH_BYTES or header + costs[1] > PORTION or len(batch) >= BATCH_FILES
        if batch and full:
            yield batch
            batch, size, header = [], 0, 0
        batch.append(item)
        size += costs[0]
        header += costs[1]
    if batch:
        yield batch
