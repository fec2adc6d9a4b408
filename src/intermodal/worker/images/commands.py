"""Runs one command of a build in a container, and passes on what it prints."""

from __future__ import annotations

import asyncio
import codecs
import os
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from intermodal.home import Home
from intermodal.worker.containers.launch import (
    ROOT,
    Bind,
    ContainersError,
    Device,
    Exit,
    Launch,
    Limits,
    User,
)
from intermodal.worker.images.failures import LAST_LINES, StepError
from intermodal.worker.images.merge import is_opaque
from intermodal.worker.images.trees import remove_tree
from intermodal.worker.images.view import View

READ_SIZE = 1 << 16  # bytes
LONGEST_LINE = 1 << 16  # characters; longer ones are cut into several
HIDDEN = "***"  # stands where a command prints a secret's value
SHORTEST_SECRET = 6  # characters; shorter values are too common in ordinary words to hide

# What every container has a mount on, whether its image has the place or not.
MOUNT_POINTS = ("/proc", "/sys", "/dev/shm", "/dev", "/run", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname")  # noqa: S108

Output = Callable[[str], None]  # takes whole lines


class RunningContainer(Protocol):
    """What builds need of a running container."""

    stdout_fd: int
    stderr_fd: int
    pid: int

    async def wait(self) -> Exit: ...

    async def close(self) -> None: ...


class ContainerStarter(Protocol):
    """What builds need of the worker's containers."""

    async def start(self, launch: Launch) -> RunningContainer: ...


@dataclass(frozen=True)
class Command:
    """One command and the file system that it changes."""

    container_id: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    layers: list[Path]
    upper: Path  # receives what the command changes
    binds: list[Bind] = field(default_factory=list)
    hide: list[str] = field(default_factory=list)  # values that must not be printed
    limits: Limits = field(default_factory=lambda: Limits(pids=0))
    timeout: float = 0.0  # seconds; 0 = none
    user: User = ROOT
    network: str = "bridge"
    devices: list[Device] = field(default_factory=list)
    hooks: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    started: Callable[[int], None] | None = None  # told the container's pid, and 0 in the end


class Lines:
    """Turns what two pipes deliver into whole lines, hides secrets in them, and keeps the last ones."""

    def __init__(self, output: Output, hide: list[str]) -> None:
        self._output = output
        self._hide = sorted((value for value in hide if len(value) >= SHORTEST_SECRET), key=len, reverse=True)
        self._rest: dict[int, str] = {}
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self.last: deque[str] = deque(maxlen=LAST_LINES)

    def feed(self, pipe: int, data: bytes) -> None:
        decoder = self._decoders.get(pipe)
        if decoder is None:
            decoder = self._decoders[pipe] = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._rest.get(pipe, "") + decoder.decode(data)
        whole, end, rest = text.rpartition("\n")
        if len(rest) > LONGEST_LINE:
            whole, end, rest = text, "\n", ""
        self._rest[pipe] = rest
        if end:
            self._emit(whole)

    def finish(self) -> None:
        """Pass on unfinished lines."""
        for rest in self._rest.values():
            if rest:
                self._emit(rest)
        self._rest.clear()

    def _emit(self, text: str) -> None:
        for value in self._hide:
            text = text.replace(value, HIDDEN)
        # A progress bar writes over its line: only what it ended with is worth keeping.
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
        self.last.extend(line for line in lines if line.strip())
        self._output("\n".join(lines) + "\n")


async def run(containers: ContainerStarter, home: Home, command: Command, output: Output) -> None:
    """Run the command to its end. Raises StepError where it fails."""
    directory = home.containers / command.container_id
    lines = Lines(output, command.hide)
    try:
        exit = await _run(containers, directory, command, lines)
    except ContainersError as error:
        raise StepError(f"the build container did not start: {error}") from error
    await asyncio.to_thread(_remove_mount_points, command)
    if exit.code != 0:
        raise StepError(_describe(exit), list(lines.last))


async def _run(containers: ContainerStarter, directory: Path, command: Command, lines: Lines) -> Exit:
    launch = Launch(
        container_id=command.container_id,
        layers=command.layers,
        argv=command.argv,
        env=command.env,
        directory=directory,
        cwd=command.cwd,
        binds=command.binds,
        limits=command.limits,
        network=command.network,
        upper=command.upper,
        user=command.user,
        devices=command.devices,
        hooks=command.hooks,
        outlives_worker=False,
    )
    starting = asyncio.ensure_future(containers.start(launch))
    try:
        running = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # Its mounts must be gone before the caller removes the directories below them.
        await (await starting).close()
        raise
    tell = command.started or (lambda _pid: None)
    tell(running.pid)
    loop = asyncio.get_running_loop()
    pipes = (running.stdout_fd, running.stderr_fd)
    for pipe in pipes:
        os.set_blocking(pipe, False)
        loop.add_reader(pipe, _read, loop, pipe, lines)
    try:
        try:
            exit = await asyncio.wait_for(running.wait(), command.timeout or None)
        except TimeoutError:
            raise StepError(f"it took longer than its timeout of {command.timeout:g} s", list(lines.last)) from None
        for pipe in pipes:
            loop.remove_reader(pipe)
            while _read(loop, pipe, lines):
                pass
        lines.finish()
        return exit
    finally:
        tell(0)
        for pipe in pipes:
            loop.remove_reader(pipe)
        await asyncio.shield(running.close())


def _read(loop: asyncio.AbstractEventLoop, pipe: int, lines: Lines) -> bool:
    try:
        data = os.read(pipe, READ_SIZE)
    except BlockingIOError:
        return False
    if not data:
        loop.remove_reader(pipe)
        return False
    lines.feed(pipe, data)
    return True


def _describe(exit: Exit) -> str:
    if exit.reason == "out-of-memory":
        return f"the command ran out of memory{': ' + exit.detail if exit.detail else ''}"
    if exit.reason == "out-of-disk":
        return "no space is left on the disk: free some and build again"
    if exit.signal:
        return f"the command was ended by signal {exit.signal}"
    if exit.reason == "exited":
        return f"the command ended with exit code {exit.code}"
    return f"{exit.reason}: {exit.detail or exit.code}"


def _remove_mount_points(command: Command) -> None:
    """Take away the empty files and directories that mounts into the container left in the new layer."""
    remove_tree(command.upper / ".intermodal")
    below = View(command.layers)
    for target in [*(bind.target for bind in command.binds), *MOUNT_POINTS]:
        relative = Path(target.lstrip("/"))
        for part in (relative, *relative.parents[:-1]):
            if not _remove_if_meaningless(command.upper, part, below):
                break


def _remove_if_meaningless(upper: Path, relative: Path, below: View) -> bool:
    """Remove an empty file or directory that the layers below lack, or have just as it is. Whether it went."""
    if any((upper / parent).is_symlink() for parent in relative.parents):
        return False  # a link made in the container leads anywhere
    path = upper / relative
    node = below.lookup(str(relative))
    try:
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            if node is not None and (is_opaque(path) or _access(found) != _access(node.found)):
                return False
            path.rmdir()
        elif stat.S_ISREG(found.st_mode) and found.st_size == 0 and node is None:
            path.unlink()
        else:
            return False
    except OSError:
        return False  # not there, or something is in it
    return True


def _access(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mode, found.st_uid, found.st_gid
