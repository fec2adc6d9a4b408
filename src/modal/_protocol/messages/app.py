"""Apps: created, published (functions and all at once), attached to, stopped, listed."""

from __future__ import annotations

from typing import Any, Dict, List

from modal._protocol.message import Message, Record
from modal._protocol.messages.function import FunctionHandle, FunctionSpec


class AppState:
    """As users see it in `modal app list`."""

    INITIALIZING = "initializing"
    EPHEMERAL = "ephemeral"
    DETACHED = "ephemeral (detached)"
    DEPLOYED = "deployed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class AppCreate(Message, type=46):
    """A new ephemeral app. Answered with AppCreated."""

    description: str
    name: str = ""
    environment: str = ""
    detach: bool = False
    interactive: bool = False


class AppCreated(Message, type=47):
    app_id: str
    url: str = ""


class AppPublish(Message, type=48):
    """All functions of an app at once: either all of it takes effect or nothing. Answered with AppPublished.

    With `deploy` the named app becomes or stays deployed and gets a new version; without it `app_id`
    is an ephemeral app that starts to run. Publishing an app again replaces what it had.
    """

    app_id: str = ""  # "" with deploy: the app of that name, created where it is missing
    name: str = ""
    environment: str = ""
    functions: List[FunctionSpec] = []
    deploy: bool = False
    tag: str = ""
    commit: Dict[str, Any] = {}  # git: hash, branch, dirty, …
    software: str = ""
    schedules: bool = False  # they run although the app is not deployed: `modal serve`


class AppPublished(Message, type=49):
    app_id: str
    functions: List[FunctionHandle]
    url: str = ""
    version: int = 0
    warnings: List[str] = []


class AppAttach(Message, type=50):
    """Opens a stream down: LogBatch, CallStats and, last, AppEnded. The client's hold on an ephemeral app.

    While an ephemeral app that is not detached has no attached client for `SESSION_GRACE` seconds, it stops.
    `follow` false ends the stream when all stored entries are sent (`modal app logs` of a stopped app).
    """

    app_id: str
    hold: bool = False  # this stream is what keeps an ephemeral app alive
    logs: bool = True
    from_seq: int = 0
    follow: bool = True
    container_id: str = ""  # only this container's entries


SESSION_GRACE = 15.0  # seconds


class AppEnded(Message, type=51):
    app_id: str
    reason: str = ""  # "" when it was stopped on request


class AppStop(Message, type=52):
    """Answered with Done when nothing of the app runs any more. `source`: cli, client, dashboard."""

    app_id: str
    source: str = "client"
    force: bool = False  # do not wait for exit handlers


class AppDetach(Message, type=53):
    """The ephemeral app goes on without a client until its inputs are done. Answered with Done."""

    app_id: str


class AppLookup(Message, type=54):
    """Name or id to AppInfo. Faults: not-found, invalid."""

    name: str
    environment: str = ""
    create: bool = False


class AppInfo(Message, type=55):
    app_id: str
    name: str
    description: str
    state: str
    environment: str
    created_at: float  # seconds since the epoch
    stopped_at: float = 0.0
    tasks: int = 0  # running containers
    version: int = 0
    url: str = ""
    notices: List[str] = []  # which functions wait for room, or are crash-looping


class AppList(Message, type=56):
    """Answered with Apps: deployed, ephemeral, and those stopped within two hours."""

    environment: str = ""


class Apps(Message, type=57):
    apps: List[AppInfo]


class AppHistoryGet(Message, type=58):
    app_id: str


class AppVersion(Record):
    version: int
    deployed_at: float
    deployed_by: str
    software: str
    tag: str = ""
    commit: Dict[str, Any] = {}
    rolled_back_from: int = 0


class AppHistory(Message, type=59):
    """Newest first."""

    versions: List[AppVersion]
    app_name: str = ""


class AppLayoutGet(Message, type=39):
    """The functions of an app as handles: AppPublished. A container asks this for its own app."""

    app_id: str


class AppRollback(Message, type=320):
    """A deployed app gets a new version that equals an earlier one. Answered with AppPublished.

    `version` 0 is the one before the present one. Faults: not-found, invalid.
    """

    app_id: str
    version: int = 0
