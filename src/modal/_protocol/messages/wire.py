"""The messages of the wire itself: greeting, failure, credit."""

from __future__ import annotations

from modal._protocol.message import Message


class Hello(Message, type=1):
    """What the connecting side says first. `role`: client, container, worker or runner.

    `container_id` is believed only on a connection that a worker opened for its container.
    """

    role: str
    version_min: int
    version_max: int
    software: str = ""  # "0.1.0": the distribution's version
    python: str = ""  # "3.11.2"
    token_id: str = ""
    token_secret: str = ""
    container_id: str = ""
    worker_id: str = ""
    environment: str = ""  # of a container, or a step of an image's build: its name when that was started
    process: int = 0  # pid of a client that reads this connection only for what it asked and has not got yet


class Welcome(Message, type=2):
    """What the accepting side answers: the version both speak, and where the client is."""

    version: int
    software: str = ""
    server_id: str = ""
    workspace: str = ""
    environment: str = ""  # the workspace's default environment
    dashboard_url: str = ""  # "" where the server has none
    values_dir: str = ""  # directory for large values that both sides can reach, "" where there is none
    direct: bool = False  # the connection ends in the process that said hello: its kernel says what has arrived there


class Failure(Message, type=3):
    """The content of a FAULT frame; see `errors.Code`."""

    code: str
    text: str


class Credit(Message, type=4):
    """The receiver consumed this many body and header bytes of the stream."""

    size: int


class Done(Message, type=5):
    """An answer without content."""
