"""The state directory of one server and its worker, as paths."""

from __future__ import annotations

from pathlib import Path

from modal._protocol.home import home_dir, server_address, socket_path


class Home:
    """Everything that Intermodal keeps on this machine lies below one directory."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path or home_dir()).absolute()
        self.socket = Path(socket_path(str(self.path)))  # clients and the worker connect here
        self.address = server_address(str(self.path))
        self.handover = self.socket.with_name(f"{self.socket.stem}.handover")  # the worker gives connections there
        self.gateway = self.path / "gateway.json"  # where the gateway listens
        self.web_results = self.path / "web-results"  # slow responses, until they are fetched
        self.lock = self.path / "server.lock"  # held by the server as long as it lives
        self.worker_lock = self.path / "worker.lock"
        self.server_log = self.path / "server.log"
        self.worker_log = self.path / "worker.log"
        self.server_boot = self.path / "server.boot"  # see boots
        self.worker_boot = self.path / "worker.boot"
        self.store = self.path / "store.sqlite"
        self.values = self.path / "values"  # large values by blob id, shared with local peers
        self.files = self.path / "files"  # local files by SHA-256: files/ab/abcd…
        self.mounts = self.path / "mounts"  # sets of files, ready to be a layer
        self.layers = self.path / "layers"  # layers/<id>/ and layers/<id>.json
        self.images = self.path / "images"  # images/<id>.json
        self.volumes = self.path / "volumes"  # objects/ by SHA-256; a worker's checkouts/ and mounts/
        self.network_files = self.path / "network-files"  # network-files/<id>/: the files themselves
        self.containers = self.path / "containers"  # containers/<id>/
        self.logs = self.path / "logs"  # logs/<app id>…
        self.cache = self.path / "cache"  # package caches of builds
        self.platform = self.path / "platform"  # what is mounted read-only into every container

    def file(self, digest: str) -> Path:
        """Where the file with this SHA-256 lies (or will lie)."""
        return self.files / digest[:2] / digest

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"
