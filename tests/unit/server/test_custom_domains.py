"""Custom domains, with wildcards: which function answers for a host name."""

from __future__ import annotations

import pytest

import modal
from intermodal.server.gateway.routes import Routes
from intermodal.server.gateway.settings import WebSettings
from intermodal.server.store.apps import AppRow, new_app
from intermodal.server.store.functions import FunctionRow
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.app import AppState
from modal._protocol.messages.function import Autoscaler, FunctionSpec, Resources, WebSpec


def app(name: str, state: str = AppState.DEPLOYED) -> AppRow:
    return new_app(f"ap-{name}", "en-1", name, name, state)


def spec(name: str, *domains: str) -> FunctionSpec:
    return FunctionSpec(
        name, "m", name, image_id="im-1", resources=Resources(), autoscaler=Autoscaler(),
        web=WebSpec("asgi", custom_domains=list(domains)),
    )  # fmt: skip


def row(owner: AppRow, function: FunctionSpec) -> FunctionRow:
    return FunctionRow(f"fu-{owner.name}-{function.name}", owner.app_id, function.name, function, 1, True, "", {}, b"")


@pytest.fixture
def routes() -> Routes:
    return Routes(WebSettings(domain="apps.example.com"), "me", lambda _id: "")


def publish(routes: Routes, owner: AppRow, *functions: FunctionSpec) -> None:
    routes.check(owner, functions)
    routes.publish(owner, [row(owner, function) for function in functions])


def found(routes: Routes, host: str) -> str:
    route = routes.find(host)
    return route.function_id if route is not None else ""


def test_exact_names_before_wildcards_and_long_ones_before_short_ones(routes: Routes) -> None:
    publish(
        routes, app("a"), spec("all", "*.example.org"), spec("deep", "*.eu.example.org"),
        spec("api", "api.example.org"), spec("apex", "example.org", "example.net"),
    )  # fmt: skip
    assert found(routes, "api.example.org") == "fu-a-api"
    assert found(routes, "other.example.org") == "fu-a-all"
    assert found(routes, "x.y.example.org") == "fu-a-all"
    assert found(routes, "x.eu.example.org") == "fu-a-deep"
    assert found(routes, "eu.example.org") == "fu-a-all"
    assert found(routes, "example.org") == found(routes, "example.net") == "fu-a-apex"
    for host in ("example.com", "badexample.org", "org", "", ".", "*.example.com"):
        assert found(routes, host) == ""
    routes.forget("ap-a")
    assert found(routes, "api.example.org") == found(routes, "other.example.org") == ""


def test_a_wildcard_does_not_take_the_names_of_functions(routes: Routes) -> None:
    publish(routes, app("a"), spec("f"), spec("all", "*.apps.example.com"))
    assert found(routes, "me--a-f.apps.example.com") == "fu-a-f"
    assert found(routes, "else.apps.example.com") == "fu-a-all"


def test_a_domain_belongs_to_one_deployed_app(routes: Routes) -> None:
    publish(routes, app("a"), spec("f", "api.example.org", "*.example.org"))
    publish(routes, app("a"), spec("f", "api.example.org", "*.example.org"))  # again: its own
    for domain in ("api.example.org", "*.example.org"):
        with pytest.raises(Fault, match="another deployed app") as caught:
            publish(routes, app("b"), spec("g", domain))
        assert caught.value.code == Code.CONFLICT
    with pytest.raises(Fault, match="would both be served"):
        publish(routes, app("c"), spec("f", "one.example.org"), spec("g", "one.example.org"))
    for name in ("tried", "served"):  # these leave what is deployed alone, and the newest has what is free
        publish(routes, app(name, AppState.EPHEMERAL), spec("g", "api.example.org", "new.example.com"))
    assert found(routes, "api.example.org") == "fu-a-f"
    assert found(routes, "new.example.com") == "fu-served-g"
    routes.forget("ap-served")
    assert found(routes, "new.example.com") == "fu-tried-g"
    routes.forget("ap-a")
    assert found(routes, "api.example.org") == "fu-tried-g"


@pytest.mark.parametrize(
    "domain",
    ["https://a.example", "a.example/x", "a.example:8000", "localhost", "*.*.example", "a.*.example", "", "-a.example",
     "a..example", "a b.example", ".example.com", f"{'a' * 64}.example", "x." * 130 + "example"],
)  # fmt: skip
def test_what_is_no_domain(domain: str) -> None:
    with pytest.raises(modal.exception.InvalidError, match="is no domain name"):
        modal.asgi_app(custom_domains=[domain])


@pytest.mark.parametrize(
    "domain", ["example.com", "API.example.com", "*.example.com", "*.a.b-c.example", "xn--bcher-kva.ch"]
)
def test_what_is_one(domain: str) -> None:
    def served() -> None: ...

    assert modal.asgi_app(custom_domains=[domain])(served).web.custom_domains == [domain.lower()]
