"""The Container Device Interface: files in which vendors' tools say what their devices need in a container.

`nvidia-ctk cdi generate` writes one for NVIDIA's GPUs; https://github.com/cncf-tags/container-device-interface has the
format. Files are JSON or YAML.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from intermodal.worker.devices.edits import Edits, Mount, Node

DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"))  # the later one wins
KIND = "nvidia.com/gpu"
GENERATE_WITHIN = 20.0  # seconds
_MOMENTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

log = logging.getLogger(__name__)


class Specification:
    """The devices of one kind: what all of them need, and what each does."""

    def __init__(self, common: dict[str, Any], devices: dict[str, dict[str, Any]], where: str) -> None:
        self._common = common
        self._devices = devices
        self.where = where  # for people

    def edits(self, names: Iterable[str]) -> Edits | None:
        """For a container with these devices, each by any of its names (index or UUID); None where one is unknown."""
        made = _edits(self._common)
        for name in names:
            device = self._devices.get(name)
            if device is None:
                return None
            made.add(_edits(device))
        return made

    def knows(self, name: str) -> bool:
        return name in self._devices


def find(directories: Iterable[Path] = DIRECTORIES, kind: str = KIND) -> Specification | None:
    """What the files say of this kind, else what the toolkit says when asked. Blocking."""
    found: Specification | None = None
    for directory in directories:
        for path in sorted([*directory.glob("*.json"), *directory.glob("*.yaml"), *directory.glob("*.yml")]):
            values = _read(path)
            if isinstance(values, dict) and values.get("kind") == kind:
                found = _specification(values, str(path))
    return found or _generated(kind)


def _read(path: Path) -> Any:
    try:
        text = path.read_text()
        return json.loads(text) if path.suffix == ".json" else _from_yaml(text)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be used: %s", path, error)
        return None


def _generated(kind: str) -> Specification | None:
    tool = shutil.which("nvidia-ctk")
    if tool is None or kind != KIND:
        return None
    command = [tool, "cdi", "generate", "--format=json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GENERATE_WITHIN, check=True)
        return _specification(json.loads(done.stdout), "nvidia-ctk")
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.warning("nvidia-ctk gave no CDI specification: %s", error)
        return None


def _specification(values: dict[str, Any], where: str) -> Specification:
    devices = {
        str(device.get("name", "")): device.get("containerEdits") or {}
        for device in values.get("devices") or []
        if isinstance(device, dict)
    }
    return Specification(values.get("containerEdits") or {}, devices, where)


def _edits(values: dict[str, Any]) -> Edits:
    made = Edits()
    for node in values.get("deviceNodes") or []:
        target = str(node["path"])
        made.nodes.append(Node(str(node.get("hostPath") or target), target))
    for mount in values.get("mounts") or []:
        made.mounts.append(Mount(str(mount["hostPath"]), str(mount["containerPath"])))
    for assignment in values.get("env") or []:
        name, _, value = str(assignment).partition("=")
        made.env[name] = value
    for hook in values.get("hooks") or []:
        moment = str(hook.get("hookName", ""))
        if moment not in _MOMENTS or not os.access(str(hook.get("path", "")), os.X_OK):
            log.warning("a CDI hook cannot be run: %s", hook)
            continue
        fields = {name: hook[name] for name in ("path", "args", "env", "timeout") if hook.get(name)}
        made.hooks.setdefault(moment, []).append(fields)
    return made


def _from_yaml(text: str) -> Any:
    """Raises ValueError."""
    import yaml  # most machines have no such file

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
