"""Values on their way: arguments, results, items of generators.

A value is pickled with protocol 5. What plain pickle can name (builtins, and whatever is importable
outside of `__main__`) never needs cloudpickle, whose import costs 31 ms; everything else goes through
it. A value above `INLINE_LIMIT` is written to a file of the values directory while it is pickled,
and read back without a copy in between; a very large `bytes` is not even read (`_mapped_bytes`). Large
buffers (numpy arrays and the like) stand behind the pickle, aligned, and are mapped into memory too:

    pickle | padding | buffer | padding | buffer | … | (offset u64, size u64) of each | count u64 | MAGIC

Only the standard library is imported here, so that a container's start costs nothing for it.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from types import CoroutineType, FunctionType, GeneratorType
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, NoReturn, Optional, Sequence, Tuple, Type, Union

if TYPE_CHECKING:
    from modal._protocol.messages.call import CallFailure

INLINE_LIMIT = 256 * 1024  # bytes; as `call.INLINE_LIMIT`
PROTOCOL = 5
BUFFER_MIN = 128 * 1024  # bytes; smaller buffers stand in the pickle itself
ALIGNMENT = 64  # bytes
MAGIC = b"\x00modalB5"  # a plain pickle ends with a full stop, so the two cannot be mistaken
_U64 = struct.Struct("!Q")
_PAIR = struct.Struct("!QQ")
_ALPHABET = bytes(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[i % 62] for i in range(256))
_SMALL = frozenset((int, float, bool, type(None)))
_SMALL_TEXT = 32 * 1024  # characters or bytes
_LARGE = 8 << 20  # bytes; as `_fresh_memory.LARGE`
_HELD = 256 * 1024  # bytes; what pickle writes in front of a large piece is less, as its frames are

Part = Union[bytes, memoryview]


class Dumped(NamedTuple):
    """A pickled value: `inline`; or a file `blob` in the values directory; or, where there is none, `parts`."""

    inline: bytes  # b"" for a large value
    blob: str  # `vl-…`, "" unless it was written to the values directory
    size: int  # bytes in all
    parts: Optional[List[Part]] = None  # a large value's bytes, still to be uploaded


MARK_LENGTH = 8  # characters of an id that may say whose the value is; see `_value_owner`


def new_value_id(mark: str = "") -> str:
    """`vl-` and 22 characters of `[A-Za-z0-9]`, of which `mark` are the first."""
    return f"vl-{mark}{random_text(22 - len(mark))}"


def random_text(length: int) -> str:
    """Letters and digits."""
    return os.urandom(length).translate(_ALPHABET).decode()


def value_path(values_dir: str, blob: str) -> str:
    """The file of a large value. Raises DeserializationError where `blob` is no such id."""
    if not (blob.startswith("vl-") and len(blob) == 25 and blob[3:].isascii() and blob[3:].isalnum()):
        raise _deserialization_error(f"{blob!r} is not the id of a value")
    return os.path.join(values_dir, blob)


# -- writing --------------------------------------------------------------------------------------


def dump(value: Any, values_dir: str = "", what: str = "the value", *, audience: str = "") -> Dumped:
    """Pickle one value. Raises SerializationError that says what of it cannot be pickled.

    `audience`: who will soon read and delete it; then its file may be used again for them (`_spare_files`).
    """
    return _dump(value, values_dir, lambda error: _explain(value, what, error), audience)


def dump_args(
    args: Sequence[Any], kwargs: Dict[str, Any], values_dir: str = "", *, audience: str = "", owned: bool = False
) -> Dumped:
    """Pickle `(args, kwargs)`, as `dump`. Raises SerializationError that names the argument which cannot be.

    `owned`: nobody needs them when this process is gone.
    """
    if not kwargs:
        for value in args:
            kind = type(value)
            if kind not in _SMALL and not ((kind is str or kind is bytes) and len(value) < _SMALL_TEXT):
                break
        else:
            data = pickle.dumps((tuple(args), kwargs), PROTOCOL)
            if len(data) <= INLINE_LIMIT:
                return Dumped(data, "", len(data))
    return _dump((tuple(args), kwargs), values_dir, lambda error: _explain_args(args, kwargs, error), audience, owned)


def dumps(value: Any, what: str = "the value") -> bytes:
    """As `dump`, always as bytes whatever the size."""
    dumped = _dump(value, "", lambda error: _explain(value, what, error))
    return dumped.inline if dumped.parts is None else b"".join(dumped.parts)


def dumps_small(value: Any) -> Optional[bytes]:
    """As `dumps` of a short plain value, which takes a tenth of the time; None for any other."""
    kind = type(value)
    if kind in _SMALL or ((kind is str or kind is bytes) and len(value) < _SMALL_TEXT):
        return pickle.dumps(value, PROTOCOL)
    return None


def _dump(value: Any, values_dir: str, explain: Any, audience: str = "", owned: bool = False) -> Dumped:
    sink = _Sink(values_dir, audience, owned)
    try:
        try:
            _pickle_into(sink, value, _PlainPickler)
        except (OSError, MemoryError):
            raise
        except Exception:  # not plain, or plain pickle cannot: cloudpickle can more, and says better what it cannot
            sink.reset()
            try:
                _pickle_into(sink, value, _cloud_pickler())
            except (OSError, MemoryError):
                raise
            except Exception as error:
                explain(error)
        return sink.finish()
    except OSError as error:
        if sink.fd < 0:
            raise
        raise OSError(error.errno, f"a large value could not be written to {values_dir}: {error.strerror}") from error
    finally:
        sink.discard()


class _Sink:
    """Where a pickler writes: memory first, the values directory from `INLINE_LIMIT` bytes on."""

    __slots__ = ("aligns", "audience", "blob", "buffers", "fd", "held", "owned", "parts", "path", "size", "values_dir")

    def __init__(self, values_dir: str, audience: str, owned: bool) -> None:
        self.parts: List[Part] = []
        self.size = 0
        self.fd = -1
        self.held = b""  # the last small piece, not yet in the file
        self.path = ""
        self.blob = ""
        self.buffers: List[memoryview] = []
        self.values_dir = values_dir
        self.audience = audience
        self.owned = owned
        self.aligns = True  # large pieces of the pickle

    def write(self, data: Union[Part, pickle.PickleBuffer]) -> int:
        """A pickler's. A large piece comes alone, after what belongs in front of it."""
        if isinstance(data, pickle.PickleBuffer):
            data = data.raw()
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        if self.fd >= 0:
            self._append(data, size)
            return size
        self.parts.append(data)
        self.size += size
        if self.size > INLINE_LIMIT and self.values_dir:
            self._open(size)
        return size

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """The pickler's buffer callback: true leaves the buffer in the pickle itself."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < BUFFER_MIN:
            return True
        self.buffers.append(raw)
        return False

    def finish(self) -> Dumped:
        if self.buffers:
            self._write_buffers()
        if self.fd >= 0:
            self._flush()
            self._close()
            return Dumped(b"", self.blob, self.size)
        if self.size <= INLINE_LIMIT:
            inline = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
            return Dumped(bytes(inline), "", self.size)
        return Dumped(b"", "", self.size, self.parts)

    def reset(self) -> None:
        """Forget what was written."""
        self.discard()
        self.parts, self.buffers, self.size, self.held = [], [], 0, b""

    def discard(self) -> None:
        """Delete the unfinished file, if there is one."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            os.unlink(self.path)

    def _open(self, size: int) -> None:
        """`size`: of the last part."""
        mark = ""
        if self.owned:
            from modal import _value_owner

            mark = _value_owner.mark(self.values_dir)
        self.blob = new_value_id(mark)
        self.path = os.path.join(self.values_dir, self.blob + ".tmp")
        expected = sum([buffer.nbytes for buffer in self.buffers], size)
        if self.audience and expected >= _LARGE:
            from modal._spare_files import take

            self.fd = take(self.values_dir, expected, self.path, self.audience)
        if self.fd < 0:
            self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        parts, self.parts, self.size = self.parts, [], 0
        for part in parts:
            self._append(part, part.nbytes if isinstance(part, memoryview) else len(part))

    def _append(self, data: Part, size: int) -> None:
        """To the file; a large `bytes` so that its reader need not copy it."""
        if size >= _LARGE and self.held and self.aligns:
            from modal._mapped_bytes import padding

            pad = padding(self.size)
            _write_all(self.fd, pad)
            self.size += len(pad)
        self._flush()
        self.size += size
        if size <= _HELD and isinstance(data, bytes):
            self.held = data
        else:
            _write_all(self.fd, data)

    def _flush(self) -> None:
        held, self.held = self.held, b""
        if held:
            _write_all(self.fd, held)

    def _close(self) -> None:
        if os.fstat(self.fd).st_size != self.size:  # it was larger before
            os.ftruncate(self.fd, self.size)
        if self.audience and self.size >= _LARGE:
            from modal._spare_files import keep

            keep(self.values_dir, self.blob, self.path, self.size, self.audience)
        fd, self.fd = self.fd, -1
        os.close(fd)
        os.rename(self.path, os.path.join(self.values_dir, self.blob))

    def _write_buffers(self) -> None:
        self.aligns = False
        places = []
        for buffer in self.buffers:
            self.write(bytes(-self.size % ALIGNMENT))
            places.append(_PAIR.pack(self.size, buffer.nbytes))
            self.write(buffer)
        self.write(b"".join(places) + _U64.pack(len(places)) + MAGIC)


