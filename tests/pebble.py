"""A real ACME authority for tests: Pebble, which asks a resolver of its own where names lead."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest
import trustme

from tests.ports import free_port

EAB_KID = "kid-1"
EAB_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


def listens(port: int, process: subprocess.Popen[str], name: str, output: IO[str] | None = None) -> None:
    """Wait until it does. `output`: the file that has what it printed, where that is no pipe."""
    until = time.monotonic() + 200
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            said = process.communicate()[0]
            if output is not None:
                output.seek(0)
                said = output.read()
            pytest.fail(f"{name} does not listen on {port}:\n{said}")
        time.sleep(0.05)


@contextlib.contextmanager
def running(
    command: list[str], port: int, env: dict[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process that listens; its output is shown where it does not. It goes to a file: nobody reads it meanwhile."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})}, cwd=cwd
        )
        try:
            listens(port, process, command[0], output)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(200)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass
class Pebble:
    """`with pebble.resolver(), pebble.authority():`; the authority forgets all when it is started anew."""

    directory: Path
    http_port: int = field(default_factory=free_port)  # where it looks for HTTP-01
    tls_port: int = field(default_factory=free_port)  # and for TLS-ALPN-01
    bound: bool = False  # accounts need EAB_KID and EAB_KEY
    strict: bool = False

    def __post_init__(self) -> None:
        if shutil.which("pebble") is None:
            pytest.skip("pebble is not installed: scripts/setup --dev installs it")
        self.port, self.management, self.dns, self.names = free_port(), free_port(), free_port(), free_port()
        authority = trustme.CA()
        made = authority.issue_cert("localhost", "127.0.0.1")
        self.root = self.directory / "acme-ca.pem"  # of its own certificate
        authority.cert_pem.write_to_path(self.root)
        made.cert_chain_pems[0].write_to_path(self.directory / "acme.pem")
        made.private_key_pem.write_to_path(self.directory / "acme-key.pem")

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/dir"

    @contextlib.contextmanager
    def resolver(self) -> Iterator[None]:
        """Every name leads to this machine, until `lead` says something else."""
        options = {
            "defaultIPv4": "127.0.0.1", "defaultIPv6": "", "dns01": f"127.0.0.1:{self.dns}",
            "http01": "", "https01": "", "tlsalpn01": "", "management": f"127.0.0.1:{self.names}",
        }  # fmt: skip
        command = ["pebble-challtestsrv"]
        for name, value in options.items():
            command += [f"-{name}", value]
        with running(command, self.dns):
            yield

    @contextlib.contextmanager
    def authority(self) -> Iterator[None]:
        config: dict[str, Any] = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(self.directory / "acme.pem"),
            "privateKey": str(self.directory / "acme-key.pem"),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            "externalAccountBindingRequired": self.bound,
            "externalAccountMACKeys": {EAB_KID: EAB_KEY} if self.bound else {},
        }
        path = self.directory / "pebble.json"
        path.write_text(json.dumps({"pebble": config}))
        command = ["pebble", "-config", str(path), "-dnsserver", f"127.0.0.1:{self.dns}"]
        env = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20" if self.strict else "0"}
        with running([*command, *(["-strict"] if self.strict else [])], self.port, env) as process:
            listens(self.management, process, command[0])
            yield

    def roots(self) -> bytes:
        """Who its certificates are from, now. PEM."""
        context = ssl.create_default_context(cafile=str(self.root))
        with urllib.request.urlopen(f"https://localhost:{self.management}/roots/0", context=context) as answer:
            return bytes(answer.read())

    def lead(self, name: str, address: str) -> None:
        """From now on a name leads there."""
        self.tell("clear-a", {"host": f"{name}."})
        self.tell("add-a", {"host": f"{name}.", "addresses": [address]})

    def tell(self, what: str, content: dict[str, Any]) -> None:
        """Something of the resolver's management."""
        url = f"http://127.0.0.1:{self.names}/{what}"
        with urllib.request.urlopen(url, data=json.dumps(content).encode()) as answer:
            answer.read()
