"""Secrets: where their values come from, and how they become ids."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

import modal
from modal import Secret, _serialization
from modal._protocol.messages.secret import MAX_VARIABLE, SecretCreate, SecretLookup
from modal.exception import InvalidError, RequestSizeError, SerializationError


def values(secret: Secret) -> dict[str, str]:
    assert secret._values is not None
    return secret._values()


def test_from_dict() -> None:
    given = {"A": "1", "B": None}
    secret = Secret.from_dict(given)
    given["A"] = "changed"
    assert values(secret) == {"A": "1"}
    for wrong in ({"A": 1}, {1: "a"}, {"": "a"}, {"A=B": "c"}, ["A"]):
        with pytest.raises(InvalidError, match="from_dict"):
            Secret.from_dict(wrong)  # type: ignore[arg-type]


def test_as_much_as_fits() -> None:
    largest = "x" * (MAX_VARIABLE - len("A=") - 1)
    assert values(Secret.from_dict({"A": largest})) == {"A": largest}
    with pytest.raises(InvalidError, match="'A' is larger"):
        Secret.from_dict({"A": largest + "x"})
    thousand = {f"KEY_{number}": "v" * 100 for number in range(1000)}
    assert values(Secret.from_dict(thousand)) == thousand
    with pytest.raises(RequestSizeError, match="at most 512 KiB together, and these have 8"):
        Secret.from_dict({f"KEY_{number}": "ü" * 600 for number in range(230)})


def test_from_local_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "v")
    assert values(Secret.from_local_environ(["MY_KEY"])) == {"MY_KEY": "v"}
    with pytest.raises(InvalidError, match="MY_OTHER"):
        Secret.from_local_environ(["MY_KEY", "MY_OTHER"])


def test_from_dotenv_looks_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / ".env").write_text('USERNAME=me\nQUOTED="x y"\nEMPTY\n')
    (tmp_path / "a" / ".env-dev").write_text("USERNAME=dev\n")
    monkeypatch.chdir(below)
    assert values(Secret.from_dotenv()) == {"USERNAME": "me", "QUOTED": "x y"}
    assert values(Secret.from_dotenv(filename=".env-dev")) == {"USERNAME": "dev"}
    monkeypatch.chdir("/")
    assert values(Secret.from_dotenv(below / "script.py"))["USERNAME"] == "me"
    with pytest.raises(InvalidError, match=r"no file \.nothing"):
        values(Secret.from_dotenv(below, filename=".nothing"))


def test_containers_make_empty_ones(container: Any) -> None:
    assert values(Secret.from_dotenv()) == {}
    assert values(Secret.from_local_environ(["NOT_SET_HERE"])) == {}


def test_hydration(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_ENVIRONMENT", "configured")
    named = Secret.from_name("my-secret", required_keys=["A"])
    assert named.hydrate() is named
    assert named.object_id == "st-my-secret"
    named.hydrate()
    Secret.from_name("other", environment_name="dev").hydrate()
    first, second = server.of(SecretLookup)
    assert (first.name, first.environment, first.required_keys) == ("my-secret", "configured", ["A"])
    assert second.environment == "dev"
    inline = Secret.from_dict({"K": "v"})
    inline.hydrate()
    assert server.of(SecretCreate)[0].values == {"K": "v"}
    with pytest.raises(InvalidError, match="name"):
        Secret.from_name("no good")


def test_sent_by_name_or_by_id(server: Any, container: Any) -> None:
    named = pickle.loads(_serialization.dumps({"s": Secret.from_name("my-secret", required_keys=["A"])}))["s"]
    assert repr(named) == "modal.Secret.from_name('my-secret')"
    named.hydrate()
    (asked,) = server.of(SecretLookup)
    assert (asked.name, asked.environment, asked.required_keys) == ("my-secret", container.environment, ["A"])
    by_id = pickle.loads(_serialization.dumps(named))
    assert by_id.object_id == named.object_id
    assert repr(by_id) == f"modal.Secret({named.object_id})"
    with pytest.raises(SerializationError, match=r"call \.hydrate"):
        _serialization.dumps(Secret.from_dict({"A": "hunter2"}))


def test_what_goes_from_a_container_stays_in_its_environment(container: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(name: str) -> tuple[Any, Any]:
        pair = modal.Dict.from_name("d", environment_name=name or None), Secret.from_name("s")
        return tuple(one._environment for one in pickle.loads(_serialization.dumps(pair)))  # type: ignore[return-value]

    container.environment = "dev"
    assert sent("") == ("dev", "dev")
    assert sent("main") == ("main", "dev")
    monkeypatch.setattr(modal._context, "spec", None)  # a program: its app's environment is not known yet
    assert sent("") == (None, None)


def test_a_dotenv_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(InvalidError, match=r"\.env cannot be read: 'utf-8' codec"):
        values(Secret.from_dotenv(tmp_path))


async def test_hydration_in_asyncio(server: Any) -> None:
    secret = await modal.Secret.from_name("s").hydrate.aio()
    assert secret.object_id == "st-s"
