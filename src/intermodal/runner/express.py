"""The express way: a connection of the container's own to the server, for small inputs when nothing else is to do.

What comes and goes by it passes no worker, which saves two changes of process each way. Nothing rests on it:

- An input that takes longer than some milliseconds comes again by the worker, which must know what runs; it is
  recognised here and not run twice. The server writes it to the express way first, and that is read first.
- An output is kept until the server says that its client has it. When the server may be gone, the worker asks, and
  gets all that is kept here, as if it had come by the worker in the first place.
- What was printed travels by the worker and must arrive before its input's output: an input that has printed
  anything is answered by the worker.
"""

from __future__ import annotations

from typing import Dict, Optional, Tuple

from intermodal.runner.link import Link
from modal._protocol.messages.worker import RunOutputs


class Express:
    """Kept by the outbox, whose lock guards it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.used = False
        self.unsafe: Dict[int, RunOutputs] = {}  # token -> its output, until that has reached its client
        self._answered: Tuple[int, Optional[RunOutputs]] = (-1, None)  # the newest of these
        self._barred = -1  # this input has come by the worker too: it is answered there

    def send(self, token: int, message: RunOutputs) -> bool:
        """Send the output of an input that came by this way. False: it must go by the worker."""
        if token == self._barred:
            return False
        self.used = True
        self.unsafe[token] = message
        self._answered = token, message
        try:
            self.link.send(message)
        except OSError:
            pass  # the worker will ask for it
        return True

    def copied(self, token: int) -> Optional[RunOutputs]:
        """An input has come by the worker too. Its output, if it was sent already: the worker must see it."""
        answered, message = self._answered
        if answered == token:
            self.unsafe.pop(token, None)
            return message
        self.bar(token)
        return None

    def has_answered(self, token: int) -> bool:
        return self._answered[0] == token

    def bar(self, token: int) -> None:
        """The output of this one shall go by the worker."""
        self._barred = token
