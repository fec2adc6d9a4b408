"""Decorated functions before an app takes them: what `@modal.method()`, `@modal.enter()` and the like leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Optional

from modal._callables import is_async, is_generator
from modal.exception import InvalidError

if TYPE_CHECKING:
    from modal._protocol.messages.function import MethodSpec, WebSpec


class PartialFunction:
    """A function (or class) with what decorators said of it, waiting for `@app.function()` or `@app.cls()`."""

    def __init__(self, target: Any) -> None:
        self.raw: Any = target  # a function or a class
        self.is_method = False
        self.generator: Optional[bool] = None  # said by is_generator=
        self.web: Optional[WebSpec] = None
        self.batching: Optional[tuple[int, int]] = None  # size, milliseconds
        self.concurrency: Optional[tuple[int, int]] = None  # max inputs, target inputs (0: the maximum)
        self.enter: Optional[str] = None  # "before" or "after" a memory snapshot
        self.exit = False
        self.build = False
        self.name = getattr(target, "__name__", "")  # as an attribute of its class
        self.__doc__ = getattr(target, "__doc__", None)
        self.__name__ = getattr(target, "__name__", "")
        self.__qualname__ = getattr(target, "__qualname__", self.__name__)
        self.__module__ = getattr(target, "__module__", "")
        self.__wrapped__ = target

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def is_hook(self) -> bool:
        """Whether it belongs to a container's life rather than to inputs."""
        return self.enter is not None or self.exit or self.build

    @property
    def is_callable_remotely(self) -> bool:
        return self.is_method or self.web is not None or self.batching is not None

    @property
    def is_generator(self) -> bool:
        return is_generator(self.raw) if self.generator is None else self.generator

    @property
    def is_async(self) -> bool:
        return is_async(self.raw)

    def method_spec(self, name: str) -> MethodSpec:
        from modal._protocol.messages.function import MethodSpec

        size, wait_ms = self.batching or (0, 0)
        return MethodSpec(name, self.is_generator, self.is_async, self.web, size, wait_ms)

    def check(self) -> None:
        """Raise InvalidError where decorators do not go together."""
        shown = self.__name__
        if self.is_hook and self.is_callable_remotely:
            raise InvalidError(
                f"{shown}: a lifecycle hook (@modal.enter, @modal.exit) cannot be called from outside as well. "
                "Put what they share into a method of its own."
            )
        if self.is_hook and self.concurrency:
            raise InvalidError(f"{shown}: @modal.concurrent cannot be put on a lifecycle hook. Put it on the class.")
        if self.batching and self.web:
            raise InvalidError(f"{shown}: @modal.batched cannot be combined with a web endpoint.")
        if self.batching and self.is_generator:
            raise InvalidError(f"{shown}: a generator cannot be batched.")

    def __get__(self, instance: Any, owner: Optional[type] = None) -> Any:
        if instance is None:
            return self
        if not self.is_callable_remotely:
            return self.raw.__get__(instance, owner)
        from modal._lifecycle import bound_method

        return bound_method(instance, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.raw, type):
            raise InvalidError(f"{self.__name__} has no app yet: put @app.cls() above the other decorators.")
        raise InvalidError(
            f"{self.__name__} has no app yet: put @app.function() above the other decorators "
            "(or, for a method, @app.cls() on its class)."
        )


def as_partial(target: Any) -> PartialFunction:
    """The partial function below a decorator: an existing one or a new one."""
    return target if isinstance(target, PartialFunction) else PartialFunction(target)


def require_parentheses(decorator: str, slot: Any) -> None:
    """Raise InvalidError where a decorator was used as `@decorator` instead of `@decorator(…)`."""
    if slot is not None:
        raise InvalidError(f"Decorator parentheses are missing, or an argument has no name: use `@{decorator}(...)`.")


def _refuse_object(decorator: str, target: Any) -> None:
    from modal._object import Object

    if isinstance(target, Object):
        raise InvalidError(f"@{decorator} must come below @app.function() or @app.cls(): swap the two lines.")
    if not callable(target) and not isinstance(target, PartialFunction):
        raise InvalidError(f"@{decorator} goes on a function, not on {type(target).__name__}.")


def decorate(decorator: str, apply: Callable[[PartialFunction], None]) -> Callable[[Any], PartialFunction]:
    """The inner function of a decorator that notes something on a partial function."""

    def wrap(target: Any) -> PartialFunction:
        _refuse_object(decorator, target)
        partial = as_partial(target)
        apply(partial)
        partial.check()
        return partial

    return wrap


def _refuse_class(decorator: str, partial: PartialFunction) -> None:
    if isinstance(partial.raw, type):
        raise InvalidError(f"@{decorator} goes on methods and functions, not on a class.")


def method(
    _warn_parentheses_missing: Any = None,
    *,
    # Set this to True if it's a non-generator function returning
    # a [sync/async] generator object
    is_generator: Optional[bool] = None,
) -> Callable[[Any], PartialFunction]:
    """Decorator for methods that should be transformed into a Modal Function registered against this class's App.

    ```python
    @app.cls(cpu=8)
    class MyCls:

        @modal.method()
        def f(self):
            ...
    ```
    """
    require_parentheses("modal.method", _warn_parentheses_missing)

    def apply(partial: PartialFunction) -> None:
        _refuse_class("modal.method", partial)
        if partial.web:
            raise InvalidError(f"{partial.__name__}: a web endpoint is a method already: leave @modal.method() out.")
        if partial.batching:
            raise InvalidError(f"{partial.__name__}: use @modal.batched() without @modal.method().")
        partial.is_method = True
        partial.generator = is_generator

    return decorate("modal.method", apply)


