"""One version of the program on its way to the server, seen from the process that serves it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any, BinaryIO, Callable, Dict, List, Optional

LINGER = 2.0  # seconds that a process which has said how it went may take to end
BOOT = (
    "import sys; sys.path[:] = {path!r}; from modal.cli.serving.child import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)

Post = Callable[["Attempt", Dict[str, Any]], None]


class Attempt:
    """Starts a process that imports the program and publishes it, and passes on what it tells.

    `post` gets dictionaries with the key "event", from several threads: "output", those of `child`, and "exit" last.
    """

    def __init__(self, job: Dict[str, Any], post: Post) -> None:
        self._post = post
        events_read, events_write = os.pipe()
        control_read, control_write = os.pipe()
        command = [sys.executable, "-u", "-c", BOOT.format(path=sys.path), str(events_write), str(control_read)]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(events_write, control_read),
                start_new_session=True,  # Ctrl-C is for us; what the program has started ends with it
            )
        except BaseException:
            for descriptor in (events_read, control_write):
                os.close(descriptor)
            raise
        finally:
            for descriptor in (events_write, control_read):
                os.close(descriptor)
        self._control = os.fdopen(control_write, "wb", buffering=0)
        self._readers: List[threading.Thread] = []
        self.told: Optional[int] = None  # the status that it said it would end with
        self.tell(job)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._start(self._read_events, os.fdopen(events_read, "rb"))
        self._start(self._read_output, self.process.stdout, 1)
        self._start(self._read_output, self.process.stderr, 2)
        threading.Thread(target=self._wait, name="modal-serve-wait", daemon=True).start()

    def tell(self, message: Dict[str, Any]) -> None:
        """Send the process a message. One that has ended is told nothing."""
        try:
            self._control.write(json.dumps(message).encode() + b"\n")
        except (OSError, ValueError):
            return

    def kill(self) -> None:
        """End the process and what it has started."""
        try:
            self._control.close()
        except OSError:
            pass
        if self.process.poll() is not None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="modal-serve-reader", daemon=True)
        self._readers.append(thread)
        thread.start()

    def _read_events(self, pipe: BinaryIO) -> None:
        with pipe:
            for line in pipe:
                event = json.loads(line)
                if event["event"] == "done":
                    self.told = event["code"]
                    timer = threading.Timer(LINGER, self.kill)  # threads of the program's do not keep it alive
                    timer.daemon = True
                    timer.start()
                else:
                    self._post(self, event)

    def _read_output(self, pipe: BinaryIO, stream: int) -> None:
        import codecs

        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with pipe:
            while True:
                data = os.read(pipe.fileno(), 1 << 16)
                text = decoder.decode(data, final=not data)
                if text:
                    self._post(self, {"event": "output", "stream": stream, "text": text})
                if not data:
                    return

    def _wait(self) -> None:
        code = self.process.wait()
        for reader in self._readers:  # a process that the program has left running may hold the pipes open
            reader.join(0.5)
        self._post(self, {"event": "exit", "code": code if self.told is None else self.told})
