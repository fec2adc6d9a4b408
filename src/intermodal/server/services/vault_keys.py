"""Where the key of the vault lies: a file of the state directory, or the keyring of the operating system.

`INTERMODAL_SECRETS_KEY` says which; without it, the key stays where it is. When the setting has changed, the key moves
at the next start. A key in a keyring leaves a note in the state directory, `secrets.keyring`, so that nobody makes a
new key where one is merely out of sight.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from intermodal.disk import sync
from intermodal.server.private_files import PRIVATE, replace
from intermodal.server.store.migrations import Refused
from modal._protocol.errors import Code, Fault

T = TypeVar("T")

SETTING = "INTERMODAL_SECRETS_KEY"
FILE, KEYRING = "file", "keyring"
KEY_BYTES = 32
SERVICE = "intermodal"  # as keyrings show it


class KeyPlace(Protocol):
    """Room for two keys: the one that holds, and the next one while a rotation goes on. What is written is durable."""

    name: str  # for people

    def read(self) -> bytes | None: ...

    def write(self, content: bytes) -> None: ...

    def read_next(self) -> bytes | None: ...

    def write_next(self, content: bytes) -> None: ...

    def take_next(self) -> None:
        """The next key becomes the one that holds."""

    def forget(self) -> None:
        """Nothing is there any more."""


class KeyFile:
    """A file that its owner alone may read."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._next = path.with_name(path.name + ".new")

    def read(self) -> bytes | None:
        return _read(self._path)

    def write(self, content: bytes) -> None:
        replace(self._path, content, PRIVATE)

    def read_next(self) -> bytes | None:
        return _read(self._next)

    def write_next(self, content: bytes) -> None:
        replace(self._next, content, PRIVATE)

    def take_next(self) -> None:
        self._next.replace(self._path)
        sync(self._path.parent)

    def forget(self) -> None:
        for path in (self._next, self._path):
            path.unlink(missing_ok=True)
        sync(self._path.parent)


class Keyring:
    """An entry of the operating system's keyring: Secret Service (GNOME, KDE), or what `keyring` is configured for."""

    def __init__(self, account: str) -> None:
        """`account`: tells this state directory's entry from others'. Raises Refused where there is no keyring."""
        try:
            import keyring
        except ImportError:
            raise Refused(
                f"{SETTING}={KEYRING} needs the package `keyring`: `pip install 'intermodal[keyring]'`"
            ) from None
        self._keyring: Any = keyring
        self._account = account
        backend = keyring.get_keyring()
        if getattr(backend, "priority", 0) <= 0 and "chainer" not in type(backend).__module__:
            raise Refused(
                f"{SETTING}={KEYRING}: there is no keyring here that programs can use ({type(backend).__name__}). "
                "Run the server in a session with an unlocked Secret Service (gnome-keyring, KWallet), or choose a "
                "backend of `keyring` (`keyring --list-backends`, PYTHON_KEYRING_BACKEND)"
            )
        self.name = f"the entry {account!r} of service {SERVICE!r} in the keyring ({type(backend).__name__})"

    def read(self) -> bytes | None:
        return self._get(self._account)

    def write(self, content: bytes) -> None:
        self._set(self._account, content)

    def read_next(self) -> bytes | None:
        return self._get(self._account + " (next)")

    def write_next(self, content: bytes) -> None:
        self._set(self._account + " (next)", content)

    def take_next(self) -> None:
        content = self.read_next()
        if content is not None:
            self.write(content)
        self._delete(self._account + " (next)")

    def forget(self) -> None:
        self._delete(self._account + " (next)")
        self._delete(self._account)

    def _get(self, account: str) -> bytes | None:
        found = self._call(lambda: self._keyring.get_password(SERVICE, account))
        if found is None:
            return None
        try:
            return base64.b64decode(found, validate=True)
        except (binascii.Error, ValueError):
            raise Fault(Code.INTERNAL, f"{self.name} is no key: restore it from a backup") from None

    def _set(self, account: str, content: bytes) -> None:
        text = base64.b64encode(content).decode()
        self._call(lambda: self._keyring.set_password(SERVICE, account, text))
        if self._get(account) != content:
            raise Fault(Code.INTERNAL, f"the keyring did not keep what was written to {self.name}")

    def _delete(self, account: str) -> None:
        if self._get(account) is not None:
            self._call(lambda: self._keyring.delete_password(SERVICE, account))

    def _call(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except Exception as error:  # each backend has its own
            raise Fault(
                Code.INTERNAL,
                f"the keyring of the server's machine does not answer ({type(error).__name__}: {error}): unlock it, "
                "then try again",
            ) from None


def place_for(folder: Path, environ: Mapping[str, str]) -> KeyPlace:
    """Where the key of a state directory lies from now on; moves it there. Blocking. Raises Refused."""
    try:
        return _place_for(folder, environ)
    except Fault as fault:
        raise Refused(str(fault)) from None


def _place_for(folder: Path, environ: Mapping[str, str]) -> KeyPlace:
    wanted = environ.get(SETTING, "")
    if wanted not in ("", FILE, KEYRING):
        raise Refused(f"{SETTING}={wanted!r} is neither {FILE!r} nor {KEYRING!r}")
    file, note = KeyFile(folder / "secrets.key"), folder / "secrets.keyring"
    if wanted != KEYRING and not note.exists():
        return file
    account = note.read_text().strip() if note.exists() else f"secrets of {folder}"
    ring = Keyring(account)
    if wanted == FILE:
        if ring.read() is None and file.read() is None:
            raise _lost(ring, note)
        _move(ring, file)
        note.unlink()
        return file
    if note.exists() and ring.read() is None and file.read() is None:
        raise _lost(ring, note)
    if not note.exists():
        replace(note, f"{account}\n".encode(), PRIVATE)
    _move(file, ring)
    return ring


def _lost(ring: Keyring, note: Path) -> Refused:
    return Refused(
        f"{ring.name} is missing: restore it. If it is lost, so are all secrets: remove {note}, start again, and "
        "create them anew"
    )


def _move(source: KeyPlace, target: KeyPlace) -> None:
    """All of it, if there is anything; a move that was interrupted goes on."""
    content, following = source.read(), source.read_next()
    if content is None:
        return
    if target.read() not in (None, content):
        raise Refused(
            f"{source.name} and {target.name} hold different keys of the secrets: take one of them away, the one that "
            "the secrets were not made with"
        )
    target.write(content)
    if following is not None:
        target.write_next(following)
    source.forget()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
