"""Functions that are served over HTTP: what their decorators say."""

from __future__ import annotations

import re
from typing import Any, Callable, Iterable, Optional

from modal._partial import PartialFunction, decorate, require_parentheses
from modal._protocol.messages.function import WebSpec
from modal.exception import InvalidError

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\Z")
_DOMAIN = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
MAX_DOMAIN = 253  # characters
MAX_LABEL = 63  # characters of a host name's part


def _label(label: Any) -> str:
    if label is None:
        return ""
    if not isinstance(label, str) or not _LABEL.match(label) or len(label) > MAX_LABEL:
        raise InvalidError(
            f"The web label {label!r} is invalid: it must be lower-case letters, digits and dashes, "
            f"at most {MAX_LABEL} characters, without a dash at either end."
        )
    return label


def _domains(custom_domains: Optional[Iterable[str]]) -> list[str]:
    if custom_domains is None:
        return []
    if isinstance(custom_domains, str):
        raise InvalidError(f"custom_domains must be a list: write [{custom_domains!r}].")
    domains: list[Any] = list(custom_domains)
    for domain in domains:
        if not isinstance(domain, str) or len(domain) > MAX_DOMAIN or not _DOMAIN.match(domain.lower()):
            raise InvalidError(
                f"custom_domains: {domain!r} is no domain name, such as api.example.com or *.example.com (without "
                "scheme, port or path)."
            )
    return [domain.lower() for domain in domains]


def _web(decorator: str, spec: WebSpec) -> Callable[[Any], PartialFunction]:
    def apply(partial: PartialFunction) -> None:
        if isinstance(partial.raw, type):
            raise InvalidError(f"@{decorator} goes on a function or a method, not on a class.")
        if partial.is_method:
            raise InvalidError(f"{partial.__name__}: use @{decorator}() without @modal.method().")
        if partial.web is not None:
            raise InvalidError(f"{partial.__name__} is a web endpoint already: one decorator is enough.")
        partial.web = spec

    return decorate(decorator, apply)


def fastapi_endpoint(
    _warn_parentheses_missing: Any = None,
    *,
    method: str = "GET",  # REST method for the created endpoint.
    label: Optional[str] = None,  # Label for created endpoint. Final subdomain will be <workspace>--<label>.modal.run.
    custom_domains: Optional[Iterable[str]] = None,  # Custom fully-qualified domain name (FQDN) for the endpoint.
    docs: bool = False,  # Whether to enable interactive documentation for this endpoint at /docs.
    requires_proxy_auth: bool = False,  # Require Modal-Key and Modal-Secret HTTP Headers on requests.
) -> Callable[[Any], PartialFunction]:
    """Convert a function into a basic web endpoint by wrapping it with a FastAPI App.

    The image must have FastAPI: `Image.pip_install("fastapi[standard]")`.
    """
    require_parentheses("modal.fastapi_endpoint", _warn_parentheses_missing)
    return _endpoint("modal.fastapi_endpoint", method, label, custom_domains, docs, requires_proxy_auth)


def web_endpoint(
    _warn_parentheses_missing: Any = None,
    *,
    method: str = "GET",
    label: Optional[str] = None,
    docs: bool = False,
    custom_domains: Optional[Iterable[str]] = None,
    requires_proxy_auth: bool = False,
) -> Callable[[Any], PartialFunction]:
    """Deprecated: the older name of `modal.fastapi_endpoint`."""
    from modal._deprecation import warn_definition

    require_parentheses("modal.web_endpoint", _warn_parentheses_missing)
    warn_definition("The `@modal.web_endpoint` decorator has been renamed to `@modal.fastapi_endpoint`.")
    return _endpoint("modal.web_endpoint", method, label, custom_domains, docs, requires_proxy_auth)


def _endpoint(
    decorator: str, method: Any, label: Optional[str], domains: Optional[Iterable[str]], docs: bool, auth: bool
) -> Callable[[Any], PartialFunction]:
    if not isinstance(method, str) or method.upper() not in _METHODS:
        raise InvalidError(f"@{decorator}: method must be one of {', '.join(_METHODS)}, not {method!r}.")
    spec = WebSpec("endpoint", method.upper(), _label(label), _domains(domains), auth, docs)
    return _web(decorator, spec)


def asgi_app(
    _warn_parentheses_missing: Any = None,
    *,
    label: Optional[str] = None,  # Label for created endpoint. Final subdomain will be <workspace>--<label>.modal.run.
    custom_domains: Optional[Iterable[str]] = None,  # Deploy this endpoint on a custom domain.
    requires_proxy_auth: bool = False,  # Require Modal-Key and Modal-Secret HTTP Headers on requests.
) -> Callable[[Any], PartialFunction]:
    """Decorator for functions that return an ASGI application, such as FastAPI or Starlette ones."""
    require_parentheses("modal.asgi_app", _warn_parentheses_missing)
    return _web("modal.asgi_app", WebSpec("asgi", "", _label(label), _domains(custom_domains), requires_proxy_auth))


def wsgi_app(
    _warn_parentheses_missing: Any = None,
    *,
    label: Optional[str] = None,  # Label for created endpoint. Final subdomain will be <workspace>--<label>.modal.run.
    custom_domains: Optional[Iterable[str]] = None,  # Deploy this endpoint on a custom domain.
    requires_proxy_auth: bool = False,  # Require Modal-Key and Modal-Secret HTTP Headers on requests.
) -> Callable[[Any], PartialFunction]:
    """Decorator for functions that return a WSGI application, such as Flask or Django ones."""
    require_parentheses("modal.wsgi_app", _warn_parentheses_missing)
    return _web("modal.wsgi_app", WebSpec("wsgi", "", _label(label), _domains(custom_domains), requires_proxy_auth))


def web_server(
    port: int,
    *,
    startup_timeout: float = 5.0,  # Maximum number of seconds to wait for the web server to start.
    label: Optional[str] = None,  # Label for created endpoint. Final subdomain will be <workspace>--<label>.modal.run.
    custom_domains: Optional[Iterable[str]] = None,  # Deploy this endpoint on a custom domain.
    requires_proxy_auth: bool = False,  # Require Modal-Key and Modal-Secret HTTP Headers on requests.
) -> Callable[[Any], PartialFunction]:
    """Decorator for functions that start a web server which listens on `port` (and on 0.0.0.0)."""
    given: Any = port
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= 65535:
        raise InvalidError(f"@modal.web_server: the first argument must be a port from 1 to 65535, not {port!r}.")
    if startup_timeout <= 0:
        raise InvalidError("@modal.web_server: startup_timeout must be greater than 0.")
    domains = _domains(custom_domains)
    spec = WebSpec(
        "server", "", _label(label), domains, requires_proxy_auth, port=port, startup_timeout=float(startup_timeout)
    )
    return _web("modal.web_server", spec)
