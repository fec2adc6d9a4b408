"""The client: requests and streams to one server, in both faces.

The blocking face takes a connection out of a pool for each exchange; the async face shares one connection
an event loop. Every request may be sent again (calls carry ids that the client chose, the rest are reads or
replace what was there), so a lost connection costs a pause and no error: see `Patience`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from time import monotonic
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Deque,
    List,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
)

from modal import _context, _events
from modal._endpoint import CALL_PATIENCE, PATIENCE, Endpoint, Patience, error_of
from modal._exchange import Exchange
from modal._loop_connection import LoopConnection
from modal._protocol.errors import ConnectionLost, Fault, ProtocolError, Unreachable, WireError
from modal._sync import blocking, call_blocking, gather, sleep, synchronized
from modal._taken import Taken

if TYPE_CHECKING:
    from modal._attachment import Attachment
    from modal._protocol import aio
    from modal._protocol import blocking as wire
    from modal._protocol.message import Message
    from modal._protocol.messages.wire import Welcome
    from modal._serialization import Dumped

    M = TypeVar("M", bound=Message)
else:
    M = TypeVar("M")

RECEIPTS = 8  # deliveries that are confirmed once more with the next: the server may have died with the confirmation
MAX_IDLE = 8  # blocking connections kept for the next exchange
FRESH = 0.01  # seconds since its last use in which a request, which can be repeated, needs no look at a connection

Receipt = Callable[[Any], "Optional[Message]"]


class Client:
    """A connection to a server. Programs need it only to use several sets of credentials at once."""

    _current: Optional[Client] = None
    _current_lock = threading.Lock()

    def __init__(self, server_url: str, token_id: str = "", token_secret: str = "", *, embedded: bool = False) -> None:
        self._endpoint = Endpoint(server_url, token_id, token_secret, embedded=embedded)
        self._idle: List[wire.Connection] = []
        self._loops: weakref.WeakKeyDictionary[Any, LoopConnection] = weakref.WeakKeyDictionary()
        self._closed = False
        self.receipts: Deque[bytes] = deque(maxlen=RECEIPTS)  # tokens of the latest items from queues
        self.attachments: dict[str, Attachment] = {}  # by app id: whose logs this client shows
        self.taken = Taken(self)
        _clients.add(self)
        self._trace(server_url)

    def _trace(self, address: str) -> None:
        from modal.config import config

        if config.get("loglevel") != "WARNING":
            from modal._debug import trace

            trace(self, address)

    # -- the public face
    @classmethod
    def from_credentials(cls, token_id: str, token_secret: str) -> Client:
        """Constructor based on token credentials; useful for managing Modal on behalf of third-party users.

        **Usage:**

        ```
        client = modal.Client.from_credentials("my_token_id", "my_token_secret")

        modal.Sandbox.create("echo", "hi", client=client, app=app)
        ```
        """
        url, embedded = _configured_url()
        return cls(url, token_id, token_secret, embedded=embedded)

    @synchronized
    async def hello(self) -> None:
        """Connect to server and retrieve version information; raise appropriate error for various failures."""
        self._check_open()
        await self._connect(Patience(self._endpoint, 0.0))

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    # -- which client
    @classmethod
    def current(cls) -> Client:
        """The client of this process, made of the configuration when it is first asked for. Does not connect."""
        client = cls._current
        if client is None or client._closed:
            with cls._current_lock:
                client = cls._current
                if client is None or client._closed:
                    client = cls._current = cls._configured()
        return client

    @classmethod
    def set_current(cls, client: Optional[Client]) -> None:
        """Let `current` return this one; None: make a new one of the configuration next time."""
        with cls._current_lock:
            cls._current = client

    @classmethod
    def _configured(cls) -> Client:
        from modal.config import config

        if _context.building and "MODAL_SERVER_URL" not in os.environ:
            from modal.exception import ExecutionError

            raise ExecutionError(
                "Modal's objects cannot be asked in this build: its worker gives functions of Image.run_function no "
                "way to the server. Do this in a function of the app instead."
            )
        url, embedded = _configured_url()
        return cls(url, config.get("token_id") or "", config.get("token_secret") or "", embedded=embedded)

    # -- for the SDK
    @property
    def server_url(self) -> str:
        """The address, as `Endpoint` understood it."""
        return str(self._endpoint.address)

    async def welcome(self) -> Welcome:
        """What the server said of itself: version, workspace, environment, dashboard, values directory."""
        if self._endpoint.welcome is None:
            self._check_open()
            await self._connect(Patience(self._endpoint, PATIENCE))
        welcome = self._endpoint.welcome
        assert welcome is not None
        return welcome

    async def request(
        self,
        message: Message,
        expect: Type[M],
        *,
        patience: float = PATIENCE,
        again: Optional[Callable[[], Message]] = None,
        receipt: Optional[Receipt] = None,
    ) -> M:
        """Ask, and wait for the answer. Raises modal.exception's errors.

        The request is sent again after a reconnect; `patience` is how many seconds the server may be away, `again`
        makes the message that is sent then. `receipt(answer)` makes the note, if there is to be one, that tells the
        server on the same connection that the answer has arrived, unless it sees that itself; with None, that it will
        not be taken.
        """
        waiting: Optional[Patience] = None
        while True:
            self._check_open()
            try:
                if blocking():
                    return self._request_blocking(message, expect, receipt)
                connection = await self._loop_connection()
                if receipt is None:
                    return await connection.request(message, expect)
                return await _request_with_receipt(connection, message, expect, receipt)
            except Fault as fault:
                raise error_of(fault.code, fault.text) from None
            except (ConnectionLost, Unreachable) as error:
                waiting = waiting or Patience(self._endpoint, patience)
                await self._wait(waiting, error)
                message = message if again is None else again()
            except ProtocolError as error:
                raise error_of("internal", f"{type(message).__name__}: {error}") from None

    async def requests(self, messages: Sequence[Message], expect: Type[M], *, patience: float = PATIENCE) -> List[M]:
        """Ask for several things; the answers in the same order. The first failure is raised."""
        return await gather(*[self.request(message, expect, patience=patience) for message in messages])

    async def note(self, message: Message) -> None:
        """Tell the server something that needs no answer, if it is there."""
        if self._closed:
            return
        try:
            if blocking():
                connection = self._checkout()
                try:
                    connection.note(message)
                finally:
                    self._give_back(connection)  # which closes it where it is broken
            else:
                (await self._loop_connection()).note(message)
        except WireError:
            return  # a note is a courtesy: whoever can live without it lives without it

    async def open(
        self, message: Message, *, patience: float = PATIENCE, waiting: Optional[Patience] = None
    ) -> Exchange:
        """Open an exchange of many items; see `Exchange`. Waits for a lost server, but repeats nothing later."""
        while True:
            self._check_open()
            try:
                if not blocking():
                    return Exchange((await self._loop_connection()).open(message))
                connection = self._checkout()
                try:
                    stream = connection.open(message)
                except BaseException:
                    connection.close()
                    raise
                return Exchange(stream, self._releaser(connection))
            except (ConnectionLost, Unreachable) as error:
                waiting = waiting or Patience(self._endpoint, patience)
                await self._wait(waiting, error)

    async def reopen(
        self, message: Message, error: WireError, waiting: Optional[Patience]
    ) -> Tuple[Exchange, Patience]:
        """Open an exchange again whose connection was lost. Pass the patience on until something has come of it."""
        waiting = waiting or Patience(self._endpoint, CALL_PATIENCE)
        await self._wait(waiting, error)
        return await self.open(message, waiting=waiting), waiting

    async def stream(self, message: Message, *, repeat: bool = False) -> AsyncIterator[Message]:
        """The items that answer `message`, and the final response if there is one.

        A lost connection raises modal.exception.ConnectionError; with `repeat` the stream is asked for
        again, and begins from its start.
        """
        while True:
            exchange = await self.open(message)
            clean = False
            try:
                while True:
                    item = await exchange.receive()
                    if item is None:
                        break
                    yield item
                if exchange.response is not None:
                    yield exchange.response
                clean = True
                return
            except GeneratorExit:
                clean = True
                raise
            except Fault as fault:
                clean = True
                raise error_of(fault.code, fault.text) from None
            except WireError as error:
                if isinstance(error, ProtocolError) or not repeat:
                    raise _stream_lost(message, error) from None
            finally:
                exchange.close(reuse=clean)

    async def download(self, message: Message) -> List[bytes]:
        """The content of the BlobChunks that answer `message`, in parts."""
        from modal._protocol.messages.call import BlobChunk

        return [item.data async for item in self.stream(message) if isinstance(item, BlobChunk)]

    # -- values
    async def values_dir(self) -> str:
        """Directory for large values that the server shares with this process, "" where there is none."""
        if self._endpoint.welcome is None:
            await self.welcome()
        return self._endpoint.values_dir

    async def put_value(self, dumped: Dumped) -> Tuple[bytes, str]:
        """Inline part and blob id of a dumped value for a message; uploads it where that is the only way."""
        if dumped.parts is None:
            if dumped.blob and not _context.is_local():
                await self._move_values([dumped.blob], [])
            return dumped.inline, dumped.blob
        from modal._protocol.messages.call import BlobPut
        from modal._protocol.messages.wire import Done
        from modal._serialization import new_value_id
        from modal._upload import upload

        blob = new_value_id()
        await upload(self, BlobPut(blob, dumped.size), dumped.parts, Done, patience=CALL_PATIENCE)
        return b"", blob

    async def get_value(self, inline: bytes, blob: str, what: str) -> Any:
        """The value that an output carries. The server may delete a large one afterwards."""
        from modal import _serialization

        if not blob:
            return _serialization.load(inline, what)
        from modal._protocol.messages.call import BlobForget, BlobGet

        values_dir = await self.values_dir()
        if values_dir and _context.is_local():
            value = _serialization.load_value(b"", blob, values_dir, what)
        elif values_dir:
            await self._move_values([], [blob])
            try:
                value = _serialization.load_value(b"", blob, values_dir, what)
            finally:
                os.unlink(_serialization.value_path(values_dir, blob))
        else:
            value = _serialization.load(b"".join(await self.download(BlobGet(blob))), what)
        await self.note(BlobForget([blob]))
        return value

    async def _move_values(self, written: List[str], wanted: List[str]) -> None:
        """A container shares its values directory with its worker, not with the server."""
        from modal._protocol.messages.call import ValuesMove
        from modal._protocol.messages.wire import Done

        await self.request(ValuesMove(written, wanted), Done, patience=CALL_PATIENCE)

    # -- an app's logs
    def attach(
        self,
        app_id: str,
        on_message: Callable[[Message], None],
        *,
        hold: bool = True,
        logs: bool = True,
        from_seq: int = 0,
        follow: bool = True,
        container_id: str = "",
    ) -> Attachment:
        """Follow an app on a connection and in a daemon thread of its own; see `Attachment`."""
        from modal._attachment import Attachment
        from modal._protocol.messages.app import AppAttach

        self._check_open()
        message = AppAttach(app_id, hold, logs, from_seq, follow, container_id)
        return Attachment(self, self._endpoint, message, on_message)

    # -- connections
    def close(self) -> None:
        """End all connections. Whoever uses the client afterwards gets ClientClosed."""
        self._closed = True
        for attachment in list(self.attachments.values()):
            attachment.close()
        self._drop_idle()
        for held in list(self._loops.values()):
            held.close()

    def _check_open(self) -> None:
        if self._closed:
            from modal.exception import ClientClosed

            raise ClientClosed("This client was closed.")

    def _request_blocking(self, message: Message, expect: Type[M], receipt: Optional[Receipt] = None) -> M:
        connection = self._checkout(FRESH)
        try:
            answer = connection.request(message, expect)
            if receipt is not None and not connection.direct:
                _confirm(connection, receipt(answer))
            self._give_back(connection)
            return answer
        except Fault:
            self._give_back(connection)
            raise
        except BaseException as error:  # lost, or interrupted in the middle of a frame
            if receipt is not None and not isinstance(error, ConnectionLost):
                _confirm(connection, receipt(None))  # it may have been read: the server must not take it for arrived
            connection.close()
            raise

    def _checkout(self, fresh: float = 0.0) -> wire.Connection:
        """`fresh`: seconds since its last use in which a connection is taken for a usable one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._endpoint.dial()
            if (monotonic() - connection.used < fresh and not connection.broken) or _is_usable(connection):
                return connection
            connection.close()

    def _give_back(self, connection: wire.Connection, reuse: bool = True) -> None:
        if not reuse or connection.broken or self._closed or len(self._idle) >= MAX_IDLE:
            connection.close()
        else:
            connection.used = monotonic()
            self._idle.append(connection)

    def _releaser(self, connection: wire.Connection) -> Callable[[bool], None]:
        return lambda reuse: self._give_back(connection, reuse)

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _loop_connection(self) -> aio.Connection:
        import asyncio

        loop = asyncio.get_running_loop()
        held = self._loops.get(loop)
        if held is None:
            held = self._loops[loop] = LoopConnection(self._endpoint)
        connection = held.connection
        return connection if connection is not None and not connection.closed else await held.connect()

    async def _connect(self, waiting: Patience) -> None:
        """Have one connection that answers."""
        while True:
            try:
                if blocking():
                    self._give_back(self._endpoint.dial())
                else:
                    await self._loop_connection()
                return
            except (ConnectionLost, Unreachable) as error:
                await self._wait(waiting, error)

    async def _wait(self, waiting: Patience, error: Exception) -> None:
        self._drop_idle()
        delay = waiting.next(error)
        if delay >= 0:
            await sleep(delay)
        else:
            from modal import _embedded

            await call_blocking(_embedded.start)

    def _forked(self) -> None:
        """In a child process: the parent goes on with these connections."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self._loops = weakref.WeakKeyDictionary()
        self.attachments = {}
        self.taken = Taken(self)
        self._endpoint.forked()


async def _request_with_receipt(connection: aio.Connection, message: Message, expect: Type[M], receipt: Receipt) -> M:
    try:
        answer = await connection.request(message, expect)
    except BaseException:  # cancelled, perhaps while the answer was coming in
        note = receipt(None)
        if note is not None and not connection.closed:
            connection.note(note)
        raise
    note = receipt(answer)
    if note is not None:
        connection.note(note)
    return answer


def _confirm(connection: wire.Connection, note: Optional[Message]) -> None:
    """The answer is here: a connection that breaks now is no reason to ask for it again."""
    try:
        if note is not None:
            connection.note(note)
    except ConnectionLost:
        return


def _is_usable(connection: wire.Connection) -> bool:
    """Whether an idle connection is still there. Answers what the server asked meanwhile."""
    try:
        while connection.readable():
            connection.read(0)
    except TimeoutError:
        return True
    except WireError:
        return False
    return not connection.broken


def _stream_lost(message: Message, error: WireError) -> Exception:
    from modal.exception import ConnectionError

    return ConnectionError(f"The connection was lost in the middle of {type(message).__name__}: {error}. Try again.")


def _configured_url() -> Tuple[str, bool]:
    """The server's address, and whether it is this machine's embedded one."""
    from modal.config import config

    url = config.get("server_url")
    if url:
        return url, False
    if not _context.is_local():
        return _context.CONTAINER_API, False
    from modal._protocol.home import home_dir, server_address

    return server_address(home_dir()), True


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    """In a child process: a lock may have been held by a thread that is not here, and the terminal is the parent's."""
    Client._current_lock = threading.Lock()
    _events.install(_events.Sink())
    for client in list(_clients):
        client._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

__all__ = ["CALL_PATIENCE", "PATIENCE", "Client", "Exchange", "error_of"]
