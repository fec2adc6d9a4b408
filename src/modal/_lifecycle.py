"""Instances of the user's classes: how one is made, what is called on it, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Optional

from modal._partial import PartialFunction

if TYPE_CHECKING:
    from modal._cls import Cls, Obj

_OBJECT = "__modal_object__"  # attribute of an instance: the Obj that it is an instance of
_CLS = "__modal_cls__"  # attribute of a user's class: the Cls that an app made of it


def partials_of(user_cls: type) -> dict[str, PartialFunction]:
    """All decorated attributes of a class and its bases, those of bases first; an override takes the place."""
    found: dict[str, Any] = {}
    for base in reversed(user_cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, PartialFunction):
                found[name] = value
            elif name in found:
                found[name] = _overridden(found[name], value) if callable(value) else found.pop(name)
    return {name: partial for name, partial in found.items() if isinstance(partial, PartialFunction)}


def _overridden(base: PartialFunction, value: Any) -> PartialFunction:
    """A plain method that overrides a decorated one is offered in its place."""
    partial = PartialFunction(value)
    for name in ("is_method", "generator", "web", "batching", "enter", "exit", "build"):
        setattr(partial, name, getattr(base, name))
    return partial


class Instance:
    """One object of a user's class in a container, with its hooks not yet run."""

    def __init__(self, user: Any, partials: dict[str, PartialFunction]) -> None:
        self.user = user
        self._partials = partials
        hooks = partials.items()
        before = [self.callable(name) for name, partial in hooks if partial.enter == "before"]
        after = [self.callable(name) for name, partial in hooks if partial.enter == "after"]
        self.enter_hooks = before + after
        self.exit_hooks = [self.callable(name) for name, partial in hooks if partial.exit]

    def callable(self, name: str) -> Callable[..., Any]:
        """A method as it is called in the container: the raw function, bound. Raises AttributeError."""
        partial = self._partials.get(name)
        if partial is None:
            bound: Callable[..., Any] = getattr(self.user, name)
            return bound
        raw: Callable[..., Any] = partial.raw.__get__(self.user, type(self.user))
        return raw


def construct(target: Any, parameters: bytes) -> Instance:
    """What a container of a class serves. `target`: the Cls or the plain class; `parameters`: the pickled values."""
    from modal._cls import Cls

    values: dict[str, Any] = {}
    if parameters:
        import pickle

        values = pickle.loads(parameters)
    if isinstance(target, PartialFunction):
        target = target.raw
    cls: Optional[Cls] = target if isinstance(target, Cls) else target.__dict__.get(_CLS)
    user_cls = cls._user_cls if cls is not None and cls._user_cls is not None else target
    user = make_user_instance(user_cls, values)
    if cls is not None:
        attach(user, cls._object_for(values))
    return Instance(user, partials_of(user_cls))


def has_constructor(user_cls: Any) -> bool:
    """Whether the class has an `__init__` of its own."""
    return user_cls.__init__ is not object.__init__


def make_user_instance(user_cls: Any, values: dict[str, Any]) -> Any:
    """An object with the parameters as its attributes, or made by the class's own constructor where it has one."""
    from modal._parameter import Parameter

    if has_constructor(user_cls):
        positional = values.get("*", ())
        return user_cls(*positional, **{name: value for name, value in values.items() if name != "*"})
    user = object.__new__(user_cls) if user_cls.__new__ is object.__new__ else user_cls.__new__(user_cls)
    for base in reversed(user_cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Parameter) and value.has_default:
                setattr(user, name, value.default)
    for name, value in values.items():
        setattr(user, name, value)
    return user


def attach(user: Any, obj: Obj) -> None:
    """Let `self.method.remote()` inside of the class know which object `self` is."""
    try:
        object.__setattr__(user, _OBJECT, obj)
    except AttributeError:
        return  # __slots__: its methods can be called locally only


def bound_method(user: Any, partial: PartialFunction) -> Any:
    """`self.method` inside of the class: callable here, and `.remote()` and the like as from outside."""
    local = partial.raw.__get__(user, type(user))
    obj: Optional[Obj] = getattr(user, _OBJECT, None)
    if obj is None:
        return local
    return obj._method(partial.name, local)
