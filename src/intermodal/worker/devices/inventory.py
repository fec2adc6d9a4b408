"""All devices of this worker, and what each container with some of them gets."""

from __future__ import annotations

import logging
from pathlib import Path

from intermodal.worker.devices import cdi, driver, gpus
from intermodal.worker.devices.edits import Edits
from intermodal.worker.devices.gpus import Gpu

log = logging.getLogger(__name__)

NO_DEVICE = {"NVIDIA_VISIBLE_DEVICES": "void"}  # keeps NVIDIA's own runtimes, where one is used, from giving any


class Inventory:
    """`open()`, then `edits(ids)` for each container."""

    def __init__(self, dev: Path = Path("/dev"), cdi_directories: tuple[Path, ...] = cdi.DIRECTORIES) -> None:
        self.gpus: list[Gpu] = []
        self.problem = ""  # what does not hold here, for the operator
        self.source = ""  # where the driver's files come from, for the operator
        self._dev = dev
        self._cdi_directories = cdi_directories
        self._specification: cdi.Specification | None = None
        self._driver: driver.Driver | None = None

    def open(self) -> None:
        """Blocking: look what there is."""
        try:
            self.gpus, self.problem = gpus.find()
        except gpus.GpusError as error:
            self.problem = str(error)
        if self.problem:
            log.warning("%s", self.problem)
        if not any(not gpu.simulated for gpu in self.gpus):
            return
        found = cdi.find(self._cdi_directories)
        if found is not None and all(self._name(found, gpu) for gpu in self.gpus):
            self._specification, self.source = found, f"CDI ({found.where})"
        else:
            self._driver = driver.find(self._dev)
            self.source = f"{len(self._driver.libraries)} libraries of the driver"
        log.info("%d GPUs (%s), by %s", len(self.gpus), ", ".join(gpu.kind for gpu in self.gpus), self.source)

    @staticmethod
    def _name(specification: cdi.Specification, gpu: Gpu) -> str:
        """How the specification calls the device."""
        return next((name for name in (gpu.id, str(gpu.index)) if specification.knows(name)), "")

    def edits(self, ids: list[str]) -> Edits:
        """What a container with these devices gets; with none, it sees none.

        It sees its own devices alone, numbered from 0. Raises KeyError for a device that is not here, and
        FileNotFoundError for one that has gone.
        """
        by_id = {gpu.id: gpu for gpu in self.gpus}
        chosen = [by_id[one] for one in ids]
        real = [gpu for gpu in chosen if not gpu.simulated]
        if not real:
            return Edits(env=dict(NO_DEVICE))
        if self._specification is not None:
            made = self._specification.edits([self._name(self._specification, gpu) for gpu in real])
            assert made is not None
        else:
            assert self._driver is not None
            made = self._driver.edits(real)
        made.env["NVIDIA_VISIBLE_DEVICES"] = ",".join(gpu.id for gpu in real)
        made.env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(len(real))))
        return made
