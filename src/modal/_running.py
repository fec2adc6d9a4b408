"""An app's way onto the server: all its objects at once, and its life there."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Callable, Optional

from modal import _events
from modal._building import LocalFiles, build_images, secrets_of
from modal._definition import Resolved
from modal._object import environment_of
from modal._options import volume_mounts
from modal._protocol.messages.app import (
    AppCreate,
    AppCreated,
    AppDetach,
    AppEnded,
    AppPublish,
    AppPublished,
    AppStop,
)
from modal._protocol.messages.call import CallStats
from modal._protocol.messages.log import LogBatch
from modal._protocol.messages.wire import Done
from modal._sync import call_blocking
from modal.config import config
from modal.exception import Error, ExecutionError, InvalidError, ServerWarning

if TYPE_CHECKING:
    from modal._app import App
    from modal._attachment import Attachment
    from modal._client import Client
    from modal._definition import Definition
    from modal._protocol.message import Message
    from modal._protocol.messages.function import FunctionHandle, FunctionSpec
    from modal._protocol.messages.image import ImageBuilt


class _Listener:
    """Passes on what an attached app sends, and remembers how it ended."""

    def __init__(self, app_id: str) -> None:
        self._app_id = app_id
        self.ended: Optional[AppEnded] = None

    def __call__(self, message: Message) -> None:
        if isinstance(message, LogBatch):
            _events.sink().logs(self._app_id, message.entries)
        elif isinstance(message, CallStats):
            _events.sink().stats(message)
        elif isinstance(message, AppEnded):
            self.ended = message


class Run:
    """An ephemeral app: created, published, held, stopped (or left alone, with `detach`)."""

    def __init__(self, app: App, client: Client, detach: bool) -> None:
        self._app = app
        self._client = client
        self._detach = detach
        self._app_id = ""
        self._url = ""
        self._attachment: Optional[Attachment] = None
        self._listener: Optional[_Listener] = None
        self._process = os.getpid()

    async def start(self, environment_name: Optional[str]) -> None:
        """Afterwards the app's functions can be called. Whatever fails stops what there is of the app."""
        app = self._app
        environment = environment_of(environment_name)
        description = app.description or ""
        request = AppCreate(description, app.name or "", environment, self._detach)
        created = await self._client.request(request, AppCreated)
        self._app_id, self._url = created.app_id, created.url
        app._app_id, app._client, app._running = created.app_id, self._client, True
        try:
            _events.sink().app_created(created.app_id, description, created.url, self._detach)
            self._listener = _Listener(created.app_id)
            self._attachment = self._client.attach(created.app_id, self._listener, hold=True)
            await publish(app, self._client, created.app_id, environment)
            _events.sink().app_running(created.app_id)
        except BaseException:
            self._detach = False  # what has not started does not go on
            await self.end()
            raise

    async def end(self, error: Optional[BaseException] = None) -> None:
        """Stop the app; with `detach`, let it go on, also when the program was interrupted by Ctrl-C.

        A forked child that leaves the app's context stops nothing: the app is its parent's.
        """
        if os.getpid() != self._process:
            return
        try:
            if self._detach and (error is None or isinstance(error, KeyboardInterrupt)):
                await self._client.request(AppDetach(self._app_id), Done)
                _events.sink().app_detached(self._app_id, self._url)
            else:
                await self._stop()
        finally:
            if self._attachment is not None:
                self._attachment.close()
            self._app._running = False
            _forget(self._app)

    async def _stop(self) -> None:
        listener = self._listener
        await stop_app(
            self._client,
            self._app_id,
            self._attachment,
            lambda: listener.ended.reason if listener is not None and listener.ended is not None else None,
            self._url,
        )


async def stop_app(
    client: Client,
    app_id: str,
    attachment: Optional[Attachment],
    ended: Callable[[], Optional[str]],
    url: str = "",
) -> None:
    """Stop an ephemeral app, unless it has ended (`ended` says why, None while it lives), and show its last logs."""
    sink = _events.sink()
    if ended() is None:
        sink.app_stopping(app_id)
        try:
            await client.request(AppStop(app_id), Done)
            if attachment is not None:
                await call_blocking(attachment.wait_ended, config.get("logs_timeout"))
        except Error as error:
            sink.notice(f"The app {app_id} could not be stopped: {error}")
    sink.app_stopped(app_id, url, ended() or "")


def _forget(app: App) -> None:
    """The app's functions are on the server no more."""
    for function in app._functions.values():
        function._set_handle(None, None)
    for cls in app._classes.values():
        cls._set_handle(None, None)


async def deploy_app(app: App, client: Client, name: str, environment_name: Optional[str], tag: str) -> None:
    """A new version of the deployed app of that name."""
    from modal._git import commit_info

    started = time.monotonic()
    environment = environment_of(environment_name)
    commit = await call_blocking(commit_info)
    published = await publish(app, client, "", environment, name=name, deploy=True, tag=tag, commit=commit)
    app._app_id, app._client = published.app_id, client
    seconds = time.monotonic() - started
    _events.sink().app_deployed(published.app_id, name, published.url, published.version, seconds)


