"""Dicts: keys and values that functions share."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, List, Mapping, Optional, Tuple, cast

from modal import _serialization
from modal._object import EPHEMERAL_OBJECT_HEARTBEAT_SLEEP
from modal._protocol.messages.dict import (
    MAX_BODY,
    MAX_KEY,
    MAX_UPDATE,
    MAX_VALUE,
    DictGet,
    DictPage,
    DictPop,
    DictPut,
    DictScan,
    DictValue,
)
from modal._protocol.messages.object import Received
from modal._protocol.messages.object import Stored as StoredAnswer
from modal._stored import Stored, new_token
from modal._sync import synchronized, synchronized_context_classmethod, synchronized_pages
from modal.exception import DeserializationError, InvalidError, NotFoundError, RequestSizeError

if TYPE_CHECKING:
    from modal._client import Client

_PLAIN = frozenset((str, bytes, int, float, bool, type(None)))
_SHORT = 1000  # characters of a key that is surely within the limit
_READS = 5  # attempts at a large value that is replaced while it is read
_MISSING = object()


class Dict(Stored):
    """Distributed dictionary for storage in Modal apps.

    Keys and values can be essentially any object, so long as they can be serialized by `cloudpickle`. Keys are
    compared by their serialized form, which is only sure to be the same for plain values (strings, numbers, tuples
    of them). A value is at most 100 MiB, and one update has at most 10,000 entries. An entry expires after seven
    days in which nobody reads or writes it. What was written survives restarts and crashes of the server.

    **Usage**

    ```python
    my_dict = modal.Dict.from_name("my-persisted_dict", create_if_missing=True)

    my_dict["some key"] = "some value"
    my_dict[123] = 456

    assert my_dict["some key"] == "some value"
    assert my_dict[123] == 456
    ```

    The operators always block; in async code use the methods' `.aio` forms. See
    [the guide](https://modal.com/docs/guide/dicts-and-queues).
    """

    _kind = "dict"

    @synchronized_context_classmethod
    async def ephemeral(
        cls,
        data: Optional[dict[Any, Any]] = None,  # DEPRECATED
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        _heartbeat_sleep: float = EPHEMERAL_OBJECT_HEARTBEAT_SLEEP,
    ) -> AsyncIterator[Dict]:
        """Creates a new ephemeral dict within a context manager.

        ```python
        with modal.Dict.ephemeral() as d:
            d["foo"] = "bar"
        ```

        ```python
        async with modal.Dict.ephemeral() as d:
            await d.put.aio("foo", "bar")
        ```
        """
        _warn_data(data)
        async for made in cls._ephemeral(client, environment_name, _heartbeat_sleep):
            if data:
                await made.update.aio(data)
            yield made

    @staticmethod
    def from_name(
        name: str,
        data: Optional[dict[Any, Any]] = None,  # DEPRECATED
        *,
        namespace: Any = None,
        environment_name: Optional[str] = None,
        create_if_missing: bool = False,
    ) -> Dict:
        """Reference a named Dict, creating if necessary, when it is first used.

        ```python
        d = modal.Dict.from_name("my-dict", create_if_missing=True)
        d[123] = 456
        ```
        """
        _warn_data(data)
        made: Dict = Dict._named(name, environment_name, create_if_missing)
        made._data = dict(data) if data else None
        return made

    _data: Optional[dict[Any, Any]] = None  # of the deprecated argument: entries of a Dict that has none of them yet

    async def _load(self, client: Client) -> None:
        await super()._load(client)
        data, self._data = self._data, None
        for key, value in (data or {}).items():
            await self.put.aio(key, value, skip_if_exists=True)

    @synchronized
    @staticmethod
    async def delete(name: str, *, client: Optional[Client] = None, environment_name: Optional[str] = None) -> None:
        """Delete a named Dict, with all that is in it. Raises NotFoundError."""
        await Dict._delete(name, client, environment_name)

    @synchronized
    async def clear(self) -> None:
        """Remove all items from the Dict."""
        from modal._protocol.messages.object import ObjectClear
        from modal._protocol.messages.wire import Done

        client = await self._ready()
        await client.request(ObjectClear(self.object_id), Done)

    @synchronized
    async def get(self, key: Any, default: Optional[Any] = None) -> Any:
        """Get the value associated with a key.

        Returns `default` if key does not exist.
        """
        found = await self._get(key)
        return default if found is _MISSING else found

    @synchronized
    async def contains(self, key: Any) -> bool:
        """Return if a key is present. This counts as a use of the entry."""
        client = await self._ready()
        answer = await client.request(DictGet(self.object_id, _pickled_key(key), False), DictValue)
        return answer.found

    @synchronized
    async def len(self) -> int:
        """Return the length of the Dict.

        Note: This is an expensive operation and will return at most 100,000.
        """
        from modal._protocol.messages.object import ObjectCount, ObjectLen

        client = await self._ready()
        return (await client.request(ObjectLen(self.object_id), ObjectCount)).count

    @synchronized
    async def update(self, other: Optional[Mapping[Any, Any]] = None, /, **kwargs: Any) -> None:
        """Update the Dict with additional items.

        At most 10,000 at once: InvalidError otherwise. Up to 4 MiB of them are written all together or not at all,
        more of them in several steps.
        """
        client = await self._ready()
        entries = {**_mapping(other), **kwargs} if kwargs or other is not None else {}
        if len(entries) > MAX_UPDATE:
            raise InvalidError(
                f"Dict.update takes at most {MAX_UPDATE:,} entries, not {len(entries):,}: call it several times."
            )
        small = _all_small(entries)
        if small is not None:
            await self._put(client, *small, [])
            return
        batch: List[Tuple[bytes, bytes, str]] = []
        size = 0
        for key, value in entries.items():
            entry = _dumped_small(key, value) or await _dumped(client, key, value)
            if batch and size + len(entry[0]) + len(entry[1]) > MAX_BODY:
                await self._put(client, *_columns(batch))
                batch, size = [], 0
            batch.append(entry)
            size += len(entry[0]) + len(entry[1])
        if batch:
            await self._put(client, *_columns(batch))

    @synchronized
    async def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        """Add a specific key-value pair to the Dict. Raises RequestSizeError, SerializationError.

        Returns True if the key-value pair was added and False if it wasn't because the key already existed and
        `skip_if_exists` was set.
        """
        client = await self._ready()
        pickled, inline, blob = _dumped_small(key, value) or await _dumped(client, key, value)
        return await self._put(client, [pickled], [inline], [blob] if blob else [], bool(skip_if_exists))

    @synchronized
    async def pop(self, key: Any) -> Any:
        """Remove a key from the Dict, returning the value if it exists. Raises KeyError if it does not.

        A value that cannot be read here, say because its class is missing, stays in the Dict.
        """
        client = await self._ready()
        token, answer = await self._take(client, key)
        try:
            return await self._value(client, answer, key)
        except BaseException:
            blobs = [answer.blob] if answer.blob else []
            await self._put(client, [_pickled_key(key)], [answer.value], blobs, skip_if_exists=True)
            raise
        finally:
            await client.note(Received("dict", [token]))

    @synchronized_pages
    async def keys(self) -> AsyncIterator[List[Any]]:
        """Return an iterator over the keys in this Dict.

        Note that (unlike with Python dicts) the return value is a simple iterator,
        and results are unordered.
        """
        async for page in self._pages(values=False):
            yield [_loaded_key(key) for key in page.keys]

    @synchronized_pages
    async def values(self) -> AsyncIterator[List[Any]]:
        """Return an iterator over the values in this Dict.

        Note that (unlike with Python dicts) the return value is a simple iterator,
        and results are unordered.
        """
        async for entries in self._entries():
            yield [value for _key, value in entries]

    @synchronized_pages
    async def items(self) -> AsyncIterator[List[Tuple[Any, Any]]]:
        """Return an iterator over the (key, value) tuples in this Dict.

        Note that (unlike with Python dicts) the return value is a simple iterator,
        and results are unordered.
        """
        async for entries in self._entries():
            yield [(_loaded_key(key), value) for key, value in entries]

    # -- operators: they block
    def __getitem__(self, key: Any) -> Any:
        """Get the value associated with a key. Raises KeyError.

        Note: this function will block the event loop when called in an async context.
        """
        from modal._sync import run

        found = run(self._get(key))
        if found is _MISSING:
            raise self._missing(key)
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set a specific key-value pair.

        Note: this function will block the event loop when called in an async context.
        """
        self.put(key, value)

    def __delitem__(self, key: Any) -> None:
        """Delete a key. Raises KeyError.

        Note: this function will block the event loop when called in an async context.
        """
        from modal._sync import run

        run(self._delete_key(key))

    def __contains__(self, key: Any) -> bool:
        """Whether a key is present.

        Note: this function will block the event loop when called in an async context.
        """
        return self.contains(key)

    def __len__(self) -> int:
        """As `len()`."""
        return self.len()

    def __bool__(self) -> bool:
        return True

    __iter__ = None  # a loop over a Dict would read it key by key as if it were a list: write `.keys()`

    # -- parts
    async def _get(self, key: Any) -> Any:
        client = await self._ready()
        request = DictGet(self.object_id, _pickled_key(key))
        for attempt in range(_READS):
            answer = await client.request(request, DictValue)
            if not answer.found:
                return _MISSING
            try:
                return await self._value(client, answer, key)
            except (NotFoundError, FileNotFoundError):
                if attempt == _READS - 1:
                    raise
        raise AssertionError

    async def _take(self, client: Client, key: Any) -> Tuple[bytes, DictValue]:
        """Remove an entry; the server keeps it until it hears that it was received. Raises KeyError."""
        token, pickled = new_token(), _pickled_key(key)
        answer = await client.request(
            DictPop(self.object_id, pickled, token),
            DictValue,
            again=lambda: DictPop(self.object_id, pickled, token, again=True),
        )
        if not answer.found:
            raise self._missing(key)
        return token, answer

    async def _delete_key(self, key: Any) -> None:
        """Nobody looks at the value, which may be one that cannot be read here."""
        client = await self._ready()
        token, _answer = await self._take(client, key)
        await client.note(Received("dict", [token]))

    def _missing(self, key: Any) -> KeyError:
        return KeyError(f"{_shown(key)} not in dict {self._called()}")

    async def _value(self, client: Client, answer: DictValue, key: Any) -> Any:
        """Raises DeserializationError; NotFoundError or FileNotFoundError where a large value has been replaced."""
        what = f"the value of {_shown(key)} in {self._called()}"
        return await _load_large(client, answer.blob, what) if answer.blob else _serialization.load(answer.value, what)

    async def _put(
        self, client: Client, keys: List[bytes], values: List[bytes], blobs: List[str], skip_if_exists: bool = False
    ) -> bool:
        """`blobs`: as many as values, or none."""
        token = new_token()

        def request(again: bool) -> DictPut:
            return DictPut(self.object_id, token, keys, values, blobs, skip_if_exists, again)

        return (await client.request(request(False), StoredAnswer, again=lambda: request(True))).stored

    async def _pages(self, *, values: bool) -> AsyncIterator[DictPage]:
        client = await self._ready()
        after, limit = b"", 100  # a caller may want a few only
        while True:
            page = await client.request(DictScan(self.object_id, after, True, values, limit), DictPage)
            yield page
            if not page.more:
                return
            after, limit = page.keys[-1], min(limit * 4, 10_000)

    async def _entries(self) -> AsyncIterator[List[Tuple[bytes, Any]]]:
        """Page by page. Small values are read together, large ones each when it is asked for."""
        client = await self._ready()
        async for page in self._pages(values=True):
            if not any(page.blobs):
                try:
                    values = _serialization.load_all(page.values)
                except DeserializationError:  # of one of them, which is said below
                    pass
                else:
                    yield [*zip(page.keys, values)]
                    continue
            for key, value, blob in zip(page.keys, page.values, page.blobs or [""] * len(page.keys)):
                what = f"the value of {_shown_pickled(key)} in {self._called()}"
                if not blob:
                    yield [(key, _serialization.load(value, what))]
                    continue
                try:
                    yield [(key, await _load_large(client, blob, what))]
                except (NotFoundError, FileNotFoundError):  # replaced since, or gone
                    found = await self._get(_loaded_key(key))
                    if found is not _MISSING:
                        yield [(key, found)]

    @synchronized
    async def _readable_items(self, otherwise: Callable[[DeserializationError], Any]) -> AsyncIterator[Tuple[Any, Any]]:
        """As `items`, with what `otherwise` makes of the error where a key or value cannot be loaded here."""
        client = await self._ready()
        async for page in self._pages(values=True):
            for key, value, blob in zip(page.keys, page.values, page.blobs or [""] * len(page.keys)):
                try:
                    loaded = await _load_large(client, blob, "it") if blob else _serialization.load(value, "it")
                except DeserializationError as error:
                    loaded = otherwise(error)
                except (NotFoundError, FileNotFoundError):  # replaced since, or gone
                    continue
                try:
                    name = _loaded_key(key)
                except DeserializationError as error:
                    name = otherwise(error)
                yield name, loaded

    def _called(self) -> str:
        return self._name or self.object_id


def _warn_data(data: Any) -> None:
    if data is not None:
        from modal._deprecation import warn_deprecated

        warn_deprecated("The `data` argument of modal.Dict is deprecated. Put entries into the Dict after creating it.")


def _mapping(other: Any) -> Mapping[Any, Any]:
    if other is None:
        return {}
    if isinstance(other, Mapping):
        return other
    raise InvalidError(f"Dict.update takes a mapping (and keywords), not {type(other).__name__}.")


# -- keys and values as the server has them


def _shown(key: Any) -> str:
    """A key in a message, also where its own class fails to say what it is."""
    try:
        return f"{key!r:.80}"
    except Exception:
        return f"<{type(key).__name__}>"


def _pickled_key(key: Any) -> bytes:
    """Equal plain keys have equal bytes. Raises SerializationError, RequestSizeError."""
    if type(key) in _PLAIN:
        pickled = pickle.dumps(key, _serialization.PROTOCOL)
    elif _is_plain(key):
        pickled = _pickled_plainly(key)
    else:
        pickled = _serialization.dumps(key, f"the key {_shown(key)} of a Dict")
    if len(pickled) > MAX_KEY:
        raise RequestSizeError(
            f"A key of a modal.Dict has at most {MAX_KEY // 1024} KiB, and {_shown(key):.40}... has "
            f"{len(pickled) // 1024} KiB when it is pickled."
        )
    return pickled


def _is_plain(key: Any) -> bool:
    return type(key) in _PLAIN or (type(key) is tuple and all(map(_is_plain, key)))


def _pickled_plainly(key: Any) -> bytes:
    """Without references from one part to another, which depend on who made the parts."""
    import io

    from modal._serialization import PROTOCOL

    out = io.BytesIO()
    pickler = pickle.Pickler(out, PROTOCOL)
    pickler.fast = True
    pickler.dump(key)
    return out.getvalue()


def _loaded_key(pickled: bytes) -> Any:
    return _serialization.load(pickled, "a key of a Dict")


def _shown_pickled(key: bytes) -> str:
    try:
        return _shown(_loaded_key(key))
    except DeserializationError:
        return "a key that cannot be read either"


def _dumped_small(key: Any, value: Any) -> Optional[Tuple[bytes, bytes, str]]:
    """As `_dumped` of a short plain value; None for any other."""
    small = _serialization.dumps_small(value)
    if small is None:
        return None
    if type(key) is str and len(key) < _SHORT:
        return pickle.dumps(key, _serialization.PROTOCOL), small, ""
    return _pickled_key(key), small, ""


def _all_small(entries: Mapping[Any, Any]) -> Optional[Tuple[List[bytes], List[bytes]]]:
    """Keys and values, as `_dumped_small` of each; None where they are not all small, or too much together."""
    if not entries or not all(type(key) is str and len(key) < _SHORT for key in entries):
        return None
    values = [*map(_serialization.dumps_small, entries.values())]
    if None in values:
        return None
    keys = [pickle.dumps(key, _serialization.PROTOCOL) for key in entries]
    small = cast("List[bytes]", values)
    return (keys, small) if sum(map(len, keys)) + sum(map(len, small)) <= MAX_BODY else None


def _columns(entries: List[Tuple[bytes, bytes, str]]) -> Tuple[List[bytes], List[bytes], List[str]]:
    """Keys, values, and the ids of large ones' files if there are any."""
    keys, values, blobs = zip(*entries)
    return list(keys), list(values), list(blobs) if any(blobs) else []


async def _dumped(client: Client, key: Any, value: Any) -> Tuple[bytes, bytes, str]:
    """Key, value and, of a large one, the id of its file."""
    shared = await client.values_dir()
    dumped = _serialization.dump(value, shared, f"the value of {_shown(key)}")
    if dumped.size > MAX_VALUE:
        if dumped.blob:
            import os

            os.unlink(_serialization.value_path(shared, dumped.blob))
        raise RequestSizeError(
            f"A value in a modal.Dict has at most {MAX_VALUE >> 20} MiB, and that of {_shown(key)} has "
            f"{dumped.size / (1 << 20):.1f} MiB: keep it in a modal.Volume."
        )
    inline, blob = await client.put_value(dumped)
    return _pickled_key(key), inline, blob


async def _load_large(client: Client, blob: str, what: str) -> Any:
    from modal import _context

    shared = await client.values_dir()
    if not shared or not _context.is_local():
        from modal._protocol.messages.call import BlobGet

        return _serialization.load(b"".join(await client.download(BlobGet(blob))), what)
    try:
        return _serialization.load_value(b"", blob, shared, what)
    except DeserializationError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise
