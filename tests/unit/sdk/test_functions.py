"""`@app.function()`: what it takes, what it refuses, and what the function then is."""

from __future__ import annotations

import functools
import pickle
import warnings
from typing import Any

import pytest

import modal
from modal.exception import DeprecationError, ExecutionError, InvalidError
from modal.exception import PendingDeprecationError as PendingWarning


def plain(x: int = 1) -> int:
    return x + 1


def generator() -> Any:
    yield 1


async def coroutine() -> int:
    return 1


def test_a_function_is_still_a_function() -> None:
    app = modal.App("a")
    f = app.function()(plain)
    assert app.registered_functions == {"plain": f}
    assert (f.tag, f.local(2), f(3), f.get_raw_f()) == ("plain", 3, 4, plain)
    assert not f._is_generator
    assert app.function()(generator)._is_generator
    assert app.function(is_generator=True)(plain)._is_generator


async def test_local_calls_of_async_functions_give_coroutines() -> None:
    assert await modal.App().function()(coroutine).local() == 1


WRONG = [
    ({"timeout": 5}, "timeout"),
    ({"timeout": 86401}, "timeout"),
    ({"timeout": "1"}, "timeout"),
    ({"scaledown_window": 1}, "scaledown_window"),
    ({"scaledown_window": 1201}, "scaledown_window"),
    ({"min_containers": 3, "max_containers": 2}, "max_containers"),
    ({"max_containers": 0}, "max_containers"),
    ({"min_containers": -1}, "min_containers"),
    ({"buffer_containers": 1.5}, "buffer_containers"),
    ({"cpu": 0}, "cpu"),
    ({"cpu": (2, 1)}, "limit"),
    ({"cpu": "1"}, "cpu"),
    ({"cpu": (1, 2, 3)}, "pair"),
    ({"cpu": float("nan")}, "cpu"),
    ({"cpu": (1, float("inf"))}, "finite"),
    ({"memory": 1.5}, "memory"),
    ({"memory": (512, 256)}, "limit"),
    ({"ephemeral_disk": 3145729}, "ephemeral_disk"),
    ({"retries": -1}, "retries"),
    ({"retries": "2"}, "retries"),
    ({"gpu": "H100:9"}, "H100"),
    ({"gpu": "A10G:5"}, "A10G"),
    ({"gpu": "H100:x"}, "number"),
    ({"gpu": ":2"}, "GPU"),
    ({"gpu": 3}, "gpu"),
    ({"gpu": []}, "empty"),
    ({"cloud": "mars"}, "cloud"),
    ({"region": [1]}, "region"),
    ({"region": 1}, "region"),
    ({"experimental_options": 1}, "dict"),
    ({"schedule": "daily"}, "schedule"),
    ({"secrets": [{"A": "b"}]}, "Secret"),
    ({"secrets": modal.Secret.from_dict({})}, "list"),
    ({"image": "debian"}, "Image"),
    ({"volumes": {"data": modal.Volume.from_name("v")}}, "absolute"),
    ({"volumes": {"/data": "v"}}, "Volume"),
    ({"volumes": {"/root": modal.Volume.from_name("v")}}, "/root"),
    ({"max_inputs": 0}, "max_inputs"),
    ({"name": "other"}, "serialized"),
    ({"include_source": "yes"}, "include_source"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "text"), WRONG)
def test_wrong_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidError, match=text):
        modal.App().function(**options)(plain)


def test_good_options_arrive() -> None:
    f = modal.App().function(
        cpu=(1, 2), memory=(256, 512), gpu=["h100:2", "a100", "any"], retries=3, timeout=10, scaledown_window=1200,
        min_containers=1, max_containers=1, ephemeral_disk=1024, region="us-east", cloud="AWS", max_inputs=1,
    )(plain)  # fmt: skip
    options = f._definition.options
    resources = options.resources
    assert (resources.cpu_request, resources.cpu_limit) == (1.0, 2.0)
    assert (resources.memory_request, resources.memory_limit, resources.ephemeral_disk) == (256, 512, 1024)
    assert resources.gpu == ["H100:2", "A100-40GB", "ANY"]
    assert (options.retry.max_retries, options.retry.backoff_coefficient, options.retry.initial_delay) == (3, 1.0, 1.0)
    assert (options.timeout, options.regions, options.cloud, options.max_inputs) == (10, ["us-east"], "aws", 1)


def test_retries_objects() -> None:
    assert modal.Retries(max_retries=2).backoff_coefficient == 2.0
    for wrong in (
        {"max_retries": -1},
        {"max_retries": 1, "backoff_coefficient": 0.5},
        {"max_retries": 1, "max_delay": 99},
    ):
        with pytest.raises(InvalidError):
            modal.Retries(**wrong)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("keep_warm", "min_containers"),
        ("concurrency_limit", "max_containers"),
        ("container_idle_timeout", "scaledown_window"),
        ("_experimental_buffer_containers", "buffer_containers"),
    ],
)
def test_older_names_warn_and_work(old: str, new: str) -> None:
    with pytest.warns(DeprecationError, match=new) as caught:
        f = modal.App().function(**{old: 7})(plain)
    assert caught[0].filename == __file__
    assert getattr(f._definition.options.autoscaler, new) == 7
    with pytest.raises(InvalidError, match=new):
        modal.App().function(**{old: 7, new: 7})


def test_a_container_does_not_repeat_what_its_launcher_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f = modal.App().function(concurrency_limit=7, allow_concurrent_inputs=9)(plain)
    assert f._definition.options.autoscaler.max_containers == 7


def test_allow_concurrent_inputs_warns_and_works() -> None:
    with pytest.warns(DeprecationError, match="concurrent"):
        f = modal.App().function(allow_concurrent_inputs=9)(plain)
    assert f._definition.options.concurrent_max == 9


def test_gpu_classes_warn() -> None:
    with pytest.warns(DeprecationError, match='gpu="A100-80GB:2"'):
        gpu = modal.gpu.A100(count=2, size="80GB")
    assert modal.gpu.parse_gpu_config(gpu) == "A100-80GB:2"
    with pytest.raises(InvalidError, match="size"):
        modal.gpu.A100(size="60GB")


def test_decorators_need_parentheses() -> None:
    app = modal.App()
    for bare in (app.function, app.cls, app.local_entrypoint, modal.method, modal.enter, modal.exit, modal.asgi_app):
        with pytest.raises(InvalidError, match="parentheses"):
            bare(plain)


def test_what_cannot_be_a_function() -> None:
    app = modal.App()
    with pytest.raises(InvalidError, match=r"@app\.cls"):
        app.function()(type("C", (), {}))
    with pytest.raises(InvalidError, match="global scope"):

        @app.function()
        def local() -> None: ...

    with pytest.raises(InvalidError, match="method"):
        app.function()(Holder.method)
    with pytest.raises(InvalidError, match="enough"):
        app.function()(app.function()(plain))
    with pytest.raises(InvalidError, match="belong to methods"):
        app.function()(modal.method()(plain))
    with pytest.raises(InvalidError, match="below"):
        modal.concurrent(max_inputs=2)(app.function()(plain))


class Holder:
    def method(self) -> None: ...


def test_serialized_functions_may_be_local_and_named() -> None:
    app = modal.App()

    @app.function(serialized=True, name="other")
    def local() -> None: ...

    assert list(app.registered_functions) == ["other"]
    app.function(serialized=True)(lambda: 1)
    assert "<lambda>" in app.registered_functions


def test_scheduled_functions_take_no_arguments() -> None:
    def needs(x: int) -> None: ...
    def variadic(*args: int, **kwargs: int) -> None: ...

    with pytest.raises(InvalidError, match="'x' needs a default"):
        modal.App().function(schedule=modal.Period(days=1), serialized=True)(needs)
    f = modal.App().function(schedule=modal.Cron("0 9 * * mon-fri"), serialized=True)(variadic)
    assert f._definition.options.schedule._to_spec() == {"cron": "0 9 * * mon-fri"}


@pytest.mark.parametrize("text", ["* * * *", "60 * * * *", "* * * * * *", "a * * * *", "5-1 * * * *", "*/0 * * * *"])
def test_wrong_cron(text: str) -> None:
    with pytest.raises(InvalidError, match="Cron"):
        modal.Cron(text)


def test_period() -> None:
    assert modal.Period(days=1, seconds=0.5)._to_spec() == {"period": {"days": 1, "seconds": 0.5}}
    for wrong in ({}, {"days": -1}, {"hours": 1.5}):
        with pytest.raises(InvalidError, match="Period"):
            modal.Period(**wrong)


def test_retries_on_generators_are_deprecated() -> None:
    with pytest.warns(DeprecationError, match="generator"):
        modal.App().function(retries=2)(generator)


def test_batching_and_concurrency() -> None:
    app = modal.App()
    f = app.function()(modal.batched(max_batch_size=4, wait_ms=100)(plain))
    assert f._definition.partial.batching == (4, 100)
    f = modal.App().function()(modal.concurrent(max_inputs=10, target_inputs=8)(plain))
    assert f._definition.partial.concurrency == (10, 8)
    for wrong in ({"max_inputs": 0}, {"max_inputs": 2, "target_inputs": 3}, {"max_inputs": "2"}):
        with pytest.raises(InvalidError, match="inputs"):
            modal.concurrent(**wrong)
    for wrong in ({"max_batch_size": 0, "wait_ms": 1}, {"max_batch_size": 1, "wait_ms": -1}):
        with pytest.raises(InvalidError):
            modal.batched(**wrong)


def nullary() -> None: ...


def wrapped(f: Any) -> Any:
    @functools.wraps(f)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return f(*args, **kwargs)

    return inner


def test_web_functions() -> None:
    app = modal.App()
    f = app.function()(modal.asgi_app(label="my-label", requires_proxy_auth=True)(nullary))
    assert app.registered_web_endpoints == ["nullary"]
    assert (f._definition.partial.web.kind, f._definition.partial.web.label) == ("asgi", "my-label")
    modal.App().function()(modal.wsgi_app()(wrapped(nullary)))
    endpoint = modal.App().function()(modal.fastapi_endpoint(method="post", docs=True)(plain))
    assert endpoint._definition.partial.web.method == "POST"
    with pytest.raises(InvalidError, match="no parameters"):
        modal.App().function()(modal.asgi_app()(plain))
    with pytest.raises(InvalidError, match="no parameters"):
        modal.App().function()(modal.web_server(8000)(wrapped(plain)))
    for label in ("Up", "a_b", "-a", "a" * 64, ""):
        with pytest.raises(InvalidError, match="label"):
            modal.wsgi_app(label=label)
    with pytest.raises(InvalidError, match="list"):
        modal.asgi_app(custom_domains="example.com")
    with pytest.raises(InvalidError, match="startup_timeout"):
        modal.web_server(80, startup_timeout=0)
    with pytest.raises(InvalidError, match="port"):
        modal.web_server(nullary)
    with pytest.raises(InvalidError, match="already"):
        modal.wsgi_app()(modal.asgi_app()(wrapped(nullary)).__wrapped__) and modal.wsgi_app()(
            modal.asgi_app()(wrapped(nullary))
        )
    with pytest.warns(DeprecationError, match="fastapi_endpoint"):
        modal.web_endpoint()


def test_calls_outside_of_a_running_app_say_what_to_do(server: Any) -> None:
    f = modal.App().function()(plain)
    for call in (lambda: f.remote(1), lambda: f.spawn(1), lambda: list(f.map([1])), lambda: f.hydrate()):
        with pytest.raises(ExecutionError, match=r"app\.run\(\)"):
            call()
    with pytest.raises(ExecutionError, match="hydrate"):
        _ = f.object_id


def test_map_that_nobody_consumes_warns() -> None:
    f = modal.App().function()(plain)
    with pytest.warns(UserWarning, match=r"Function\.map were not consumed"):
        f.map([1])
    with pytest.warns(UserWarning, match=r"Function\.starmap"):
        f.starmap([(1,)])


def test_function_tags_collide_loudly() -> None:
    app = modal.App()
    app.function()(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.function()(plain)  # the same one again
    other = functools.wraps(plain)(lambda: None)
    other.__module__ = "somewhere.else"
    with pytest.warns(UserWarning, match="plain"):
        app.function(serialized=True)(other)


def test_include() -> None:
    a, b = modal.App("a"), modal.App("b")
    f = b.function()(plain)
    assert a.include(b) is a
    assert a.include(b).registered_functions == {"plain": f}
    with pytest.raises(InvalidError):
        a.include("b")  # type: ignore[arg-type]


def test_app_names_and_descriptions() -> None:
    assert modal.App("x").description == "x"
    app = modal.App()
    assert app.name is None
    assert app.description
    app.set_description("y")
    assert app.description == "y"
    with pytest.raises(InvalidError, match="string"):
        modal.App(3)  # type: ignore[arg-type]
    for wrong in ("with space", "x" * 64, "ap-" + "a" * 22, "ä"):
        with pytest.raises(InvalidError, match="name"):
            modal.App(wrong).deploy()
    with pytest.raises(InvalidError, match="name"):
        modal.App().deploy()


def test_image_can_be_set_later() -> None:
    app = modal.App()
    default = app.image
    assert default is app.image
    app.image = image = modal.Image.debian_slim().pip_install("x")
    assert app.image is image
    assert app.function()(plain)._definition.image(app) is image


def test_local_entrypoints() -> None:
    app = modal.App()
    main = app.local_entrypoint(name="other")(plain)
    assert app.registered_entrypoints == {"other": main}
    assert (main(1), main.get_raw_f()) == (2, plain)


def test_references_by_name_travel() -> None:
    f = modal.Function.from_name("an-app", "f", environment_name="dev")
    again = pickle.loads(pickle.dumps(f))
    assert again._reference == ("an-app", "f", "dev")
    with pytest.warns(PendingWarning, match=r"Cls\.from_name"):
        method = modal.Function.from_name("an-app", "Model.predict")
    assert method.tag == "Model.predict"
    with pytest.raises(InvalidError, match="name"):
        modal.Function.from_name("bad name", "f")
    with pytest.raises(ExecutionError, match="looked up"):
        f.get_raw_f()


@pytest.mark.parametrize(
    ("app_name", "name", "environment", "said"),
    [
        (5, "f", None, "The name of an App must be a string, not int"),
        ("a b", "f", None, "Invalid App name: 'a b'"),
        ("a", None, None, "must be a string, not NoneType"),
        ("a", "", None, "must not be empty"),
        ("a", "f", 5, "environment_name must be a string, not int"),
    ],
)
@pytest.mark.parametrize("kind", [modal.Function, modal.Cls])
def test_references_are_checked_where_they_are_made(
    kind: Any, app_name: Any, name: Any, environment: Any, said: str
) -> None:
    with pytest.raises(InvalidError, match=said):
        kind.from_name(app_name, name, environment_name=environment)
