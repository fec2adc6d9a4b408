"""How the gateway is set up: all of it comes from environment variables (docs/web.md)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

from intermodal.server.store.migrations import Refused

DEFAULT_PORT = 7723
BODY_LIMIT = 4 << 30  # bytes of a request's body
HEAD_LIMIT = 64 << 10  # bytes of a request's head

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class WebSettings:
    """`listen` None: no gateway. `port` 0 in `listen`: any free one. Times in seconds."""

    listen: tuple[str, int] | None = ("127.0.0.1", DEFAULT_PORT)
    fixed: bool = False  # the address was asked for: no other will do
    scheme: str = "http"
    domain: str = "localhost"
    public_port: int = 0  # in URLs; 0: the one that it listens on
    trusted: tuple[Network, ...] = ()  # proxies whose X-Forwarded-* headers count
    rate: float = 0.0  # requests a second of the workspace; 0: no limit
    burst: float = 5.0  # seconds of `rate` that may come at once
    body_limit: int = BODY_LIMIT
    redirect_after: float = 150.0  # a response that has not begun by then is fetched by another request
    head_timeout: float = 20.0  # for a request's head to arrive
    idle_timeout: float = 75.0  # between requests of a connection
    body_timeout: float = 60.0  # between two parts of a request's body


def read_settings(environ: Mapping[str, str] = os.environ) -> WebSettings:
    """Raises Refused, which names the variable."""
    listen, fixed = _listen(environ.get("INTERMODAL_WEB_LISTEN", "").strip())
    scheme, domain, port = _domain(environ.get("INTERMODAL_WEB_DOMAIN", "").strip())
    return WebSettings(
        listen=listen,
        fixed=fixed,
        scheme=scheme,
        domain=domain,
        public_port=port,
        trusted=_networks(environ.get("INTERMODAL_WEB_TRUSTED_PROXIES", "")),
        rate=_number(environ, "INTERMODAL_WEB_RATE_LIMIT", 0.0),
        redirect_after=_number(environ, "INTERMODAL_WEB_REQUEST_TIMEOUT", 150.0),
    )


def _listen(text: str) -> tuple[tuple[str, int] | None, bool]:
    if not text:
        return ("127.0.0.1", DEFAULT_PORT), False
    if text.lower() in ("off", "none", "no"):
        return None, True
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = ("127.0.0.1", text) if text.isdigit() else (text, str(DEFAULT_PORT))
    if not port.isdigit() or int(port) > 65535:
        raise Refused(f"INTERMODAL_WEB_LISTEN={text!r} must be HOST:PORT, PORT or off")
    return (host.strip("[]") or "0.0.0.0", int(port)), port != "0"  # noqa: S104 - asked for


def _domain(text: str) -> tuple[str, str, int]:
    if not text:
        return "http", "localhost", 0
    scheme, mark, rest = text.rpartition("://")
    if mark and scheme not in ("http", "https"):
        raise Refused(f"INTERMODAL_WEB_DOMAIN={text!r} must be DOMAIN, http://DOMAIN[:PORT] or https://DOMAIN[:PORT]")
    rest = rest.strip("/").removeprefix("*.")
    domain, colon, port = rest.partition(":")
    if not domain or "/" in rest or (colon and not (port.isdigit() and 0 < int(port) < 65536)):
        raise Refused(f"INTERMODAL_WEB_DOMAIN={text!r} must be DOMAIN, http://DOMAIN[:PORT] or https://DOMAIN[:PORT]")
    known = int(port) if colon else {"http": 80, "https": 443}.get(scheme, 0)
    return scheme or "http", domain.lower(), known


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise Refused(f"INTERMODAL_WEB_TRUSTED_PROXIES: {error}") from None


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if value < 0:
        raise Refused(f"{name}={text!r} must be a number that is not negative")
    return value