def enter(_warn_parentheses_missing: Any = None, *, snap: bool = False) -> Callable[[Any], PartialFunction]:
    """Decorator for methods which should be executed when a new container is started.

    With `snap=True` the method runs before the memory snapshot is taken.
    """
    require_parentheses("modal.enter", _warn_parentheses_missing)

    def apply(partial: PartialFunction) -> None:
        _refuse_class("modal.enter", partial)
        partial.enter = "before" if snap else "after"

    return decorate("modal.enter", apply)


def exit(_warn_parentheses_missing: Any = None) -> Callable[[Any], PartialFunction]:
    """Decorator for methods which should be executed when a container is about to exit."""
    require_parentheses("modal.exit", _warn_parentheses_missing)

    def apply(partial: PartialFunction) -> None:
        _refuse_class("modal.exit", partial)
        from modal._callables import parameter_names

        if len(parameter_names(partial.raw)) != 1:
            raise InvalidError(f"{partial.__name__}: an @modal.exit() method takes no parameters besides self.")
        partial.exit = True

    return decorate("modal.exit", apply)


def build(
    _warn_parentheses_missing: Any = None, *, force: bool = False, timeout: int = 86400
) -> Callable[[Any], PartialFunction]:
    """Deprecated: decorator for methods that ran while the image was built."""
    from modal._deprecation import warn_definition

    require_parentheses("modal.build", _warn_parentheses_missing)
    warn_definition("@modal.build is deprecated. Use a modal.Volume or Image.run_function instead.")

    def apply(partial: PartialFunction) -> None:
        partial.build = True

    return decorate("modal.build", apply)


MAX_BATCH_SIZE = 1000
MAX_BATCH_WAIT = 10 * 60 * 1000  # milliseconds


def check_batching(where: str, max_batch_size: Any, wait_ms: Any) -> tuple[int, int]:
    """Raise InvalidError where the numbers are none for batching."""
    if isinstance(max_batch_size, bool) or not isinstance(max_batch_size, int):
        raise InvalidError(f"{where}: max_batch_size must be a whole number.")
    if not 1 <= max_batch_size <= MAX_BATCH_SIZE:
        raise InvalidError(f"{where}: max_batch_size must be from 1 to {MAX_BATCH_SIZE}, not {max_batch_size}.")
    if isinstance(wait_ms, bool) or not isinstance(wait_ms, int) or not 0 <= wait_ms <= MAX_BATCH_WAIT:
        raise InvalidError(f"{where}: wait_ms must be from 0 to {MAX_BATCH_WAIT} milliseconds, not {wait_ms!r}.")
    return max_batch_size, wait_ms


def check_concurrency(where: str, max_inputs: int, target_inputs: Optional[int]) -> tuple[int, int]:
    """Raise InvalidError where the numbers are none for input concurrency."""
    for name, value in (("max_inputs", max_inputs), ("target_inputs", target_inputs)):
        if value is None and name == "target_inputs":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidError(f"{where}: {name} must be a positive whole number, not {value!r}.")
    if target_inputs is not None and target_inputs > max_inputs:
        raise InvalidError(f"{where}: target_inputs ({target_inputs}) must not be above max_inputs ({max_inputs}).")
    return max_inputs, target_inputs or 0


def batched(
    _warn_parentheses_missing: Any = None,
    *,
    max_batch_size: int,
    wait_ms: int,
) -> Callable[[Any], PartialFunction]:
    """Decorator for functions or class methods that should be batched.

    ```python
    @app.function()
    @modal.batched(max_batch_size=4, wait_ms=1000)
    async def batched_multiply(xs: list[int], ys: list[int]) -> list[int]:
        return [x * y for x, y in zip(xs, ys)]
    ```
    """
    require_parentheses("modal.batched", _warn_parentheses_missing)
    batching = check_batching("modal.batched", max_batch_size, wait_ms)

    def apply(partial: PartialFunction) -> None:
        _refuse_class("modal.batched", partial)
        if partial.is_method:
            raise InvalidError(f"{partial.__name__}: use @modal.batched() without @modal.method().")
        partial.batching = batching

    return decorate("modal.batched", apply)


def concurrent(
    _warn_parentheses_missing: Any = None,
    *,
    max_inputs: int,  # Hard limit on each container's input concurrency
    target_inputs: Optional[int] = None,  # Input concurrency that Modal's autoscaler should target
) -> Callable[[Any], PartialFunction]:
    """Decorator that allows individual containers to handle multiple inputs concurrently.

    Async functions run inputs on a single thread as asyncio tasks; synchronous functions use threads.
    On a class it goes on the class itself, not on methods.
    """
    require_parentheses("modal.concurrent", _warn_parentheses_missing)
    concurrency = check_concurrency("modal.concurrent", max_inputs, target_inputs)

    def apply(partial: PartialFunction) -> None:
        if partial.is_method:
            raise InvalidError(
                f"{partial.__name__}: @modal.concurrent goes on the class, not on a method: "
                "all methods share its containers."
            )
        partial.concurrency = concurrency

    return decorate("modal.concurrent", apply)
