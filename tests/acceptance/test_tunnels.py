"""`modal.forward` in containers, reached by clients of this machine."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.acceptance.conftest import PATIENCE, Platform, ProgramFinder, until
from tests.acceptance.test_faults import wait_for_line
from tests.ports import free_port

pytestmark = pytest.mark.acceptance

SERVER = """
import subprocess, sys, time
import modal

app = modal.App("tunnel-server")

@app.function()
def serve(name: str):
    with modal.forward(8000) as web, modal.forward(9000, unencrypted=True) as echo:
        print("web", web.url, flush=True)
        # one is bound to loopback, one to every address
        page = subprocess.Popen([sys.executable, "-m", "http.server", "8000", "--bind", "127.0.0.1", "-d", "/opt"])
        echoes(9000, lambda: print("echo", *echo.tls_socket, *echo.tcp_socket, flush=True))
        page.kill()
    print("closed", flush=True)
    time.sleep(60)

def echoes(port, ready):
    import socket
    with socket.create_server(("0.0.0.0", port)) as server:
        while True:
            try:
                socket.create_connection(("127.0.0.1", 8000)).close()
                break
            except OSError:
                time.sleep(0.01)
        ready()
        while True:
            connection, _address = server.accept()
            with connection:
                data = connection.recv(1000)
                if data == b"stop":
                    return
                connection.sendall(data)
"""


def trusted(platform: Platform) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(platform.home / "tls" / "ca.pem"))


def say(host: str, port: int, data: bytes, context: ssl.SSLContext | None) -> bytes:
    """One question to an echo server behind a tunnel; `host` need not resolve."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as raw:
        if context is None:
            raw.sendall(data)
            return raw.recv(1000)
        with context.wrap_socket(raw, server_hostname=host) as secure:
            secure.sendall(data)
            return secure.recv(1000)


def test_two_tunnels_with_tls_and_without(platform: Platform, tmp_path: Path) -> None:
    """Several at once; they end with their block, and their connections too."""
    path = tmp_path / "tunnel_server.py"
    path.write_text(SERVER)
    process = platform.start("modal", "run", path, "--name", "x")
    url = wait_for_line(process, "^web ")[-1].split()[1]
    line = wait_for_line(process, "^echo ")[-1]
    _echo, host, tls_port, plain_host, tcp_port = line.split()
    assert plain_host == "localhost"
    context = trusted(platform)
    if url.startswith("https://localhost:"):  # else the name is one that this machine's resolver knows
        assert b"Directory listing" in urllib.request.urlopen(url, context=context, timeout=PATIENCE).read()
    assert say(host, int(tls_port), b"secret", context) == b"secret"
    assert say(host, int(tcp_port), b"plain", None) == b"plain"
    with pytest.raises(ssl.SSLCertVerificationError):
        say(host, int(tls_port), b"x", ssl.create_default_context())
    with socket.create_connection(("127.0.0.1", int(tcp_port)), timeout=PATIENCE) as open_one:
        open_one.sendall(b"stop")
        wait_for_line(process, "^closed")
        with contextlib.suppress(ConnectionError):
            assert open_one.recv(10) == b""
    with pytest.raises(OSError):
        say(host, int(tcp_port), b"plain", None)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=200)


def test_a_container_that_is_killed_leaves_nothing_listening(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "tunnel_server.py"
    path.write_text(SERVER)
    process = platform.start("modal", "run", path, "--name", "x")
    line = wait_for_line(process, "^echo ")[-1]
    _echo, host, _tls_port, _host, tcp_port = line.split()
    assert say(host, int(tcp_port), b"plain", None) == b"plain"
    (container,) = [one for one in platform.status()["containers"] if one["app_name"].startswith("tunnel")]
    stopped = platform.modal("container", "stop", container["container_id"])
    assert stopped.code == 0, stopped.text

    def refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", int(tcp_port)), timeout=PATIENCE).close()
        except ConnectionRefusedError:
            return True
        return False

    until(refused, "the tunnel's port is still open")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=200)


MISTAKES = """
import modal
app = modal.App("tunnel-mistakes")

@app.function()
def wrong():
    for port in (0, 70000, "8000", True):
        try:
            with modal.forward(port):
                pass
        except modal.exception.InvalidError as error:
            print("refused:", error)
    with modal.forward(8000) as tunnel:
        try:
            tunnel.tcp_socket
        except modal.exception.InvalidError as error:
            print("refused:", error)

@app.function(restrict_modal_access=True)
def restricted():
    try:
        with modal.forward(8000):
            pass
    except modal.exception.AuthError as error:
        print("restricted:", error)

@app.local_entrypoint()
def main():
    try:
        with modal.forward(8000):
            pass
    except modal.exception.InvalidError as error:
        print("here:", error)
    wrong.remote()
    restricted.remote()
"""


def test_mistakes(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "tunnel_mistakes.py"
    path.write_text(MISTAKES)
    ran = platform.modal("run", path)
    assert ran.code == 0, ran.text
    lines = ran.lines()
    assert sum(line.startswith("refused:") for line in lines) == 5
    assert any("call it in a function that runs in one" in line for line in lines if line.startswith("here:"))
    assert any(line.startswith("restricted:") for line in lines)


def test_documented_program(platform: Platform, program: ProgramFinder) -> None:
    ran = platform.modal("run", program("guide/tunnels-beta__1"))
    assert ran.code == 0, ran.text
    assert re.search(r"^tunnel\.url        = https://\S+$", ran.out, re.M)
    assert re.search(r"^tunnel\.tls_socket = \('\S+', \d+\)$", ran.out, re.M)


def test_a_restart_of_the_server(own_platform: Platform, tmp_path: Path) -> None:
    """kill -9 of the server: the tunnel is there again, at the same address."""
    path = tmp_path / "tunnel_server.py"
    path.write_text(SERVER)
    port = free_port()  # which nobody gets while no server runs
    own_platform.env["INTERMODAL_TUNNEL_PORTS"] = f"{port}-{min(port + 20, 65535)}"
    assert own_platform.intermodal("up").code == 0
    process = own_platform.start("modal", "run", path, "--name", "x")
    _echo, host, tls_port, _host, tcp_port = wait_for_line(process, "^echo ")[-1].split()
    assert say(host, int(tls_port), b"before", trusted(own_platform)) == b"before"
    subprocess.run(["kill", "-9", str(own_platform.status()["pid"])], check=True)
    assert own_platform.intermodal("up").code == 0
    assert say(host, int(tls_port), b"after", trusted(own_platform)) == b"after"
    assert say(host, int(tcp_port), b"after", None) == b"after"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=200)
