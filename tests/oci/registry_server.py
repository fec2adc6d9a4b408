"""A real registry on a free port of this machine, with or without passwords."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.ports import free_port

USER, PASSWORD = "reader", "correct horse battery"
HASHED = "$2b$04$PHsiLJsoB.BFSie06u8O5OC7F3UCLqD9aaNRgflaDzJ4tVkSUgv2C"  # of the password, with bcrypt

GOOGLE_KEY = '{"private_key":"k","client_email":"e"}'  # the password of the user _json_key
GOOGLE_HASHED = "$2b$04$kbSdhgk1Q9C.GJX/4Fkj4u8k4R47sxKCt7EIriL.7qdCoMoRnWg9K"


def why_no_registry() -> str:
    """Why the tests with a registry cannot run here, "" where they can."""
    missing = [name for name in ("docker-registry", "skopeo", "zstd") if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed (scripts/setup --dev installs it)" if missing else ""


class RegistryServer:
    """Debian's docker-registry. `stop` and `start` keep what it has."""

    def __init__(self, root: Path, *, private: bool = False) -> None:
        self.root = root
        self.private = private
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        root.mkdir(parents=True)
        lines = [
            "version: 0.1",
            "log: {level: info, accesslog: {disabled: false}}",
            f"storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}",
            f"http: {{addr: 127.0.0.1:{self.port}}}",
        ]
        if private:
            (root / "htpasswd").write_text(f"{USER}:{HASHED}\n_json_key:{GOOGLE_HASHED}\n")
            lines.append(f"auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}")
        (root / "config.yml").write_text("\n".join(lines) + "\n")

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def start(self) -> None:
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(self.root / "config.yml")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 200
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.root / "log").read_text()[-2000:]) from None
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(200)
            self._process = None

    def push(self, layout: Path, tag: str, name: str, *options: str) -> None:
        words = ["skopeo", "copy", "-q", "--all", "--insecure-policy", "--dest-tls-verify=false", *options]
        if self.private:
            words += ["--dest-creds", f"{USER}:{PASSWORD}"]
        subprocess.run([*words, f"oci:{layout}:{tag}", f"docker://{self.host}/{name}"], check=True, timeout=200)

    def asked(self) -> list[str]:
        """The blobs that were fetched so far, in order."""
        text = (self.root / "log").read_text(errors="replace")
        return re.findall(r'"GET /v2/[^"]*?/blobs/(sha256:[0-9a-f]{64})[^"]*"', text)

    def blob(self, digest: str) -> Path:
        """Where the registry keeps a blob."""
        name = digest.partition(":")[2]
        return self.root / f"data/docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"
