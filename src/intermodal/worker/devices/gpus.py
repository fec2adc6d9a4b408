"""The GPUs that this worker offers: those that NVML finds, or those that the operator lets it pretend."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from intermodal.worker.devices import nvml

VARIABLE = "INTERMODAL_SIMULATED_GPUS"
MOST = 64  # simulated devices
ALL = "T4:8 L4:8 A10G:8 A100-40GB:8 A100-80GB:8 L40S:8 H100:8 H200:8"  # what "all" stands for: one machine of each kind

# As Modal names them. Several sizes of one model differ by what its name says, or by its memory.
_MODELS = ("B200", "H200", "H100", "L40S", "L40", "A100", "A10G", "A10", "L4", "T4")
_NOISE = {"NVIDIA", "TESLA", "GEFORCE", "QUADRO", "GRAPHICS", "DEVICE", "GENERATION", "PCIE", "SXM"}


class GpusError(Exception):
    """What the operator configured is none; the text says why."""


@dataclass(frozen=True)
class Gpu:
    """One device. `kind` is what programs ask for: "A100-80GB". A simulated one is a name and nothing else."""

    id: str
    kind: str
    name: str
    memory: int = 0  # MiB
    index: int = 0
    minor: int = 0
    simulated: bool = False

    def describe(self) -> dict[str, object]:
        """As the server keeps it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "memory": self.memory,
            "simulated": self.simulated,
        }


def find() -> tuple[list[Gpu], str]:
    """The devices, and what is wrong with them ("" for nothing). Blocking. Raises GpusError."""
    text = os.environ.get(VARIABLE, "")
    if text.strip():
        return simulated(text), f"GPUs are simulated ({VARIABLE}={text}): containers that ask for one get no device"
    try:
        found = nvml.devices()
    except (nvml.NvmlError, AttributeError) as error:
        return [], f"GPUs cannot be used: {error}"
    return [
        Gpu(one.uuid, kind_of(one.name, one.memory), one.name, one.memory, one.index, one.minor) for one in found
    ], ""


def simulated(text: str) -> list[Gpu]:
    """ "A100-80GB:2,T4", or "all", as devices. Raises GpusError."""
    found: list[Gpu] = []
    if text.strip().lower() == "all":
        text = ALL
    for word in text.replace(",", " ").split():
        kind, colon, count = word.upper().partition(":")
        if not re.fullmatch(r"[A-Z0-9]+(-[A-Z0-9]+)*", kind) or (colon and not (count.isascii() and count.isdigit())):
            raise GpusError(f'{VARIABLE}={text!r}: {word!r} is no GPU; write for instance "A100-80GB:2,T4"')
        for _ in range(int(count) if colon else 1):
            if len(found) == MOST:
                raise GpusError(f"{VARIABLE}={text!r}: more than {MOST} devices")
            kind = "A100-40GB" if kind == "A100" else kind
            found.append(Gpu(f"SIM-{len(found)}", kind, f"simulated {kind}", index=len(found), simulated=True))
    return found


def kind_of(name: str, memory: int) -> str:
    """What programs call a device of this name: "NVIDIA A100-SXM4-80GB" is an "A100-80GB"."""
    words = [word for word in re.split(r"[^A-Z0-9]+", name.upper()) if word]
    for model in _MODELS:
        if model in words:
            if model == "A100":
                return "A100-80GB" if "80GB" in words or memory > 60_000 else "A100-40GB"
            return model
    kept = [word for word in words if word not in _NOISE and not re.fullmatch(r"SXM\d*|\d+GB", word)]
    return "-".join(kept) or "GPU"
