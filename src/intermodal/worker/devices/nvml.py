"""NVIDIA's management library (`libnvidia-ml.so.1`), as much of it as says which devices there are."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LIBRARY = "libnvidia-ml.so.1"
SUCCESS = 0
TEXT = 96  # bytes of the longest name


class NvmlError(Exception):
    """The library is there and does not work; the text is its own."""


@dataclass(frozen=True)
class Device:
    """One GPU as the driver describes it."""

    index: int
    uuid: str
    name: str  # "NVIDIA A100-SXM4-80GB"
    memory: int  # MiB
    minor: int  # of /dev/nvidia<minor>


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def library() -> ctypes.CDLL | None:
    """None where there is no driver. `INTERMODAL_NVML` names another file."""
    try:
        return ctypes.CDLL(os.environ.get("INTERMODAL_NVML") or LIBRARY)
    except OSError:
        return None


def devices() -> list[Device]:
    """All GPUs; [] where there is no driver. Blocking: the first call may take a second. Raises NvmlError."""
    found = library()
    if found is None:
        return []
    with _session(found):
        count = ctypes.c_uint()
        _check(found, found.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        return [_device(found, index) for index in range(count.value)]


@contextmanager
def _session(found: ctypes.CDLL) -> Iterator[None]:
    _check(found, found.nvmlInit_v2())
    try:
        yield
    finally:
        found.nvmlShutdown()


def _device(found: ctypes.CDLL, index: int) -> Device:
    handle = ctypes.c_void_p()
    _check(found, found.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)))
    name, uuid = ctypes.create_string_buffer(TEXT), ctypes.create_string_buffer(TEXT)
    memory, minor = _Memory(), ctypes.c_uint()
    _check(found, found.nvmlDeviceGetName(handle, name, TEXT))
    _check(found, found.nvmlDeviceGetUUID(handle, uuid, TEXT))
    _check(found, found.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)))
    _check(found, found.nvmlDeviceGetMinorNumber(handle, ctypes.byref(minor)))
    return Device(index, uuid.value.decode(), name.value.decode(), memory.total >> 20, minor.value)


def _check(found: ctypes.CDLL, result: int) -> None:
    if result == SUCCESS:
        return
    found.nvmlErrorString.restype = ctypes.c_char_p
    text = found.nvmlErrorString(result)
    raise NvmlError(f"NVML: {text.decode() if text else f'error {result}'}")
