"""Dicts and queues: state that the functions of an app share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, Mapping, Optional

from modal._named import _Named
from modal._object import EPHEMERAL_OBJECT_HEARTBEAT_SLEEP
from modal._planned import not_yet, planned
from modal.exception import InvalidError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from modal._client import Client

MAX_PARTITION_KEY = 64  # bytes


def _warn_data(data: Any) -> None:
    if data is not None:
        from modal._deprecation import warn_deprecated

        warn_deprecated("The `data` argument of modal.Dict is deprecated. Put entries into the Dict after creating it.")


class Dict(_Named):
    """Distributed dictionary for storage in Modal apps.

    Keys and values can be essentially any object, so long as they can be serialized by `cloudpickle`.
    """

    _kind = "dict"

    @planned
    @classmethod
    def ephemeral(
        cls,
        data: Optional[dict[Any, Any]] = None,  # DEPRECATED
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        _heartbeat_sleep: float = EPHEMERAL_OBJECT_HEARTBEAT_SLEEP,
    ) -> AbstractContextManager[Dict]:
        """Creates a new ephemeral dict within a context manager."""
        raise AssertionError

    @staticmethod
    def from_name(
        name: str,
        data: Optional[dict[Any, Any]] = None,  # DEPRECATED
        *,
        namespace: Any = None,
        environment_name: Optional[str] = None,
        create_if_missing: bool = False,
    ) -> Dict:
        """Reference a named Dict, creating if necessary, when it is first used."""
        _warn_data(data)
        return Dict._named(name, environment_name, create_if_missing)  # type: ignore[no-any-return]

    @planned
    @staticmethod
    def delete(
        name: str,
        *,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
    ) -> None:
        """Delete a Dict by name."""

    @planned
    def clear(self) -> None:
        """Remove all items from the Dict."""

    @planned
    def get(self, key: Any, default: Optional[Any] = None) -> Any:
        """Get the value associated with a key, or the default."""

    @planned
    def contains(self, key: Any) -> bool:
        """Return if a key is present."""
        raise AssertionError

    @planned
    def len(self) -> int:
        """Return the length of the dictionary, including any expired keys. Slow, and at most 100,000."""
        raise AssertionError

    @planned
    def update(self, other: Optional[Mapping[Any, Any]] = None, /, **kwargs: Any) -> None:
        """Update the dictionary with additional items."""

    @planned
    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        """Add a specific key-value pair; with `skip_if_exists` False says that there was one."""
        raise AssertionError

    @planned
    def pop(self, key: Any) -> Any:
        """Remove a key from the dictionary, returning the value."""

    @planned
    def keys(self) -> Iterator[Any]:
        """Return an iterator over the keys in this dictionary. Not a view, and in no particular order."""
        raise AssertionError

    @planned
    def values(self) -> Iterator[Any]:
        """Return an iterator over the values in this dictionary."""
        raise AssertionError

    @planned
    def items(self) -> Iterator[tuple[Any, Any]]:
        """Return an iterator over the (key, value) tuples in this dictionary."""
        raise AssertionError

    def __getitem__(self, key: Any) -> Any:
        raise not_yet("Reading a key of a modal.Dict")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise not_yet("Setting a key of a modal.Dict")

    def __delitem__(self, key: Any) -> None:
        raise not_yet("Deleting a key of a modal.Dict")

    def __contains__(self, key: Any) -> bool:
        raise not_yet("Looking for a key in a modal.Dict")

    def __len__(self) -> int:
        raise not_yet("The length of a modal.Dict")

    def __bool__(self) -> bool:
        return True


class Queue(_Named):
    """Distributed, FIFO queue for data flow in Modal apps."""

    _kind = "queue"

    @staticmethod
    def validate_partition_key(partition: Optional[str]) -> bytes:
        """The key as bytes, empty for the default partition. Raises InvalidError."""
        if partition is None:
            return b""
        if not isinstance(partition, str):
            raise InvalidError(f"A queue's partition key must be a string, not {type(partition).__name__}.")
        key = partition.encode()
        if not 0 < len(key) <= MAX_PARTITION_KEY:
            raise InvalidError(f"A queue's partition key must have 1 to {MAX_PARTITION_KEY} bytes, not {len(key)}.")
        return key

    @planned
    @classmethod
    def ephemeral(
        cls,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        _heartbeat_sleep: float = EPHEMERAL_OBJECT_HEARTBEAT_SLEEP,
    ) -> AbstractContextManager[Queue]:
        """Creates a new ephemeral queue within a context manager."""
        raise AssertionError

    @staticmethod
    def from_name(
        name: str,
        *,
        namespace: Any = None,
        environment_name: Optional[str] = None,
        create_if_missing: bool = False,
    ) -> Queue:
        """Reference a named Queue, creating if necessary, when it is first used."""
        return Queue._named(name, environment_name, create_if_missing)  # type: ignore[no-any-return]

    @planned
    @staticmethod
    def delete(name: str, *, client: Optional[Client] = None, environment_name: Optional[str] = None) -> None:
        """Delete a queue by name."""

    @planned
    def clear(self, *, partition: Optional[str] = None, all: bool = False) -> None:
        """Clear the contents of a single partition or all partitions."""

    @planned
    def get(
        self, block: bool = True, timeout: Optional[float] = None, *, partition: Optional[str] = None
    ) -> Optional[Any]:
        """Remove and return the next object in the queue."""

    @planned
    def get_many(
        self, n_values: int, block: bool = True, timeout: Optional[float] = None, *, partition: Optional[str] = None
    ) -> list[Any]:
        """Remove and return up to `n_values` objects from the queue."""
        raise AssertionError

    @planned
    def put(
        self,
        v: Any,
        block: bool = True,
        timeout: Optional[float] = None,
        *,
        partition: Optional[str] = None,
        partition_ttl: int = 24 * 3600,  # After 24 hours of no activity, this partition will be deletd.
    ) -> None:
        """Add an object to the end of the queue."""

    @planned
    def put_many(
        self,
        vs: list[Any],
        block: bool = True,
        timeout: Optional[float] = None,
        *,
        partition: Optional[str] = None,
        partition_ttl: int = 24 * 3600,  # After 24 hours of no activity, this partition will be deletd.
    ) -> None:
        """Add several objects to the end of the queue."""

    @planned
    def len(self, *, partition: Optional[str] = None, total: bool = False) -> int:
        """Return the number of objects in the queue partition."""
        raise AssertionError

    @planned
    def iterate(self, *, partition: Optional[str] = None, item_poll_timeout: float = 0.0) -> Iterator[Any]:
        """(Beta feature) Iterate through items in the queue without mutation."""
        raise AssertionError
