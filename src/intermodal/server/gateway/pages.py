"""What the gateway itself answers: short pages that say what happened."""

from __future__ import annotations

from http import HTTPStatus

EXTRA = {431: "Request Header Fields Too Large", 505: "HTTP Version Not Supported"}


def phrase(status: int) -> str:
    """The reason phrase of a status code, "" for an unknown one."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return EXTRA.get(status, "")


def page(status: int, text: str) -> bytes:
    """The body of an answer by the gateway: plain text, which a terminal and a browser both show."""
    return f"intermodal: {status} {phrase(status)}\n\n{text.rstrip()}\n".encode("utf-8", "replace")
