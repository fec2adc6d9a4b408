"""modal.Dict as the documentation describes it."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
import time
import types
from pathlib import Path

import pytest

import modal
from modal import _serialization, exception
from modal._client import Client

MIB = 1 << 20


def test_entries_of_any_type(d: modal.Dict) -> None:
    d["some key"] = "some value"
    d[123] = 456
    d[("a", ("b", 1))] = {"nested": [1, 2, None]}
    assert (d["some key"], d[123], d[("a", ("b", 1))]) == ("some value", 456, {"nested": [1, 2, None]})
    assert "some key" in d
    assert d.contains(123)
    assert "nothing" not in d
    assert d.get("nothing") is None
    assert d.get("nothing", 7) == 7
    assert len(d) == d.len() == 3
    assert set(d.keys()) == {"some key", 123, ("a", ("b", 1))}
    assert dict(d.items())["some key"] == "some value"
    assert len(list(d.values())) == 3
    assert d.pop("some key") == "some value"
    del d[123]
    for missing in (lambda: d["some key"], lambda: d.pop(123), lambda: d.__delitem__(123)):
        with pytest.raises(KeyError):
            missing()
    d.clear()
    assert len(d) == 0
    assert bool(d)  # it is an object, not a container of this process


def test_a_value_that_was_read_is_a_copy(d: modal.Dict) -> None:
    d["outer_key"] = {"inner_key": 1}
    d["outer_key"]["inner_key"] = 2
    assert d["outer_key"] == {"inner_key": 1}
    changed = d["outer_key"]
    changed["inner_key"] = 2
    d["outer_key"] = changed
    assert d["outer_key"] == {"inner_key": 2}


def test_keys_are_equal_when_their_parts_are(d: modal.Dict) -> None:
    text = "KEY".lower()  # an object of its own
    d[("key", "key")] = 1
    assert d[("key", text)] == 1


def test_put_if_there_is_none_is_atomic(d: modal.Dict) -> None:
    won: list[int] = []
    d.hydrate()

    def attempt(number: int) -> None:
        if d.put("lock", number, skip_if_exists=True):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [d["lock"]]
    assert d.put("lock", "other") is True
    assert d["lock"] == "other"


def test_update(d: modal.Dict) -> None:
    d.update({"a": 1, 2: "b"}, c=3)
    d.update()
    d.update(x=5)
    assert dict(d.items()) == {"a": 1, 2: "b", "c": 3, "x": 5}
    d.update({number: number for number in range(10_000)})
    assert len(d) == 10_003
    assert sum(1 for _ in d.keys()) == 10_003
    with pytest.raises(exception.InvalidError, match="10,000"):
        d.update({number: number for number in range(10_001)})


def test_large_values_are_kept_in_files_and_deleted_with_their_entry(d: modal.Dict, values: Path) -> None:
    before = len(list(values.iterdir()))
    first, second = b"a" * (3 * MIB), b"b" * (3 * MIB)
    d["k"] = first
    assert d["k"] == first
    d["k"] = second
    d["other"] = first
    assert dict(d.items()) == {"k": second, "other": first}
    wait_for_files(values, before + 2)  # the first one's goes
    assert d.put("k", first, skip_if_exists=True) is False
    assert d.pop("k") == second
    d["other"] = "small"
    d["again"] = second
    d.clear()
    modal.Dict.from_name(d._name).hydrate()
    wait_for_files(values, before)


def wait_for_files(values: Path, count: int) -> None:
    """Files go when the store knows that nothing holds them any more."""
    end = time.monotonic() + 200
    while len(list(values.iterdir())) > count:
        assert time.monotonic() < end, f"left: {list(values.iterdir())}"
        time.sleep(0.05)


def test_large_values_travel_without_a_shared_directory(
    d: modal.Dict, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modal._client.Client.values_dir", _no_directory)
    value = bytes(range(256)) * 16 * 1024  # 4 MiB
    d["k"] = value
    assert d["k"] == value
    assert d.pop("k") == value


async def _no_directory(_client: Client) -> str:
    return ""


def test_too_large(d: modal.Dict) -> None:
    with pytest.raises(exception.RequestSizeError, match="100 MiB"):
        d["k"] = b"x" * (100 * MIB)
    with pytest.raises(exception.RequestSizeError, match="64 KiB"):
        d["x" * 100_000] = 1
    assert len(d) == 0


def test_what_cannot_be_pickled(d: modal.Dict) -> None:
    with pytest.raises(exception.SerializationError, match="lock"):
        d["k"] = {"lock": threading.Lock()}


def test_a_library_that_is_missing_here(d: modal.Dict) -> None:
    module = types.ModuleType("far_away_library")
    exec("class Thing:\n    pass\n", module.__dict__)
    module.Thing.__module__ = "far_away_library"
    sys.modules["far_away_library"] = module
    try:
        d["k"] = module.Thing()
    finally:
        del sys.modules["far_away_library"]
    with pytest.raises(exception.DeserializationError, match="far_away_library"):
        d["k"]


class Unloadable:
    """Written without complaint, and read nowhere."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> object:
        return unloadable, (b"x" * self.size,)


def unloadable(_content: bytes) -> None:
    raise ValueError("its state is of another version")


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [1, MIB])
def test_popping_what_cannot_be_read_loses_nothing(
    d: modal.Dict, client: Client, monkeypatch: pytest.MonkeyPatch, values: Path, size: int, shared: bool
) -> None:
    if not shared:
        monkeypatch.setattr("modal._client.Client.values_dir", _no_directory)
    before = len(list(values.iterdir()))
    d["k"] = Unloadable(size)
    for _ in range(2):
        with pytest.raises(exception.DeserializationError, match=r"the value of 'k' in .* of another version"):
            d.pop("k")
    assert "k" in d
    modal.Queue.from_name("other", create_if_missing=True).put(1)  # what was said on the connection has been heard
    with pytest.raises(exception.DeserializationError):
        d["k"]
    assert list(d.keys()) == ["k"]
    del d["k"]  # nobody looks at the value
    assert "k" not in d
    wait_for_files(values, before)
    with pytest.raises(KeyError, match="k"):
        del d["k"]


