"""Apps on a server: what goes up, in what order, and how it ends."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest

import modal
from modal import _events
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.app import AppAttach, AppCreate, AppDetach, AppPublish, AppStop
from modal._protocol.messages.file import FilePut, FilesMissing, FilesPut, MountPut
from modal._protocol.messages.function import FunctionBind, FunctionLookup, FunctionUpdateAutoscaler
from modal._protocol.messages.image import ImageBuild
from modal._protocol.messages.secret import SecretCreate
from modal._protocol.messages.volume import VolumeGet
from modal.exception import ExecutionError, InvalidError, NotFoundError, RemoteError


def f(x: int = 0) -> int:
    return x


def g() -> None: ...


class Model:
    name: str = modal.parameter(default="a")

    @modal.method()
    def predict(self) -> None: ...


class Events(_events.Sink):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith(("app_", "object_", "image_")):
            return lambda *args, **kwargs: self.seen.append(" ".join([name, *(a for a in args if isinstance(a, str))]))
        return object.__getattribute__(self, name)


@pytest.fixture
def events() -> Any:
    sink = Events()
    before = _events.install(sink)
    yield sink
    _events.install(before)


def test_the_life_of_an_app(server: Any, events: Events) -> None:
    app = modal.App("my-app")
    function = app.function()(f)
    with app.run() as running:
        assert running is app
        assert app.app_id == "ap-1"
        assert function.object_id == "fu-f"
        with pytest.raises(InvalidError, match="running already"), app.run():
            pass
    assert app.app_id == "ap-1"
    with pytest.raises(ExecutionError, match=r"app\.run"):
        function.remote(1)
    order = [type(message) for message in server.asked]
    assert order[0] is AppCreate
    assert order.index(AppAttach) < order.index(AppPublish) < order.index(AppStop)
    created = server.of(AppCreate)[0]
    assert (created.name, created.description, created.detach) == ("my-app", "my-app", False)
    assert [name.split()[0] for name in events.seen if name.startswith("app_")] == [
        "app_created", "app_published", "app_running", "app_stopping", "app_stopped",
    ]  # fmt: skip
    assert "object_created function:f Created function f. fu-f " in events.seen
    assert any(event.startswith("image_step") and "FROM base" in event for event in events.seen)


def test_what_a_function_s_spec_says(server: Any, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("hello")
    image = modal.Image.debian_slim().pip_install("x").add_local_file(tmp_path / "data.txt", "/data.txt")
    shared, own = modal.Secret.from_dict({"A": "1"}), modal.Secret.from_name("named")
    app = modal.App(secrets=[shared])
    app.function(
        image=image, secrets=[own], cpu=2, retries=1, timeout=20, schedule=modal.Period(days=1), max_containers=3
    )(f)
    app.function(include_source=False)(g)
    app.cls(cpu=1)(Model)
    with app.run():
        specs = server.specs()
        spec = specs["f"]
        assert spec.module.endswith("test_running")
        assert spec.qualname == "f"
        mounted = server.mount(spec)
        assert mounted["/data.txt"].size == 5
        assert any(path.endswith("test_running.py") for path in mounted)
        assert spec.secret_ids[1] == "st-named"
        assert len(spec.secret_ids) == 2
        assert (spec.resources.cpu_request, spec.timeout, spec.autoscaler.max_containers) == (2.0, 20, 3)
        assert spec.schedule == {"period": {"days": 1}}
        assert spec.retry is not None
        assert specs["g"].mount_ids == []
        assert specs["g"].image_id != spec.image_id
        assert specs["Model"].is_class
        assert [method.name for method in specs["Model"].methods] == ["predict"]
    assert {tuple(step["kind"] for step in message.recipe) for message in server.of(ImageBuild)} == {
        ("debian_slim", "pip_install"),
        ("debian_slim",),
    }
    assert server.of(SecretCreate)[0].app_id == "ap-1"


def test_only_what_is_missing_goes_up(server: Any, tmp_path: Path) -> None:
    (tmp_path / "small").write_text("small")
    (tmp_path / "large").write_bytes(os.urandom(3 << 20))
    (tmp_path / "run.sh").write_text("x")
    (tmp_path / "run.sh").chmod(0o700)
    image = modal.Image.debian_slim().add_local_dir(tmp_path, "/d", ignore=["server", "cache"])
    app = modal.App(image=image, include_source=False)
    app.function()(f)
    with app.run():
        modes = {path: entry.mode for path, entry in server.mount(server.specs()["f"]).items()}
    assert modes == {"/d/large": 0o644, "/d/run.sh": 0o755, "/d/small": 0o644}
    assert len(server.of(FilePut)) == 1
    assert len(server.of(FilesPut)[0].hashes) == 2
    with app.run():
        pass
    assert len(server.of(FilePut)) == 1
    assert len(server.of(FilesPut)) == 1
    assert len(server.of(FilesMissing)) == 2


def test_files_that_change_during_the_build(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    path = tmp_path / "data.txt"
    path.write_text("1")
    app = modal.App(image=modal.Image.debian_slim().add_local_file(path, "/x"), include_source=False)
    app.function()(f)

    def change(*_args: Any) -> None:
        path.write_text(path.read_text() + "2")

    monkeypatch.setattr(Events, "image_built", change, raising=False)
    sink = _events.Sink()
    monkeypatch.setattr(sink, "image_built", change)
    _events.install(sink)
    with pytest.raises(ExecutionError, match="was modified during build process"), app.run():
        pass
    assert len(server.of(AppStop)) == 1
    monkeypatch.setenv("MODAL_BUILD_VALIDATION", "warning")
    with pytest.warns(UserWarning, match="was modified"), app.run():
        pass
    monkeypatch.setenv("MODAL_BUILD_VALIDATION", "ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with app.run():
            pass


def test_force_build_and_ignore_cache(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_FORCE_BUILD", "1")
    modal.Image.debian_slim().hydrate()
    assert (server.of(ImageBuild)[0].force, server.of(ImageBuild)[0].ignore_cache) == (True, False)


def test_equal_images_are_built_once(server: Any) -> None:
    app = modal.App()
    app.function(image=modal.Image.debian_slim().pip_install("x"))(f)
    app.function(image=modal.Image.debian_slim().pip_install("x"))(g)
    with app.run():
        pass
    assert len(server.of(ImageBuild)) == 1


def test_a_body_that_raises_stops_the_app(server: Any, events: Events) -> None:
    app = modal.App()
    app.function()(f)
    with pytest.raises(ValueError, match="mine"), app.run():
        raise ValueError("mine")
    assert len(server.of(AppStop)) == 1
    assert events.seen[-1].startswith("app_stopped")


def test_a_failed_start_stops_the_app(server: Any, events: Events) -> None:
    server.refuse[ImageBuild] = Fault(Code.REMOTE, "the step failed")
    app = modal.App()
    app.function()(f)
    with pytest.raises(RemoteError, match="the step failed"), app.run(detach=True):
        pass
    assert len(server.of(AppStop)) == 1
    assert not server.of(AppPublish)
    assert any(event.startswith("image_failed") for event in events.seen)


def test_detached_apps_go_on(server: Any) -> None:
    app = modal.App()
    app.function()(f)
    with app.run(detach=True):
        pass
    with pytest.raises(KeyboardInterrupt), app.run(detach=True):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="x"), app.run(detach=True):
        raise ValueError("x")
    assert len(server.of(AppDetach)) == 2
    assert len(server.of(AppStop)) == 1


async def test_the_asynchronous_face(server: Any) -> None:
    app = modal.App()
    app.function(image=modal.Image.debian_slim().pip_install("x"))(f)
    app.function()(g)
    async with app.run() as running:
        assert running.app_id == "ap-1"
    assert len(server.of(AppStop)) == 1
    assert (await modal.App("deployed").deploy.aio()).app_id == "ap-deployed"


def test_deploy(server: Any, events: Events) -> None:
    app = modal.App("my-app")
    function = app.function()(f)
    assert app.deploy(tag="v1", environment_name="dev") is app
    message = server.of(AppPublish)[0]
    assert (message.deploy, message.name, message.tag, message.environment) == (True, "my-app", "v1", "dev")
    assert app.deploy(name="other").app_id == "ap-deployed"
    assert server.of(AppPublish)[1].name == "other"
    assert function.object_id == "fu-f"
    assert any(event.startswith("app_deployed ap-deployed other") for event in events.seen)


def test_serialized_functions_go_with_their_references(server: Any) -> None:
    app = modal.App("ser")
    inner = app.function()(f)

    def outer(x: int) -> Any:
        return inner.tag, app.name, Model, x

    app.function(serialized=True)(outer)
    with app.run():
        spec = server.specs()["outer"]
        assert (spec.source, spec.module) == ("serialized", "")
        tag, name, _model, x = pickle.loads(spec.serialized)(5)
        assert (tag, name, x) == ("f", "ser", 5)
    server.python = "2.7.0"
    with pytest.raises(InvalidError, match=r"has Python 2\.7"), app.run():
        pass


def test_serialized_functions_must_be_picklable(server: Any) -> None:
    import threading

    lock = threading.Lock()
    app = modal.App()

    def bad() -> None:
        lock.acquire()

    app.function(serialized=True)(bad)
    with pytest.raises(modal.exception.SerializationError, match="bad cannot be serialized"), app.run():
        pass


def test_lookup_happens_at_first_use(server: Any) -> None:
    from modal._protocol.messages.function import FunctionHandle

    server.deployed["square"] = FunctionHandle("fu-9", "square", "ap-9", "shared")
    square = modal.Function.from_name("shared", "square", environment_name="dev")
    assert not server.asked
    square.update_autoscaler(min_containers=2)
    assert server.of(FunctionLookup)[0].environment == "dev"
    update = server.of(FunctionUpdateAutoscaler)[0]
    assert (update.function_id, update.min_containers, update.max_containers) == ("fu-9", 2, None)
    assert square.get_web_url() is None
    with pytest.raises(NotFoundError, match="nothing"):
        modal.Function.from_name("shared", "nothing").remote()
    with pytest.raises(InvalidError, match="max_containers"):
        square.update_autoscaler(min_containers=3, max_containers=2)


def test_instances_are_bound_by_parameters_and_options(server: Any) -> None:
    app = modal.App()
    cls = app.cls()(Model)
    with app.run():
        cls(name="a").predict.hydrate()
        cls().predict.hydrate()
        cls.with_options(cpu=2, secrets=[modal.Secret.from_name("s")])(name="b").predict.hydrate()
    first, second, third = server.of(FunctionBind)
    assert first == second  # the default is the same value
    assert pickle.loads(third.parameters) == {"name": "b"}
    assert (third.options, third.secret_ids) == ({"cpu": 2.0}, ["st-s"])


def test_functions_are_found_in_the_container_s_own_app(server: Any, container: Any) -> None:
    from modal._protocol.messages.function import FunctionHandle

    server.layout = [FunctionHandle("fu-1", "f", "ap-own", "own-app")]
    app = modal.App("own-app")
    function = app.function()(f)
    assert app.app_id == "ap-own"
    function.hydrate()
    assert function.object_id == "fu-1"
    again = pickle.loads(pickle.dumps(modal.App("own-app").function()(f)))
    again.hydrate()
    assert again.object_id == "fu-1"
    missing = modal.App("own-app").function()(g)
    with pytest.raises(ExecutionError, match="'g'"):
        missing.hydrate()


def test_app_run_while_a_container_imports_is_refused(
    server: Any, container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modal import _context

    monkeypatch.setattr(_context, "_main_input", None)
    with pytest.raises(ExecutionError, match="__main__"), modal.App().run():
        pass


def test_volumes_are_a_part_of_the_function(server: Any) -> None:
    app = modal.App()
    volumes = {"/data": modal.Volume.from_name("v", create_if_missing=True), "/data/more": modal.Volume.from_name("w")}
    shared = {"/nfs": modal.NetworkFileSystem.from_name("n")}
    app.function(volumes=volumes, network_file_systems=shared)(f)
    with app.run():
        mounts = server.specs()["f"].volumes
        assert [(one.path, one.kind, one.object_id) for one in mounts] == [
            ("/data", "volume", "vo-v"),
            ("/data/more", "volume", "vo-w"),
            ("/nfs", "network-file-system", "nf-n"),
        ]
    assert [(one.name, one.create) for one in server.of(VolumeGet)] == [("v", True), ("w", False), ("n", False)]


def test_volumes_are_looked_up_where_the_app_runs(server: Any) -> None:
    app = modal.App()
    volumes = {"/a": modal.Volume.from_name("v"), "/b": modal.Volume.from_name("w", environment_name="prod")}
    app.function(volumes=volumes)(f)
    with app.run(environment_name="dev"):
        assert [(one.name, one.environment) for one in server.of(VolumeGet)] == [("v", "dev"), ("w", "prod")]


def test_mounts_come_once(server: Any) -> None:
    app = modal.App()
    app.function()(f)
    app.function()(g)
    with app.run():
        specs = server.specs()
        assert specs["f"].mount_ids == specs["g"].mount_ids
    assert len(server.of(MountPut)) == 1
