"""Mounting inside the mount namespace of a container that runs already, from outside of it.

A thread joins the container's namespace, does one thing there, and ends: nothing of the worker stays in it, and no
process of the container is needed.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from intermodal.worker.containers import kernel

T = TypeVar("T")

MAX_NAMED = 5  # open files that an error names


def inside(pid: int, function: Callable[[], T]) -> T:
    """Run a function in the mount namespace (and below the root) of a container. Blocking. Raises OSError."""
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            kernel.unshare(kernel.CLONE_FS)
            kernel.setns(namespace, kernel.CLONE_NEWNS)
            results.append(function())
        except BaseException as error:
            errors.append(error)

    try:
        thread = threading.Thread(target=run, name="in-container")
        thread.start()
        thread.join()
    finally:
        os.close(namespace)
    if errors:
        raise errors[0]
    return results[0]


def attach(pid: int, mounted: str, target: str) -> None:
    """Mount in a container, at `target`, what is mounted here at `mounted`. Blocking. Raises OSError."""
    tree = kernel.open_tree(mounted)
    try:
        inside(pid, lambda: kernel.move_mount(tree, target))
    finally:
        os.close(tree)


def detach(pid: int, target: str) -> None:
    """Unmount it again. Raises OSError: EBUSY while a file of it is open or a process stands in it. What is not
    mounted is no error."""
    try:
        inside(pid, lambda: kernel.umount(target, kernel.UMOUNT_NOFOLLOW))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def is_mounted(pid: int, target: str) -> bool:
    """Whether something is mounted in a container at exactly this path."""
    wanted = os.fsencode(target)
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        return any(_unescaped(line.split(b" ")[4]) == wanted for line in file)


def _unescaped(path: bytes) -> bytes:
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        path = path.replace(code, bytes([int(code[1:], 8)]))
    return path


def holders(pid: int, target: str) -> list[str]:
    """Which paths at or below `target` processes of the container hold: open files, mapped ones, directories that
    they stand in. As far as can be seen. Blocking."""
    namespace = _namespace_of(pid)
    found: dict[str, None] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and _namespace_of(int(name)) == namespace:
            for path in _held_by(f"/proc/{name}"):
                if path == target or path.startswith(target.rstrip("/") + "/"):
                    found.setdefault(path)
    return list(found)[:MAX_NAMED]


def _namespace_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def _held_by(process: str) -> list[str]:
    paths = []
    try:
        links = [f"{process}/cwd", *(f"{process}/fd/{name}" for name in os.listdir(f"{process}/fd"))]
    except OSError:
        return []
    for link in links:
        try:
            paths.append(os.readlink(link))
        except OSError:
            continue
    try:
        with open(f"{process}/maps", encoding="utf-8", errors="surrogateescape") as file:
            paths += [line.split(maxsplit=5)[5].rstrip("\n") for line in file if line.count("/")]
    except (OSError, IndexError):
        pass
    return [path.removesuffix(" (deleted)") for path in paths]
