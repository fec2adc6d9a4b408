"""Serving: holds the app, watches the program's files, and lets a new process publish each new version."""

from __future__ import annotations

import os
import queue
import sys
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from modal._protocol.messages.app import AppCreate, AppCreated, AppEnded
from modal._protocol.messages.call import CallStats
from modal._protocol.messages.log import LogBatch
from modal._running import stop_app
from modal._sync import run
from modal.cli.failures import FAILED
from modal.cli.serving.attempt import Attempt
from modal.cli.serving.inventory import CHANGING, MISSING, Entry, Inventory, fingerprint
from modal.cli.serving.watch import Watch

if TYPE_CHECKING:
    from modal._attachment import Attachment
    from modal._client import Client
    from modal._output.sink import TerminalSink
    from modal._protocol.message import Message
    from modal.cli.program import Reference

SETTLE = 0.1  # seconds without a further change after which the program is read again
RETURN = 0.4  # seconds that a file may be gone: some editors delete before they write
LOOK = 1.0  # seconds between looks at whether the app still lives
RESTLESS = 5  # times in a row that a file may change while the program is imported
BEGINNING = "image_step"  # from this event on, a build of the version before is shared with the newer one


class Serving:
    """`run` serves until the app ends, the time is over, or KeyboardInterrupt."""

    def __init__(
        self, reference: Reference, environment: str, client: Client, sink: TerminalSink, timeout: Optional[float]
    ) -> None:
        self._reference = reference
        self._environment = environment
        self._client = client
        self._sink = sink
        self._timeout = timeout
        self._deadline: Optional[float] = None
        self._queue: queue.Queue[Tuple[Optional[Attempt], Any]] = queue.Queue()
        self._attempt: Optional[Attempt] = None  # the newest
        self._outdated: Optional[Attempt] = None  # the one before, while a build of it may still be of use
        self._began = 0.0
        self._imported = False  # the newest attempt has told what the program consists of
        self._inventory = Inventory()
        self._watch: Optional[Watch] = None
        self._polls = False
        self._pending: Dict[Entry, None] = {}
        self._settled_at: Optional[float] = None
        self._restless: Dict[Entry, int] = {}
        self._app_id = ""
        self._name = ""
        self._attachment: Optional[Attachment] = None
        self._ended: Optional[str] = None  # why the app is no more
        self._published = 0  # versions
        self._urls: Dict[str, str] = {}
        self._seen_urls: Dict[str, str] = {}

    def run(self) -> int:
        """The exit status."""
        try:
            self._start_attempt()
            while True:
                attempt, event = self._next()
                if event is not None:
                    code = self._take(attempt, event)
                    if code is not None:
                        return code
                now = time.monotonic()
                if self._settled_at is not None and now >= self._settled_at:
                    self._settle()
                if self._deadline is not None and now >= self._deadline:
                    self._sink.screen.line(f"The time is over: served for {self._timeout:g} seconds.")
                    return 0
                attachment = self._attachment
                if attachment is not None and attachment.ended.is_set():
                    return self._lost(attachment)
        finally:
            self._end()

    # -- what happens
    def _next(self) -> Tuple[Optional[Attempt], Any]:
        times = [at for at in (self._settled_at, self._deadline) if at is not None]
        wait = min([LOOK, *(max(0.0, at - time.monotonic()) for at in times)])
        try:
            return self._queue.get(timeout=wait)
        except queue.Empty:
            return None, None

    def _take(self, attempt: Optional[Attempt], event: Dict[str, Any]) -> Optional[int]:
        kind = event["event"]
        if kind == "changed":
            self._changed(event["paths"])
        elif attempt is self._attempt and attempt is not None:
            return self._take_newest(attempt, kind, event)
        elif attempt is self._outdated and attempt is not None:
            if kind == "published":  # it had leave already when the next change came
                self._take_published()
            elif kind == "exit":
                self._outdated = None
        return None

    def _take_newest(self, attempt: Attempt, kind: str, event: Dict[str, Any]) -> Optional[int]:
        if kind == "output":
            self._sink.screen.write(event["stream"], event["text"], owner="program")
        elif kind == "sink":
            self._show(event["method"], event["args"], event["kwargs"])
        elif kind == "files":
            self._take_files(event)
        elif kind == "app":
            self._hold_app(event["name"], event["description"])
            attempt.tell({"app_id": self._app_id})
        elif kind == "ready":
            self._drop_outdated()
            attempt.tell({})
        elif kind == "published":
            self._take_published()
        elif kind == "exit":
            self._drop_outdated()
            self._attempt = None
            if event["code"] != 0:
                return self._failed(event["code"])
        return None

    def _changed(self, paths: List[str]) -> None:
        """Something happened to these paths: look closer when it is quiet again."""
        entries = self._inventory.touched(paths)
        if not entries:
            return
        self._pending.update(dict.fromkeys(entries))
        gone = any(fingerprint(entry) == MISSING != self._inventory.known[entry] for entry in entries)
        self._settled_at = time.monotonic() + (RETURN if gone else SETTLE)

    def _settle(self) -> None:
        """A burst of changes is over."""
        entries, self._pending, self._settled_at = list(self._pending), {}, None
        changed = self._inventory.changed(entries)
        self._inventory.settle(changed)
        if self._attempt is None or self._imported:
            self._restless.clear()
        changed = [entry for entry in changed if not self._is_restless(entry)]
        if not changed:
            return
        names = list(dict.fromkeys(_shown(path) for _kind, path in changed))
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        self._say(f"{', '.join(names[:2])}{more} changed: updating the app ...")
        self._start_attempt()

    def _is_restless(self, entry: Entry) -> bool:
        """Whether a file seems to change because the program is imported, which would never end."""
        if self._attempt is None or self._imported:
            return False
        count = self._restless[entry] = self._restless.get(entry, 0) + 1
        if count == RESTLESS + 1:
            self._say(f"{_shown(entry[1])} changes each time the program is imported: that is not looked at any more.")
        return count > RESTLESS

    def _start_attempt(self) -> None:
        if self._attempt is not None:
            if self._outdated is not None:
                self._outdated.kill()
            self._outdated = self._attempt
        self._began = time.monotonic()
        self._imported = False
        self._urls = {}
        job = {"reference": list(self._reference), "environment": self._environment, "argv": sys.argv}
        self._attempt = Attempt(job, lambda attempt, event: self._queue.put((attempt, event)))

    def _drop_outdated(self) -> None:
        if self._outdated is not None:
            self._outdated.kill()
            self._outdated = None

    def _take_files(self, event: Dict[str, Any]) -> None:
        self._imported = True
        known = {(kind, path): print_ for kind, path, print_ in event["known"]}
        if event["failed"]:  # what is served meanwhile consists of more
            known = {**self._inventory.known, **known}
        self._inventory = Inventory(known)
        self._arm()
        changed = self._inventory.changed()  # while nobody watched, or while it was read
        if changed:
            if any(known[entry] == CHANGING for entry in changed):
                self._imported = False  # counts as a change during the import
            self._pending.update(dict.fromkeys(changed))
            self._settled_at = time.monotonic() + SETTLE

    def _arm(self) -> None:
        before = self._watch
        self._watch = Watch(
            self._inventory.directories(),
            lambda paths: self._queue.put((None, {"event": "changed", "paths": paths})),
            self._polling,
        )
        if before is not None:
            before.close()

    def _polling(self) -> None:
        if not self._polls:
            self._polls = True
            self._say(
                "The kernel allows no more file watches (fs.inotify.max_user_watches): files are looked at in turn "
                "instead, which is slower."
            )

    # -- the app
    def _hold_app(self, name: str, description: str) -> None:
        if self._app_id:
            if name != self._name:
                self._say(f"The app goes on as {self._name!r}: start `modal serve` again to serve it as {name!r}.")
            return
        request = AppCreate(description, name, self._environment)
        created = run(self._client.request(request, AppCreated))
        self._app_id, self._name = created.app_id, name
        self._sink.app_created(created.app_id, description, created.url, False)
        self._attachment = self._client.attach(created.app_id, self._listen, hold=True)

    def _listen(self, message: Message) -> None:
        """In the attachment's thread."""
        if isinstance(message, LogBatch):
            self._sink.logs(self._app_id, message.entries)
        elif isinstance(message, CallStats):
            self._sink.stats(message)
        elif isinstance(message, AppEnded):
            self._ended = message.reason

    def _take_published(self) -> None:
        self._published += 1
        seconds = time.monotonic() - self._began
        if self._published == 1:
            if self._timeout is not None:
                self._deadline = time.monotonic() + self._timeout
            self._sink.app_running(self._app_id)
            self._say("⚡ Serving. Save a file to update the app; press Ctrl-C to stop it.")
        else:
            fresh = [f"{name} => {url}" for name, url in self._urls.items() if self._seen_urls.get(name) != url]
            self._say("\n  ".join([f"✓ Updated in {seconds:.1f} s.", *fresh]))
        self._seen_urls = self._urls

    def _failed(self, code: int) -> Optional[int]:
        """The exit status where nothing is served yet."""
        if not self._published:
            return code if code > 0 else FAILED
        self._say("✗ The update failed: the version before goes on. Save a file to try again.")
        return None

    def _lost(self, attachment: Attachment) -> int:
        self._app_id = ""
        if attachment.error is not None:
            raise attachment.error
        self._sink.app_stopped(attachment.app_id, "", self._ended or "it was stopped by somebody else")
        return FAILED

    def _end(self) -> None:
        if self._watch is not None:
            self._watch.close()
        for attempt in (self._attempt, self._outdated):
            if attempt is not None:
                attempt.kill()
        if self._app_id:
            run(stop_app(self._client, self._app_id, self._attachment, lambda: self._ended))
        if self._attachment is not None:
            self._attachment.close()

    # -- the screen
    def _show(self, method: str, args: List[Any], kwargs: Dict[str, Any]) -> None:
        if method == BEGINNING:
            self._drop_outdated()
        if method == "object_created" and args[3:] and args[3]:
            self._urls[args[1].rstrip(".")] = args[3]
        if self._published and (method.startswith("object_") or method == "app_published"):
            return  # the tree is shown once; later only what has changed
        getattr(self._sink, method)(*args, **kwargs)

    def _say(self, text: str) -> None:
        self._sink.screen.line(text)


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
