"""Who may call a web function, by which names, over which certificate: with the real commands."""

from __future__ import annotations

import datetime
import json
import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
import trustme

from tests.acceptance.conftest import PATIENCE, Platform, until
from tests.ports import free_port

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAM = """
import modal

app = modal.App("access")

async def page(scope, receive, send):
    if scope["type"] == "http":
        print("reached", scope["path"], flush=True)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

@app.function()
@modal.asgi_app(requires_proxy_auth=True, custom_domains=["api.example.org", "*.example.net"])
def guarded():
    return page
"""


def test_only_with_a_token_of_the_workspace(platform: Platform, tmp_path: Path) -> None:
    """401 before anything of the user's runs; a revoked token opens nothing; by each of the function's names."""
    path = tmp_path / "access.py"
    path.write_text(PROGRAM)
    ran = platform.modal("deploy", path)
    assert ran.code == 0, ran.text
    url = "http" + ran.out.split("=> http")[1].split()[0]
    address = f"http://127.0.0.1:{url.rpartition(':')[2]}"
    name = url.split("//")[1]
    made = json.loads(platform.intermodal("proxy-token", "new", "--json").out)
    other = json.loads(platform.intermodal("proxy-token", "new", "--json").out)
    right = {"Modal-Key": made["token_id"], "Modal-Secret": made["token_secret"]}

    def status(headers: dict[str, str], host: str = name, auth: tuple[str, str] | None = None) -> int:
        return httpx.get(f"{address}/x", headers={"Host": host, **headers}, auth=auth, timeout=PATIENCE).status_code

    assert status({}) == 401
    assert status({**right, "Modal-Secret": other["token_secret"]}) == 401
    assert status({"Modal-Key": made["token_id"]}) == 401
    assert status({"Authorization": f"Bearer {made['token_secret']}"}) == 401
    for host in (name, "api.example.org", "any.thing.example.net"):
        assert status({}, host) == 401
        assert status(right, host) == 200
    assert status(right, "example.net") == 404
    answer = httpx.get(f"{address}/_web/{name.split('.')[0]}/x", headers=right, timeout=PATIENCE)
    assert answer.text == "in"
    revoked = platform.intermodal("proxy-token", "revoke", made["token_id"])
    assert revoked.code == 0
    assert status(right) == 401
    second = tmp_path / "second.py"
    second.write_text(PROGRAM.replace('"access"', '"second"'))
    refused = platform.modal("deploy", second)
    assert refused.code == 1
    assert "api.example.org, where another deployed app" in refused.err
    apps = json.loads(platform.modal("app", "list", "--json").out)
    (app_id,) = [app["App ID"] for app in apps if app["Description"] == "access"]
    assert platform.modal("app", "stop", "access").code == 0
    assert platform.modal("app", "logs", app_id).out.count("reached ") == 4  # what was let in, and nothing else


def certificate(directory: Path, authority: trustme.CA, expires: datetime.datetime | None = None) -> None:
    made = authority.issue_cert("apps.example.com", "*.apps.example.com", not_after=expires)
    for pem, name in ((made.private_key_pem, "key.pem"), (made.cert_chain_pems[0], "cert.pem")):
        pem.write_to_path(directory / f"{name}.new")
        shutil.move(directory / f"{name}.new", directory / name)


def serial(port: int) -> int:
    """Of the certificate that is shown there."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    import socket

    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        with context.wrap_socket(raw, server_hostname="x.apps.example.com") as secure:
            data = secure.getpeercert(binary_form=True)
    from cryptography import x509

    assert data is not None
    return x509.load_der_x509_certificate(data).serial_number


def test_a_certificate_of_the_operators(own_platform: Platform, tmp_path: Path) -> None:
    """`intermodal serve` on https: web functions, a renewal without a restart, and one that has expired."""
    path = tmp_path / "access.py"
    path.write_text(PROGRAM.replace("requires_proxy_auth=True, ", ""))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate(tmp_path, authority)
    port = free_port()
    own_platform.env |= {"INTERMODAL_WEB_LISTEN": "off"}
    server = own_platform.start(
        "intermodal", "serve", "--listen", f"https://127.0.0.1:{port}", "--tls-cert", tmp_path / "cert.pem",
        "--tls-key", tmp_path / "key.pem", "--domain", f"https://apps.example.com:{port}", "--workspace", "Team One",
    )  # fmt: skip
    until(lambda: own_platform.intermodal("status").code == 0)
    ran = own_platform.modal("deploy", path)
    assert ran.code == 0, ran.text
    url = f"https://team-one--access-guarded.apps.example.com:{port}"
    assert url in ran.out
    command = [
        "curl", "-sS", "--max-time", str(PATIENCE), "--cacert", str(tmp_path / "ca.pem"), "--resolve",
        f"team-one--access-guarded.apps.example.com:{port}:127.0.0.1", f"{url}/x",
    ]  # fmt: skip
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "in"
    status = own_platform.status()
    assert status["certificates"][0]["names"] == ["*.apps.example.com", "apps.example.com"]
    assert status["certificates"][0]["problem"] == ""

    before = serial(port)
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate(tmp_path, authority, expires=yesterday)
    until(lambda: serial(port) != before)
    assert "has expired on" in own_platform.intermodal("status").out
    assert "has expired on" in own_platform.intermodal("logs", "--server").out or server.poll() is None
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "expired" in refused.stderr
    certificate(tmp_path, authority)
    until(lambda: subprocess.run(command, capture_output=True, text=True, check=False).stdout == "in")
    server.send_signal(2)
    server.communicate(timeout=200)


def test_a_certificate_that_cannot_be_used(own_platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nonsense")
    ran = own_platform.intermodal("serve", "--listen", "https://127.0.0.1:0", "--tls-cert", tmp_path / "cert.pem")
    assert ran.code == 78
    assert "cert.pem cannot be used" in ran.err
    ran = own_platform.intermodal("serve", "--listen", "https://127.0.0.1:0")
    assert ran.code == 78
    assert "--tls-cert" in ran.err
