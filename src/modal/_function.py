"""Functions: what programs call, wherever it runs."""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Generic,
    Iterable,
    NamedTuple,
    Optional,
    Sequence,
    TypeVar,
)

from modal._object import Object, check_reference, environment_of
from modal._sync import synchronized, synchronized_iterator
from modal.exception import ExecutionError, InvalidError

if TYPE_CHECKING:
    from modal._call import FunctionCall
    from modal._call_stream import Target
    from modal._client import Client
    from modal._cls import Obj
    from modal._definition import Definition
    from modal._protocol.message import Message
    from modal._protocol.messages.function import FunctionHandle

R = TypeVar("R")
M = TypeVar("M", bound="Message")
_UNUSED = (
    "Warning: the results of a call to {} were not consumed, so the call will never be executed. "
    "Consider a for-loop like `for x in {}(...)` or unpacking the generator using `list(...)`."
)


class FunctionStats(NamedTuple):
    """Simple data structure storing stats for a running function."""

    backlog: int  # inputs that wait
    num_total_runners: int  # containers


class Function(Object, Generic[R]):
    """Functions are the basic units of serverless execution on Modal.

    Generally, you will not construct a `Function` directly. Instead, use the
    `App.function()` decorator to register your Python functions with your App.
    """

    _kind = "function"
    _made_by = "from_name, or decorate a function with @app.function()"
    _handle: Optional[FunctionHandle] = None
    _target: Optional[Target] = None  # made of the handle
    _definition: Optional[Definition] = None  # where this process declared it
    _reference: Optional[tuple[str, str, Optional[str]]] = None  # app, name and environment, from `from_name`
    _parent: Optional[Obj] = None  # of a method
    _method = ""
    _local: Optional[Callable[..., Any]] = None  # what `.local()` calls, for methods
    _own_name = ""  # in the container's app: what a pickled function is found by

    @classmethod
    def _of(cls, definition: Definition) -> Function[Any]:
        function = cls.__new__(cls)
        function._definition = definition
        raw = definition.raw
        function.__name__ = getattr(raw, "__name__", definition.tag)  # type: ignore[attr-defined]
        function.__doc__ = getattr(raw, "__doc__", None)
        function.__module__ = getattr(raw, "__module__", __name__)
        function.__wrapped__ = raw  # type: ignore[attr-defined]
        return function

    def _set_handle(self, handle: Optional[FunctionHandle], client: Optional[Client]) -> None:
        self._handle = handle
        self._client = client
        if handle is None:
            self._object_id = self._target = None
            return
        from modal._call_stream import Target

        self._object_id = handle.function_id
        renew = self._renew if self._is_named else None
        self._target = Target(handle.function_id, handle.app_id, self._method, self.tag, renew)

    # -- who it is
    @classmethod
    def from_name(
        cls: type[Function[Any]],
        app_name: str,
        name: str,
        *,
        namespace: Any = None,
        environment_name: Optional[str] = None,
    ) -> Function[Any]:
        """Reference a Function from a deployed App by its name.

        This is a lazy method that defers hydrating the local object with metadata from Modal servers until the
        first time it is actually used.

        ```python
        f = modal.Function.from_name("other-app", "function")
        ```
        """
        reference = check_reference(app_name, name, "function", environment_name)
        if "." in name:
            from modal._deprecation import warn_deprecated

            class_name, _, method = name.partition(".")
            warn_deprecated(
                f"Looking up class methods using Function.from_name is deprecated. Use "
                f"modal.Cls.from_name({app_name!r}, {class_name!r}) and call .{method} on an instance instead.",
                pending=True,
            )
            from modal._cls import Cls

            owner = Cls.from_name(app_name, class_name, environment_name=environment_name)
            return owner()._method(method)
        function = cls.__new__(cls)
        function._reference = reference
        return function

    @classmethod
    def lookup(
        cls: type[Function[Any]],
        app_name: str,
        name: str,
        namespace: Any = None,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
    ) -> Function[Any]:
        """Deprecated: use `from_name`, and `hydrate` where the function must exist at once."""
        from modal._deprecation import warn_deprecated

        warn_deprecated("Function.lookup is deprecated. Use Function.from_name instead, and .hydrate() if needed.")
        function = cls.from_name(app_name, name, environment_name=environment_name)
        function.hydrate(client)
        return function

    @property
    def tag(self) -> str:
        """The name of the function within its app."""
        if self._definition is not None:
            return self._definition.tag
        if self._parent is not None:
            return f"{self._parent._cls._tag}.{self._method}"
        if self._handle is not None:
            return self._handle.name
        return self._reference[1] if self._reference else self._own_name

    async def _ready(self, client: Optional[Client] = None) -> Client:
        if self._parent is None:
            return await super()._ready(client)
        # a method has no identity of its own: its object's may change with every run of the app
        if client is None:
            from modal._client import Client

            client = self._parent._cls._client or Client.current()
        self._set_handle(await self._parent._bound_handle(client), client)
        return client

    @property
    def _is_named(self) -> bool:
        """Whether it is what has this name, whichever deployment that is."""
        return self._reference is not None or (
            self._parent is not None and self._parent._cls._root._reference is not None
        )

    async def _renew(self, client: Client, refused: Target) -> Optional[Target]:
        """See Target."""
        if self._parent is not None:
            handle = await self._parent._renewed_handle(client, refused.function_id)
            self._set_handle(handle, client)
        elif self._object_id == refused.function_id:  # else it was done meanwhile
            await self._load(client)
        found = self._target
        return None if found is None or found.function_id == refused.function_id else found

    async def _load(self, client: Client) -> None:
        from modal._protocol.messages.function import FunctionHandle, FunctionLookup

        if self._reference is not None:
            app_name, name, environment = self._reference
            request = FunctionLookup(app_name, name, environment_of(environment))
            handle = await client.request(request, FunctionHandle)
            if handle.is_class:
                raise InvalidError(f"{name!r} of app {app_name!r} is a class: use modal.Cls.from_name.")
            self._set_handle(handle, client)
            return
        from modal._layout import own_handle

        found = await own_handle(client, self.tag)
        if found is None:
            from modal._definition import not_running

            raise not_running(self.tag, "Function", self._definition)
        self._set_handle(found, client)

    # -- what it is
    @property
    def _is_generator(self) -> bool:
        if self._parent is not None:
            return self._parent._cls._method_is_generator(self._method)
        if self._definition is not None:
            return self._definition.partial.is_generator
        return self._handle is not None and self._handle.is_generator

    @property
    def _is_web(self) -> bool:
        """Whether it is called over HTTP alone, as far as that is known here."""
        if self._definition is not None:
            return self._definition.partial.web is not None
        if self._parent is not None:
            return bool(self._handle is not None and self._handle.method_web_urls.get(self._method))
        return bool(self._handle is not None and self._handle.web_url)

    def _check_call(self, how: str, *, generator: Optional[bool] = False) -> None:
        """Raise InvalidError where a function of this kind cannot be called like that."""
        if self._is_web:
            raise InvalidError(
                f"{self.tag} is a web endpoint and cannot be called with .{how}(). Call it over HTTP (its address is "
                "`.get_web_url()`) or with .local()."
            )
        if generator is False and self._is_generator:
            instead = "Use .remote_gen() instead." if how == "remote" else "Iterate over .remote_gen() instead."
            raise InvalidError(f"{self.tag} is a generator function and cannot be called with .{how}(). {instead}")
        if generator and not self._is_generator:
            raise InvalidError(f"{self.tag} is no generator function: call it with .remote() instead of .{how}().")

    def get_raw_f(self) -> Callable[..., Any]:
        """Return the inner Python object wrapped by this Modal Function."""
        if self._local is not None:
            return self._local
        if self._definition is not None:
            raw: Callable[..., Any] = self._definition.raw
            return raw
        if self._parent is not None:
            return self._parent._cls._raw_method(self._method)
        raise ExecutionError(f"The code of {self.tag!r} is not here: it was looked up by name and runs remotely only.")

    # -- calls
    async def _callee(self, how: str, *, generator: bool = False) -> tuple[Client, Target]:
        """What a call needs. Raises InvalidError where this kind of function cannot be called like that."""
        client, target = self._client, self._target
        if client is None or target is None or self._parent is not None:
            client = await self._ready()
            target = self._target
            assert target is not None
        self._check_call(how, generator=generator)
        return client, target

    @synchronized
    async def remote(self, *args: Any, **kwargs: Any) -> R:
        """Calls the function remotely, executing it with the given arguments and returning the execution's result."""
        from modal._invocation import invoke

        client, target = await self._callee("remote")
        return await invoke(client, target, args, kwargs)  # type: ignore[no-any-return]

    @synchronized
    async def remote_gen(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Calls the generator remotely, executing it with the given arguments and returning the execution's result."""
        from modal._invocation import invoke_gen

        client, target = await self._callee("remote_gen", generator=True)
        items = invoke_gen(client, target, args, kwargs)
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()  # type: ignore[attr-defined]  # also where the caller stops early

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function locally, executing it with the given arguments and returning the execution's result.

        The function will execute in the same environment as the caller, just like calling the underlying function
        directly in Python. In particular, only secrets available in the caller environment will be available
        through environment variables.
        """
        if self._local is None and self._parent is not None:
            return self._parent._local_method(self._method)(*args, **kwargs)
        return self.get_raw_f()(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.local(*args, **kwargs)

    @synchronized
    async def spawn(self, *args: Any, **kwargs: Any) -> FunctionCall[R]:
        """Calls the function with the given arguments, without waiting for the results.

        Returns a `modal.FunctionCall` object, that can later be polled or waited for using `.get(timeout=...)`.
        """
        from modal._call import FunctionCall
        from modal._invocation import spawn

        client, target = await self._callee("spawn")
        call_id = await spawn(client, target, args, kwargs)
        return FunctionCall._of(call_id, client, (self._target or target).app_id)

    @synchronized_iterator(_UNUSED.format("Function.map", "f.map"))
    async def map(
        self,
        *input_iterators: Iterable[Any],  # one input iterator per argument in the mapped-over function/generator
        kwargs: dict[str, Any] = {},  # any extra keyword arguments for the function
        order_outputs: bool = True,  # return outputs in order
        return_exceptions: bool = False,  # propagate exceptions (False) or aggregate them in the results list (True)
    ) -> AsyncIterator[R]:
        """Parallel map over a set of inputs.

        Takes one iterator argument per argument in the function being mapped over.

        ```python
        @app.function()
        def my_func(a):
            return a ** 2

        @app.local_entrypoint()
        def main():
            assert list(my_func.map([1, 2, 3, 4])) == [1, 4, 9, 16]
        ```
        """
        from modal._invocation import map_, sources

        client, target = await self._callee("map")
        source = sources(check_iterators(input_iterators), kwargs)
        results = map_(client, target, source, order_outputs=order_outputs, return_exceptions=return_exceptions)
        try:
            async for result in results:
                yield result
        finally:
            await results.aclose()  # type: ignore[attr-defined]

    @synchronized_iterator(_UNUSED.format("Function.starmap", "f.starmap"))
    async def starmap(
        self,
        input_iterator: Iterable[Sequence[Any]],
        *,
        kwargs: dict[str, Any] = {},
        order_outputs: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncIterator[R]:
        """Like `map`, but spreads arguments over multiple function arguments.

        Assumes every input is a sequence (e.g. a tuple).

        ```python
        @app.local_entrypoint()
        def main():
            assert list(my_func.starmap([(1, 2), (3, 4)])) == [3, 7]
        ```
        """
        from modal._invocation import map_, star_source

        client, target = await self._callee("starmap")
        source = star_source(check_iterators((input_iterator,))[0], kwargs)
        results = map_(client, target, source, order_outputs=order_outputs, return_exceptions=return_exceptions)
        try:
            async for result in results:
                yield result
        finally:
            await results.aclose()  # type: ignore[attr-defined]

    @synchronized
    async def for_each(
        self, *input_iterators: Iterable[Any], kwargs: dict[str, Any] = {}, ignore_exceptions: bool = False
    ) -> None:
        """Execute function for all inputs, ignoring outputs. Waits for completion of the inputs.

        Convenient alias for `.map()` in cases where the function just needs to be called, as the caller doesn't
        have to consume the generator to process the inputs.
        """
        from modal._invocation import for_each, sources

        client, target = await self._callee("for_each")
        source = sources(check_iterators(input_iterators), kwargs)
        await for_each(client, target, source, ignore_exceptions=ignore_exceptions)

    @synchronized
    async def spawn_map(self, *input_iterators: Iterable[Any], kwargs: dict[str, Any] = {}) -> None:
        """Spawn parallel execution over a set of inputs, exiting as soon as the inputs are created (without waiting
        for the map to complete).

        ```python
        @app.local_entrypoint()
        def main():
            my_func.spawn_map([1, 2, 3, 4])
        ```
        """
        from modal._invocation import sources, spawn_map

        client, target = await self._callee("spawn_map")
        await spawn_map(client, target, sources(check_iterators(input_iterators), kwargs))

    # -- how it scales
    @synchronized
    async def update_autoscaler(
        self,
        *,
        min_containers: Optional[int] = None,
        max_containers: Optional[int] = None,
        buffer_containers: Optional[int] = None,
        scaledown_window: Optional[int] = None,
    ) -> None:
        """Override the current autoscaler behavior for this Function.

        Unspecified parameters will retain their current value, i.e. either the static value from the function
        decorator, or an override value from a previous call to this method. Subsequent deployments of the App
        reset the autoscaler back to its static configuration.
        """
        from modal._options import check_autoscaler
        from modal._protocol.messages.function import FunctionUpdateAutoscaler
        from modal._protocol.messages.wire import Done

        if self._parent is not None and not self._method:
            raise InvalidError("update_autoscaler belongs to a function or an instance of a class.")
        check_autoscaler(min_containers, max_containers, buffer_containers, scaledown_window)
        request = FunctionUpdateAutoscaler("", min_containers, max_containers, buffer_containers, scaledown_window)
        await self._request(request, Done)

    async def _request(self, message: Any, expect: type[M]) -> M:
        """Ask about the function: `message` is given its id."""
        client = await self._ready()
        assert self._target is not None
        message.function_id = self.object_id
        try:
            return await client.request(message, expect)
        except Exception as error:
            message.function_id = (await self._target.renewed(client, error)).function_id
            return await client.request(message, expect)

    def keep_warm(self, warm_pool_size: int) -> None:
        """Deprecated: use `update_autoscaler(min_containers=...)`."""
        from modal._deprecation import warn_deprecated

        warn_deprecated("Function.keep_warm is deprecated. Use Function.update_autoscaler(min_containers=...) instead.")
        self.update_autoscaler(min_containers=warm_pool_size)

    @synchronized
    async def get_current_stats(self) -> FunctionStats:
        """Return a `FunctionStats` object describing the current function's queue and runner counts."""
        from modal._protocol.messages.function import FunctionStats as Stats
        from modal._protocol.messages.function import FunctionStatsGet

        stats = await self._request(FunctionStatsGet(""), Stats)
        return FunctionStats(stats.backlog, stats.num_total_runners)

    @synchronized
    async def get_web_url(self) -> Optional[str]:
        """URL of a Function running as a web endpoint."""
        await self._ready()
        assert self._handle is not None
        url = self._handle.method_web_urls.get(self._method) if self._method else self._handle.web_url
        return url or None

    @property
    def web_url(self) -> Optional[str]:
        """Deprecated: use `get_web_url()`."""
        from modal._deprecation import warn_deprecated

        warn_deprecated("Function.web_url is deprecated. Use Function.get_web_url() instead.")
        return self.get_web_url()

    def __reduce__(self) -> Any:
        if self._parent is not None:
            return getattr, (self._parent, self._method)
        if self._reference is not None:
            return _restore_reference, self._reference
        handle = None
        if self._handle is not None:
            from modal._protocol.message import to_json

            handle = to_json(self._handle)
        return _restore_function, (self.tag, handle)

    def __repr__(self) -> str:
        return f"modal.Function({self.tag!r})"


def _restore_reference(app_name: str, name: str, environment_name: Optional[str]) -> Function[Any]:
    return Function.from_name(app_name, name, environment_name=environment_name)


def _restore_function(tag: str, handle: Any) -> Function[Any]:
    """A function that came from another process: known there, or to be found in this container's own app."""
    function = Function.__new__(Function)
    function._own_name = tag
    if handle is not None:
        from modal._protocol.message import from_json
        from modal._protocol.messages.function import FunctionHandle

        function._set_handle(from_json(FunctionHandle, handle), None)
    return function


def check_iterators(iterators: Sequence[Any]) -> Sequence[Any]:
    """What is given to a map: one iterator for each of the function's parameters. Raises InvalidError."""
    if not iterators:
        raise InvalidError("An iterator of inputs is needed, for instance f.map([1, 2, 3]).")
    for one in iterators:
        if not any(hasattr(one, name) for name in ("__iter__", "__aiter__", "__getitem__")):
            raise InvalidError(
                f"Inputs must come from iterators, one for each parameter of the function; {one!r:.100} is none."
            )
    return iterators
