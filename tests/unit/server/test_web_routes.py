"""Names of web functions, who has which, and what a query string says of a class's parameters."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from intermodal.server.gateway import names
from intermodal.server.gateway.parameters import pickled, read_values
from intermodal.server.gateway.request import Refusal
from intermodal.server.gateway.routes import Route, Routes
from intermodal.server.gateway.settings import WebSettings, read_settings
from intermodal.server.store.apps import AppRow, new_app
from intermodal.server.store.functions import FunctionRow
from intermodal.server.store.migrations import Refused
from modal._parameter import pickle_values
from modal._protocol.errors import Fault
from modal._protocol.messages.app import AppState
from modal._protocol.messages.function import Autoscaler, FunctionSpec, MethodSpec, Resources, WebSpec


def spec(name: str, label: str = "", domains: list[str] | None = None, methods: tuple[str, ...] = ()) -> FunctionSpec:
    web = WebSpec("asgi", label=label, custom_domains=domains or [])
    made = FunctionSpec(name, "m", name, Resources(), Autoscaler(), web=None if methods else web)
    made.methods = [MethodSpec(method, web=web) for method in methods]
    made.is_class = bool(methods)
    return made


def row(function: FunctionSpec, app: AppRow) -> FunctionRow:
    return FunctionRow(f"fu-{app.app_id}-{function.name}", app.app_id, function.name, function, 1, True, "", {}, b"")


def app_of(app_id: str, name: str, *, deployed: bool = True) -> AppRow:
    return new_app(app_id, "en-1", name, name, AppState.DEPLOYED if deployed else AppState.EPHEMERAL)


def routes(suffix: str = "") -> Routes:
    return Routes(WebSettings(), "ECorp", lambda _environment: suffix)


def test_the_documented_names() -> None:
    made = routes("prod")
    app = app_of("ap-1", "text_to_speech")
    made.publish(app, [row(spec("flask_app"), app), row(spec("other", "speechify"), app)])
    assert made.find("ecorp-prod--text-to-speech-flask-app.localhost") is not None
    assert made.find("ecorp-prod--speechify.localhost") is not None
    assert made.find("ecorp-prod--speechify.elsewhere.org") is None


def test_names_that_dns_cannot_hold_are_cut() -> None:
    label = "text-to-speech-really-really-realllly-long-function-name"
    name = names.subdomain("ecorp", label, True)
    whole = f"ecorp--{label}-dev"
    assert len(whole) == 67
    assert name == f"{whole[:56]}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"
    assert len(name) == 63
    assert names.subdomain("ecorp", "a" * 52, True) == f"ecorp--{'a' * 52}-dev"  # 63: as it is


def test_methods_have_the_class_in_their_name() -> None:
    made = routes()
    app = app_of("ap-1", "shop")
    made.publish(app, [row(spec("Server", methods=("files", "more")), app)])
    found = made.find("ecorp--shop-server-files.localhost")
    assert found is not None
    assert found.method == "files"


def test_a_newer_ephemeral_app_steals_and_gives_back() -> None:
    made = routes()
    apps = [app_of(f"ap-{number}", "shop", deployed=False) for number in range(3)]
    for app in apps:
        made.publish(app, [row(spec("web"), app)])
    host = "ecorp--shop-web-dev.localhost"

    def owner() -> str:
        found = made.find(host)
        return found.app_id if found is not None else ""

    assert owner() == "ap-2"
    made.forget("ap-2")
    assert owner() == "ap-1"
    made.publish(apps[0], [row(spec("web"), apps[0])])
    assert owner() == "ap-0"
    made.forget("ap-0")
    made.forget("ap-1")
    assert owner() == ""


def test_deployed_apps_do_not_steal() -> None:
    made = routes()
    first, second = app_of("ap-1", "one"), app_of("ap-2", "two")
    made.publish(first, [row(spec("web", "mine", ["api.example.com"]), first)])
    for wanted in (spec("web", "mine"), spec("web", "", ["api.example.com"])):
        with pytest.raises(Fault, match="another deployed app"):
            made.check(second, [wanted])
    made.check(first, [spec("web", "mine", ["api.example.com"])])  # its own
    made.check(app_of("ap-3", "two", deployed=False), [spec("web", "mine")])
    with pytest.raises(Fault, match="would both be served"):
        made.check(second, [spec("a", "same"), spec("b", "same")])
    made.forget("ap-1")
    made.check(second, [spec("web", "mine")])


def route(*parameters: tuple[str, str, bool, Any]) -> Route:
    return Route("n", "ap-1", "fu-1", "m", WebSpec("asgi"), False, parameters)


def test_parameters_from_a_query() -> None:
    asked = route(("root", "str", True, "."), ("n", "int", False, None), ("ok", "bool", True, False))
    assert read_values(asked, b"n=-3&ok=true&other=1") == {"root": ".", "n": -3, "ok": True}
    assert read_values(asked, b"n=0&root=%2F+x") == {"root": "/ x", "n": 0, "ok": False}
    assert read_values(asked, "n=1&root=é".encode())["root"] == "é"
    for wrong in (b"", b"n=x", b"n=1&ok=maybe"):
        with pytest.raises(Refusal) as refused:
            read_values(asked, wrong)
        assert refused.value.status == 400


@pytest.mark.parametrize("text", ["-_8Aaw==", "%2B%2F8Aaw%3D%3D", "+/8Aaw", "-_8Aaw"])
def test_bytes_are_base64_in_a_query(text: str) -> None:
    assert read_values(route(("data", "bytes", False, None)), f"data={text}".encode()) == {"data": b"\xfb\xff\0k"}


@pytest.mark.parametrize("text", ["*", "a", "aGk=x", "%FF"])
def test_what_is_no_base64_is_said(text: str) -> None:
    with pytest.raises(Refusal, match="base64"):
        read_values(route(("data", "bytes", False, None)), f"data={text}".encode())


def test_requests_and_clients_share_containers() -> None:
    values: dict[str, Any] = {"b": "x", "a": 1, "c": b"\0", "d": True, "e": "x"}
    assert pickled(values) == pickle_values(values)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"INTERMODAL_WEB_LISTEN": "host:port"}, "WEB_LISTEN"),
        ({"INTERMODAL_WEB_DOMAIN": "ftp://x"}, "WEB_DOMAIN"),
        ({"INTERMODAL_WEB_DOMAIN": "https://x/y"}, "WEB_DOMAIN"),
        ({"INTERMODAL_WEB_TRUSTED_PROXIES": "10.0.0.0/99"}, "WEB_TRUSTED_PROXIES"),
        ({"INTERMODAL_WEB_RATE_LIMIT": "-1"}, "WEB_RATE_LIMIT"),
    ],
)
def test_wrong_settings_are_named(variables: dict[str, str], name: str) -> None:
    with pytest.raises(Refused, match=name):
        read_settings(variables)
