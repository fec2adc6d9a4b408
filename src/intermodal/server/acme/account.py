"""The account at the authority: its key lies in the state directory, and each request is signed with it."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from intermodal.server.acme.settings import AcmeSettings
from intermodal.server.private_files import PRIVATE, private_directory, replace

if TYPE_CHECKING:
    from acme.client import ClientV2
    from josepy.jwk import JWK

log = logging.getLogger("intermodal.acme")

REQUEST_SECONDS = 20  # that the authority may take for one answer
NONCES = 5  # in a row that the authority may refuse, as it may at any time (RFC 8555, 6.5); the library takes two each
UNKNOWN_ACCOUNT = "accountDoesNotExist"
T = TypeVar("T")


class Away(Exception):
    """The authority cannot be reached, or has trouble of its own: try again soon."""


class Rejected(Exception):
    """The authority says no: what is wrong, and its code for that."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


class Answer(NamedTuple):
    """What the authority has answered."""

    data: dict[str, Any]  # of JSON, else empty
    text: str
    location: str  # of what was made
    retry_after: float  # seconds, 0: not said


class Account:
    """For use by several threads. `path` is its file."""

    def __init__(self, path: Path, settings: AcmeSettings) -> None:
        self._path = path
        self._settings = settings
        self._lock = threading.Lock()

    def connect(self) -> Authority:
        """Blocks. The account is made at the first time. Raises Away, Rejected."""
        with self._lock:
            stored = self._load()
            key = _jwk(stored["key"])
            client = _client(self._settings, key)
            if not stored["url"]:
                stored["url"] = self._register(client, key)
                stored["email"] = self._settings.email
                self._save(stored)
                log.info("registered the account %s at %s", stored["url"], self._settings.directory)
            _be(client, stored["url"])
            authority = Authority(client, key)
            if stored["email"] != self._settings.email:
                authority.ask(stored["url"], {"contact": _contact(self._settings.email)})
                stored["email"] = self._settings.email
                self._save(stored)
            return authority

    def forget(self) -> None:
        """The authority does not know it: the next use registers its key anew."""
        with self._lock:
            stored = self._load()
            log.warning("the authority does not know the account %s: its key is registered anew", stored["url"])
            stored["url"] = ""
            self._save(stored)

    def _load(self) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", json.loads(self._path.read_text()))
        except FileNotFoundError:
            stored = {"directory": self._settings.directory, "url": "", "email": "", "key": new_key()}
            self._save(stored)  # before it is registered: a crash in between registers the same one again
            return stored
        except (OSError, ValueError) as error:
            raise Rejected(
                f"the account's file {self._path} cannot be read ({error}): without it, a new account is made"
            ) from None

    def _save(self, stored: dict[str, Any]) -> None:
        private_directory(self._path.parent)
        replace(self._path, json.dumps(stored, indent=1).encode(), PRIVATE)

    def _register(self, client: ClientV2, key: JWK) -> str:
        from acme import errors, messages

        settings = self._settings
        binding = None
        if settings.eab_kid:
            binding = messages.ExternalAccountBinding.from_data(
                key.public_key(), settings.eab_kid, settings.eab_key, client.directory
            )
        elif client.external_account_required():
            raise Rejected(
                f"{settings.directory} needs an external account binding: ask there for its key, and set "
                "INTERMODAL_ACME_EAB_KID and INTERMODAL_ACME_EAB_HMAC_KEY",
                "externalAccountRequired",
            )
        new = messages.NewRegistration.from_data(
            email=settings.email or None, external_account_binding=binding, terms_of_service_agreed=True
        )

        def register() -> str:
            try:
                return str(client.new_account(new).uri)
            except errors.ConflictError as known:  # this key's account is there already
                return str(known.location)

        return _call(register)


class Authority:
    """Requests of one thread, as the account."""

    def __init__(self, client: ClientV2, key: JWK) -> None:
        self._client = client
        self._thumbprint = base64url(key.thumbprint())

    def ask(self, url: str, content: dict[str, Any] | None = None) -> Answer:
        """Send JSON, or without `content` read what is there. Blocks. Raises Away, Rejected."""
        client = self._client
        payload = None if content is None else _Payload(content)

        def ask() -> Answer:
            response = client.net.post(url, cast("Any", payload), new_nonce_url=client.directory["newNonce"])
            is_json = response.headers.get("Content-Type", "").startswith("application/json")
            after = response.headers.get("Retry-After", "")
            return Answer(
                response.json() if is_json else {},
                response.text,
                response.headers.get("Location", ""),
                float(after) if after.isdigit() else 0.0,
            )

        return _call(ask)

    def order(self, names: list[str]) -> Answer:
        """Begin an order for a certificate of these names."""
        identifiers = [{"type": "dns", "value": name} for name in names]
        return self.ask(self._client.directory["newOrder"], {"identifiers": identifiers})

    def key_authorization(self, token: str) -> str:
        """What proves that a challenge's answer is this account's (RFC 8555, 8.1)."""
        return f"{token}.{self._thumbprint}"


class _Payload:
    """The one method that the library asks of what it sends."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content

    def json_dumps(self, **_options: Any) -> str:
        return json.dumps(self._content)


def new_key() -> str:
    """A private key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, private, serialization.NoEncryption()).decode()


def _jwk(pem: str) -> JWK:
    from josepy.jwk import JWKEC

    return JWKEC(key=serialization.load_pem_private_key(pem.encode(), None))


def _client(settings: AcmeSettings, key: JWK) -> ClientV2:
    from acme.client import ClientNetwork, ClientV2
    from josepy.jwa import ES256

    net = ClientNetwork(
        key,
        alg=ES256,
        verify_ssl=cast("bool", settings.root or True),
        user_agent="intermodal",
        timeout=REQUEST_SECONDS,
    )
    return ClientV2(_call(lambda: ClientV2.get_directory(settings.directory, net)), net)


def _be(client: ClientV2, url: str) -> None:
    from acme import messages

    client.net.account = messages.RegistrationResource(uri=url, body=messages.Registration())


def _contact(email: str) -> list[str]:
    return [f"mailto:{one.strip()}" for one in email.split(",") if one.strip()]


def _call(what: Callable[[], T], nonces: int = NONCES) -> T:
    """Do it, with the library's errors as ours."""
    import requests
    from acme import errors, messages
    from josepy.errors import Error as JoseError

    try:
        return what()
    except messages.Error as error:
        if error.code == "badNonce" and nonces:
            return _call(what, nonces - 1)
        if error.code in ("serverInternal", "badNonce"):
            raise Away(f"the authority has trouble: {error.detail or error.typ}") from None
        raise Rejected(describe_problem({"type": error.typ, "detail": error.detail}), error.code or "") from None
    except requests.RequestException as error:
        raise Away(f"the authority cannot be reached: {_short(error)}") from None
    except (errors.Error, JoseError, ValueError) as error:
        raise Away(f"the authority's answer is not understood: {_short(error)}") from None


def describe_problem(problem: dict[str, Any]) -> str:
    """A problem document (RFC 7807) as a line."""
    code = str(problem.get("type", "")).rpartition(":")[2]
    parts = [f"{problem.get('detail') or 'no reason was given'}"]
    parts += [describe_problem(part) for part in problem.get("subproblems") or ()]
    return f"{'; '.join(parts)} ({code})" if code else "; ".join(parts)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def base64url(data: bytes) -> str:
    """As the protocol writes bytes (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
