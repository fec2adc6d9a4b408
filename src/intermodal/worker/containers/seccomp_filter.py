"""The profile of `seccomp`, compiled once by libseccomp itself. `crun` would compile it anew at each start, in 3 ms."""

from __future__ import annotations

import base64
import ctypes
import functools
import logging
import os
from typing import Any

from intermodal.worker.containers import seccomp

log = logging.getLogger(__name__)

ANNOTATION = "run.oci.seccomp_bpf_data"
ACT_ALLOW = 0x7FFF0000
ACT_ERRNO = 0x00050000
OPERATORS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
CTL_OPTIMIZE = 8
BINARY_TREE = 2
UNKNOWN_SYSCALL = -1


class _Condition(ctypes.Structure):
    _fields_ = (
        ("index", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class LibraryMissing(Exception):
    """libseccomp cannot be used here; the runtime then compiles the profile."""


@functools.cache
def compiled() -> str:
    """The filter program in base64, as crun's annotation takes it; "" where this machine cannot make one."""
    profile = seccomp.profile()
    if profile is None:
        return ""
    try:
        return base64.b64encode(_compile(profile)).decode()
    except LibraryMissing as reason:
        log.info("the runtime compiles the seccomp profile itself: %s", reason)
        return ""


def _compile(profile: dict[str, Any]) -> bytes:
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError as error:
        raise LibraryMissing(str(error)) from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Condition),
    )
    context = library.seccomp_init(ACT_ERRNO | profile["defaultErrnoRet"])
    if not context:
        raise LibraryMissing("seccomp_init failed")
    try:
        library.seccomp_attr_set(context, CTL_OPTIMIZE, BINARY_TREE)  # older libraries lack it: a slower filter
        for rule in profile["syscalls"]:
            _add(library, context, rule)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _add(library: Any, context: int, rule: dict[str, Any]) -> None:
    action = ACT_ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else ACT_ERRNO | rule["errnoRet"]
    conditions = rule.get("args", [])
    array = (_Condition * max(1, len(conditions)))()
    for place, condition in enumerate(conditions):
        operator = OPERATORS[condition["op"].removeprefix("SCMP_CMP_")]
        array[place] = _Condition(condition["index"], operator, condition["value"], condition.get("valueTwo", 0))
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == UNKNOWN_SYSCALL:
            continue  # not on this architecture, or newer than the library: it gets the default, ENOSYS
        failed = library.seccomp_rule_add_array(context, action, number, len(conditions), array)
        if failed:
            raise LibraryMissing(f"rule for {name}: {os.strerror(-failed)}")


def _export(library: Any, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        failed = library.seccomp_export_bpf(context, fd)
        if failed:
            raise LibraryMissing(f"export: {os.strerror(-failed)}")
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)
