"""NVIDIA's driver as a container needs it, found without the container toolkit: nodes, libraries, `nvidia-smi`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from intermodal.worker.devices.edits import Edits, Mount, Node
from intermodal.worker.devices.gpus import Gpu

LIBRARIES = "/usr/local/nvidia/lib64"  # in the container; where NVIDIA's own images look
PROGRAMS = ("nvidia-smi", "nvidia-debugdump", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
CONTROL_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
_WANTED = re.compile(
    r"lib(cuda|cudadebugger|nvcuvid|nvidia-(ml|cfg|ptxjitcompiler|nvvm\d*|gpucomp|opencl|encode|opticalflow|ngx|"
    r"allocator|rtcore|sandboxutils|pkcs11|pkcs11-openssl3))\.so(\.[\d.]+)?"
)
SEARCH = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/lib/wsl/lib")


class Driver:
    """What was found on this machine. `dev` is where its device nodes are."""

    def __init__(self, libraries: dict[str, Path], programs: dict[str, Path], dev: Path = Path("/dev")) -> None:
        self.libraries = libraries  # by the name that programs load: "libcuda.so.1"
        self.programs = programs
        self.dev = dev

    def edits(self, gpus: Iterable[Gpu]) -> Edits:
        """For a container with these devices. Raises FileNotFoundError when a device has no node."""
        made = Edits(env={"LD_LIBRARY_PATH": LIBRARIES})
        for gpu in gpus:
            node = self.dev / f"nvidia{gpu.minor}"
            if not node.exists():
                raise FileNotFoundError(f"{node} is missing, the device node of {gpu.name} ({gpu.id})")
            made.nodes.append(Node(str(node), f"/dev/{node.name}"))
        for name in CONTROL_NODES:
            if (self.dev / name).exists():
                made.nodes.append(Node(str(self.dev / name), f"/dev/{name}"))
        made.mounts = [Mount(str(path), f"{LIBRARIES}/{name}") for name, path in sorted(self.libraries.items())]
        made.mounts += [Mount(str(path), f"/usr/bin/{name}") for name, path in self.programs.items()]
        return made


def find(dev: Path = Path("/dev"), search: Iterable[str] = SEARCH) -> Driver:
    """Blocking."""
    libraries: dict[str, Path] = {}
    for name, path in [*_cached_libraries(), *_libraries_in(search)]:
        if _WANTED.fullmatch(name) and name not in libraries:
            libraries[name] = path.resolve()
    programs = {name: Path(where) for name in PROGRAMS if (where := shutil.which(name))}
    return Driver(libraries, programs, dev)


def _cached_libraries() -> list[tuple[str, Path]]:
    """What the dynamic loader knows: "libcuda.so.1 (libc6,x86-64) => /usr/lib/…/libcuda.so.1"."""
    program = shutil.which("ldconfig") or "/sbin/ldconfig"
    try:
        done = subprocess.run([program, "-p"], capture_output=True, text=True, check=False)
    except OSError:
        return []
    machine = "x86-64" if os.uname().machine == "x86_64" else "AArch64"
    found = []
    for line in done.stdout.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if arrow and machine in name:
            found.append((name.split(" ", 1)[0], Path(path)))
    return found


def _libraries_in(directories: Iterable[str]) -> list[tuple[str, Path]]:
    return [(path.name, path) for directory in directories for path in sorted(Path(directory).glob("lib*.so*"))]
