from __future__ import annotations

import datetime
import functools
import os
import pathlib
import pickle
import subprocess
import sys
import threading
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal import _fresh_memory
from modal import _serialization as s
from modal.exception import DeserializationError, SerializationError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


class Buffer:
    """As numpy's arrays: gives its content out of band."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:
        return Buffer, (pickle.PickleBuffer(self.data),)


@given(PLAIN)
def test_whatever_goes_in_comes_out(value: Any) -> None:
    assert s.load(s.dump(value).inline) == value
    args, kwargs = s.load(s.dump_args((value, 1), {"k": value}).inline)
    assert (args, kwargs) == ((value, 1), {"k": value})


def test_plain_values_need_no_cloudpickle() -> None:
    code = (
        "import sys, pathlib, datetime, collections\n"
        "from modal import _serialization as s\n"
        "class Local: pass\n"
        "for v in (1, 'x', [1, {2: (3,)}], pathlib.Path('/x'), datetime.date(2020, 1, 1), collections.Counter(a=1),\n"
        "          ValueError('x'), s.Dumped, len):\n"
        "    s.load(s.dump(v).inline)\n"
        "assert 'cloudpickle' not in sys.modules\n"
        "assert not {'asyncio', 'inspect', 'dataclasses'} & set(sys.modules)\n"
        "assert s.load(s.dump(lambda x: x + 1).inline)(1) == 2\n"
        "assert 'cloudpickle' in sys.modules\n"
        "assert b'Local' in s.dump(Local()).inline and b'cloudpickle' in s.dump(Local()).inline\n"
    )
    path = os.pathsep.join(["src", *[p for p in sys.path if "site-packages" in p]])
    subprocess.run([sys.executable, "-S", "-c", code], check=True, env={"PYTHONPATH": path})


@pytest.mark.parametrize(
    "value", [pathlib.Path("/x"), datetime.timedelta(1), functools.partial(int, "3"), range(3), {1, 2}, b"x", 3j]
)
def test_importable_things_round_trip(value: Any) -> None:
    assert str(s.load(s.dump(value).inline)) == str(value)


def test_local_functions_and_classes_travel_by_value() -> None:
    class Local:
        def __init__(self) -> None:
            self.x = 3

    made = s.load(s.dump([Local(), lambda x: x * 2]).inline)
    assert made[0].x == 3
    assert made[1](4) == 8


@pytest.mark.parametrize("size", [s.INLINE_LIMIT - 200, s.INLINE_LIMIT + 1, 3 << 20])
def test_large_values_go_to_the_values_directory(tmp_path: Path, size: int) -> None:
    value = os.urandom(size)
    dumped = s.dump(value, str(tmp_path))
    assert bool(dumped.blob) == (size > s.INLINE_LIMIT)
    assert s.load_value(dumped.inline, dumped.blob, str(tmp_path)) == value
    if dumped.blob:
        file = tmp_path / dumped.blob
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.stat().st_size == dumped.size
        assert list(tmp_path.iterdir()) == [file]


def test_without_a_values_directory_large_values_come_in_parts() -> None:
    value = [os.urandom(s.INLINE_LIMIT), "x" * 1000]
    dumped = s.dump(value)
    assert dumped.parts is not None
    assert sum(len(part) for part in dumped.parts) == dumped.size
    assert s.load(b"".join(dumped.parts)) == value
    assert s.load(s.dumps(value)) == value


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("sizes", [(100,), (70_000,), (100_000,), (200_000,), (1 << 20, 100, 70_000, 300_001)])
def test_buffers_stand_behind_the_pickle(tmp_path: Path, sizes: tuple[int, ...], shared: bool) -> None:
    value = [Buffer(bytearray(os.urandom(size))) for size in sizes]
    dumped = s.dump(value, str(tmp_path) if shared else "")
    if shared and dumped.blob:
        loaded = s.load_file(str(tmp_path / dumped.blob))
        (tmp_path / dumped.blob).unlink()
    else:
        loaded = s.load(dumped.inline if dumped.parts is None else b"".join(dumped.parts))
    assert [bytes(item.data) for item in loaded] == [bytes(item.data) for item in value]
    view = memoryview(loaded[0].data)
    assert not view.readonly
    view[0] = 1  # copies are private


@pytest.mark.parametrize("size", [70_000, 1 << 20])
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda data: data.hex()])
def test_large_pieces(tmp_path: Path, kind: Any, size: int) -> None:
    value = [kind(os.urandom(size)), 1, kind(os.urandom(size))]
    dumped = s.dump(value, str(tmp_path))
    assert s.load_value(dumped.inline, dumped.blob, str(tmp_path)) == value
    assert s.load(s.dumps(value)) == value


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_very_large_pieces_are_read_into_fresh_memory(
    tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised: list[tuple[int, bool]] = []
    advise = _fresh_memory.advise

    def note(view: memoryview, *, huge: bool) -> None:
        advised.append((view.nbytes, huge))
        advise(view, huge=huge)

    monkeypatch.setattr(_fresh_memory, "fill", lambda _view, _file: False)
    monkeypatch.setattr(_fresh_memory, "advise", note)
    monkeypatch.setattr(_fresh_memory, "DEAR", 1.0)
    data = kind(b"0123456789abcdef" * (600 << 10) + b"tail")
    value = ["before", data, b"small", data + b"other"]
    dumped = s.dump(value, str(tmp_path))
    assert s.load_value(b"", dumped.blob, str(tmp_path)) == value
    assert advised == [(len(data), True), (len(data) + 5, True)]


def test_where_huge_pages_are_dear_the_rest_gets_small_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advised: list[tuple[int, bool]] = []
    monkeypatch.setattr(_fresh_memory, "fill", lambda _view, _file: False)
    monkeypatch.setattr(_fresh_memory, "advise", lambda view, *, huge: advised.append((view.nbytes, huge)))
    monkeypatch.setattr(_fresh_memory, "DEAR", -1.0)
    written: list[int] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: (written.append(len(data)), write(fd, data))[1])
    data = b"0123456789abcdef" * (600 << 10) + b"tail"
    dumped = s.dump(data, str(tmp_path))
    assert s.load_value(b"", dumped.blob, str(tmp_path)) == data
    assert advised == [(len(data), True), (len(data) - (8 << 20), False)]  # two steps are more than half
    assert written.count(4 << 20) == 2 and written.count(16 << 10) == (len(data) - (8 << 20)) // (16 << 10)


def test_without_ctypes_large_pieces_are_read_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fresh_memory, "_madvise", None)
    monkeypatch.setitem(sys.modules, "ctypes", None)
    data = b"0123456789abcdef" * (600 << 10)
    assert s.load_value(b"", s.dump(data, str(tmp_path)).blob, str(tmp_path)) == data


def test_a_buffer_that_is_not_contiguous_stays_in_the_pickle() -> None:
    view = memoryview(array("i", range(100_000)))[::2]
    with pytest.raises(SerializationError):
        s.dumps(Buffer(view))


def test_a_cut_off_value_is_an_error() -> None:
    data = s.dumps([Buffer(bytearray(200_000))])
    with pytest.raises(DeserializationError, match="cut off"):
        s.load(data[-100:])
    with pytest.raises(DeserializationError):
        s.load(b"\x80\x05")


def test_the_error_names_the_argument() -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match=r"argument 2 \(_?thread\.?lock|argument 2 \(_thread\.lock\)"):
        s.dump_args((1, lock), {})
    with pytest.raises(SerializationError, match=r"argument 'depth' \(dict\)\['a'\]\[1\] cannot be serialized.*lock"):
        s.dump_args((1,), {"depth": {"a": [1, lock]}})


def test_the_error_names_the_attribute_and_leaves_no_file(tmp_path: Path) -> None:
    class Holder:
        def __init__(self) -> None:
            self.data = b"x" * (s.INLINE_LIMIT + 1)
            self.handle = threading.Lock()

    with pytest.raises(SerializationError, match=r"the result\.handle cannot be serialized: TypeError"):
        s.dump(Holder(), str(tmp_path), "the result")
    assert list(tmp_path.iterdir()) == []


def test_too_deep_a_value() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SerializationError, match="nested too deeply"):
        s.dump(value)


def test_a_missing_module_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_there.py").write_text("class Thing:\n    pass\n\ndef f():\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_there  # type: ignore[import-not-found]

    data = s.dumps(only_there.Thing())
    gone = s.dumps(only_there.f)
    del sys.modules["only_there"].f
    with pytest.raises(DeserializationError, match="versions of the code"):
        s.load(gone, "the result")
    del sys.modules["only_there"]
    (tmp_path / "only_there.py").unlink()
    with pytest.raises(DeserializationError, match=r"the result cannot be deserialized here.*'only_there'"):
        s.load(data, "the result")


@pytest.mark.parametrize("blob", ["../../etc/passwd", "vl-", "vl-" + "/" * 22, "xx-" + "a" * 22])
def test_ids_that_are_none_open_no_file(blob: str) -> None:
    with pytest.raises(DeserializationError, match="not the id"):
        s.load_value(b"", blob, "/tmp")


def test_a_value_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DeserializationError, match="not there any more"):
        s.load_value(b"", s.new_value_id(), str(tmp_path))


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="could not be written to"):
        s.dump(b"x" * (1 << 20), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_modules_registered_for_pickling_by_value() -> None:
    import cloudpickle

    import tests.unit.client.test_serialization as here  # type: ignore[import-not-found]

    cloudpickle.register_pickle_by_value(here)
    try:
        assert not s._is_importable(here.Buffer)
    finally:
        cloudpickle.unregister_pickle_by_value(here)
    assert s._is_importable(here.Buffer)
