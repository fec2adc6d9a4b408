"""The server over its sockets: who may ask what, apps and their logs, images, files, values, secrets."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from typing import Any

import pytest
import trustme

from intermodal.home import Home
from intermodal.server.ids import new_id
from intermodal.server.main import Options, Server
from intermodal.server.store.migrations import Refused
from modal._protocol.aio import Connection, connect
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.app import (
    AppAttach,
    AppEnded,
    AppInfo,
    AppList,
    AppLookup,
    Apps,
    AppStop,
)
from modal._protocol.messages.call import (
    BlobChunk,
    BlobForget,
    BlobGet,
    BlobPut,
    CallAwait,
    Invoke,
    Outputs,
    Spawn,
    ValuesMove,
)
from modal._protocol.messages.container import ContainerList, ContainerLocate, Containers, ContainerStop
from modal._protocol.messages.file import (
    FileEntry,
    FilePut,
    FilesMissing,
    FilesPut,
    MountKnown,
    MountPut,
    MountsMissing,
    mount_id_of,
)
from modal._protocol.messages.function import FunctionHandle, FunctionLookup, FunctionStats, FunctionStatsGet
from modal._protocol.messages.image import ImageBuild, ImageBuilt, ImageGet, ImageList, ImagePrune, ImagesKnown
from modal._protocol.messages.log import LogBatch, LogEntry, Stream
from modal._protocol.messages.secret import (
    EnvironmentCreate,
    EnvironmentList,
    Environments,
    ObjectId,
    SecretCreate,
    SecretLookup,
    ServerStatus,
    ServerStatusGet,
    ServerStop,
    Token,
    TokenCreate,
    TokenList,
    TokenRevoke,
    TokensKnown,
)
from modal._protocol.messages.wire import Done
from modal._protocol.messages.worker import FileGet, MountEntries, MountGet, WorkerRegister, WorkerRegistered
from tests.integration.server.peers import PaperWorker, build_image, client, deploy, hello, run


@pytest.fixture
async def owner(server: Server) -> Any:
    connection = await client(server.home)
    yield connection
    connection.close()


async def code_of(work: Any) -> str:
    with pytest.raises(Fault) as caught:
        await work
    return caught.value.code


# -- apps
async def test_deploy_look_up_list_stop(server: Server, worker: PaperWorker, owner: Connection) -> None:
    published = await deploy(owner, await build_image(owner))
    handle = await owner.request(FunctionLookup("app", "f"), FunctionHandle)
    assert handle.function_id == published.functions[0].function_id
    stats = await owner.request(FunctionStatsGet(handle.function_id), FunctionStats)
    assert (stats.backlog, stats.num_total_runners) == (0, 0)
    info = await owner.request(AppLookup("app"), AppInfo)
    assert (info.app_id, info.state, info.version) == (published.app_id, "deployed", 1)
    assert await code_of(owner.request(ContainerStop("ta-none"), Done)) == Code.NOT_FOUND
    assert await code_of(owner.request(ContainerLocate("ta-none"), AppInfo)) == Code.NOT_FOUND
    assert (await owner.request(ContainerList(), Containers)).containers == []
    await owner.request(AppStop(published.app_id), Done)
    listed = await owner.request(AppList(), Apps)
    assert [(app.app_id, app.state) for app in listed.apps] == [(published.app_id, "stopped")]
    assert await code_of(owner.request(FunctionLookup("app", "f"), FunctionHandle)) == Code.NOT_FOUND


async def test_an_app_ends_when_its_client_is_gone(server: Server, worker: PaperWorker, owner: Connection) -> None:
    other = await client(server.home)
    app_id = (await run(other, await build_image(other))).app_id
    holding = other.open(AppAttach(app_id, hold=True))
    watching = owner.open(AppAttach(app_id))
    server.logs.append(app_id, [LogEntry(1.0, Stream.STDOUT, "hello\n")])
    first = await watching.receive()
    assert isinstance(first, LogBatch)
    assert [entry.text for entry in first.entries] == ["hello\n"]
    await holding.receive()
    await asyncio.sleep(2.5)  # more than the grace
    assert app_id in server.apps.live
    other.abort()
    last = await watching.receive()
    assert isinstance(last, AppEnded)
    assert "client was away" in last.reason
    assert await watching.receive() is None
    replay = owner.open(AppAttach(app_id))
    items = [item async for item in replay]
    assert [type(item) for item in items] == [LogBatch, AppEnded]
    assert await code_of(owner.open(AppAttach(app_id, hold=True)).receive()) == Code.NOT_FOUND


async def test_giving_up_the_attachment_releases_the_app(
    server: Server, worker: PaperWorker, owner: Connection
) -> None:
    app_id = (await run(owner, await build_image(owner))).app_id
    holding = owner.open(AppAttach(app_id, hold=True))
    await holding.receive()
    holding.cancel()
    assert "client was away" in await server.apps.ended(app_id)


async def test_a_slow_reader_of_logs_costs_no_memory(server: Server, worker: PaperWorker, owner: Connection) -> None:
    app_id = (await deploy(owner, await build_image(owner))).app_id
    slow = owner.open(AppAttach(app_id))
    text = "x" * 1000 + "\n"
    for number in range(20_000):  # 20 MB
        server.logs.append(app_id, [LogEntry(1.0, Stream.STDOUT, f"{number} {text}")])
        if number % 500 == 0:
            await asyncio.sleep(0)
    (connection,) = [each for each in server._listeners.connections if each.peer and each.peer.role == "client"]
    queued = connection._transport.get_write_buffer_size() if connection._transport else 0
    assert queued < 4 << 20
    seen = 0
    while seen < 20_000:
        batch = await slow.receive()
        assert isinstance(batch, LogBatch)
        assert batch.entries[0].text.startswith(f"{seen} ")
        seen = batch.seq


# -- large arguments
async def test_a_large_spawned_argument_is_on_the_disk_first(
    server: Server, worker: PaperWorker, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    function_id = (await deploy(owner, await build_image(owner))).functions[0].function_id
    blob_id = new_id("vl")
    message = Spawn("fc-A", function_id, [0], [b""], [blob_id])
    assert await code_of(owner.request(message, Done)) == Code.NOT_FOUND
    path = server.home.values / blob_id
    path.write_bytes(b"large")
    wanted = {path.stat().st_ino, server.home.values.stat().st_ino}
    synced: set[int] = set()
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.add(os.fstat(fd).st_ino), sync(fd)))
    await owner.request(message, Done)
    assert wanted <= synced
    path.unlink()  # as when it has run already
    await owner.request(message, Done)  # sent again by a client that has not heard


async def test_the_large_argument_of_a_call_that_was_given_up_goes(
    server: Server, worker: PaperWorker, owner: Connection
) -> None:
    function_id = (await deploy(owner, await build_image(owner))).functions[0].function_id
    path = server.home.values / new_id("vl")
    path.write_bytes(b"large")
    call = asyncio.ensure_future(owner.request(Invoke("fc-B", function_id, b"", path.name), Outputs))
    await asyncio.sleep(0)
    await owner.ping()
    assert path.exists()
    call.cancel()
    async with asyncio.timeout(200):
        while path.exists():
            await owner.ping()


# -- spawned calls
async def test_spawned_inputs_survive_a_restart(home: Home) -> None:
    first = Server(home, Options(worker=False))
    await first.start()
    worker = PaperWorker(home)
    await worker.start()
    connection = await client(home)
    function_id = (await deploy(connection, await build_image(connection))).functions[0].function_id
    await connection.request(Spawn("fc-A", function_id, [0, 1], [b"a", b"b"]), Done)
    await first.close()
    second = Server(home, Options(worker=False))
    await second.start()
    try:
        connection = await client(home)
        assert await code_of(connection.request(CallAwait("fc-A", 0, 0.0), Outputs)) == Code.TIMEOUT
        assert await code_of(connection.request(CallAwait("fc-none", 0, 0.0), Outputs)) == Code.NOT_FOUND
        stats = await connection.request(FunctionStatsGet(function_id), FunctionStats)
        assert stats.backlog == 2
        connection.close()
    finally:
        await second.close()


# -- images
async def test_images(server: Server, worker: PaperWorker, owner: Connection) -> None:
    image_id = await build_image(owner)
    assert await build_image(owner) == image_id
    assert worker.builds == 1
    assert (await owner.request(ImageGet(image_id), ImageBuilt)).python == "3.11.2"
    assert await code_of(owner.request(ImageGet("im-none"), ImageBuilt)) == Code.NOT_FOUND
    assert await code_of(owner.open(ImageBuild([])).receive()) == Code.INVALID
    published = await deploy(owner, image_id)
    (image,) = (await owner.request(ImageList(), ImagesKnown)).images
    assert (image.image_id, image.in_use) == (image_id, True)
    assert (await owner.request(ImagePrune(), ImagesKnown)).images == []
    (server.home.layers / "layer" / "file").write_bytes(b"x" * 10_000)
    await owner.request(AppStop(published.app_id), Done)
    gone = await owner.request(ImagePrune(), ImagesKnown)
    assert [each.image_id for each in gone.images] == [image_id]
    assert gone.freed >= 10_000
    assert list(server.home.layers.iterdir()) == []
    await build_image(owner)
    assert worker.builds == 2


# -- files and values
async def test_files_and_mounts(server: Server, worker: PaperWorker, owner: Connection) -> None:
    small, large = b"print(1)\n", b"x" * 3_000_000
    one, two = (hashlib.sha256(content).hexdigest() for content in (small, large))
    assert (await owner.request(FilesMissing([one, two]), FilesMissing)).hashes == [one, two]
    await owner.request(FilesPut([one], [small]), Done)
    upload = owner.open(FilePut(two, len(large)))
    for at in range(0, len(large), 1 << 20):
        await upload.send(BlobChunk(large[at : at + (1 << 20)]))
    upload.end()
    assert await upload.receive() is None
    assert isinstance(upload.response, Done)
    assert (await owner.request(FilesMissing([one, two]), FilesMissing)).hashes == []
    entries = [FileEntry("/root/a.py", one, len(small)), FileEntry("/root/b", two, len(large))]
    mount_id = (await owner.request(MountPut(entries), MountKnown)).mount_id
    found = await worker.connection.request(MountGet(mount_id), MountEntries)
    assert len(found.entries) == 2
    assert mount_id == mount_id_of(entries)
    assert (await owner.request(MountsMissing([mount_id, "mo-x"]), MountsMissing)).mount_ids == ["mo-x"]
    download = worker.connection.open(FileGet(two))
    chunks = [item.data async for item in download if isinstance(item, BlobChunk)]
    assert b"".join(chunks) == large
    wrong = owner.open(FilePut(hashlib.sha256(b"other").hexdigest(), 3))
    await wrong.send(BlobChunk(b"abc"))
    wrong.end()
    assert await code_of(wrong.receive()) == Code.INVALID


async def test_values_travel_and_are_forgotten(server: Server, owner: Connection) -> None:
    blob_id, content = new_id("vl"), b"v" * 2_500_000
    upload = owner.open(BlobPut(blob_id, len(content)))
    for at in range(0, len(content), 1 << 20):
        await upload.send(BlobChunk(content[at : at + (1 << 20)]))
    upload.end()
    assert await upload.receive() is None
    download = owner.open(BlobGet(blob_id))
    assert b"".join([item.data async for item in download if isinstance(item, BlobChunk)]) == content
    owner.note(BlobForget([blob_id, "../../etc/passwd"]))
    await owner.ping()
    while (server.home.values / blob_id).exists():
        await asyncio.sleep(0.01)
    assert await code_of(owner.open(BlobGet(blob_id)).receive()) == Code.NOT_FOUND
    assert await code_of(owner.open(BlobPut("../x", 0)).receive()) == Code.INVALID


async def test_values_may_be_moved_for_containers_alone(owner: Connection) -> None:
    assert await code_of(owner.request(ValuesMove([new_id("vl")], []), Done)) == Code.INVALID


# -- workspace
async def test_secrets_and_environments(server: Server, owner: Connection) -> None:
    await owner.request(EnvironmentCreate("dev"), Done)
    known = await owner.request(EnvironmentList(), Environments)
    assert [(each.name, each.default) for each in known.environments] == [("main", True), ("dev", False)]
    made = await owner.request(SecretCreate({"A": "1"}, "s", "dev"), ObjectId)
    assert (await owner.request(SecretLookup("s", "dev", ["A"]), ObjectId)).object_id == made.object_id
    assert await code_of(owner.request(SecretLookup("s"), ObjectId)) == Code.NOT_FOUND
    assert await code_of(owner.request(SecretLookup("s", "dev", ["B"]), ObjectId)) == Code.INVALID


# -- who may ask what
async def test_a_worker_asks_for_a_workers_things_only(server: Server, worker: PaperWorker, owner: Connection) -> None:
    assert await code_of(worker.connection.request(AppList(), Apps)) == Code.AUTH
    assert await code_of(worker.connection.request(ServerStop(), Done)) == Code.AUTH
    register = WorkerRegister("wo-x", "x", 1.0, 1)
    assert await code_of(owner.request(register, WorkerRegistered)) == Code.AUTH
    assert await code_of(owner.open(FileGet("0" * 64)).receive()) == Code.AUTH


async def test_a_container_must_be_one(server: Server) -> None:
    with pytest.raises(Fault) as caught:
        await connect(server.home.address, hello("container", container_id="ta-none"))
    assert caught.value.code == Code.AUTH


async def test_from_outside_a_token_is_needed(home: Home) -> None:
    server = Server(home, Options(listen=["tcp://127.0.0.1:0"], worker=False))
    await server.start()
    try:
        port = server._listeners.open_ones[1].sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        address = f"tcp://127.0.0.1:{port}"
        owner = await client(home)
        with pytest.raises(Fault, match="wants a token"):
            await connect(address, hello("client"))
        token = await owner.request(TokenCreate("laptop"), Token)
        known = {"token_id": token.token_id, "token_secret": token.token_secret}
        with pytest.raises(Fault, match="not valid"):
            await connect(address, hello("client", token_id=token.token_id, token_secret="as-guess"))
        remote = await connect(address, hello("client", **known))
        assert remote.welcome is not None
        assert remote.welcome.values_dir == ""
        assert (await remote.request(AppList(), Apps)).apps == []
        assert await code_of(remote.request(ServerStop(), Done)) == Code.AUTH
        with pytest.raises(Fault, match="is for a client"):
            await connect(address, hello("worker", **known))
        with pytest.raises(Fault, match="is for a client"):
            await connect(address, hello("container", container_id="ta-1", **known))
        (listed,) = (await owner.request(TokenList(), TokensKnown)).tokens
        assert (listed.note, listed.role) == ("laptop", "client")
        await owner.request(TokenRevoke(token.token_id), Done)
        with pytest.raises(Fault, match="not valid"):
            await connect(address, hello("client", **known))
        remote.close()
        owner.close()
    finally:
        await server.close()


async def test_over_tls(home: Home) -> None:
    authority = trustme.CA()
    pem = authority.issue_cert("localhost").private_key_and_cert_chain_pem
    home.path.mkdir()
    certificate = home.path.parent / "cert.pem"
    certificate.write_bytes(pem.bytes())
    server = Server(home, Options(listen=["tls://127.0.0.1:0"], tls_cert=str(certificate), worker=False))
    await server.start()
    try:
        port = server._listeners.open_ones[1].sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        token_id, secret = await server.tokens.create("", "client")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        greeting = hello("client", token_id=token_id, token_secret=secret)
        remote = await connect(f"tls://localhost:{port}", greeting, ssl=context)
        status = await remote.request(ServerStatusGet(), ServerStatus)
        assert status.status["addresses"][1].startswith("tls://")
        remote.close()
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("listen", "why"),
    [("tls://127.0.0.1:0", "tls-cert"), ("tcp://127.0.0.1:{port}", "cannot listen on .*in use")],
)
async def test_an_address_that_cannot_be_used_is_refused(
    home: Home, listen: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    with pytest.raises(Refused, match=why):
        await Server(home, Options(listen=[listen.format(port=port)], worker=False)).start()
    monkeypatch.setenv("INTERMODAL_WEB_LISTEN", f"127.0.0.1:{port}")
    with pytest.raises(Refused, match=r"gateway cannot listen on .*in use.*INTERMODAL_WEB_LISTEN=HOST:PORT chooses"):
        await Server(home, Options(worker=False)).start()
    monkeypatch.delenv("INTERMODAL_WEB_LISTEN")
    taken.close()
    await taken.wait_closed()
    again = Server(home, Options(worker=False))  # the refused one has let go of the directory
    await again.start()
    await again.close()


async def test_stop_ends_apps_workers_and_server(server: Server, worker: PaperWorker, owner: Connection) -> None:
    image_id = await build_image(owner)
    ephemeral = await run(owner, image_id)
    await deploy(owner, image_id)
    await owner.request(ServerStop(), Done)
    await server.finished()
    assert worker.stopped == [False]
    assert ephemeral.app_id not in server.apps.live
    status = await server.status.get()
    assert [app["state"] for app in status["apps"]] == ["deployed"]
