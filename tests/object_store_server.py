"""The process behind `object_store.ObjectStore`: moto's server, with one answer set right.

    python object_store_server.py PORT HOST

Where versions are off, S3 says no version; moto says "null", and clients then ask for a version of that name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


def without_null_version(app: Any) -> Callable[..., Iterable[bytes]]:
    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            kept = [one for one in headers if not (one[0].lower() == "x-amz-version-id" and one[1] == "null")]
            return start_response(status, kept, *rest)

        made: Iterable[bytes] = app(environ, start)
        return made

    return answer


if __name__ == "__main__":
    application = DomainDispatcherApplication(create_backend_app)
    run_simple(sys.argv[2], int(sys.argv[1]), without_null_version(application), threaded=True)
