"""The process that imports one version of the program and publishes it to the app that is served.

It gets messages as lines of JSON by one pipe and tells what it does by another: "app" (it waits for the app's id),
"files" (what the program consists of), "sink" (progress), "ready" (it waits for leave to replace the version
before), "published" and, last, "done".
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Dict, Optional

from modal._events import Sink, install
from modal.cli.serving.inventory import Reads, take

if TYPE_CHECKING:
    from modal import App

RELAYED = [name for name in vars(Sink) if name.startswith(("object_", "image_"))] + ["app_published", "notice"]


class Channel:
    """The two pipes to the process that serves."""

    def __init__(self, events: int, control: int) -> None:
        for descriptor in (events, control):
            os.set_inheritable(descriptor, False)
        self._events = os.fdopen(events, "wb", buffering=0)
        self._control = os.fdopen(control, "rb")
        self._lock = threading.Lock()
        self._messages: queue.Queue[Dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, name="modal-serve-control", daemon=True).start()

    def send(self, event: str, **fields: Any) -> None:
        data = json.dumps({"event": event, **fields}).encode() + b"\n"
        with self._lock:
            view = memoryview(data)
            while view:
                view = view[self._events.write(view) :]

    def receive(self) -> Dict[str, Any]:
        return self._messages.get()

    def _listen(self) -> None:
        for line in self._control:
            self._messages.put(json.loads(line))
        os._exit(1)  # nobody serves any more


def relay(channel: Channel) -> Sink:
    """A sink that shows its events in the process that serves."""

    def forwarder(name: str) -> Any:
        def forward(_self: Any, *args: Any, **kwargs: Any) -> None:
            channel.send("sink", method=name, args=args, kwargs=kwargs)

        return forward

    kind = type("RelaySink", (Sink,), {name: forwarder(name) for name in RELAYED})
    sink: Sink = kind()
    return sink


def main(events: int, control: int) -> None:
    """The process's body; it ends with the status that the command line would give."""
    channel = Channel(events, control)
    job = channel.receive()
    sys.argv = job["argv"]
    code = 0
    try:
        _publish(channel, job)
    except BaseException as error:
        from modal.cli.failures import report

        code = report(error)
    sys.stdout.flush()
    sys.stderr.flush()
    channel.send("done", code=code)


def _publish(channel: Channel, job: Dict[str, Any]) -> None:
    from modal._running import publish
    from modal._sync import run
    from modal.cli.program import Reference, describe, import_program
    from modal.cli.selection import choose_app
    from modal.cli.server import client
    from modal.config import config

    install(relay(channel))
    config.override_locally("build_validation", "ignore")  # who serves sees the change and begins anew
    reference = Reference(*job["reference"])
    reads, since = Reads(), time.time_ns()
    sys.addaudithook(reads)
    app: Optional[App] = None
    try:
        app = choose_app(import_program(reference), reference)
        describe(app, reference)
    except BaseException:
        _tell_files(channel, reads, None, since)
        raise
    _tell_files(channel, reads, app, since)
    channel.send("app", name=app.name or "", description=app.description or "")
    app._app_id = channel.receive()["app_id"]
    app._client, app._running = client(), True

    def leave() -> None:
        channel.send("ready")
        channel.receive()

    run(publish(app, client(), app._app_id or "", job["environment"], before=leave, schedules=True))
    channel.send("published")


def _tell_files(channel: Channel, reads: Reads, app: Optional[App], since: int) -> None:
    from modal._hashing import hashes

    inventory = take(reads, app, since, failed=app is None)
    hashes.save()
    channel.send("files", failed=app is None, known=[[*entry, print_] for entry, print_ in inventory.known.items()])
