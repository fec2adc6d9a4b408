"""Who speaks on a connection. Kept in `connection.context`."""

from __future__ import annotations

from typing import NamedTuple

from modal._protocol.aio import Connection


class Role:
    OWNER = "owner"  # on the unix socket, as the state directory's owner or root
    CLIENT = "client"  # with a token
    WORKER = "worker"
    CONTAINER = "container"  # what runs in a container, by way of its worker


class Principal(NamedTuple):
    """`app_id` and `function_id` are a container's; `name` is for people and the history."""

    role: str
    name: str = ""
    token_id: str = ""
    container_id: str = ""
    app_id: str = ""
    function_id: str = ""
    environment: str = ""  # of a build's container: where names resolve by default
    worker_id: str = ""  # of a build's container: who runs it
    environment_id: str = ""  # of an app's container: the same, which may get another name
    started_in: str = ""  # what that environment was called when the container was started


def principal_of(connection: Connection) -> Principal:
    """Who speaks there."""
    found: Principal = connection.context
    return found
