"""Secrets, environments, tokens: small nouns of the control plane."""

from __future__ import annotations

from typing import Any, Dict, List

from modal._protocol.message import Message, Record

MAX_VARIABLE = 128 << 10  # bytes of `NAME=value` and the NUL behind it: Linux takes no longer one
MAX_VALUES = 512 << 10  # bytes of one secret's variables, as JSON
MAX_ENVIRONMENT = 768 << 10  # the same of all secrets of a function


def size_of(values: Dict[str, str]) -> int:
    """Bytes that these variables take in a message."""
    import json

    return len(json.dumps(values))


class SecretCreate(Message, type=80):
    """An inline secret (no name) or a named one. Answered with ObjectId. Fault: conflict unless `overwrite`."""

    values: Dict[str, str]
    name: str = ""
    environment: str = ""
    app_id: str = ""  # owner of an inline secret
    overwrite: bool = False


class SecretLookup(Message, type=81):
    """Answered with ObjectId. Faults: not-found; invalid when a required key is missing."""

    name: str
    environment: str = ""
    required_keys: List[str] = []


class ObjectId(Message, type=82):
    object_id: str
    name: str = ""


class SecretList(Message, type=83):
    environment: str = ""


class SecretInfo(Record):
    secret_id: str
    name: str
    created_at: float
    last_used_at: float = 0.0


class SecretsKnown(Message, type=84):
    secrets: List[SecretInfo]


class SecretDelete(Message, type=85):
    name: str
    environment: str = ""


class EnvironmentCreate(Message, type=86):
    name: str


class EnvironmentList(Message, type=87):
    pass


class EnvironmentInfo(Record):
    name: str
    web_suffix: str = ""
    default: bool = False


class Environments(Message, type=88):
    environments: List[EnvironmentInfo]


class EnvironmentDelete(Message, type=89):
    name: str


class EnvironmentUpdate(Message, type=90):
    name: str
    new_name: str = ""
    web_suffix: str = ""
    set_web_suffix: bool = False


class TokenCreate(Message, type=91):
    """A new token of the workspace. Answered with Token; the secret is shown this once."""

    note: str = ""
    role: str = "client"  # or "worker"


class Token(Message, type=92):
    token_id: str
    token_secret: str
    workspace: str = ""


class ServerStatusGet(Message, type=93):
    """Answered with ServerStatus: `intermodal status`."""

    wait_worker: float = 0.0  # seconds to wait for a first worker
    disk: bool = True  # measure the state directory too


class ServerStatus(Message, type=94):
    status: Dict[str, Any]  # pid, address, started_at, versions, apps, containers, workers, memory, …


class ServerStop(Message, type=95):
    """Stop the server, and its workers and containers. Only from the owner's socket. Answered with Done."""

    keep_containers: bool = False


class TokenList(Message, type=96):
    """Answered with TokensKnown."""


class TokenInfo(Record):
    token_id: str
    role: str
    note: str
    created_at: float
    last_used_at: float = 0.0


class TokensKnown(Message, type=97):
    tokens: List[TokenInfo]


class TokenRevoke(Message, type=98):
    """Answered with Done. Fault: not-found."""

    token_id: str


class SecretsRotate(Message, type=206):
    """Encrypt all secrets with a new key. From operators. Answered with ObjectCount."""
