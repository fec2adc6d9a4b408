"""What containers print, on its way to the screen and to the disk."""

from __future__ import annotations

from typing import List

from modal._protocol.message import Message, Record


class Stream:
    STDOUT = 1
    STDERR = 2
    SYSTEM = 3  # the platform's own lines about a container


class LogEntry(Record):
    """Some text from one stream of one container: whole lines, except the last of a container or of a long line."""

    time: float  # seconds since the epoch
    stream: int
    text: str
    input_id: str = ""
    container_id: str = ""
    function_id: str = ""
    function_name: str = ""
    number: int = 0  # within its container; 0: not numbered


class LogBatch(Message, type=100):
    """Entries of one app; `seq` is the number of entries up to and with the last one here."""

    app_id: str
    entries: List[LogEntry]
    seq: int = 0
