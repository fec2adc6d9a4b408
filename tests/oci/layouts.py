"""Makes small images, as OCI layouts on disk, for a registry to serve."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
PLAIN = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
ESTARGZ_NOTE = "containerd.io/snapshot/stargz/toc.digest"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class LayerFile:
    """A layer in one of the forms that registries keep."""

    tar: bytes
    kind: str = GZIP
    blob: bytes = b""
    notes: dict[str, str] = field(default_factory=dict)


def archive(*entries: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            info, data = entry if isinstance(entry, tuple) else (entry, b"")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def file(name: str, text: str | bytes = "", mode: int = 0o644, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mode = mode
    for key, value in more.items():
        setattr(info, key, value)
    return info, text.encode() if isinstance(text, str) else text


def entry(name: str, kind: bytes, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755
    for key, value in more.items():
        setattr(info, key, value)
    return info


def directory(name: str, mode: int = 0o755, **more: Any) -> tarfile.TarInfo:
    return entry(name, tarfile.DIRTYPE, mode=mode, **more)


def link(name: str, target: str) -> tarfile.TarInfo:
    return entry(name, tarfile.SYMTYPE, linkname=target)


def gzipped(tar: bytes) -> LayerFile:
    return LayerFile(tar, GZIP, gzip.compress(tar, 1))


def plain(tar: bytes) -> LayerFile:
    return LayerFile(tar, PLAIN, tar)


def zstd(tar: bytes) -> LayerFile:
    blob = subprocess.run(["zstd", "-q", "-c"], input=tar, capture_output=True, check=True).stdout
    return LayerFile(tar, ZSTD, blob)


def estargz(tar: bytes) -> LayerFile:
    """As stargz does it: every entry is a gzip member of its own; the last entry is an index, then a footer."""
    blob = io.BytesIO()
    entries: list[dict[str, Any]] = []
    with tarfile.open(fileobj=io.BytesIO(tar)) as source:
        for info in source:
            data = source.extractfile(info).read() if info.isfile() else b""  # type: ignore[union-attr]
            entries.append({"name": info.name, "type": "reg", "size": info.size, "offset": blob.tell()})
            blob.write(gzip.compress(_one(info, data)))
    index = json.dumps({"version": 1, "entries": entries}).encode()
    whole = b""
    toc_at = blob.tell()
    toc = tarfile.TarInfo("stargz.index.json")
    toc.size = len(index)
    end = b"\0" * 1024
    blob.write(gzip.compress(_one(toc, index) + end))
    extra = f"{toc_at:016x}STARGZ".encode()
    subfield = b"SG" + len(extra).to_bytes(2, "little") + extra
    header = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + len(subfield).to_bytes(2, "little") + subfield
    blob.write(header + b"\x01\x00\x00\xff\xff" + b"\0" * 8)
    data = blob.getvalue()
    whole = gzip.decompress(data)
    return LayerFile(whole, GZIP, data, {ESTARGZ_NOTE: digest_of(index)})


def _one(info: tarfile.TarInfo, data: bytes) -> bytes:
    padding = b"\0" * (-len(data) % 512)
    return info.tobuf(tarfile.PAX_FORMAT) + data + padding


class Layout:
    """An OCI layout that grows image by image."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self._manifests: list[dict[str, Any]] = []
        self.manifests: dict[str, str] = {}  # tag -> digest

    def blob(self, data: bytes) -> tuple[str, int]:
        digest = digest_of(data)
        (self.path / "blobs/sha256" / digest.partition(":")[2]).write_bytes(data)
        return digest, len(data)

    def image(
        self,
        tag: str,
        layers: list[LayerFile],
        config: dict[str, Any] | None = None,
        architecture: str = "amd64",
        change: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Add an image; returns its descriptor. With a `tag` it can be pushed under that name."""
        whole = {
            "architecture": architecture,
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer.tar) for layer in layers]},
        }
        if change is not None:
            change(whole)
        config_digest, config_size = self.blob(json.dumps(whole).encode())
        described = []
        for layer in layers:
            digest, size = self.blob(layer.blob)
            described.append({"mediaType": layer.kind, "digest": digest, "size": size, "annotations": layer.notes})
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest,
                "size": config_size,
            },
            "layers": described,
        }
        digest, size = self.blob(json.dumps(manifest).encode())
        descriptor = {"mediaType": MANIFEST, "digest": digest, "size": size}
        if tag:
            self._name(tag, descriptor)
        return {**descriptor, "platform": {"os": "linux", "architecture": architecture}}

    def index(self, tag: str, descriptors: list[dict[str, Any]]) -> None:
        """Several images, one for each processor, under one name."""
        data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors}).encode()
        digest, size = self.blob(data)
        self._name(tag, {"mediaType": INDEX, "digest": digest, "size": size})

    def _name(self, tag: str, descriptor: dict[str, Any]) -> None:
        self.manifests[tag] = descriptor["digest"]
        notes = {"org.opencontainers.image.ref.name": tag}
        self._manifests.append({**descriptor, "annotations": notes})
        text = json.dumps({"schemaVersion": 2, "manifests": self._manifests})
        (self.path / "index.json").write_text(text)
