"""`@app.cls()`: parameters, methods and hooks."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import pytest

import modal
from modal._definition import Resolved
from modal._lifecycle import construct
from modal._parameter import pickle_values
from modal.exception import DeprecationError, InvalidError

app = modal.App("classes")
entered: list[str] = []


@app.cls(cpu=1)
@modal.concurrent(max_inputs=5)
class Model:
    """Documentation."""

    foo: str = modal.parameter()
    bar: int = modal.parameter(default=10)
    raw: bytes = modal.parameter(default=b"\x00")
    note: dict[str, int] = modal.parameter(init=False)
    constant = 7

    @modal.enter(snap=True)
    def before(self) -> None:
        entered.append("before")

    @modal.enter()
    def load(self) -> None:
        entered.append(f"load {self.foo}")

    @modal.method()
    def hello(self, x: int) -> str:
        return f"{self.foo} {self.bar} {x}"

    @modal.method()
    def both(self, x: int) -> str:
        return self.hello.local(x)

    @modal.method()
    def items(self) -> Any:
        yield self.foo

    @modal.exit()
    def leave(self) -> None:
        entered.append("exit")

    def helper(self) -> str:
        return "helped"


def test_what_the_server_is_told() -> None:
    definition = Model._definition
    assert app.registered_classes == {"Model": Model}
    assert [spec.name for spec in definition.method_specs()] == ["hello", "both", "items"]
    assert [spec.is_generator for spec in definition.method_specs()] == [False, False, True]
    assert definition.class_parameters == [
        ["foo", "str", False, None],
        ["bar", "int", True, 10],
        ["raw", "bytes", True, "AA=="],
    ]
    assert definition.partial.concurrency == (5, 0)
    assert Model.__doc__ == "Documentation."
    assert Model.constant == 7


def test_arguments_are_checked_where_they_are_given() -> None:
    for arguments, text in (
        ({}, "'foo' is missing"),
        ({"foo": 1}, "must be of type str"),
        ({"foo": "a", "bar": "1"}, "must be of type int"),
        ({"foo": "a", "bar": True}, "must be of type int"),
        ({"foo": "a", "note": {}}, "no parameter 'note'"),
        ({"foo": "a", "nonsense": 1}, "no parameter 'nonsense'"),
    ):
        with pytest.raises(InvalidError, match=text):
            Model(**arguments)
    with pytest.raises(InvalidError, match="by name"):
        Model("a")


def test_local_calls_enter_once() -> None:
    entered.clear()
    model = Model(foo="a")
    assert model.hello.local(1) == "a 10 1"
    assert model.both.local(2) == "a 10 2"
    assert list(model.items.local()) == ["a"]
    assert model.helper() == "helped"
    assert entered == ["before", "load a"]
    model.extra = 5
    assert model.extra == 5


def test_construct_gives_what_a_container_serves() -> None:
    entered.clear()
    instance = construct(Model, pickle_values({"foo": "z", "bar": 1, "raw": b""}))
    assert entered == []
    for hook in instance.enter_hooks:
        hook()
    assert entered == ["before", "load z"]
    assert instance.callable("hello")(3) == "z 1 3"
    assert instance.callable("both")(4) == "z 1 4"
    with pytest.raises(AttributeError):
        instance.callable("nothing")
    instance.exit_hooks[0]()
    assert entered[-1] == "exit"
    assert instance.user.hello.tag == "Model.hello"


def test_equal_parameters_are_equal_bytes() -> None:
    text = "x" * 3
    same = pickle_values({"b": text, "a": text})
    others = [str(b"xxx", "ascii"), str(b"xxx", "ascii")]
    assert others[0] is not others[1]
    assert same == pickle_values({"a": others[0], "b": others[1]})
    assert pickle.loads(same) == {"a": "xxx", "b": "xxx"}


def test_overrides_and_inheritance() -> None:
    class Base:
        @modal.enter()
        def load(self) -> None: ...
        @modal.method()
        def one(self) -> int:
            return 1

        @modal.method()
        def two(self) -> int:
            return 2

    class Derived(Base):
        def one(self) -> int:
            return 11

    cls = modal.App().cls(serialized=True)(Derived)
    assert list(cls._definition.methods) == ["one", "two"]
    assert cls().one.local() == 11
    assert cls().two.local() == 2

    class OfDecorated(cls):  # type: ignore[misc, valid-type]
        pass

    assert issubclass(OfDecorated, Derived)


def test_options_merge_and_leave_the_original_alone() -> None:
    faster = Model.with_options(cpu=(1, 2), gpu="h100").with_options(memory=512, retries=2)
    both = faster.with_concurrency(max_inputs=4).with_batching(max_batch_size=2, wait_ms=3)
    assert Model._options == {}
    assert faster._options == {
        "cpu": [1.0, 2.0],
        "gpu": ["H100"],
        "memory": 512,
        "retries": {"max_retries": 2, "backoff_coefficient": 1.0, "initial_delay": 1.0, "max_delay": 60.0},
    }
    assert both._options["concurrent_max"] == 4
    assert both._options["batch_size"] == 2
    assert both._origin is Model
    with pytest.warns(DeprecationError, match="max_containers"):
        assert Model.with_options(concurrency_limit=3)._options == {"max_containers": 3}


def test_wrong_classes() -> None:
    def decorate(**members: Any) -> None:
        annotations = members.pop("annotations", {})
        modal.App().cls(serialized=True)(type("Wrong", (), {"__annotations__": annotations, **members}))

    with pytest.raises(InvalidError, match="needs a type"):
        decorate(x=modal.parameter())
    with pytest.raises(InvalidError, match="float is no type"):
        decorate(x=modal.parameter(), annotations={"x": float})
    with pytest.raises(InvalidError, match="must be of type str"):
        decorate(x=modal.parameter(default=3), annotations={"x": "str"})
    with pytest.raises(InvalidError, match="needs a default"):
        decorate(load=modal.enter()(lambda self, x: None))
    with pytest.raises(InvalidError, match="goes on the class"):
        decorate(f=modal.concurrent(max_inputs=2)(modal.fastapi_endpoint()(lambda self: None)))
    with pytest.raises(InvalidError, match="batched"):
        decorate(f=modal.batched(max_batch_size=2, wait_ms=1)(lambda self, x: x), g=modal.method()(lambda self: None))
    with pytest.raises(InvalidError, match="takes no parameters"):
        modal.exit()(lambda self, a: None)
    with pytest.raises(InvalidError, match="lifecycle"):
        modal.enter()(modal.method()(lambda self: None))
    with pytest.raises(InvalidError, match="on a class"):
        modal.App().cls()(lambda: None)
    with pytest.raises(InvalidError, match="no parameters"):
        decorate(f=modal.asgi_app()(lambda self, x: None))


def test_constructors_are_deprecated_and_work() -> None:
    class Old:
        def __init__(self, a: int, b: int = 2) -> None:
            self.sum = a + b

        @modal.method()
        def get(self) -> int:
            return self.sum

    with pytest.warns(DeprecationError, match="constructor"):
        cls = modal.App().cls(serialized=True)(Old)
    assert cls(1, b=5).get.local() == 6


def test_methods_without_an_instance_warn() -> None:
    class Simple:
        @modal.method()
        def get(self) -> int:
            return 5

    cls = modal.App().cls(serialized=True)(Simple)
    with pytest.warns(DeprecationError, match=r"Simple\(\)\.get"):
        assert cls.get.local() == 5


def test_plain_instances_of_the_user_s_class_work() -> None:
    assert Model._user_cls().hello.__func__ is Model._raw_method("hello")


async def test_async_hooks_need_remote_inside_of_a_loop() -> None:
    class Slow:
        @modal.enter()
        async def load(self) -> None: ...
        @modal.method()
        def get(self) -> int:
            return 1

    cls = modal.App().cls(serialized=True)(Slow)
    with pytest.raises(modal.exception.ExecutionError, match="event loop"):
        cls().get.local()


def test_references_travel() -> None:
    cls = pickle.loads(pickle.dumps(modal.Cls.from_name("an-app", "Model")(foo="a")))
    assert cls._values == {"foo": "a"}
    assert cls._cls._reference == ("an-app", "Model", None)
    assert cls.anything.tag == "Model.anything"


def test_a_serialized_class_is_pickled_without_warnings() -> None:
    """Its methods are looked up on the class then, which is no call of the user's."""
    app = modal.App()

    @app.cls(serialized=True)
    class Sent:
        @modal.method()
        def f(self) -> int:
            return 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec = app.registered_classes["Sent"]._definition.spec(Resolved("im-1", [], [], [], ""))  # type: ignore[union-attr]
    assert b"Sent" in spec.serialized
