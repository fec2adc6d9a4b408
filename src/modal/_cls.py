"""Classes: pools of containers that each hold one instance, addressed by its parameters."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Collection, Optional, Union

from modal._lifecycle import Instance, attach, has_constructor, make_user_instance, partials_of
from modal._object import Object, check_reference, environment_of
from modal._parameter import MAX_SIZE, Parameter, pickle_values
from modal.exception import ExecutionError, InvalidError, NotFoundError

if TYPE_CHECKING:
    from modal._client import Client
    from modal._definition import Definition
    from modal._function import Function
    from modal._partial import PartialFunction
    from modal._protocol.messages.function import FunctionHandle, MethodSpec
    from modal._retries import Retries
    from modal._secret import Secret
    from modal._volume import Volume
    from modal.gpu import GPU_T


class Obj:
    """An instance of a `Cls`, as its callers see it: its methods are Functions."""

    def __init__(self, cls: Cls, values: dict[str, Any], positional: tuple[Any, ...] = ()) -> None:
        self._cls = cls
        self._values = values
        self._positional = positional  # for classes with a constructor of their own
        self._bound: Optional[FunctionHandle] = None
        self._bound_for = ""  # the function that `_bound` is a variant of
        self._methods: dict[str, Function[Any]] = {}
        self._instance: Optional[Instance] = None
        self._entered = False

    def _method(self, name: str, local: Optional[Callable[..., Any]] = None) -> Function[Any]:
        """A method as a Function; `local` is what its `.local()` calls, inside of a container."""
        found = self._methods.get(name)
        if found is None or local is not None:
            from modal._function import Function

            found = Function.__new__(Function)
            found._parent = self
            found._method = name
            found._local = local
            if local is None:
                self._methods[name] = found
        return found

    async def _bound_handle(self, client: Client) -> FunctionHandle:
        """The function that serves this instance's parameters and options."""
        root = self._cls._root
        await root._ready(client)
        base = root._handle
        assert base is not None
        if self._bound is not None and self._bound_for == base.function_id:
            return self._bound
        try:
            return await self._bind(client, base)
        except NotFoundError as error:
            renewed = await root._renewed(client, base, error)
        return await self._bind(client, renewed)

    async def _renewed_handle(self, client: Client, refused: str) -> FunctionHandle:
        """The same, after the server did not know that function any more."""
        root = self._cls._root
        base = root._handle
        if self._bound is not None and self._bound.function_id == refused and base is not None:
            if base.function_id == self._bound_for:  # else it was looked up meanwhile
                await root._load(client)
        return await self._bound_handle(client)

    async def _bind(self, client: Client, base: FunctionHandle) -> FunctionHandle:
        self._check_values(base)
        cls = self._cls
        parameters = self._pickled(base)
        if not (parameters or cls._options or cls._secrets or cls._volumes):
            bound = base
        else:
            from modal._building import secrets_of
            from modal._options import volume_mounts
            from modal._protocol.messages.function import FunctionBind, FunctionHandle

            secret_ids = await secrets_of(client, cls._secrets, base.app_id, None)
            request = FunctionBind(
                base.function_id,
                parameters,
                dict(cls._options),
                [secret_ids[id(secret)] for secret in cls._secrets],
                await volume_mounts(client, cls._volumes),
            )
            bound = await client.request(request, FunctionHandle)
        self._bound, self._bound_for = bound, base.function_id
        return bound

    def _check_values(self, base: FunctionHandle) -> None:
        if self._cls._definition is None and (base.class_parameters or self._values or self._positional):
            parameters = {values[0]: Parameter.from_json(values) for values in base.class_parameters}
            check_arguments(self._cls._tag, parameters, self._positional, self._values)

    def _pickled(self, base: FunctionHandle) -> bytes:
        if self._positional or self._cls._has_constructor:
            from modal._serialization import dumps

            values = dict(self._values)
            if self._positional:
                values["*"] = self._positional
            return dumps(values, "the constructor's arguments") if values else b""
        values = {row[0]: Parameter.from_json(row).default for row in base.class_parameters if row[2]}
        values.update(self._values)
        if not values:
            return b""
        data = pickle_values(values)
        if len(data) > MAX_SIZE:
            raise InvalidError(f"{self._cls._tag}: the parameters take {len(data)} bytes; at most {MAX_SIZE} may.")
        return data

    # -- in this process
    def _local_instance(self) -> Any:
        """The user's object, made and entered when it is first needed."""
        if self._instance is None:
            user_cls = self._cls._local_class()
            values = dict(self._values)
            if self._positional:
                values["*"] = self._positional
            user = make_user_instance(user_cls, values)
            attach(user, self)
            self._instance = Instance(user, partials_of(user_cls))
        if not self._entered:
            self._entered = True
            for hook in self._instance.enter_hooks:
                _run_hook(hook)
        return self._instance.user

    def _local_method(self, name: str) -> Callable[..., Any]:
        self._local_instance()
        assert self._instance is not None
        return self._instance.callable(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        cls: Cls = self.__dict__["_cls"]
        method = cls._find_method(name)
        if method:
            return self._method(name)
        if cls._user_cls is None:
            if cls._definition is None and cls._handle is None:
                return self._method(name)  # looked up by name: whether it exists shows when it is called
            known = ", ".join(cls._method_names()) or "none"
            raise AttributeError(f"{cls._tag} has no method {name!r}; it has: {known}")
        return getattr(self._local_instance(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._local_instance(), name, value)

    def __reduce__(self) -> Any:
        return _restore_obj, (self._cls, self._values, self._positional)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"{self._cls._tag}({shown})"


def _restore_obj(cls: Cls, values: dict[str, Any], positional: tuple[Any, ...]) -> Obj:
    return Obj(cls, values, positional)


def _run_hook(hook: Callable[[], Any]) -> None:
    result = hook()
    if hasattr(result, "__await__"):
        import asyncio

        async def wait() -> None:
            await result

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(wait())
            return
        result.close()
        raise ExecutionError("An async @modal.enter() method cannot run locally within an event loop: use .remote().")


def check_arguments(
    tag: str, parameters: dict[str, Parameter], positional: tuple[Any, ...], values: dict[str, Any]
) -> None:
    """Raise InvalidError unless a class with these parameters can be made of these arguments."""
    if positional:
        raise InvalidError(f"{tag}: parameters must be given by name, for instance {tag}({_example(parameters)}).")
    for name, value in values.items():
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise InvalidError(f"{tag} has no parameter {name!r}; it has: {known}.")
        parameters[name].check_value(tag, value)
    missing = [name for name, one in parameters.items() if not one.has_default and name not in values]
    if missing:
        raise InvalidError(f"{tag}: the parameter {missing[0]!r} is missing; say {tag}({missing[0]}=...).")


def _example(parameters: dict[str, Parameter]) -> str:
    return ", ".join(f"{name}=..." for name in parameters)


class Cls(Object):
    """Cls adds method pooling and lifecycle hook behavior to `modal.Function`.

    Generally, you will not construct a Cls directly. Instead, use the `@app.cls()` decorator on the App object.
    """

    _kind = "class"
    _made_by = "from_name, or decorate a class with @app.cls()"
    _definition: Optional[Definition] = None
    _user_cls: Optional[type] = None
    _reference: Optional[tuple[str, str, Optional[str]]] = None  # app, name, environment
    _handle: Optional[FunctionHandle] = None
    _parameters: dict[str, Parameter]
    _own_name = ""
    _has_constructor = False
    _origin: Optional[Cls] = None  # what `with_options` was called on
    _options: dict[str, Any]
    _secrets: list[Secret]
    _volumes: dict[str, Any]

    @classmethod
    def _new(cls) -> Cls:
        made = cls.__new__(cls)
        made._parameters, made._options, made._secrets, made._volumes = {}, {}, [], {}
        return made

    @classmethod
    def _of(cls, definition: Definition, parameters: dict[str, Parameter]) -> Cls:
        made = cls._new()
        made._definition = definition
        made._user_cls = definition.raw
        made._parameters = parameters
        made._has_constructor = has_constructor(definition.raw)
        made.__doc__ = definition.raw.__doc__
        made.__name__ = definition.raw.__name__  # type: ignore[attr-defined]
        made.__module__ = definition.raw.__module__
        return made

    @classmethod
    def from_name(
        cls: type[Cls],
        app_name: str,
        name: str,
        *,
        namespace: Any = None,
        environment_name: Optional[str] = None,
    ) -> Cls:
        """Reference a Cls from a deployed App by its name.

        This is a lazy method that defers hydrating the local object with metadata from Modal servers until the
        first time it is actually used.

        ```python
        Model = modal.Cls.from_name("other-app", "Model")
        ```
        """
        made = cls._new()
        made._reference = check_reference(app_name, name, "class", environment_name)
        return made

    @classmethod
    def lookup(
        cls: type[Cls],
        app_name: str,
        name: str,
        namespace: Any = None,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        workspace: Any = None,
    ) -> Cls:
        """Deprecated: use `from_name`, and `hydrate` where the class must exist at once."""
        from modal._deprecation import warn_deprecated

        warn_deprecated("Cls.lookup is deprecated. Use Cls.from_name instead, and .hydrate() if needed.")
        made = cls.from_name(app_name, name, environment_name=environment_name)
        made.hydrate(client)
        return made

    # -- variants
    def _variant(self) -> Cls:
        made = type(self)._new()
        made.__dict__.update(self.__dict__)
        made._options, made._secrets, made._volumes = dict(self._options), list(self._secrets), dict(self._volumes)
        made._origin = self._origin or self
        return made

    def with_options(
        self,
        *,
        cpu: Optional[Union[float, tuple[float, float]]] = None,
        memory: Optional[Union[int, tuple[int, int]]] = None,
        gpu: GPU_T = None,
        secrets: Collection[Secret] = (),
        volumes: dict[Union[str, os.PathLike[str]], Volume] = {},
        retries: Optional[Union[int, Retries]] = None,
        max_containers: Optional[int] = None,  # Limit on the number of containers that can be concurrently running.
        buffer_containers: Optional[int] = None,  # Additional containers to scale up while Function is active.
        scaledown_window: Optional[int] = None,  # Max amount of time a container can remain idle before scaling down.
        timeout: Optional[int] = None,
        # The following parameters are deprecated
        concurrency_limit: Optional[int] = None,  # Now called `max_containers`
        container_idle_timeout: Optional[int] = None,  # Now called `scaledown_window`
        allow_concurrent_inputs: Optional[int] = None,  # See `.with_concurrency`
    ) -> Cls:
        """Create an instance of the Cls with configuration options overridden with new values.

        ```python
        Model = modal.Cls.from_name("my_app", "Model")
        ModelUsingGPU = Model.with_options(gpu="A100")
        ModelUsingGPU().generate.remote(42)  # will run with an A100 GPU
        ```
        """
        from modal._options import bind_options

        given = {name: value for name, value in locals().items() if name not in ("self", "bind_options")}
        options, checked_secrets, mounts = bind_options(given)
        made = self._variant()
        made._options.update(options)
        made._secrets.extend(checked_secrets)
        made._volumes.update(mounts)
        return made

    def with_concurrency(self, *, max_inputs: int, target_inputs: Optional[int] = None) -> Cls:
        """Create an instance of the Cls with input concurrency enabled or overridden with new values."""
        from modal._partial import check_concurrency

        limit, target = check_concurrency("Cls.with_concurrency", max_inputs, target_inputs)
        made = self._variant()
        made._options.update(concurrent_max=limit, concurrent_target=target)
        return made

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Cls:
        """Create an instance of the Cls with dynamic batching enabled or overridden with new values."""
        from modal._partial import check_batching

        size, wait = check_batching("Cls.with_batching", max_batch_size, wait_ms)
        made = self._variant()
        made._options.update(batch_size=size, batch_wait_ms=wait)
        return made

    # -- instances
    def __call__(self, *args: Any, **kwargs: Any) -> Obj:
        if self._definition is not None and not self._has_constructor:
            check_arguments(self._tag, self._parameters, args, kwargs)
        return Obj(self, kwargs, args)

    def _object_for(self, values: dict[str, Any]) -> Obj:
        """The instance that a container of this class holds."""
        rest = {name: value for name, value in values.items() if name != "*"}
        return Obj(self, rest, tuple(values.get("*", ())))

    # -- what it is
    @property
    def _root(self) -> Cls:
        """The class itself, without options."""
        return self._origin or self

    async def _renewed(self, client: Client, refused: FunctionHandle, error: NotFoundError) -> FunctionHandle:
        """What has the class's name now, after the server did not know that one any more. Raises `error` where it is
        the same, or was not found by a name; or what the look-up says."""
        if self._reference is not None and self._object_id == refused.function_id:
            try:
                await self._load(client)
            except Exception as unknown:
                raise unknown from None
        if self._handle is None or self._handle.function_id == refused.function_id:
            raise error
        return self._handle

    @property
    def _tag(self) -> str:
        if self._definition is not None:
            return self._definition.tag
        return self._reference[1] if self._reference else self._own_name

    def _local_class(self) -> type:
        if self._user_cls is None:
            raise ExecutionError(f"The code of class {self._tag} is not here: it was looked up by name.")
        return self._user_cls

    def _method_specs(self) -> dict[str, MethodSpec]:
        handle = self._root._handle or self._handle
        return {spec.name: spec for spec in handle.methods} if handle is not None else {}

    def _method_names(self) -> list[str]:
        return list(self._definition.methods) if self._definition is not None else list(self._method_specs())

    def _find_method(self, name: str) -> bool:
        if self._definition is not None:
            return name in self._definition.methods
        return name in self._method_specs()

    def _partial(self, name: str) -> Optional[PartialFunction]:
        return self._definition.methods.get(name) if self._definition is not None else None

    def _method_is_generator(self, name: str) -> bool:
        partial = self._partial(name)
        if partial is not None:
            return partial.is_generator
        spec = self._method_specs().get(name)
        return spec is not None and spec.is_generator

    def _raw_method(self, name: str) -> Callable[..., Any]:
        partial = self._partial(name)
        if partial is None:
            raise ExecutionError(f"The code of {self._tag}.{name} is not here: its class was looked up by name.")
        raw: Callable[..., Any] = partial.raw
        return raw

    def _set_handle(self, handle: Optional[FunctionHandle], client: Optional[Client]) -> None:
        self._handle = handle
        self._object_id = handle.function_id if handle is not None else None
        self._client = client

    async def _load(self, client: Client) -> None:
        from modal._protocol.messages.function import FunctionHandle, FunctionLookup

        if self._origin is not None:
            await self._origin._ready(client)
            self._set_handle(self._origin._handle, client)
            return
        if self._reference is not None:
            app_name, name, environment = self._reference
            handle = await client.request(FunctionLookup(app_name, name, environment_of(environment)), FunctionHandle)
            if not handle.is_class:
                raise NotFoundError(f"{name!r} of app {app_name!r} is a function: use modal.Function.from_name.")
            self._set_handle(handle, client)
            return
        from modal._layout import own_handle

        found = await own_handle(client, self._tag)
        if found is None:
            from modal._definition import not_running

            raise not_running(self._tag, "Cls", self._definition)
        self._set_handle(found, client)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._find_method(name) or (self._user_cls is None and self._handle is None):
            from modal._deprecation import warn_deprecated

            warn_deprecated(
                f"Calling a method on an uninstantiated class is deprecated: use {self._tag}().{name} instead "
                f"of {self._tag}.{name}."
            )
            return self()._method(name)
        if self._user_cls is None:
            raise AttributeError(f"{self._tag} has no method {name!r}; it has: {', '.join(self._method_names())}")
        return getattr(self._user_cls, name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """A class may derive from a decorated one."""
        return (self._local_class(),)

    def __reduce__(self) -> Any:
        state = {"_options": self._options, "_secrets": self._secrets, "_volumes": self._volumes}
        handle = None
        if self._handle is not None:
            from modal._protocol.message import to_json

            handle = to_json(self._handle)
        return _restore_cls, (self._tag, self._reference, handle, state)

    def __repr__(self) -> str:
        return f"modal.Cls({self._tag!r})"


def _restore_cls(tag: str, reference: Any, handle: Any, state: dict[str, Any]) -> Cls:
    """A class that came from another process: known there, or to be found in this container's own app."""
    cls = Cls._new()
    cls.__dict__.update(state)
    cls._own_name = tag
    cls._reference = reference
    if handle is not None:
        from modal._protocol.message import from_json
        from modal._protocol.messages.function import FunctionHandle

        restored = from_json(FunctionHandle, handle)
        cls._handle, cls._object_id = restored, restored.function_id
    return cls
