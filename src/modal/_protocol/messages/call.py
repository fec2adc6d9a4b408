"""Calls, inputs and outputs: the hot path. Everything travels in batches, column by column.

A call (`fc-…`) groups inputs with indexes 0, 1, 2 …; input number 7 of call `fc-ABC` is `in-ABC-7`.
Clients choose call ids (26 random base-32 characters), so that whatever is sent again after a
reconnect is recognised. A value up to `INLINE_LIMIT` bytes travels inline; a larger one is put
into the blob store first and the message holds its blob id (the inline part is then empty).
"""

from __future__ import annotations

import os
from typing import Any, Dict, List

from modal._protocol.message import Message, Record

INLINE_LIMIT = 256 * 1024  # bytes
BATCH_INPUTS = 64  # inputs or outputs a message, at most
BATCH_BYTES = 1 << 20  # inline bytes a message, at most (one value may pass it)
MAP_IN_FLIGHT = 1000  # inputs of one map that have no output yet, at most

_BASE32 = bytes(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[i % 32] for i in range(256))


def new_call_id() -> str:
    """`fc-` and 26 random characters of base 32."""
    return "fc-" + os.urandom(26).translate(_BASE32).decode()


class Status:
    """How an input ended (or, for YIELDED, went on)."""

    SUCCESS = 0  # value: the pickled result
    FAILURE = 1  # value: an encoded CallFailure
    YIELDED = 2  # value: one pickled item of a generator; more follow
    EXHAUSTED = 3  # the generator ended; no value
    TIMEOUT = 4  # value: CallFailure
    TERMINATED = 5  # cancelled; value: CallFailure
    INIT_FAILURE = 6  # the container could not be made ready; value: CallFailure
    RETURNED = 7  # runner to server only: not started, give it to another container


class Inputs(Message, type=20):
    """ITEM from the client on a call's stream."""

    indexes: List[int]
    args: List[bytes]  # pickled (args, kwargs)
    blobs: List[str] = []  # empty, or a blob id or "" for each
    methods: List[str] = []  # empty, or the method's name for each (classes)


class Outputs(Message, type=21):
    """ITEM from the server on a call's stream, or the RESPONSE to Invoke and CallAwait."""

    indexes: List[int]
    statuses: List[int]
    values: List[bytes]
    blobs: List[str] = []  # empty, or a blob id or "" for each
    log_seq: int = 0  # the app's log entries that came before these outputs
    number: int = -1  # generators: which item of the input the first one here is; the others follow it


class CallFailure(Record):
    """Why an input has no result. User exceptions have code "user" and come pickled where they can be."""

    code: str  # "user" or an errors.Code
    type_name: str = ""  # qualified name of the exception's class
    text: str = ""  # str(exception), or the platform's own sentence
    traceback: str = ""  # the remote traceback as text, user's frames first, "" where there is none
    frames: List[Any] = []  # [file, line, function, source line] of each remote frame, outermost first
    pickled: bytes = b""
    hint: str = ""  # what to do next


class FailureValue(Message, type=22):
    """A CallFailure as the value of an output: `pack_failure` and `unpack_failure`."""

    failure: CallFailure


def pack_failure(failure: CallFailure) -> bytes:
    """The bytes that stand as an output's value."""
    header, body = FailureValue(failure).encode()
    return len(header).to_bytes(4, "big") + header + body


def unpack_failure(value: bytes) -> CallFailure:
    """Raises ProtocolError where `value` is none."""
    size = int.from_bytes(value[:4], "big")
    return FailureValue.decode(value[4 : 4 + size], value[4 + size :]).failure


class Invoke(Message, type=23):
    """One input, one output: the plain `.remote()`. Sent again with the same call id after a reconnect."""

    call_id: str
    function_id: str
    args: bytes
    blob: str = ""
    method: str = ""
    parent_input_id: str = ""
    taken: List[str] = []  # earlier calls whose answer has arrived: see OutputsTaken


class CallOpen(Message, type=24):
    """Opens the stream of a map or a generator: Inputs go up, Outputs come down, END in both directions.

    After a reconnect the client opens the call again with `resume` and sends all inputs again
    that have no final output yet; `yields_seen` is how many items of a generator it has.
    """

    call_id: str
    function_id: str
    kind: str  # "map" or "generator"
    parent_input_id: str = ""
    resume: bool = False
    yields_seen: int = 0


class Spawn(Message, type=25):
    """Inputs that outlive the client; answered with Done once they are on disk. May be sent again.

    A large call comes in several of these; `last` closes it.
    """

    call_id: str
    function_id: str
    indexes: List[int]
    args: List[bytes]
    blobs: List[str] = []
    methods: List[str] = []
    parent_input_id: str = ""
    last: bool = True


class CallAwait(Message, type=26):
    """The output of one input of a spawned call, as Outputs. Faults: timeout, expired, not-found."""

    call_id: str
    index: int = 0
    timeout: float = -1.0  # seconds; negative: for ever, 0: poll
    parent_input_id: str = ""  # the input that waits


class CallCancel(Message, type=27):
    """Inputs that have no result become TERMINATED. Answered with Done."""

    call_id: str
    terminate_containers: bool = False


class CallGraphGet(Message, type=28):
    """Answered with CallGraph."""

    call_id: str


class CallGraphNode(Record):
    input_id: str
    function_call_id: str
    task_id: str
    status: int  # modal.call_graph.InputStatus
    function_name: str
    module_name: str
    parent_input_id: str


class CallGraph(Message, type=29):
    """All inputs below the root of the call asked for."""

    nodes: List[CallGraphNode]


class CallStats(Message, type=30):
    """NOTE to a client that attached to an app: what the spinner line shows."""

    app_id: str
    functions: Dict[str, List[int]]  # function name -> [pending, running, finished, containers]
    notice: str = ""  # e.g. why inputs wait


class BlobPut(Message, type=31):
    """Opens a stream of BlobChunk up; END; answered with Done. For peers that share no directory."""

    blob_id: str
    size: int


class BlobGet(Message, type=32):
    """Opens a stream of BlobChunk down; END."""

    blob_id: str


class BlobChunk(Message, type=33):
    data: bytes


class BlobForget(Message, type=34):
    """NOTE: the receiver of a large value has read it; it may be deleted."""

    blob_ids: List[str]


class ValuesMove(Message, type=360):
    """From a container's client, whose values directory is the container's own: take out what it has written,
    put in what it wants to read. Answered with Done. Faults: not-found.
    """

    written: List[str]
    wanted: List[str]


class OutputsTaken(Message, type=300):
    """NOTE from the client: so many outputs have arrived, on this connection, since the call was opened there.

    Until then the server keeps them, to send them again after a loss. It also sends only so far ahead of it.
    """

    call_ids: List[str]
    counts: List[int]