async def publish(
    app: App,
    client: Client,
    app_id: str,
    environment: str,
    *,
    name: str = "",
    deploy: bool = False,
    tag: str = "",
    commit: Optional[dict[str, Any]] = None,
    before: Callable[[], None] = lambda: None,
    schedules: bool = False,
) -> AppPublished:
    """Make everything that the app refers to, then all of its functions in one step; they are hydrated afterwards.

    `before` is called when all is ready for that step, and may take its time or raise. `schedules`: they run though
    the app is not deployed.
    """
    started = time.monotonic()
    sink = _events.sink()
    definitions = app._definitions()
    files = LocalFiles()
    specs = await _specs(app, client, definitions, files, app_id, environment)
    files.check_unchanged()
    for spec in specs:
        sink.object_creating(f"function:{spec.name}", f"Creating {_kind(spec)} {spec.name}...")
    software = getattr(sys.modules["modal"], "__version__", "")
    request = AppPublish(app_id, name, environment, specs, deploy, tag, commit or {}, software, schedules)
    before()
    published = await client.request(request, AppPublished)
    _hydrate(app, client, published)
    for spec in specs:
        function_id, url = _identity(published, spec)
        sink.object_created(f"function:{spec.name}", f"Created {_kind(spec)} {spec.name}.", function_id, url)
        for method, method_url in _method_urls(published, spec).items():
            shown = f"{spec.name}.{method}"
            sink.object_created(f"function:{shown}", f"Created web endpoint for {shown}.", function_id, method_url)
    for warning in published.warnings:
        import warnings

        warnings.warn(warning, ServerWarning, stacklevel=2)
    if not deploy:
        sink.app_published(published.app_id, published.url, time.monotonic() - started)
    return published


async def _specs(
    app: App, client: Client, definitions: list[Definition], files: LocalFiles, app_id: str, environment: str
) -> list[FunctionSpec]:
    images = {id(image): image for image in (one.image(app) for one in definitions)}
    steps = [step for image in images.values() for step in image._steps()]
    wanted = [secret for one in definitions for secret in one.secrets()]
    wanted += [secret for step in steps for secret in step.secrets]
    secret_ids = await secrets_of(client, wanted, app_id, environment)
    mounts: dict[str, list[Any]] = {}  # file sets by the definition's tag: source first, so that added files win
    for one in definitions:
        own = one.source_files()
        mounts[one.tag] = ([own] if own is not None else []) + list(one.image(app)._mounted)
    sets = [files_of for step in steps for files_of in step.file_sets]
    await files.send(client, sets + [files_of for many in mounts.values() for files_of in many])
    built = await build_images(client, list(images.values()), secret_ids, files.mount_ids, app_id, environment)
    specs = []
    for one in definitions:
        image = built[id(one.image(app))]
        _check_python(one, image)
        resolved = Resolved(
            image_id=image.image_id,
            mount_ids=[mount_id for many in mounts[one.tag] for mount_id in files.mount_ids[many.key]],
            secret_ids=[secret_ids[id(secret)] for secret in one.secrets()],
            volumes=await volume_mounts(client, one.volumes(), environment),
            proxy_id="",
        )
        if one.options.proxy is not None:
            await one.options.proxy._ready(client)
            resolved = resolved._replace(proxy_id=one.options.proxy.object_id)
        specs.append(one.spec(resolved))
    return specs


def _check_python(definition: Definition, image: ImageBuilt) -> None:
    """A serialized function is bytecode: both sides must have the same version of Python. Raises InvalidError."""
    if not definition.serialized or not image.python:
        return
    local = f"{sys.version_info.major}.{sys.version_info.minor}"
    remote = ".".join(image.python.split(".")[:2])
    if local != remote:
        raise InvalidError(
            f"{definition.tag} is serialized (serialized=True) by Python {local}, but its image has Python {remote}. "
            f'Use an image with the same version, for instance modal.Image.debian_slim(python_version="{local}").'
        )


def _kind(spec: FunctionSpec) -> str:
    if spec.is_class:
        return "class"
    return "web function" if spec.web is not None else "function"


def _hydrate(app: App, client: Client, published: AppPublished) -> None:
    handles: dict[str, FunctionHandle] = {handle.name: handle for handle in published.functions}
    for tag, function in app._functions.items():
        if tag not in handles:
            raise ExecutionError(f"The server did not make the function {tag!r}. Try again.")
        function._set_handle(handles[tag], client)
    for tag, cls in app._classes.items():
        if tag not in handles:
            raise ExecutionError(f"The server did not make the class {tag!r}. Try again.")
        cls._set_handle(handles[tag], client)


def _method_urls(published: AppPublished, spec: FunctionSpec) -> dict[str, str]:
    """Web URL of each method that has one."""
    for handle in published.functions:
        if handle.name == spec.name:
            return handle.method_web_urls
    return {}


def _identity(published: AppPublished, spec: FunctionSpec) -> tuple[str, str]:
    """Id and web URL of a function that was just published."""
    for handle in published.functions:
        if handle.name == spec.name:
            return handle.function_id, handle.web_url
    return "", ""
