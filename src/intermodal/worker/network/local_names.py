"""Names below `localhost`, inside of containers: all are the container's loopback address.

Browsers and curl know that by themselves; glibc asks the name server, and few of these know. The firewall turns
questions for such names, and no others, to the socket here: whatever else containers ask goes its way untouched.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from ipaddress import IPv4Address

log = logging.getLogger(__name__)

LAST_LABEL = b"\x09localhost\x00"
LONGEST = 96  # bytes of a name before `.localhost`
QUESTION = 20  # bytes of a UDP packet before the name that is asked for: the heads of UDP and DNS
TTL = 60  # seconds
MAX_QUESTION = 1232
AT_ONCE = 64  # questions answered before other work has its turn
_HEAD = struct.Struct(">HHHHHH")  # id, flags, questions, answers, authorities, additional
_ADDRESS, _ANY, _INTERNET = 1, 255, 1
_RESPONSE, _RECURSION, _REFUSED = 0x8000, 0x0180, 5


def rules(own: str, target: str) -> str:
    """nftables rules: questions for names below localhost go to `target`. One for each length of what precedes."""
    return "\n        ".join(
        f"{own} udp dport 53 @th,{(QUESTION + length) * 8},{len(LAST_LABEL) * 8} 0x{LAST_LABEL.hex()} "
        f"dnat ip to {target}"
        for length in range(2, LONGEST + 2)
    )


def answer(question: bytes) -> bytes | None:
    """What to send back; None to what is no question. Names that are not ours are refused, so the asker goes on."""
    if len(question) < _HEAD.size:
        return None
    ident, flags, questions, *_ = _HEAD.unpack_from(question)
    end = question.find(b"\0", _HEAD.size) + 1
    if flags & _RESPONSE or questions != 1 or end == 0 or len(question) < end + 4:
        return None
    kind, internet = struct.unpack_from(">HH", question, end)
    asked = question[_HEAD.size : end + 4]
    # A shorter "localhost" within a longer label does not count: the byte before it is its length.
    if not question[:end].lower().endswith(LAST_LABEL):
        return _HEAD.pack(ident, _RESPONSE | _RECURSION | (flags & 0x7900) | _REFUSED, 1, 0, 0, 0) + asked
    found = b""
    if kind in (_ADDRESS, _ANY) and internet == _INTERNET:
        found = struct.pack(">HHHIH4s", 0xC00C, _ADDRESS, _INTERNET, TTL, 4, socket.inet_aton("127.0.0.1"))
    return _HEAD.pack(ident, _RESPONSE | _RECURSION | (flags & 0x7900), 1, bool(found), 0, 0) + asked + found


class LocalNames:
    """Answers on a port of the bridge's address."""

    def __init__(self, address: IPv4Address) -> None:
        """Raises OSError."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind((str(address), 0))
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        self.port = int(self._socket.getsockname()[1])
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Answer from now on, in this event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(AT_ONCE):
            try:
                question, asker = self._socket.recvfrom(MAX_QUESTION)
            except OSError:
                return
            found = answer(question)
            if found is not None:
                try:
                    self._socket.sendto(found, asker)
                except OSError as error:
                    log.info("a question for a name could not be answered: %s", error)

    def close(self) -> None:
        """Answer no longer. In the event loop's thread."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        self._socket.close()
