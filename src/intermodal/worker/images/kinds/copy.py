"""`copy`: a set of local files becomes a part of the image."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from pathlib import Path

from intermodal.worker.images.failures import StepError
from intermodal.worker.images.kinds.kind import Fields, Instruction, Kind, Made, Making
from intermodal.worker.images.view import View
from intermodal.worker.images.workshop import Workshop


class Copy(Kind):
    name = "copy"
    settings_matter = False
    required = {"mount_id": str}

    def title(self, fields: Fields) -> str:
        return "COPY . /"

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        mount = workshop.mounts.path(making.fields["mount_id"])
        await asyncio.to_thread(copy_tree, mount, making)
        return None


def copy_tree(mount: Path, making: Making) -> None:
    """Put a set of files into the image, where its links lead, with its directories' own modes."""
    if not mount.is_dir():
        raise StepError(f"the files {mount.name} are not on this worker: run the program again to upload them")
    view = View(making.layers)
    for place, directories, files in os.walk(mount):
        relative = os.path.relpath(place, mount)
        links = [name for name in directories if os.path.islink(os.path.join(place, name))]
        target = view.resolve("" if relative == "." else relative)
        make_directories(making.upper, target, view)
        for name in [*files, *links]:
            os.link(os.path.join(place, name), making.upper / target / name, follow_symlinks=False)


def make_directories(upper: Path, relative: str, view: View) -> None:
    """Make a directory of a layer; where the image has it already, with the image's mode and owner."""
    done = ""
    for name in [part for part in relative.split("/") if part]:
        done = f"{done}/{name}" if done else name
        path = upper / done
        if path.is_dir():
            continue
        path.mkdir()
        path.chmod(0o755)
        node = view.lookup(done)
        if node is not None and node.is_directory:
            path.chmod(stat.S_IMODE(node.found.st_mode))
            if os.geteuid() == 0:
                shutil.chown(path, node.found.st_uid, node.found.st_gid)


class CopyParts(Kind):
    """A large set of files, whose parts are a layer each: only those that have changed are made again."""

    name = "copy_parts"
    settings_matter = False
    side_by_side = True
    required = {"mount_ids": list}

    def title(self, fields: Fields) -> str:
        return "COPY . /"

    def parts(self, instruction: Instruction) -> list[Instruction]:
        return [instruction.instead("copy", {"mount_id": one}) for one in instruction.fields["mount_ids"]]


KINDS = [Copy(), CopyParts()]
