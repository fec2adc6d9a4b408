"""What dicts and queues send: tokens, batches, entries; no server is needed for that."""

from __future__ import annotations

import os
import pickle
from typing import Any

import pytest

from modal import _dict, _queue, _serialization
from modal._protocol.messages.queue import MAX_BODY
from modal._stored import new_token
from modal.exception import DeserializationError


def test_no_token_comes_twice_in_a_process_or_its_child() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert {len(token) for token in tokens} <= set(range(8, 17)), "what the server takes"
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, b"".join(new_token() for _ in range(100)))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    size = len(said) // 100
    of_child = {said[at : at + size] for at in range(0, len(said), size)}
    here = {new_token() for _ in range(100)}
    assert len(of_child) == 100
    assert not of_child & here
    assert not of_child & tokens


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([], []),
        ([5], [[5]]),
        ([MAX_BODY + 1], [[MAX_BODY + 1]]),
        ([1] * 1000, [[1] * 1000]),
        ([1] * 1001, [[1] * 1000, [1]]),
        ([MAX_BODY - 1, 1, 1], [[MAX_BODY - 1, 1], [1]]),
    ],
)
def test_items_are_put_together_up_to_a_number_and_a_size(sizes: list[int], wanted: list[list[int]]) -> None:
    batches = [*_queue._batches([bytes(size) for size in sizes])]
    assert [[*map(len, batch)] for batch in batches] == wanted


@pytest.mark.parametrize(
    "value", [None, True, 7, 1.5, "text", b"bytes", "x" * 100_000, [1, {"a": 2}], {"k": (1, None)}]
)
def test_many_values_are_pickled_as_each_is(value: Any) -> None:
    assert _queue._all_pickled(iter([1, value])) == [_queue._pickled(1), _queue._pickled(value)]
    entries = {"key": 1, "other": value}
    small = _dict._all_small(entries)
    each = [_dict._dumped_small(key, given) for key, given in entries.items()]
    if None in each:
        assert small is None
    else:
        assert small == ([entry[0] for entry in each if entry], [entry[1] for entry in each if entry])


def test_entries_that_are_more_than_one_message_or_not_plain_are_not_small() -> None:
    assert _dict._all_small({}) is None
    assert _dict._all_small({1: "x"}) is None
    assert _dict._all_small({"k" * 2000: "x"}) is None
    assert _dict._all_small({str(number): "x" * 30_000 for number in range(200)}) is None
    assert _dict._all_small({str(number): "x" * 30_000 for number in range(100)}) is not None


def test_many_values_are_loaded_as_each_is() -> None:
    with_buffer = _serialization.dumps(pickle.PickleBuffer(bytearray(b"b" * (1 << 20))))
    assert with_buffer.endswith(_serialization.MAGIC)
    plain = [pickle.dumps(value) for value in ("a", 2, None)]
    assert _serialization.load_all([]) == []
    assert _serialization.load_all(plain) == ["a", 2, None]
    assert bytes(_serialization.load_all([*plain, with_buffer])[3]) == b"b" * (1 << 20)
    with pytest.raises(DeserializationError, match="an item of a Queue"):
        _serialization.load_all([*plain, b"no pickle"], "an item of a Queue")