def _write_all(fd: int, data: Part) -> None:
    if len(data) >= _LARGE:
        from modal._fresh_memory import write

        write(fd, memoryview(data).cast("B"))
        return
    written = os.write(fd, data)
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if written < size:
        view = memoryview(data).cast("B")
        while written < size:
            written += os.write(fd, view[written:])


class _NotPlain(Exception):
    """The value holds something that only cloudpickle can write."""


class _PlainPickler(pickle.Pickler):
    """The C pickler; `reducer_override` is asked about everything that is not exactly a builtin type."""

    def reducer_override(self, obj: Any) -> Any:
        if (isinstance(obj, type) or type(obj) is FunctionType) and not _is_importable(obj):
            raise _NotPlain
        return NotImplemented


def _is_importable(obj: Any) -> bool:
    """Whether another process finds this class or function under its name."""
    module_name = getattr(obj, "__module__", None)
    if not module_name or module_name == "__main__":
        return False
    found: Any = sys.modules.get(module_name)
    if found is None:
        return False
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
        if found is None:
            return False
    if found is not obj:
        return False
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return True
    by_value = cloudpickle.list_registry_pickle_by_value()
    return not any(module_name == name or module_name.startswith(name + ".") for name in by_value)


def _cloud_pickler() -> Type[pickle.Pickler]:
    try:
        import cloudpickle
    except ImportError:
        # A process that user code has started in a container: the platform's copy lies beside this package.
        carried = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "carried")
        if carried in sys.path or not os.path.isdir(carried):
            raise
        sys.path.append(carried)
        import cloudpickle

    pickler: Type[pickle.Pickler] = cloudpickle.CloudPickler
    return pickler


