"""Entries of dicts. Keys and values are pickles that the server never opens.

Every change carries a `token` of the client's (8 to 16 bytes, no two alike): sent again after a lost connection, with
`again`, it changes nothing that it has changed already.
"""

from __future__ import annotations

from typing import List

from modal._protocol.message import Message

MAX_UPDATE = 10_000  # entries in one DictPut
MAX_VALUE = 100 << 20  # bytes
MAX_KEY = 64 << 10  # bytes
MAX_LEN = 100_000  # that is counted
MAX_BODY = 4 << 20  # bytes of keys and values that one message carries, unless it is a single value


class DictGet(Message, type=198):
    """Answered with DictValue."""

    dict_id: str
    key: bytes
    value: bool = True  # False: is there one?


class DictValue(Message, type=199):
    found: bool
    value: bytes = b""
    blob: str = ""  # of a large value
    size: int = 0


class DictPut(Message, type=200):
    """All entries or, where it fails, none. Answered with Stored. Faults: not-found, invalid, too-large."""

    dict_id: str
    token: bytes
    keys: List[bytes]
    values: List[bytes]
    blobs: List[str] = []  # as many as values, or none
    skip_if_exists: bool = False  # for one entry alone
    again: bool = False


class DictPop(Message, type=202):
    """Answered with DictValue; confirm its arrival with Received."""

    dict_id: str
    key: bytes
    token: bytes
    again: bool = False


class DictScan(Message, type=203):
    """The entries whose keys follow `after`, as many as fit in an answer. Answered with DictPage."""

    dict_id: str
    after: bytes = b""
    keys: bool = True
    values: bool = True
    limit: int = 1000


class DictPage(Message, type=204):
    keys: List[bytes]
    values: List[bytes] = []
    blobs: List[str] = []
    more: bool = False
