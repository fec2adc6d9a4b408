"""Every message of the server is answered to those who may ask, and refused to the others."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from intermodal.home import Home
from intermodal.server.main import Options, Server
from intermodal.server.principal import Role
from intermodal.server.rpc import access
from intermodal.server.rpc.access import FROM_OPERATORS, FROM_OWNERS, FROM_WORKERS, _refuse, tables
from modal._protocol.aio import Handlers
from modal._protocol.message import Message
from modal._protocol.messages import app, call, container, file, fleet, function, image, queue, secret
from modal._protocol.messages import dict as dict_
from modal._protocol.messages import object as object_
from modal._protocol.messages.wire import Hello, Welcome

# Answers and parts of answers: nobody asks the server for these.
ANSWERS = {
    "AppCreated", "AppPublished", "AppEnded", "AppInfo", "Apps", "AppHistory", "Inputs", "Outputs", "FailureValue",
    "CallGraph", "CallStats", "BlobChunk", "Containers", "ContainerTimings", "MountKnown", "FunctionHandle",
    "FunctionStats", "BuildLog", "ImageBuilt", "ImagesKnown", "ObjectId", "SecretsKnown", "Environments", "Token",
    "TokensKnown", "ServerStatus", "ObjectsKnown", "ObjectCount", "Stored", "DictValue", "DictPage", "QueueItems",
    "ImageLog", "BuilderVersionKnown", "CachesKnown", "WorkersDrained",
}  # fmt: skip


@pytest.fixture
async def handlers(tmp_path: Path) -> Handlers:
    server = Server(Home(tmp_path / "home"), Options(worker=False))
    await server.start()
    await server.close()
    return server.handlers


def answered(table: Handlers) -> set[int]:
    unaries = {type_ for type_, handler in table.unaries.items() if handler is not _refuse}
    return unaries | set(table.streams) | set(table.fasts) | set(table.notes)


async def test_everything_that_clients_ask_is_answered(handlers: Handlers) -> None:
    known = answered(handlers)
    modules = (app, call, container, dict_, file, fleet, function, image, object_, queue, secret)
    asked = [
        cls
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Message) and cls.TYPE and cls.__module__ == module.__name__
    ]
    missing = {cls.__name__ for cls in asked if cls.TYPE not in known} - ANSWERS
    assert not missing
    assert not {cls.__name__ for cls in asked if cls.TYPE in known} & ANSWERS


async def test_each_role_has_its_own(handlers: Handlers) -> None:
    by_role = {role: answered(table) for role, table in tables(handlers).items()}
    everything = answered(handlers)
    assert by_role[Role.WORKER] == FROM_WORKERS
    assert by_role[Role.OWNER] == everything - FROM_WORKERS
    assert by_role[Role.CLIENT] == by_role[Role.OWNER] - FROM_OWNERS
    assert by_role[Role.CONTAINER] == by_role[Role.OWNER] - FROM_OPERATORS
    assert {message.TYPE for message in (secret.ServerStop, fleet.WorkerDrain)} <= FROM_OWNERS
    assert FROM_WORKERS <= everything
    assert FROM_OPERATORS <= everything


@pytest.mark.parametrize(
    ("peer", "process", "direct"), [(7, 7, True), (7, 8, False), (7, 0, False), (0, 0, False), (None, 7, False)]
)
def test_only_a_process_at_the_other_end_is_direct(
    peer: int | None, process: int, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pid is 0 where the peer is of another pid namespace, and where a client does not ask for this."""
    monkeypatch.setattr(access, "peer_of", lambda _connection: None if peer is None else (peer, os.geteuid()))
    tokens = SimpleNamespace(check=lambda *_args: SimpleNamespace(note="", token_id="ak-1"))
    by_role = dict.fromkeys((Role.OWNER, Role.CLIENT), Handlers())
    gate = access.Gate(lambda _principal: Welcome(1), tokens, lambda _id: None, by_role, lambda _pid: None)  # type: ignore[arg-type]
    connection: Any = SimpleNamespace()
    assert gate.greet(connection, Hello("client", 1, 1, process=process)).direct is direct
    assert connection.direct is direct