def test_one_unreadable_entry_hides_no_others(d: modal.Dict) -> None:
    d.update({"a": 1, "bad": Unloadable(1), "large": Unloadable(MIB), "z": b"z" * MIB})
    d[Unloadable(1)] = 2
    found = list(d._readable_items(lambda error: type(error).__name__))
    wanted = {"a": 1, "bad": "DeserializationError", "large": "DeserializationError", "z": b"z" * MIB}
    assert dict(found) == {**wanted, "DeserializationError": 2}
    with pytest.raises(exception.DeserializationError, match=r"the value of '(bad|large)' in"):
        list(d.values())
    with pytest.raises(exception.DeserializationError, match="a key of a Dict cannot be deserialized here"):
        list(d.keys())
    del d["large"]
    with pytest.raises(exception.DeserializationError, match="the value of 'bad' in"):
        list(d.values())


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("nobody shall know")


def test_keys_that_cannot_be_shown(d: modal.Dict) -> None:
    with pytest.raises(KeyError, match="<Shy> not in dict"):
        d[Shy()]
    d[Shy()] = 1
    assert Shy() in d
    assert d.pop(Shy()) == 1
    with pytest.raises(KeyError, match="<Shy>"):
        del d[Shy()]


def test_any_word_may_be_a_keyword_of_update(d: modal.Dict) -> None:
    d.update({"x": 1}, self=2, other=3)
    assert dict(d.items()) == {"x": 1, "self": 2, "other": 3}
    asyncio.run(d.update.aio(self=4))
    assert d["self"] == 4
    flag: object = "yes"
    assert d.put("self", 5, skip_if_exists=flag) is False  # type: ignore[arg-type]


def test_names(d: modal.Dict) -> None:
    with pytest.raises(exception.NotFoundError, match="'no-such-dict' not found"):
        modal.Dict.from_name("no-such-dict").get("k")
    for name in ("", "a/b", "x" * 64, "ü"):
        with pytest.raises(exception.InvalidError):
            modal.Dict.from_name(name)
    d["k"] = 1
    same = modal.Dict.from_name(d._name)
    assert same["k"] == 1
    modal.Dict.delete(d._name)
    with pytest.raises(exception.NotFoundError, match="does not exist"):
        same["k"]
    with pytest.raises(exception.NotFoundError):
        modal.Dict.delete(d._name)
    fresh = modal.Dict.from_name(d._name, create_if_missing=True)
    assert len(fresh) == 0


def test_pickled_by_name_and_by_id(d: modal.Dict) -> None:
    by_name = pickle.loads(_serialization.dumps(d))
    by_name["k"] = 1
    d.hydrate()
    by_id = pickle.loads(_serialization.dumps(d))
    assert by_id.object_id == d.object_id == by_name.object_id
    assert by_id["k"] == 1
    with modal.Queue.ephemeral() as q:  # objects inside of objects
        d["q"] = q
        d["q"].put(5)
        assert q.get() == 5


def test_the_deprecated_argument(d: modal.Dict) -> None:
    with pytest.warns(exception.DeprecationError, match="data"):
        same = modal.Dict.from_name(d._name, {"a": 1}, create_if_missing=True)
    assert same["a"] == 1
    with pytest.warns(exception.DeprecationError), modal.Dict.ephemeral({"b": 2}) as other:
        assert other["b"] == 2


def test_asyncio() -> None:
    async def main() -> None:
        async with modal.Dict.ephemeral() as d:
            await d.put.aio("hello", 400)
            assert await d.get.aio("hello") == 400
            await d.update.aio({"a": 1})
            assert {key async for key in d.keys.aio()} == {"hello", "a"}
            assert {item async for item in d.items.aio()} == {("hello", 400), ("a", 1)}
            assert await d.pop.aio("a") == 1
            await asyncio.gather(*(d.put.aio(number, number) for number in range(200)))
            assert await d.len.aio() == 201
            await d.clear.aio()
            assert await d.contains.aio("hello") is False

    asyncio.run(main())


def test_an_iteration_goes_on_while_entries_change(d: modal.Dict) -> None:
    d.update(dict.fromkeys(range(1000), 0))
    seen = []
    for key in d.keys():
        seen.append(key)
        if key % 2 == 0:
            d.pop(key)
    assert sorted(seen) == list(range(1000))
    assert len(d) == 500


def test_environments_keep_apart(client: Client) -> None:
    from modal import _sync
    from modal._protocol.messages.secret import EnvironmentCreate, EnvironmentDelete
    from modal._protocol.messages.wire import Done

    _sync.run(client.request(EnvironmentCreate("dev"), Done))
    here = modal.Dict.from_name("same", create_if_missing=True)
    there = modal.Dict.from_name("same", create_if_missing=True, environment_name="dev")
    here["k"], there["k"] = "main", "dev"
    assert (here["k"], there["k"]) == ("main", "dev")
    assert here.object_id != there.object_id
    with pytest.raises(exception.NotFoundError, match="'nowhere' not found"):
        modal.Dict.from_name("same", environment_name="nowhere").get("k")
    _sync.run(client.request(EnvironmentDelete("dev"), Done))
    with pytest.raises(exception.NotFoundError):
        there.get("k")
    assert here["k"] == "main"
