"""Directories watched for changes, by `watchfiles`, in a thread."""

from __future__ import annotations

import threading
from typing import Any, Callable, Iterable, List, Optional

STEP = 60  # milliseconds without a change after which a burst of changes is over
BURST = 600  # milliseconds after which a burst is told at the latest

Changed = Callable[[List[str]], None]


class Watch:
    """Calls `on_change` with paths in (not below) the directories, until it is closed."""

    def __init__(self, directories: Iterable[str], on_change: Changed, on_polling: Callable[[], None]) -> None:
        """Raises ImportError where watchfiles is missing. Changes from the return of this call on are told."""
        import watchfiles

        self._library = watchfiles
        self._directories = list(directories)
        self._on_change = on_change
        self._on_polling = on_polling
        self._stop = threading.Event()
        self._armed = threading.Event()
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, name="modal-watch", daemon=True)
        self._thread.start()
        self._armed.wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Nothing is told any more."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def _run(self) -> None:
        try:
            self._follow(polling=None)
        except (OSError, RuntimeError):  # mostly: the kernel allows no more watches to this user
            self._on_polling()
            try:
                self._follow(polling=True)
            except (OSError, RuntimeError) as error:
                self._error = error
        finally:
            self._armed.set()

    def _follow(self, polling: Optional[bool]) -> None:
        options: Any = {"force_polling": polling} if polling else {}
        changes = self._library.watch(
            *self._directories,
            watch_filter=None,
            debounce=BURST,
            step=STEP,
            stop_event=self._stop,
            rust_timeout=STEP,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
            ignore_permission_denied=True,
            **options,
        )
        for found in changes:  # empty when nothing happened for a while, which is also how it says that it has begun
            self._armed.set()
            if found and not self._stop.is_set():
                self._on_change([path for _change, path in found])