def _pickle_into(sink: _Sink, value: Any, pickler: Type[pickle.Pickler]) -> None:
    pickler(sink, PROTOCOL, buffer_callback=sink.keep).dump(value)


# -- reading --------------------------------------------------------------------------------------


def load(data: bytes, what: str = "a value") -> Any:
    """The value that `dump` made these bytes of. Raises DeserializationError with what is missing here."""
    try:
        if data[-8:] == MAGIC:
            return _load_with_buffers(memoryview(bytearray(data)))
        return pickle.loads(data)
    except Exception as error:
        _cannot_load(error, what)


def load_all(items: Sequence[bytes], what: str = "a value") -> List[Any]:
    """As `load` of each."""
    if MAGIC in [item[-8:] for item in items]:
        return [load(item, what) for item in items]
    loads = pickle.loads
    try:
        return [loads(item) for item in items]
    except Exception as error:
        _cannot_load(error, what)


def load_file(path: str, what: str = "a value") -> Any:
    """As `load`, from a file of the values directory. The file may be deleted afterwards."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > 16 and os.pread(file.fileno(), 8, size - 8) == MAGIC:
                import mmap

                return _load_with_buffers(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)))
            if size >= _LARGE:
                from modal._fresh_memory import Reader

                return pickle.load(Reader(file))
            return pickle.load(file)
    except OSError as error:
        raise _deserialization_error(f"{what} is not there any more ({path}: {error.strerror})") from error
    except Exception as error:
        _cannot_load(error, what)


def load_value(inline: bytes, blob: str, values_dir: str, what: str = "a value") -> Any:
    """A value as messages carry it: inline, or by the id of its file."""
    if blob:
        return load_file(value_path(values_dir, blob), what)
    return load(inline, what)


def _load_with_buffers(data: memoryview) -> Any:
    (count,) = _U64.unpack_from(data, len(data) - 16)
    table = len(data) - 16 - count * _PAIR.size
    if table < 0:
        raise pickle.UnpicklingError("the value is cut off")
    buffers = []
    for number in range(count):
        offset, size = _PAIR.unpack_from(data, table + number * _PAIR.size)
        if offset + size > table:
            raise pickle.UnpicklingError("the value is cut off")
        buffers.append(data[offset : offset + size])
    return pickle.loads(data, buffers=buffers)


# -- what went wrong ------------------------------------------------------------------------------


def _cannot_load(error: Exception, what: str) -> NoReturn:
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        text = (
            f"{what} cannot be deserialized here: it needs the module {error.name!r}, which is not installed in this "
            f"environment. Install {package!r} here, or pass plain Python values"
        )
    elif isinstance(error, (AttributeError, ImportError)):
        text = (
            f"{what} cannot be deserialized here: {error}. The versions of the code or of a library differ "
            "between the two sides"
        )
    else:
        text = f"{what} cannot be deserialized here: {type(error).__name__}: {error}"
    raise _deserialization_error(text) from error


def _deserialization_error(text: str) -> Exception:
    from modal.exception import DeserializationError

    return DeserializationError(text)


def _explain(value: Any, what: str, error: Exception) -> NoReturn:
    from modal.exception import SerializationError

    where, reason = _culprit(value, error)
    raise SerializationError(f"{what}{where} cannot be serialized: {reason}") from error


def _explain_args(args: Sequence[Any], kwargs: Dict[str, Any], error: Exception) -> NoReturn:
    for number, value in enumerate(args, 1):
        failed = _failure_to_pickle(value)
        if failed is not None:
            _explain(value, f"argument {number} ({_kind(value)})", failed)
    for name, value in kwargs.items():
        failed = _failure_to_pickle(value)
        if failed is not None:
            _explain(value, f"argument {name!r} ({_kind(value)})", failed)
    _explain((args, kwargs), "the arguments", error)


def _kind(value: Any) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"


def _failure_to_pickle(value: Any) -> Optional[Exception]:
    try:
        dump_checked = _cloud_pickler()
        dump_checked(_Nowhere(), PROTOCOL).dump(value)
    except Exception as error:
        return error
    return None


class _Nowhere:
    def write(self, data: Any) -> int:
        return memoryview(data).nbytes


def _culprit(value: Any, error: Exception) -> Tuple[str, str]:
    """The path to the innermost part that cannot be pickled, like `['key'].lock`, and why it cannot."""
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        return "", "it is nested too deeply"
    path = ""
    for _depth in range(16):
        for step, part in _parts_of(value):
            failed = _failure_to_pickle(part)
            if failed is not None:
                path, value, error = path + step, part, failed
                break
        else:
            break
    if isinstance(value, GeneratorType):
        return path, (
            "it is a generator, of which only the items can be sent. Make a list of them, or let the function yield "
            "(or say is_generator=True where it returns a generator) and call .remote_gen()"
        )
    if isinstance(value, CoroutineType):
        return path, "it is a coroutine: await it first, in a function that is `async def`"
    text = str(error)
    return path, text if type(error) is pickle.PicklingError else f"{type(error).__name__}: {text}"


def _parts_of(value: Any) -> List[Tuple[str, Any]]:
    limit = 1000  # parts that are looked at
    if isinstance(value, dict):
        return [(f"[{key!r:.60}]", part) for key, part in list(value.items())[:limit]]
    if isinstance(value, (list, tuple)):
        return [(f"[{number}]", part) for number, part in enumerate(value[:limit])]
    state = getattr(value, "__dict__", None)
    if isinstance(state, dict) and not isinstance(value, (type, FunctionType)):
        return [(f".{name}", part) for name, part in list(state.items())[:limit]]
    return []


# -- exceptions: see `modal._failure` -------------------------------------------------------------


def failure_of(error: BaseException) -> CallFailure:
    """What the caller hears of an exception of the user's. Never raises."""
    from modal import _failure

    return _failure.failure_of(error)


def exception_of(failure: CallFailure, *, timed_out: bool = False) -> Exception:
    """The exception to raise for a failed input."""
    from modal import _failure

    return _failure.exception_of(failure, timed_out=timed_out)
