"""The guide's programs for web endpoints and tunnels, unchanged, with the guide's own commands."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform, ProgramFinder
from tests.acceptance.test_faults import wait_for_line

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.containers,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing"),
]

WAIT = 200.0  # seconds at most for what a test waits for
Deploy = Callable[..., dict[str, str]]


def curl(*words: str) -> str:
    """What the command prints. It knows by itself that names below localhost are this machine."""
    command = ["curl", "-sS", "--max-time", str(WAIT), *words]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=2 * WAIT)
    assert ran.returncode == 0, f"{command}: {ran.stderr}"
    return ran.stdout


def status(*words: str) -> int:
    return int(curl("-o", "/dev/null", "-w", "%{http_code}", *words))


@pytest.fixture
def deploy(platform: Platform, program: ProgramFinder) -> Iterator[Deploy]:
    """`deploy("web-endpoints__1", name="web-demo")`: the addresses of its web functions as the command prints them."""
    stopped = []

    def one(name: str, app: str) -> dict[str, str]:
        path = program(f"guide/{name}")
        told = platform.builds("deploy", "--name", app, path)
        stopped.append(app)
        return dict(re.findall(r"Created web (?:function|endpoint for) (\S+?)\.? => (http\S+)", told))

    yield one
    for app in stopped:
        assert platform.modal("app", "stop", app).code == 0


@contextlib.contextmanager
def followed(platform: Platform, app: str) -> Iterator[subprocess.Popen[str]]:
    """`modal app logs`, to be waited for."""
    process = platform.start("modal", "app", "logs", app, merged=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT)


def test_everything_together(deploy: Deploy) -> None:
    url = deploy("web-endpoints__1", "web-demo")["f"]
    assert "--web-demo-f." in url
    as_json = ("-H", "Content-Type: application/json", "-X", "POST", url)
    assert curl("-d", '{"name": "Erik", "qty": 10}', *as_json) == "<html>Hello, Erik!</html>"
    assert status("-d", '{"qty": 10}', *as_json) == 422
    assert status(url) == 405
    # The page of another site asks first, and is allowed to.
    headers = curl("-o", "/dev/null", "-D", "-", "-X", "OPTIONS", "-H", "Origin: https://other.example",
                   "-H", "Access-Control-Request-Method: POST", url).lower()  # fmt: skip
    assert "access-control-allow-origin: https://other.example" in headers
    assert status(f"{url}/docs") == 404  # docs=True was not asked for


def test_lifespan(platform: Platform, deploy: Deploy) -> None:
    url = deploy("web-endpoints__2", "fastapi-lifespan-app")["fastapi_app_with_lifespan"]
    assert curl(url) == '"hello"'
    with followed(platform, "fastapi-lifespan-app") as logs:
        assert not any("Shutting down" in line for line in wait_for_line(logs, "Starting"))
        apps = json.loads(platform.modal("app", "list", "--json").out)
        (app_id,) = [app["App ID"] for app in apps if app["Description"] == "fastapi-lifespan-app"]
        (container,) = [one for one in platform.status()["containers"] if one["app_id"] == app_id]
        assert platform.modal("container", "stop", container["container_id"]).code == 0
        wait_for_line(logs, "Shutting down")


def test_a_token_of_ones_own(platform: Platform, deploy: Deploy) -> None:
    made = platform.modal("secret", "create", "my-web-auth-token", "AUTH_TOKEN=secret-random-token")
    assert made.code == 0, made.text
    url = deploy("web-endpoints__3", "auth-example")["f"]
    assert curl("--header", "Authorization: Bearer secret-random-token", url) == '"success!"'
    assert status("--header", "Authorization: Bearer wrong", url) == 401
    assert status(url) in (401, 403)
    assert platform.modal("secret", "delete", "--yes", "my-web-auth-token").code == 0


def test_the_clients_address(deploy: Deploy) -> None:
    url = deploy("web-endpoints__4", "client-address")["get_ip_address"]
    assert curl("-4", url) == '"Your IP address is 127.0.0.1"'
    # Whom nobody has called a proxy is not believed.
    assert curl("-4", "-H", "X-Forwarded-For: 198.51.100.7", url) == '"Your IP address is 127.0.0.1"'


def test_query_and_json(deploy: Deploy) -> None:
    urls = deploy("web-endpoints__j1", "web-endpoint")
    assert curl(urls["f"]) == '"Hello world!"'
    assert curl(f"{urls['square']}?x=42") == '{"square":1764}'
    assert status(f"{urls['square']}?x=many") == 422
    url = deploy("web-endpoints__j2", "web-endpoint-2")["square"]
    posted = ("-X", "POST", "-H", "Content-Type: application/json", "--data-binary", '{"x": 42}', url)
    assert curl(*posted) == '{"square":1764}'


def test_frameworks(deploy: Deploy, tmp_path: Path) -> None:
    for name, function in (("web-endpoints__j3", "fastapi_app"), ("web-endpoints__j4", "flask_app")):
        url = deploy(name, function.replace("_", "-"))[function]
        data = json.dumps({"text": "ä" * 100_000})
        (tmp_path / "data").write_text(data)
        answer = curl("-H", "Content-Type: application/json", "--data-binary", f"@{tmp_path / 'data'}", f"{url}/echo")
        assert json.loads(answer) == json.loads(data)


def test_file_servers(deploy: Deploy) -> None:
    url = deploy("web-endpoints__j5", "file-server")["my_file_server"]
    assert "passwd" in curl(f"{url}/etc/")
    url = deploy("web-endpoints__j6", "file-servers")["Server.files"]
    assert "--file-servers-server-files." in url
    assert "etc/" in curl(f"{url}?root=%2F")
    inside = curl(url)
    assert "etc/" not in inside
    assert "Directory listing" in inside


def test_labels_and_serving(platform: Platform, program: ProgramFinder) -> None:
    process = platform.start("modal", "serve", program("guide/web-endpoint-urls__1"), env={"PYTHONUNBUFFERED": "1"})
    line = wait_for_line(process, "=> http")[-1]
    url = re.search(r"=> (http\S+)", line)[1]  # type: ignore[index]
    assert re.search(r"--speechify-dev\.localhost:\d+$", url)
    assert curl(url) == "null"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WAIT)
    assert status(url) == 404


def test_domains(platform: Platform, program: ProgramFinder) -> None:
    """What two apps want has the first; an app that is deployed again may change its own."""
    ran = platform.modal("deploy", program("guide/web-endpoint-urls__2"))
    port = re.search(r"=> http://\S+:(\d+)", ran.out)[1]  # type: ignore[index]
    address = f"http://127.0.0.1:{port}/?message=world"
    assert json.loads(curl("-H", "Host: api.example.com", address)) == {"message": "hello world"}
    refused = platform.modal("deploy", program("guide/web-endpoint-urls__3"))
    assert refused.code == 1
    assert "api.example.com, where another deployed app" in refused.err
    assert platform.modal("app", "stop", "custom-domains-example").code == 0
    assert status("-H", "Host: api.example.com", address) == 404
    again = platform.modal("deploy", program("guide/web-endpoint-urls__3"))
    assert again.code == 0, again.text
    for host in ("api.example.com", "api.example.net"):
        assert json.loads(curl("-H", f"Host: {host}", address)) == {"message": "hello world"}
    assert status("-H", "Host: other.example.com", address) == 404
    chosen = platform.modal("deploy", program("guide/web-endpoint-urls__4"))  # the same app, another domain
    assert chosen.code == 0, chosen.text
    assert sorted(status("-H", f"Host: {n}.example.com", address) for n in range(10)) == [200] + [404] * 9
    assert status("-H", "Host: api.example.com", address) == 404
    assert platform.modal("app", "stop", "custom-domains-example-2").code == 0


ASK_URL = """
import modal
print(modal.Function.from_name("app", "show_url").get_web_url())
"""


def test_an_address_from_code(platform: Platform, deploy: Deploy, tmp_path: Path) -> None:
    url = deploy("web-endpoint-urls__j1", "app")["show_url"]
    assert json.loads(curl(url)) == url
    (tmp_path / "ask_url.py").write_text(ASK_URL)
    process = platform.start_python(tmp_path / "ask_url.py")
    assert process.communicate(timeout=WAIT)[0].strip() == url
    assert "swagger" in curl(f"{url}/docs").lower()
    assert "/" in json.loads(curl(f"{url}/openapi.json"))["paths"]


def test_streams(deploy: Deploy) -> None:
    urls = deploy("streaming-endpoints__j1", "example-streaming")
    for name, expected in (
        ("stream_me", [f"data: some data {i}" for i in range(10)]),
        ("hook", [f"data: finished processing some data from GPU {i}" for i in range(10)]),
    ):
        seen, at = [], []
        command = ["curl", "-sS", "--no-buffer", urls[name]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    seen.append(line.strip())
                    at.append(time.monotonic())
        assert process.returncode == 0
        assert seen == expected
        # The app waits between items: they have not come all at once at the end.
        assert at[-1] - at[0] > 2
    assert curl(urls["mapped"]) == "".join(f"segment {i}\n" for i in range(10))


def test_polling(deploy: Deploy) -> None:
    url = deploy("request-timeouts__1", "polling")["fastapi_app"]
    call_id = json.loads(curl("-X", "POST", f"{url}/accept"))["call_id"]
    assert call_id.startswith("fc-")
    until = time.monotonic() + WAIT
    while (code := status(f"{url}/result/{call_id}")) == 202:
        assert time.monotonic() < until
    assert code == 200
    assert curl(f"{url}/result/{call_id}") == "null"


def test_a_tunnel_from_a_request(platform: Platform, program: ProgramFinder) -> None:
    """The guide's sketch of a hub: what it leaves out is written in, and the notebook is a small server."""
    path = program("guide/tunnels-beta__3")
    text = path.read_text()
    text = text.replace("    ...  # as before, but return the URL on app.q", HUB_SERVER)
    text = text.replace("    ...  # do some validation on the secret or bearer token", "    is_valid = True")
    path.write_text(text)
    told = platform.builds("deploy", "--name", "hub", path)
    url = re.search(r"=> (http\S+)", told)[1]  # type: ignore[index]
    answer = curl("-X", "POST", "-o", "/dev/null", "-D", "-", url)
    assert answer.startswith("HTTP/1.1 303")
    tunnel = re.search(r"(?im)^location: https://(\S+):(\d+)", answer)
    assert tunnel, answer
    context = ssl.create_default_context(cafile=str(platform.home / "tls" / "ca.pem"))
    with (
        socket.create_connection(("127.0.0.1", int(tunnel[2])), timeout=WAIT) as raw,
        context.wrap_socket(raw, server_hostname=tunnel[1]) as secure,
    ):
        secure.sendall(b"GET /?a=b HTTP/1.1\r\nHost: x\r\nX-Mine: 1\r\n\r\n")
        seen = b""
        while part := secure.recv(1000):
            seen += part
    # Not a byte was added: no proxy's headers.
    assert seen == b"HTTP/1.0 200 OK\r\n\r\nGET /?a=b HTTP/1.1\r\nHost: x\r\nX-Mine: 1\r\n\r\n"
    assert platform.modal("app", "stop", "hub").code == 0


HUB_SERVER = """
    import socket
    with socket.create_server(("0.0.0.0", 8888)) as server, modal.forward(8888) as tunnel:
        q.put(tunnel.url)
        connection, _address = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + connection.recv(1000))
"""


def test_a_notebook_behind_a_tunnel(platform: Platform, program: ProgramFinder) -> None:
    """Jupyter Lab, with its page, its API and a kernel by WebSocket."""
    path = program("guide/tunnels-beta__2")
    process = platform.start("modal", "run", path, env={"PYTHONUNBUFFERED": "1"})
    line = wait_for_line(process, "^Starting Jupyter at")[-1]
    found = re.search(r"https://([^:/]+):(\d+)/\?token=(\S+)", line)
    assert found, line
    host, port, token = found.groups()
    trusted = ("--cacert", str(platform.home / "tls" / "ca.pem"))
    patient = ("--retry", "60", "--retry-all-errors", "--retry-delay", "1")
    base = f"https://{host}:{port}"
    assert json.loads(curl(*trusted, *patient, f"{base}/api"))["version"]
    assert status(*trusted, f"{base}/api/kernels") == 403
    assert json.loads(curl(*trusted, "-H", f"Authorization: token {token}", f"{base}/api/kernels")) == []
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WAIT)
