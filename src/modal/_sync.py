"""One implementation, two faces: `f(...)` blocks, `f.aio(...)` is asyncio's.

    class Volume:
        @synchronized
        async def commit(self) -> None: ...          # vol.commit(); await vol.commit.aio()

        @synchronized
        async def listdir(self, path) -> AsyncIterator[FileEntry]: ... yield   # for e in …; async for e in ….aio(…)

        @synchronized_context
        async def ephemeral(cls): ... yield          # with …; async with …

The blocking face has no event loop and no thread: the coroutine is driven by `send(None)` and never
suspends, because all that it awaits in the end are primitives that ask `blocking()` and then block
themselves (`Client.request`, `Client.open`, `sleep`, `gather` …). That saves 0.1 ms a call and the import
of asyncio. In the async face the coroutine is the implementation's own and nothing stands in between.

`@synchronized` stands outermost: over `@staticmethod` (and `@classmethod`, for which there is also
`@synchronized_classmethod`), not under it. Implementations call each other through `.aio`, which keeps the
caller's face: `await self.hydrate.aio()`.
"""

from __future__ import annotations

import sys
import threading
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Coroutine,
    Generic,
    Iterator,
    Optional,
    TypeVar,
    cast,
)

from modal._unused import Noticing, NoticingIterator

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec, overload

    P = ParamSpec("P")
    Q = ParamSpec("Q")
else:
    P = TypeVar("P")
    Q = TypeVar("Q")

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
_CO_COROUTINE = 0x80
_CO_ASYNC_GENERATOR = 0x200


class _Face(threading.local):
    active = False  # a blocking driver runs in this thread
    loop: Any = None  # the event loop that was running when it started: a loop inside of it is another matter


_face = _Face()


