"""Kernel calls that Python 3.11 does not have, by way of libc. They release the interpreter lock and raise OSError."""

from __future__ import annotations

import ctypes
import os

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_NOATIME = 0x400
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SLAVE = 0x80000

MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

_SYS_OPEN_TREE = 428  # on every architecture: these came after the numbers were unified
_SYS_MOVE_MOUNT = 429
_OPEN_TREE_CLONE = 0x1
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_AT_FDCWD = -100

IN_CLOSE_WRITE = 0x8
IN_MOVED_TO = 0x80

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.inotify_init1.argtypes = (ctypes.c_int,)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)


def _raise(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    data = os.fsencode(options) if options else None
    if _libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(kind), flags, data) != 0:
        _raise(f"mount {kind or source} on {target}")


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if _libc.umount2(os.fsencode(target), flags) != 0:
        _raise(f"umount {target}")


def open_tree(path: str) -> int:
    """open_tree(2): a descriptor of a copy of the mount at `path`, attached nowhere yet (Linux 5.2)."""
    fd: int = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    if fd < 0:
        _raise(f"open_tree {path}")
    return fd


def move_mount(tree: int, target: str) -> None:
    """move_mount(2): attach what `open_tree` gave."""
    if _libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH) != 0:
        _raise(f"move_mount to {target}")


def unshare(flags: int) -> None:
    """unshare(2): the calling thread alone gets the new namespaces."""
    if _libc.unshare(flags) != 0:
        _raise("unshare")


def setns(fd: int, kind: int = 0) -> None:
    """setns(2): the calling thread joins the namespace behind `fd`."""
    if _libc.setns(fd, kind) != 0:
        _raise("setns")


def inotify_init() -> int:
    """A non-blocking inotify descriptor."""
    fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        _raise("inotify_init1")
    return fd


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch `path`; returns the watch's number."""
    watch: int = _libc.inotify_add_watch(fd, os.fsencode(path), mask)
    if watch < 0:
        _raise(f"inotify_add_watch {path}")
    return watch


def inotify_rm_watch(fd: int, watch: int) -> None:
    """Stop watching. A watch whose directory is gone is already removed, which is no error."""
    _libc.inotify_rm_watch(fd, watch)
