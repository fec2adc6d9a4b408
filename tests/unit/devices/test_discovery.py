"""Which GPUs a machine has, and what a container needs for them. The library, nodes and files are stand-ins."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from intermodal.worker.devices import cdi, driver, gpus, nvml
from intermodal.worker.devices.edits import Mount, Node
from intermodal.worker.devices.inventory import Inventory
from tests.nvml import build

TWO = "NVIDIA A100-SXM4-80GB|81920|0;Tesla T4|15360|3"


@pytest.fixture
def fake_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERMODAL_NVML", str(build(tmp_path)))
    monkeypatch.setenv("FAKE_GPUS", TWO)
    monkeypatch.delenv(gpus.VARIABLE, raising=False)


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    place = tmp_path / "dev"
    place.mkdir()
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (place / name).touch()
    return place


@pytest.mark.parametrize(
    ("name", "memory", "kind"),
    [
        ("NVIDIA A100-SXM4-80GB", 81920, "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", 81920, "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", 40960, "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", 81559, "H100"),
        ("NVIDIA H200", 143771, "H200"),
        ("NVIDIA B200", 180000, "B200"),
        ("NVIDIA L40S", 46068, "L40S"),
        ("NVIDIA L4", 23034, "L4"),
        ("NVIDIA A10G", 23028, "A10G"),
        ("NVIDIA A10", 23028, "A10"),
        ("Tesla T4", 15360, "T4"),
        ("NVIDIA GeForce RTX 4090", 24564, "RTX-4090"),
        ("NVIDIA RTX 6000 Ada Generation", 49140, "RTX-6000-ADA"),
        ("Tesla V100-SXM2-16GB", 16160, "V100"),
    ],
)
def test_names_of_devices_as_programs_know_them(name: str, memory: int, kind: str) -> None:
    assert gpus.kind_of(name, memory) == kind


def test_devices_of_a_stand_in_library(fake_nvml: None) -> None:
    assert nvml.devices() == [
        nvml.Device(0, "GPU-fake-0", "NVIDIA A100-SXM4-80GB", 81920, 0),
        nvml.Device(1, "GPU-fake-1", "Tesla T4", 15360, 3),
    ]
    found, problem = gpus.find()
    assert [gpu.kind for gpu in found] == ["A100-80GB", "T4"]
    assert problem == ""


def test_a_stand_in_library_that_does_not_work(fake_nvml: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML_ERROR", "1")
    assert gpus.find() == ([], "GPUs cannot be used: NVML: Driver Not Loaded")


def test_without_a_library_there_are_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERMODAL_NVML", "/nowhere/libnvidia-ml.so.1")
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    assert gpus.find() == ([], "")


def test_simulated_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VARIABLE, "a100-80gb:2, T4")
    found, problem = gpus.find()
    assert [(gpu.id, gpu.kind, gpu.simulated) for gpu in found] == [
        ("SIM-0", "A100-80GB", True),
        ("SIM-1", "A100-80GB", True),
        ("SIM-2", "T4", True),
    ]
    assert "containers that ask for one get no device" in problem


def test_every_documented_kind_can_be_simulated() -> None:
    assert {gpu.kind for gpu in gpus.simulated("all")} >= {"T4", "L4", "A10G", "A100-40GB", "A100-80GB", "L40S", "H100"}


@pytest.mark.parametrize("text", ["T4:x", "T4:", "T 4:", "/dev/nvidia0", "A100:100"])
def test_simulated_devices_that_are_none(text: str) -> None:
    with pytest.raises(gpus.GpusError, match="INTERMODAL_SIMULATED_GPUS="):
        gpus.simulated(text)


def test_a_simulated_device_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VARIABLE, "T4")
    inventory = Inventory()
    inventory.open()
    made = inventory.edits(["SIM-0"])
    assert (made.nodes, made.mounts, made.env) == ([], [], {"NVIDIA_VISIBLE_DEVICES": "void"})


def test_the_driver_is_found_without_a_toolkit(fake_nvml: None, dev: Path, tmp_path: Path) -> None:
    libraries = tmp_path / "lib"
    libraries.mkdir()
    (libraries / "libcuda.so.570.86.15").touch()
    (libraries / "libcuda.so.1").symlink_to("libcuda.so.570.86.15")
    (libraries / "libcudart.so.12").touch()  # of the toolkit: an image's own business
    found = driver.find(dev, [str(libraries)])
    assert found.libraries["libcuda.so.1"] == libraries / "libcuda.so.570.86.15"
    assert "libcudart.so.12" not in found.libraries
    (made,) = [found.edits([gpu]) for gpu in gpus.find()[0] if gpu.kind == "T4"]
    assert made.nodes == [
        Node(str(dev / "nvidia3"), "/dev/nvidia3"),
        Node(str(dev / "nvidiactl"), "/dev/nvidiactl"),
        Node(str(dev / "nvidia-uvm"), "/dev/nvidia-uvm"),
    ]
    assert Mount(str(libraries / "libcuda.so.570.86.15"), "/usr/local/nvidia/lib64/libcuda.so.1") in made.mounts
    assert made.env["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"


def test_a_device_whose_node_has_gone(fake_nvml: None, dev: Path) -> None:
    inventory = Inventory(dev, ())
    inventory.open()
    (dev / "nvidia3").unlink()
    with pytest.raises(FileNotFoundError, match=r"nvidia3 is missing, the device node of Tesla T4 \(GPU-fake-1\)"):
        inventory.edits(["GPU-fake-1"])


SPECIFICATION = {
    "cdiVersion": "0.5.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}},
        {"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia3", "hostPath": "/dev/other3"}]}},
        {"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}, {"path": "/dev/nvidia3"}]}},
    ],
    "containerEdits": {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": "/dev/nvidiactl"}],
        "mounts": [
            {"hostPath": "/usr/bin/nvidia-smi", "containerPath": "/usr/bin/nvidia-smi", "options": ["ro", "bind"]}
        ],
        "hooks": [
            {"hookName": "createContainer", "path": "/bin/true", "args": ["true", "update-ldcache"]},
            {"hookName": "createContainer", "path": "/nowhere/hook", "args": ["hook"]},
        ],
    },
}


def test_a_cdi_specification(fake_nvml: None, dev: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cdi"
    folder.mkdir()
    (folder / "other.json").write_text(json.dumps({"kind": "vendor.com/thing", "devices": []}))
    (folder / "broken.json").write_text("{")
    (folder / "broken.yaml").write_text("a: [")
    (folder / "nvidia.yaml").write_text(yaml.safe_dump(SPECIFICATION))
    inventory = Inventory(dev, (tmp_path / "nothing", folder))
    inventory.open()
    assert inventory.source == f"CDI ({folder / 'nvidia.yaml'})"
    made = inventory.edits(["GPU-fake-1", "GPU-fake-0"])
    assert made.nodes == [
        Node("/dev/nvidiactl", "/dev/nvidiactl"),
        Node("/dev/other3", "/dev/nvidia3"),
        Node("/dev/nvidia0", "/dev/nvidia0"),
    ]
    assert made.mounts == [Mount("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi")]
    assert made.hooks == {"createContainer": [{"path": "/bin/true", "args": ["true", "update-ldcache"]}]}
    assert made.env["NVIDIA_VISIBLE_DEVICES"] == "GPU-fake-1,GPU-fake-0"
    assert made.env["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_a_specification_that_lacks_a_device_is_not_used(fake_nvml: None, dev: Path, tmp_path: Path) -> None:
    (tmp_path / "nvidia.json").write_text(json.dumps({**SPECIFICATION, "devices": SPECIFICATION["devices"][:1]}))
    inventory = Inventory(dev, (tmp_path,))
    inventory.open()
    assert "libraries of the driver" in inventory.source


def test_the_toolkit_is_asked_where_no_file_is(
    fake_nvml: None, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-ctk"
    tool.write_text(
        f"#!/bin/sh\ntest \"$*\" = 'cdi generate --format=json' && cat <<E\n{json.dumps(SPECIFICATION)}\nE\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = cdi.find(())
    assert found is not None
    assert found.where == "nvidia-ctk"
    assert found.knows("1")
    tool.write_text("#!/bin/sh\nexit 3\n")
    assert cdi.find(()) is None
