"""The services on a real store, with a recording invocation path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from intermodal.files import Files
from intermodal.home import Home
from intermodal.server.gateway.routes import Routes
from intermodal.server.gateway.settings import WebSettings
from intermodal.server.ids import looks_like, new_id
from intermodal.server.principal import Principal, Role
from intermodal.server.services.apps import Apps
from intermodal.server.services.environments import Environments
from intermodal.server.services.functions import Functions
from intermodal.server.services.logs import Logs
from intermodal.server.services.maintenance import sweep
from intermodal.server.services.mounts import Mounts
from intermodal.server.services.names import check_app_name, check_name
from intermodal.server.services.secrets import Secrets
from intermodal.server.services.tokens import Tokens
from intermodal.server.services.values import Values
from intermodal.server.services.vault import Vault
from intermodal.server.services.vault_keys import KeyFile
from intermodal.server.store.store import Store
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.app import AppCreate, AppPublish, AppState
from modal._protocol.messages.file import FileEntry
from modal._protocol.messages.function import (
    Autoscaler,
    FunctionBind,
    FunctionLookup,
    FunctionSpec,
    FunctionUpdateAutoscaler,
    Resources,
)
from modal._protocol.messages.image import ImageConfig

OWNER = Principal(Role.OWNER, "ada")
IMAGE = "im-0000000000000000000000"


class RecordingCalls:
    """The invocation path, as the services use it."""

    def __init__(self) -> None:
        self.functions: dict[str, FunctionSpec] = {}
        self.removed: list[str] = []
        self.stopped: list[str] = []
        self.idle = True

    def functions_changed(self, app_id: str, functions: list[tuple[str, FunctionSpec]], removed: list[str]) -> None:
        self.functions.update(functions)
        self.removed += removed

    def notices(self, app_id: str) -> list[str]:
        return []

    async def check_room(self, specs: list[FunctionSpec]) -> None:
        """Everything fits."""

    async def stop_app(self, app_id: str, force: bool = False) -> None:
        self.stopped.append(app_id)

    def stats(self, app_id: str) -> dict[str, list[int]]:
        return {}

    def app_idle(self, app_id: str) -> bool:
        return self.idle

    def function_stats(self, function_id: str) -> tuple[int, int]:
        return 0, 0

    def update_autoscaler(self, function_id: str, autoscaler: Autoscaler) -> None:
        self.functions[function_id].autoscaler = autoscaler


class Parts:
    def __init__(self, store: Store, directory: Path, grace: float = 0.05) -> None:
        self.store = store
        self.calls = RecordingCalls()
        self.logs = Logs(directory / "logs")
        self.environments = Environments(store.environments)
        self.secrets = Secrets(store.secrets, Vault(KeyFile(directory / "secrets.key")))
        self.routes = Routes(WebSettings(), "ECorp", self.environments.web_suffix_of)
        self.apps = Apps(store, self.environments, self.secrets, self.calls, self.logs, self.routes, grace=grace)
        self.functions = Functions(store.functions, self.apps, self.secrets, self.calls)


@pytest.fixture
async def parts(store: Store, tmp_path: Path) -> AsyncIterator[Parts]:
    made = Parts(store, tmp_path)
    await made.environments.load()
    await store.images.put(IMAGE, [{"kind": "debian_slim"}], ImageConfig(["l1"]), 1.0)
    yield made
    made.apps.sessions.close()


def spec(name: str = "f", **fields: Any) -> FunctionSpec:
    values = {"image_id": IMAGE, "resources": Resources(), "autoscaler": Autoscaler(), **fields}
    return FunctionSpec(name, "module", name, **values)


def deploy(*functions: FunctionSpec, name: str = "app", **fields: Any) -> AppPublish:
    return AppPublish("", name, functions=list(functions), deploy=True, **fields)


async def fault(code: str, work: Any) -> str:
    with pytest.raises(Fault) as caught:
        await work
    assert caught.value.code == code
    return caught.value.text


# -- apps
async def test_a_deployment_keeps_its_function_ids_and_its_history(parts: Parts) -> None:
    first = await parts.apps.publish(deploy(spec("f"), spec("g"), tag="one"), OWNER)
    second = await parts.apps.publish(deploy(spec("h"), spec("f", timeout=99), tag="two"), OWNER)
    assert second.app_id == first.app_id
    assert (first.version, second.version) == (1, 2)
    assert [handle.name for handle in second.functions] == ["h", "f"]
    assert second.functions[1].function_id == first.functions[0].function_id
    assert parts.calls.functions[first.functions[0].function_id].timeout == 99
    assert parts.calls.removed == [first.functions[1].function_id]
    _app, versions = await parts.apps.history(first.app_id)
    assert [(row.version, row.tag, row.deployed_by) for row in versions] == [(2, "two", "ada"), (1, "one", "ada")]
    assert sorted(each.name for each in await parts.store.apps.version_functions(first.app_id, 1)) == ["f", "g"]
    handle = await parts.functions.lookup(FunctionLookup("app", "h"), OWNER)
    assert handle.app_id == first.app_id
    text = await fault(Code.NOT_FOUND, parts.functions.lookup(FunctionLookup("app", "g"), OWNER))
    assert "'g'" in text
    # a function that comes back is the one it was
    third = await parts.apps.publish(deploy(spec("g")), OWNER)
    assert third.functions[0].function_id == first.functions[1].function_id


async def test_what_is_wrong_changes_nothing(parts: Parts) -> None:
    first = await parts.apps.publish(deploy(spec("f")), OWNER)
    before = dict(parts.calls.functions)
    for wrong, code in (
        (deploy(spec("f", image_id="im-none")), Code.NOT_FOUND),
        (deploy(spec("f", image_id="")), Code.INVALID),
        (deploy(spec("f", mount_ids=["mo-none"])), Code.NOT_FOUND),
        (deploy(spec("f", secret_ids=["st-none"])), Code.NOT_FOUND),
        (deploy(spec("a"), spec("a")), Code.INVALID),
        (deploy(spec("a", autoscaler=Autoscaler(3, 2))), Code.INVALID),
        (deploy(spec("a", timeout=100_000)), Code.INVALID),
        (deploy(spec("a"), name="bad name"), Code.INVALID),
        (deploy(spec("a"), name=""), Code.INVALID),
        (deploy(spec("a"), environment="none"), Code.NOT_FOUND),
    ):
        await fault(code, parts.apps.publish(wrong, OWNER))
    assert parts.calls.functions == before
    assert (await parts.apps.layout(first.app_id)).version == 1


async def test_an_ephemeral_app_lives_as_long_as_it_is_held(parts: Parts) -> None:
    app = await parts.apps.create(AppCreate("script.py"), OWNER)
    assert app.state == AppState.INITIALIZING
    parts.apps.sessions.hold(app.app_id)
    published = await parts.apps.publish(AppPublish(app.app_id, functions=[spec("f", serialized=b"code")]), OWNER)
    assert parts.apps.live[app.app_id].state == AppState.EPHEMERAL
    row = await parts.store.functions.get(published.functions[0].function_id)
    assert row is not None
    assert row.spec.serialized == b"code"
    await asyncio.sleep(0.1)  # longer than the grace
    assert app.app_id in parts.apps.live
    parts.apps.sessions.release(app.app_id)
    reason = await parts.apps.ended(app.app_id)
    assert "client was away" in reason
    assert parts.calls.stopped == [app.app_id]
    await fault(Code.NOT_FOUND, parts.apps.publish(AppPublish(app.app_id, functions=[spec()]), OWNER))
    await parts.apps.stop(app.app_id)  # again: nothing happens
    assert (await parts.apps.listed("", OWNER))[0].state == AppState.STOPPED


async def test_a_client_that_comes_back_in_time_keeps_its_app(store: Store, tmp_path: Path) -> None:
    parts = Parts(store, tmp_path, grace=2.5)
    await parts.environments.load()
    app = await parts.apps.create(AppCreate("script.py"), OWNER)
    for _ in range(6):  # away for longer than the grace in all, never at once
        await asyncio.sleep(0.5)
        parts.apps.sessions.hold(app.app_id)
        parts.apps.sessions.release(app.app_id)
    assert app.app_id in parts.apps.live
    parts.apps.sessions.close()


async def test_a_detached_app_goes_on_until_it_is_idle(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal.server.services.sessions.IDLE_CHECK", 0.02)
    parts.calls.idle = False
    app = await parts.apps.create(AppCreate("script.py"), OWNER)
    parts.apps.sessions.hold(app.app_id)
    await parts.apps.publish(AppPublish(app.app_id, functions=[spec()]), OWNER)
    await parts.apps.detach(app.app_id)
    parts.apps.sessions.release(app.app_id)
    assert parts.apps.live[app.app_id].state == AppState.DETACHED
    await asyncio.sleep(0.15)
    assert app.app_id in parts.apps.live
    parts.calls.idle = True
    assert "inputs are done" in await parts.apps.ended(app.app_id)


async def test_a_stopped_name_is_free_again(parts: Parts) -> None:
    first = await parts.apps.publish(deploy(spec()), OWNER)
    await asyncio.gather(parts.apps.stop(first.app_id), parts.apps.stop(first.app_id, force=True))
    await fault(Code.NOT_FOUND, parts.apps.lookup("app", "", False, OWNER))
    second = await parts.apps.publish(deploy(spec()), OWNER)
    assert second.app_id != first.app_id
    assert second.version == 1


async def test_lookup_creates_when_asked(parts: Parts) -> None:
    await fault(Code.NOT_FOUND, parts.apps.lookup("sandboxes", "", False, OWNER))
    made = await asyncio.gather(*(parts.apps.lookup("sandboxes", "", True, OWNER) for _ in range(5)))
    assert len({app.app_id for app in made}) == 1
    assert made[0].state == AppState.DEPLOYED
    assert (await parts.apps.lookup(made[0].app_id, "", False, OWNER)).name == "sandboxes"


async def test_after_a_restart_everything_is_there(parts: Parts, tmp_path: Path) -> None:
    deployed = await parts.apps.publish(deploy(spec()), OWNER)
    ephemeral = await parts.apps.create(AppCreate("script.py"), OWNER)
    parts.apps.sessions.close()
    again = Parts(parts.store, tmp_path)
    await again.environments.load()
    await again.apps.recover()
    assert set(again.apps.live) == {deployed.app_id, ephemeral.app_id}
    assert list(again.calls.functions) == [deployed.functions[0].function_id]
    await again.apps.ended(ephemeral.app_id)  # its client does not come back
    assert set(again.apps.live) == {deployed.app_id}


# -- variants
async def test_equal_options_give_the_same_variant(parts: Parts) -> None:
    base = (await parts.apps.publish(deploy(spec("f")), OWNER)).functions[0]
    options = {"max_containers": 3, "memory": [256, 512], "gpu": "T4", "retries": {"max_retries": 2}}
    one = await parts.functions.bind(FunctionBind(base.function_id, b"", options))
    two = await parts.functions.bind(FunctionBind(base.function_id, b"", dict(reversed(options.items()))))
    other = await parts.functions.bind(FunctionBind(base.function_id, b"params", options))
    assert one.function_id == two.function_id
    assert len({base.function_id, one.function_id, other.function_id}) == 3
    made = parts.calls.functions[one.function_id]
    assert (made.autoscaler.max_containers, made.resources.memory_limit, made.resources.gpu) == (3, 512, ["T4"])
    assert made.retry is not None
    assert parts.calls.functions[base.function_id].autoscaler.max_containers == 0
    same = await parts.functions.bind(FunctionBind(base.function_id))
    assert same.function_id == base.function_id
    # a new deployment changes its variants too
    await parts.apps.publish(deploy(spec("f", timeout=77)), OWNER)
    assert parts.calls.functions[one.function_id].timeout == 77
    assert parts.calls.functions[one.function_id].autoscaler.max_containers == 3
    await fault(Code.INVALID, parts.functions.bind(FunctionBind(base.function_id, b"", {"colour": "red"})))
    await fault(Code.INVALID, parts.functions.bind(FunctionBind(base.function_id, b"", {"timeout": "long"})))
    await fault(Code.NOT_FOUND, parts.functions.bind(FunctionBind("fu-none", b"x")))


async def test_the_autoscaler_changes_until_the_next_deployment(parts: Parts) -> None:
    handle = (await parts.apps.publish(deploy(spec("f", autoscaler=Autoscaler(1, 5))), OWNER)).functions[0]
    await parts.functions.update_autoscaler(FunctionUpdateAutoscaler(handle.function_id, min_containers=2))
    row = await parts.store.functions.get(handle.function_id)
    assert row is not None
    assert (row.spec.autoscaler.min_containers, row.spec.autoscaler.max_containers) == (2, 5)
    update = FunctionUpdateAutoscaler(handle.function_id, min_containers=9)
    await fault(Code.INVALID, parts.functions.update_autoscaler(update))
    await parts.apps.publish(deploy(spec("f", autoscaler=Autoscaler(1, 5))), OWNER)
    assert parts.calls.functions[handle.function_id].autoscaler.min_containers == 1


# -- secrets
async def test_secrets_are_unreadable_on_disk(parts: Parts, tmp_path: Path) -> None:
    main = parts.environments.default
    secret_id = await parts.secrets.create(main, "db", {"PASSWORD": "hunter2-hunter2"}, False)
    assert await parts.secrets.merged([secret_id]) == {"PASSWORD": "hunter2-hunter2"}
    assert (tmp_path / "secrets.key").stat().st_mode & 0o777 == 0o600
    for path in tmp_path.glob("store.sqlite*"):
        assert b"hunter2" not in path.read_bytes()
    stranger = Secrets(parts.store.secrets, Vault(KeyFile(tmp_path / "other.key")))
    assert "other.key" in await fault(Code.INTERNAL, stranger.merged([secret_id]))


async def test_named_secrets(parts: Parts) -> None:
    main = parts.environments.default
    first = await parts.secrets.create(main, "db", {"A": "1", "B": "2"}, False)
    await fault(Code.CONFLICT, parts.secrets.create(main, "db", {}, False))
    assert await parts.secrets.create(main, "db", {"A": "3"}, True) == first
    assert await parts.secrets.lookup(main, "db", ["A"]) == first
    assert "B" in await fault(Code.INVALID, parts.secrets.lookup(main, "db", ["A", "B"]))
    await fault(Code.NOT_FOUND, parts.secrets.lookup(main, "none", []))
    await fault(Code.INVALID, parts.secrets.create(main, "bad name", {}, False))
    await fault(Code.INVALID, parts.secrets.create(main, "bad", {"A=B": "x"}, False))
    await parts.secrets.delete(main, "db")
    assert await parts.secrets.all(main) == []


async def test_later_secrets_win_and_equal_inline_ones_are_one(parts: Parts) -> None:
    main = parts.environments.default
    one = await parts.secrets.create_inline(main, {"A": "1", "B": "1"})
    two = await parts.secrets.create_inline(main, {"A": "2"})
    assert await parts.secrets.create_inline(main, {"B": "1", "A": "1"}) == one
    assert await parts.secrets.merged([one, two]) == {"A": "2", "B": "1"}
    assert await parts.secrets.merged([two, one]) == {"A": "1", "B": "1"}


async def test_what_no_container_could_have_is_refused(parts: Parts) -> None:
    main = parts.environments.default
    await fault(Code.INVALID, parts.secrets.create(main, "s", {"A": "\udcff"}, False))
    await fault(Code.INVALID, parts.secrets.create(main, "s", {"A": "ü" * 65_535}, False))
    await fault(Code.TOO_LARGE, parts.secrets.create_inline(main, {str(n): "x" * 1000 for n in range(530)}))
    parts_of_it = [
        await parts.secrets.create_inline(main, {f"{number}-{n}": "x" * 1000 for n in range(450)}) for number in "ab"
    ]
    with pytest.raises(Fault, match=r"its secrets have 8.. KiB of variables together, and a container takes 768"):
        await parts.secrets.merged(parts_of_it)


async def test_inline_secrets_go_when_no_app_names_them(parts: Parts, tmp_path: Path) -> None:
    main = parts.environments.default
    kept = await parts.secrets.create_inline(main, {"A": "1"})
    gone = await parts.secrets.create_inline(main, {"A": "2"})
    await parts.apps.publish(deploy(spec(secret_ids=[kept])), OWNER)
    (tmp_path / "values").mkdir()
    values = Values(tmp_path / "values", parts.store.calls.blobs_in_use)
    await sweep(parts.store, parts.logs, values, [], 4e9)
    assert await parts.secrets.merged([kept]) == {"A": "1"}
    await fault(Code.NOT_FOUND, parts.secrets.merged([gone]))


# -- environments, names, tokens
async def test_a_container_finds_its_environment_under_another_name(parts: Parts) -> None:
    environments = parts.environments
    await environments.create("dev")
    own = environments.resolve("dev").environment_id
    in_container = Principal(Role.CONTAINER, app_id="ap-1", environment_id=own, started_in="dev")
    await environments.update("dev", "staging", None)
    for name in ("", "dev", "staging"):
        assert environments.resolve(name, in_container).environment_id == own
    with pytest.raises(Fault, match="'dev' not found"):
        environments.resolve("dev", OWNER)
    await environments.create("dev")  # another one, which is not the container's
    assert environments.resolve("dev", in_container).environment_id == own
    assert environments.resolve("dev", OWNER).environment_id != own
    assert environments.resolve("main", in_container).default
    await environments.delete(environments.resolve("staging"))
    with pytest.raises(Fault, match="'dev' of this container was deleted"):  # not that of somebody else
        environments.resolve("", in_container)


async def test_environments(parts: Parts) -> None:
    environments = parts.environments
    await environments.create("Dev_1")
    assert environments.resolve("Dev_1").web_suffix == "dev-1"
    await fault(Code.CONFLICT, environments.create("Dev_1"))
    await fault(Code.INVALID, environments.create("no good"))
    await fault(Code.CONFLICT, environments.update("Dev_1", "staging", ""))  # main has none; one may
    await environments.update("main", "", "m")
    await environments.update("Dev_1", "staging", "")
    await environments.create("M")
    assert environments.resolve("M").web_suffix == "m-2"
    await environments.delete(environments.resolve("M"))
    assert [(each.name, each.web_suffix) for each in environments.all] == [("main", "m"), ("staging", "")]
    in_build = Principal(Role.CONTAINER, environment="staging")
    assert environments.resolve("", in_build).name == "staging"
    assert environments.resolve("", OWNER).name == "main"
    with pytest.raises(
        Fault, match=r"there are main, staging\. Create it with `modal environment create none`, or choose"
    ):
        environments.resolve("none")
    with pytest.raises(Fault, match=r"there are main, staging\. Choose another one"):  # no command could create it
        environments.resolve("no good")
    await parts.secrets.create(environments.resolve("staging"), "s", {}, False)
    app = await parts.apps.publish(deploy(spec(), environment="staging"), OWNER)
    await parts.apps.stop_environment(environments.resolve("staging"))
    await environments.delete(environments.resolve("staging"))
    assert app.app_id not in parts.apps.live
    await fault(Code.INVALID, environments.delete(environments.default))


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "x" * 63])
def test_good_names(name: str) -> None:
    assert check_app_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 64, "a b", "a/b", "ä", "a\n", new_id("ap")])
def test_bad_names(name: str) -> None:
    with pytest.raises(Fault) as caught:
        check_app_name(name)
    assert caught.value.code == Code.INVALID


def test_an_apps_id_may_name_other_things() -> None:
    app_id = new_id("ap")
    assert looks_like("ap", app_id)
    assert check_name("Secret", app_id) == app_id


async def test_tokens(store: Store) -> None:
    tokens = Tokens(store.tokens)
    token_id, secret = await tokens.create("laptop", "client")
    assert token_id.startswith("ak-")
    assert secret.startswith("as-")
    again = Tokens(store.tokens)
    await again.load()
    assert again.check(token_id, secret, "client").note == "laptop"
    for wrong in ((token_id, "as-wrong"), ("ak-none", secret), ("", "")):
        with pytest.raises(Fault) as caught:
            again.check(*wrong, "client")
        assert caught.value.code == Code.AUTH
    with pytest.raises(Fault, match="is for a client, not for a worker"):
        again.check(token_id, secret, "worker")
    assert secret.encode() not in (await store.tokens.all())[0].secret_hash
    await again.used(token_id)
    await again.revoke(token_id)
    with pytest.raises(Fault):
        again.check(token_id, secret, "client")
    await fault(Code.NOT_FOUND, again.revoke(token_id))


# -- values and mounts
async def _parts_of(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_values(store: Store, tmp_path: Path) -> None:
    directory = tmp_path / "values"
    directory.mkdir()
    values = Values(directory, store.calls.blobs_in_use)
    blob_id = new_id("vl")
    await values.put(blob_id, 6, _parts_of(b"abc", b"def"))
    assert b"".join([chunk async for chunk in values.chunks(blob_id)]) == b"abcdef"
    await fault(Code.INVALID, values.put(new_id("vl"), 5, _parts_of(b"abc", b"def")))
    await fault(Code.INVALID, values.put(new_id("vl"), 7, _parts_of(b"abc", b"def")))
    assert [path.name for path in directory.iterdir()] == [blob_id]
    for name in ("../escape", "vl-../../etc/passwd0000000000", "vl-short", "/etc/passwd", ""):
        await fault(Code.INVALID, values.put(name, 0, _parts_of()))
    await values.forget([blob_id, "../escape"])
    assert list(directory.iterdir()) == []
    with pytest.raises(Fault, match="not kept any more"):
        [chunk async for chunk in values.chunks(blob_id)]


async def test_what_a_client_would_use_again_is_kept_for_a_moment(store: Store, tmp_path: Path) -> None:
    directory = tmp_path / "values"
    directory.mkdir()
    values = Values(directory, store.calls.blobs_in_use)
    blob_id = new_id("vl")
    value, spare = directory / blob_id, directory / f"{blob_id}.spare"
    value.write_bytes(b"abc")
    spare.hardlink_to(value)
    await values.forget([blob_id])
    assert list(directory.iterdir()) == [spare]
    values.drop_spares()  # the server ends
    assert list(directory.iterdir()) == []
    spare.write_bytes(b"abc")
    value.write_bytes(b"abc")
    values.drop_spares()  # a server begins
    assert list(directory.iterdir()) == [value]


async def test_mounts(store: Store, tmp_path: Path) -> None:
    files = Files(Home(tmp_path / "home"))
    mounts = Mounts(store.images, files)
    import hashlib

    digest = hashlib.sha256(b"hello").hexdigest()
    entries = [FileEntry("/root/b.py", digest, 5), FileEntry("/root/a.py", digest, 5), FileEntry("/l", "", 0, 0, "b")]
    assert "/root/" in await fault(Code.NOT_FOUND, mounts.put(entries))
    files.put(digest, b"hello")
    mount_id = await mounts.put(entries)
    assert mount_id == await mounts.put(list(reversed(entries)))
    assert len(await mounts.entries(mount_id)) == 3
    await fault(Code.NOT_FOUND, mounts.entries("mo-none"))
    for path in ("relative", "/a/../b", "/", "/a//b", "/a\0b", ""):
        await fault(Code.INVALID, mounts.put([FileEntry(path, digest, 5)]))
    await fault(Code.INVALID, mounts.put([FileEntry("/a", digest, 5), FileEntry("/a", digest, 5)]))
    await fault(Code.INVALID, mounts.put([FileEntry("/a", "../../etc/passwd", 5)]))
