"""GPU requests: strings such as "H100", "A100-80GB:4" or "any".

The classes here are the older way to write them and warn when they are used.
"""

from __future__ import annotations

from typing import Any as _AnyType
from typing import Optional, Union

from modal.exception import InvalidError

MAX_COUNT = 8
_MAX_COUNT_OF = {"A10G": 4, "A10": 4}
_KNOWN = ("T4", "L4", "A10G", "A10", "A100", "A100-40GB", "A100-80GB", "L40S", "H100", "H200", "B200", "ANY")


class _GPUConfig:
    """A GPU type and how many of it a container gets."""

    gpu_type: str
    count: int

    def __init__(self, gpu_type: str, count: int) -> None:
        from modal._deprecation import warn_definition

        shown = gpu_type.lower() if gpu_type == "ANY" else gpu_type
        text = shown if count == 1 else f"{shown}:{count}"
        warn_definition(f'modal.gpu.{type(self).__name__}(...) is deprecated. Use gpu="{text}" instead.')
        self.gpu_type = gpu_type
        self.count = _check_count(gpu_type, count)

    def __repr__(self) -> str:
        return f"modal.gpu.{type(self).__name__}(count={self.count})"


class T4(_GPUConfig):
    """NVIDIA T4 Tensor Core GPU class: 16 GB."""

    def __init__(self, count: int = 1) -> None:
        super().__init__("T4", count)


class L4(_GPUConfig):
    """NVIDIA L4 Tensor Core GPU class: 24 GB."""

    def __init__(self, count: int = 1) -> None:
        super().__init__("L4", count)


class A100(_GPUConfig):
    """NVIDIA A100 Tensor Core GPU class: 40 GB or 80 GB."""

    def __init__(self, *, count: int = 1, size: Union[str, None] = None) -> None:
        if size not in (None, "40GB", "80GB"):
            raise InvalidError(f'modal.gpu.A100: size must be "40GB" or "80GB", not {size!r}.')
        super().__init__("A100-80GB" if size == "80GB" else "A100-40GB", count)


class A10G(_GPUConfig):
    """NVIDIA A10G Tensor Core GPU class: 24 GB."""

    def __init__(self, *, count: int = 1) -> None:
        super().__init__("A10G", count)


class H100(_GPUConfig):
    """NVIDIA H100 Tensor Core GPU class: 80 GB."""

    def __init__(self, *, count: int = 1) -> None:
        super().__init__("H100", count)


class L40S(_GPUConfig):
    """NVIDIA L40S GPU class: 48 GB."""

    def __init__(self, *, count: int = 1) -> None:
        super().__init__("L40S", count)


class Any(_GPUConfig):
    """Any one of the GPU classes available."""

    def __init__(self, *, count: int = 1) -> None:
        super().__init__("ANY", count)


GPU_T = Union[None, str, _GPUConfig]


def _check_count(gpu_type: str, count: _AnyType) -> int:
    most = _MAX_COUNT_OF.get(gpu_type, MAX_COUNT)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise InvalidError(f"gpu: a container can have 1 to {most} GPUs of type {gpu_type}, not {count!r}.")
    return count


def parse_gpu_config(value: GPU_T) -> str:
    """The request in its one written form: "A100-40GB:4"; "" for none. Raises InvalidError."""
    if value is None:
        return ""
    if isinstance(value, _GPUConfig):
        return value.gpu_type if value.count == 1 else f"{value.gpu_type}:{value.count}"
    if not isinstance(value, str):
        raise InvalidError(f'gpu must be a string such as "A100:2", not {type(value).__name__}.')
    kind, colon, number = value.strip().partition(":")
    gpu_type = kind.upper()
    if not gpu_type:
        raise InvalidError(f'gpu: {value!r} names no GPU type. Use for instance "T4", "A100-80GB:2" or "any".')
    if gpu_type not in _KNOWN:
        # operators name what their machines have, so an unknown type is left to the server to judge
        if not all(part.isalnum() for part in gpu_type.split("-")):
            raise InvalidError(f"gpu: {value!r} is no GPU type. Known types: {', '.join(_KNOWN)}.")
    if colon and not (number.isascii() and number.isdigit()):
        raise InvalidError(f'gpu: {number!r} in {value!r} is no number of GPUs. Use for instance "{kind}:2".')
    count = _check_count(gpu_type, int(number)) if colon else 1
    if gpu_type == "A100":
        gpu_type = "A100-40GB"
    return gpu_type if count == 1 else f"{gpu_type}:{count}"


def parse_gpus(value: Optional[Union[str, _GPUConfig, list[GPU_T]]]) -> list[str]:
    """One request or a list in order of preference, as the server keeps it."""
    many = value if isinstance(value, (list, tuple)) else [value]
    if not many:
        raise InvalidError("gpu: the list is empty. Name types in order of preference, or leave gpu= out.")
    return [text for text in (parse_gpu_config(one) for one in many) if text]
