"""A page on this machine that containers can reach."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.acceptance.conftest import Platform


@contextmanager
def served(platform: Platform, body: bytes) -> Iterator[str]:
    """The same page at every path; its address."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("0.0.0.0", platform.open_port), Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield address(platform)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def address(platform: Platform) -> str:
    """Where containers find the page while it is served."""
    return f"http://{_own_address()}:{platform.open_port}/"


def _own_address() -> str:
    """This machine's address as containers see it: no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