def _running_loop() -> Any:
    asyncio = sys.modules.get("_asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


def blocking() -> bool:
    """Whether the implementation that runs now belongs to a blocking call: its primitives must block then."""
    return _face.active and _face.loop is _running_loop()


def run(coroutine: Coroutine[Any, Any, R]) -> R:
    """Drive an implementation to its end in the calling thread, blocking it (and its event loop, if any)."""
    return cast("R", _drive(coroutine))


def _drive(awaitable: Any) -> Any:
    face = _face
    before_active, before_loop = face.active, face.loop
    face.active, face.loop = True, _running_loop()
    try:
        awaitable.send(None)
    except StopIteration as stop:
        return stop.value
    finally:
        face.active, face.loop = before_active, before_loop
    _close_suspended(awaitable)
    raise RuntimeError(
        "a blocking call awaited something that needs an event loop; use the `.aio` form of the call in async code"
    )


def _close_suspended(awaitable: Any) -> None:
    try:
        awaitable.close()
    except RuntimeError:  # it awaits once more while it is closed: what matters is said by our caller
        return


def iterate(generator: Any) -> Iterator[Any]:
    """Drive an async generator of an implementation as a plain one."""
    try:
        while True:
            try:
                item = _drive(generator.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        _drive(generator.aclose())


# -- primitives for implementations ---------------------------------------------------------------


async def sleep(seconds: float) -> None:
    """Wait, in the caller's face."""
    if blocking():
        import time

        time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop in the blocking face
    else:
        import asyncio

        await asyncio.sleep(seconds)


async def gather(*coroutines: Coroutine[Any, Any, T]) -> list[T]:
    """The results of all, in order. The async face runs them at once, the blocking one in turn.

    The first failure is raised and what has not ended yet is given up.
    """
    if blocking():
        results = []
        left = list(coroutines)
        try:
            while left:
                results.append(await left.pop(0))
        finally:
            for coroutine in left:
                coroutine.close()
        return results
    import asyncio

    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def call_blocking(function: Callable[..., R], *args: Any) -> R:
    """Call something that blocks (reads files, hashes): directly, or in a thread where there is an event loop."""
    if blocking():
        return function(*args)
    import asyncio

    return await asyncio.get_running_loop().run_in_executor(None, lambda: function(*args))


# -- the faces ------------------------------------------------------------------------------------


class _Synchronized:
    """What a decorated function becomes. As a method it is bound at each access, like any function."""

    def __init__(self, function: Any, unused: str = "") -> None:
        self._kind: Optional[type] = type(function) if isinstance(function, (classmethod, staticmethod)) else None
        self._function = function.__func__ if self._kind is not None else function
        self._unused = unused
        self.__wrapped__ = self._function
        self.__name__: str = self._function.__name__
        self.__qualname__: str = self._function.__qualname__
        self.__module__ = self._function.__module__
        self.__doc__ = self._function.__doc__

    def __get__(self, instance: Any, owner: Optional[type] = None) -> Any:
        if self._kind is staticmethod:
            return self
        if self._kind is classmethod:
            instance = owner if owner is not None else type(instance)
        if instance is None:
            return self
        return self._bind(instance)

    def _bind(self, instance: Any) -> Any:
        raise NotImplementedError

    def __set_name__(self, owner: type, name: str) -> None:
        self.__name__ = name

    @property
    def __signature__(self) -> Any:
        import inspect

        return inspect.signature(self._function)

    def __repr__(self) -> str:
        return f"<function {self.__qualname__} (blocking; .aio for asyncio)>"


_documentation: Any = property(lambda bound: bound.__func__.__doc__, doc="That of the decorated function.")


class _Bound:
    # A synchronized method of one object. `aio` is the implementation's own bound method.

    __slots__ = ("__func__", "__self__", "aio")
    __doc__ = _documentation

    def __init__(self, func: _Synchronized, instance: Any, aio: Any) -> None:
        self.__func__ = func
        self.__self__ = instance
        self.aio = aio

    def __getattr__(self, name: str) -> Any:  # __name__, __qualname__, __wrapped__: as functions have them
        if name in ("__name__", "__qualname__"):
            return getattr(self.__func__, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def __signature__(self) -> Any:
        import inspect

        signature = inspect.signature(self.__func__.__wrapped__)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Bound):
            return NotImplemented
        return self.__func__ is other.__func__ and self.__self__ is other.__self__

    def __hash__(self) -> int:
        return hash((id(self.__func__), id(self.__self__)))

    def __reduce__(self) -> Any:
        return getattr, (self.__self__, self.__name__)

    def __repr__(self) -> str:
        return f"<bound method {self.__qualname__} of {self.__self__!r} (blocking; .aio for asyncio)>"


class _Call(_Synchronized):
    """A coroutine function."""

    def _bind(self, instance: Any) -> Any:
        return _BoundCall(self, instance, self._function.__get__(instance))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return _call(self._function, args, kwargs)

    @property
    def aio(self) -> Any:
        return self._function


class _BoundCall(_Bound):
    __slots__ = ()
    __doc__ = _documentation

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return _call(self.aio, args, kwargs)


def _call(function: Any, args: Any, kwargs: Any) -> Any:
    try:
        return _drive(function(*args, **kwargs))
    except BaseException as error:
        _trim(error)
        raise error


def _trim(error: BaseException) -> None:
    """Take our own frames out of an error's traceback (unless MODAL_TRACEBACK asks for them)."""
    from modal._traceback import trim

    trim(error)


class _Generator(_Synchronized):
    """An async generator function."""

    def _bind(self, instance: Any) -> Any:
        method = self._function.__get__(instance)
        return _BoundGenerator(self, instance, Noticing(method, self._unused) if self._unused else method)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return _iterator(self.aio, args, kwargs)

    @property
    def aio(self) -> Any:
        return Noticing(self._function, self._unused) if self._unused else self._function


class _BoundGenerator(_Bound):
    __slots__ = ()
    __doc__ = _documentation

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return _iterator(self.aio, args, kwargs)


def _iterator(function: Any, args: Any, kwargs: Any) -> Any:
    if isinstance(function, _Flat):
        return _flattened(function.function(*args, **kwargs))
    if isinstance(function, Noticing):
        return NoticingIterator(iterate(function.function(*args, **kwargs)), function.unused)
    return iterate(function(*args, **kwargs))


class _Pages(_Generator):
    """An async generator function of lists, whose items are given one by one."""

    def _bind(self, instance: Any) -> Any:
        return _BoundGenerator(self, instance, _Flat(self._function.__get__(instance)))

    @property
    def aio(self) -> Any:
        return _Flat(self._function)


class _Flat:
    """Its async face."""

    __slots__ = ("function",)

    def __init__(self, function: Any) -> None:
        self.function = function

    async def __call__(self, /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        pages = self.function(*args, **kwargs)
        try:
            async for page in pages:
                for item in page:
                    yield item
        finally:
            await pages.aclose()

    @property
    def __wrapped__(self) -> Any:
        return self.function

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)


def _flattened(pages: Any) -> Iterator[Any]:
    for page in iterate(pages):
        yield from page


class _Context(_Synchronized):
    """An async generator function with one `yield`, as a context manager."""

    def _bind(self, instance: Any) -> Any:
        method = self._function.__get__(instance)
        return _BoundContext(self, instance, lambda *args, **kwargs: Context(method(*args, **kwargs)))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return Context(self._function(*args, **kwargs))

    @property
    def aio(self) -> Any:
        return self.__call__


class _BoundContext(_Bound):
    __slots__ = ()
    __doc__ = _documentation

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.aio(*args, **kwargs)


_entered: set[Context[Any]] = set()  # by the main thread; who calls `__enter__` need not keep the context itself


_ends_at_exit = False


def _end_entered(process: int) -> None:
    """What was entered without `with` ends with the process; a child that has inherited it leaves it alone."""
    import os

    while _entered and os.getpid() == process:
        try:
            _entered.pop().__exit__(None, None, None)
        except Exception:  # the server collects what it hears nothing of any more
            continue


def _hold(context: Context[Any]) -> None:
    global _ends_at_exit
    if not _ends_at_exit:
        import atexit
        import os

        atexit.register(_end_entered, os.getpid())
        _ends_at_exit = True
    _entered.add(context)


class Context(Generic[T]):
    """A context manager for `with` and for `async with`."""

    __slots__ = ("_manager",)

    def __init__(self, generator: AsyncIterator[T]) -> None:
        import contextlib

        self._manager: Any = contextlib.asynccontextmanager(lambda: generator)()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name!r}: this is a context manager; use what `with ... as x:` gives.")

    def __enter__(self) -> T:
        value = cast("T", _drive(self._manager.__aenter__()))
        if threading.get_ident() == threading.main_thread().ident:
            _hold(self)
        return value

    def __exit__(self, *exc_info: Any) -> Optional[bool]:
        _entered.discard(self)
        return cast("Optional[bool]", _drive(self._manager.__aexit__(*exc_info)))

    async def __aenter__(self) -> T:
        return cast("T", await self._manager.__aenter__())

    async def __aexit__(self, *exc_info: Any) -> Optional[bool]:
        return cast("Optional[bool]", await self._manager.__aexit__(*exc_info))


if TYPE_CHECKING:

    class Call(Generic[P, R]):
        """The type of `@synchronized async def`: a blocking callable with an `.aio` one."""

        __name__: str
        __wrapped__: Callable[..., Any]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
        def aio(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
        @overload
        def __get__(self, instance: None, owner: Any = None) -> Call[P, R]: ...
        @overload
        def __get__(self: Call[Concatenate[Any, Q], R], instance: object, owner: Any = None) -> Call[Q, R]: ...
        def __get__(self, instance: Any, owner: Any = None) -> Any: ...

    class BoundCall(Generic[P, R]):
        """The type of `@synchronized_classmethod`."""

        __wrapped__: Callable[..., Any]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
        def aio(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
        def __get__(self, instance: Any, owner: Any = None) -> BoundCall[P, R]: ...

    class BoundContextCall(Generic[P, R]):
        """The type of `@synchronized_context_classmethod`."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Context[R]: ...
        def aio(self, *args: P.args, **kwargs: P.kwargs) -> Context[R]: ...
        def __get__(self, instance: Any, owner: Any = None) -> BoundContextCall[P, R]: ...

    class GeneratorCall(Generic[P, R]):
        """The type of `@synchronized` over an async generator function."""

        __name__: str
        __wrapped__: Callable[..., Any]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]: ...
        def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]: ...
        @overload
        def __get__(self, instance: None, owner: Any = None) -> GeneratorCall[P, R]: ...
        @overload
        def __get__(
            self: GeneratorCall[Concatenate[Any, Q], R], instance: object, owner: Any = None
        ) -> GeneratorCall[Q, R]: ...
        def __get__(self, instance: Any, owner: Any = None) -> Any: ...

    class ContextCall(Generic[P, R]):
        """The type of `@synchronized_context`."""

        __name__: str
        __wrapped__: Callable[..., Any]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Context[R]: ...
        def aio(self, *args: P.args, **kwargs: P.kwargs) -> Context[R]: ...
        @overload
        def __get__(self, instance: None, owner: Any = None) -> ContextCall[P, R]: ...
        @overload
        def __get__(
            self: ContextCall[Concatenate[Any, Q], R], instance: object, owner: Any = None
        ) -> ContextCall[Q, R]: ...
        def __get__(self, instance: Any, owner: Any = None) -> Any: ...

    @overload
    def synchronized(function: Callable[P, Coroutine[Any, Any, R]]) -> Call[P, R]: ...
    @overload
    def synchronized(function: Callable[P, AsyncIterator[R]]) -> GeneratorCall[P, R]: ...
    def synchronized(function: Any) -> Any: ...

    def synchronized_pages(function: Callable[P, AsyncIterator[list[R]]]) -> GeneratorCall[P, R]: ...

    def synchronized_iterator(unused: str) -> Callable[[Callable[P, AsyncIterator[R]]], GeneratorCall[P, R]]: ...

    def synchronized_context(function: Callable[P, AsyncIterator[R]]) -> ContextCall[P, R]: ...

    def synchronized_classmethod(
        function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
    ) -> BoundCall[P, R]: ...

    def synchronized_context_classmethod(
        function: Callable[Concatenate[Any, P], AsyncIterator[R]],
    ) -> BoundContextCall[P, R]: ...

else:

    def synchronized(function: Any) -> Any:
        """Give a coroutine function, or an async generator function, its two faces."""
        inner = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
        flags = inner.__code__.co_flags
        if flags & _CO_COROUTINE:
            return _Call(function)
        if flags & _CO_ASYNC_GENERATOR:
            return _Generator(function)
        raise TypeError(f"{inner.__qualname__} must be an `async def` to have two faces")

    def synchronized_pages(function: Any) -> Any:
        """As `synchronized` for an async generator function of lists: both faces give their items one by one.

        The blocking face enters the coroutine once for each list instead of once for each item.
        """
        return _Pages(function)

    def synchronized_iterator(unused: str) -> Any:
        """As `synchronized` for a generator whose work only happens when it is iterated.

        `unused` is the warning for one who drops it without.
        """
        return lambda function: _Generator(function, unused)

    def synchronized_context(function: Any) -> Any:
        """Make an async generator function with one `yield` a context manager for `with` and `async with`."""
        return _Context(function)

    def synchronized_classmethod(function: Any) -> Any:
        """`synchronized(classmethod(function))`, in a form that type checkers understand."""
        return synchronized(classmethod(function))

    def synchronized_context_classmethod(function: Any) -> Any:
        """`synchronized_context(classmethod(function))`."""
        return synchronized_context(classmethod(function))


__all__ = [
    "Context",
    "blocking",
    "call_blocking",
    "gather",
    "iterate",
    "run",
    "sleep",
    "synchronized",
    "synchronized_classmethod",
    "synchronized_context",
    "synchronized_context_classmethod",
    "synchronized_iterator",
    "synchronized_pages",
]
