"""What uploads and downloads of many files share: threads, and how far they are."""

from __future__ import annotations

import threading
from typing import Any, Callable, List, Optional

PARALLEL = 8  # threads that hash, send and fetch

Report = Callable[[int, int, int, int], None]  # files done, files in all, bytes done, bytes in all


class Progress:
    """Counts what is done; `report` is told after each file. For several threads."""

    def __init__(self, report: Optional[Report], sizes: List[int]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._all_files, self._all_bytes = len(sizes), sum(sizes)
        self._files = self._bytes = 0

    def reset(self) -> None:
        """All of it is done once more."""
        self._files = self._bytes = 0

    def add(self, size: int) -> None:
        """One more file, of so many bytes."""
        with self._lock:
            self._files += 1
            self._bytes += size
            if self._report is not None:
                self._report(self._files, self._all_files, self._bytes, self._all_bytes)


def in_threads(work: Callable[[Any], Any], items: List[Any]) -> List[Any]:
    """The results in order; the first failure ends it."""
    if len(items) < 2:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(PARALLEL, len(items)), "modal-volume") as pool:
        pending = [pool.submit(work, item) for item in items]
        try:
            return [one.result() for one in pending]
        except BaseException:
            for one in pending:
                one.cancel()
            raise
