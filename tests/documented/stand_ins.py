"""What a site without the Internet has in its place: a registry, a hub for models, a mirror of browsers.

The operator names them in the platform's settings (docs/operating.md); programs are not changed for them. They hold
images, models and browsers of our own under the names of the real ones: an image that was built with one shows that
the build works, and not that the original would.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

from tests.browser_mirror import archive_chromium
from tests.oci import layouts
from tests.oci.registry_server import RegistryServer

IMAGES = (  # of registries, in the documented programs
    "algolia/docsearch-scraper:v1.16.0",
    "nvidia/cuda:12.4.0-devel-ubuntu22.04",
    "nvidia/cuda:12.8.0-devel-ubuntu22.04",
    "nvidia/cuda:12.8.1-devel-ubuntu22.04",
    "huggingface/text-embeddings-inference:89-1.7",
    "huggingface/text-embeddings-inference:86-0.4.0",
)
MIRRORED = ("docker.io", "ghcr.io")
REVISION = "0" * 40  # of every model
MODEL = {"config.json": b'{"model_type": "stand-in"}'}
NAME = "mirror.internal"  # as containers know this machine

USES = {  # which of them a program needs, for the report
    "algolia_indexer": "registry",
    "amazon_embeddings": "registry and hub",
    "scrape_full": "browser mirror",
    "webscraper": "browser mirror",
}


def registry(folder: Path) -> RegistryServer:
    """A registry whose images are a small Debian without Python."""
    folder.mkdir(parents=True)
    root = folder / "debian"
    packages = "ca-certificates,bash"
    words = ["mmdebstrap", "--variant=apt", f"--include={packages}", "--format=tar", "bookworm", str(root)]
    subprocess.run(words, check=True, capture_output=True, timeout=600)
    layout = layouts.Layout(folder / "layout")
    settings = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Entrypoint": ["bash"]}
    layout.image("debian", [layouts.gzipped(root.read_bytes())], settings)
    root.unlink()
    server = RegistryServer(folder / "registry")
    server.start()
    for name in IMAGES:
        server.push(layout.path, "debian", name)
    return server


class Sites(http.server.BaseHTTPRequestHandler):
    """The hub and the mirror of browsers, told apart by what is asked for."""

    protocol_version = "HTTP/1.1"
    mirror: Path

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        path = self.path.partition("?")[0]
        if path.endswith(".zip"):
            self._archive("chromium-linux.zip" if "/chromium/" in path else "ffmpeg-linux.zip", head)
        elif "/api/models/" in path:
            about = {"id": path, "sha": REVISION, "siblings": [{"rfilename": name} for name in MODEL]}
            self._send(json.dumps(about).encode(), "application/json", head)
        elif "/resolve/" in path:
            content = MODEL.get(path.rpartition("/")[2])
            self._send(content, "application/octet-stream", head)
        else:
            self._send(None, "", head)

    def _send(self, body: bytes | None, kind: str, head: bool) -> None:
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        if body is not None:
            self.send_header("Content-Type", kind)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body and not head:
            self.wfile.write(body)

    def _archive(self, name: str, head: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str((self.mirror / name).stat().st_size))
        self.end_headers()
        if not head:
            with (self.mirror / name).open("rb") as source:
                shutil.copyfileobj(source, self.wfile)

    def log_message(self, *_args: object) -> None:
        pass


class StandIns:
    """All of them; `settings` is what the platform's environment must have. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._registry: RegistryServer | None = None
        self._server: http.server.ThreadingHTTPServer | None = None
        self.settings: dict[str, str] = {}

    def __enter__(self) -> StandIns:
        self._registry = registry(self._folder / "registry-files")
        mirror = archive_chromium(self._folder)
        handler = type("TheseSites", (Sites,), {"mirror": mirror})
        self._server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        port = self._server.server_address[1]
        site = f"http://{NAME}:{port}"
        variables = self._folder / "variables"
        variables.write_text(f"HF_ENDPOINT={site}\nPLAYWRIGHT_DOWNLOAD_HOST={site}\n")
        self.settings = {
            "INTERMODAL_REGISTRY_MIRRORS": ",".join(f"{name}={self._registry.host}" for name in MIRRORED),
            "INTERMODAL_HOST_PORTS": str(port),
            "INTERMODAL_CONTAINER_HOSTS": f"{NAME}=host-gateway",
            "INTERMODAL_CONTAINER_ENV": str(variables),
        }
        return self

    def __exit__(self, *_error: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self._registry is not None:
            self._registry.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
