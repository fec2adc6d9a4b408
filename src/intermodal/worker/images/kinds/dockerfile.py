"""`dockerfile` and `dockerfile_commands`, and the layers that they are made of."""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from intermodal.worker.containers.launch import Bind
from intermodal.worker.images.dockerfile_copy import Copying, Tree, make_directory
from intermodal.worker.images.dockerfile_patterns import mode_change
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.image_python import find_python
from intermodal.worker.images.image_users import account
from intermodal.worker.images.kinds.kind import Fields, Kind, Made, Making
from intermodal.worker.images.workshop import TOOLS, Workshop

if TYPE_CHECKING:
    from intermodal.worker.images.composing import Composing

_DOWNLOAD = """
import os, sys, urllib.request
for url, path in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, open(path, "wb") as file:
            told, have = answer.headers.get("Content-Length"), 0
            while True:
                data = answer.read(1 << 20)
                if not data:
                    break
                have += len(data)
                file.write(data)
            if told and have != int(told):
                raise OSError(f"the answer broke off after {have} of {told} bytes")
    except OSError as error:
        sys.exit(f"{url} could not be fetched: {error}")
"""


class DockerfileImage(Kind):
    name = "dockerfile"
    base = True
    composite = True
    announced = False
    settings_matter = False
    required = {"text": str}
    optional = {"name": str, "mount_ids": list, "add_python": str}

    def title(self, fields: Fields) -> str:
        return f"build {fields.get('name') or 'a Dockerfile'}"

    async def compose(self, composing: Composing) -> None:
        from intermodal.worker.images.dockerfile import execution, take

        name = composing.fields.get("name") or "Dockerfile"
        take(composing, await execution(composing, name).whole())
        if composing.fields.get("add_python"):
            await composing.put("add_python", {"version": composing.fields["add_python"]})
        else:
            await find_python(composing, f"the image of {name}")


class DockerfileCommands(Kind):
    name = "dockerfile_commands"
    composite = True
    announced = False
    required = {"text": str}
    optional = {"mount_ids": list}

    def title(self, fields: Fields) -> str:
        return "carry out Dockerfile commands"

    async def compose(self, composing: Composing) -> None:
        from intermodal.worker.images.dockerfile import execution

        config = composing.config
        path = config.env.get("PATH")
        await execution(composing, "the commands").on(config)
        if config.env.get("PATH") != path:
            await find_python(composing, "the image")


class Empty(Kind):
    """A layer with nothing in it: `FROM scratch`."""

    name = "empty"
    internal = True
    settings_matter = False

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        return None


class Directory(Kind):
    """A directory that an instruction takes for granted."""

    name = "directory"
    internal = True
    settings_matter = False

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        user = account(making.fields["user"], making.layers).user
        path = making.fields["path"]
        await asyncio.to_thread(make_directory, making.upper, making.layers, path, (user.uid, user.gid))
        return None


class DockerfileCopy(Kind):
    """COPY and ADD."""

    name = "dockerfile_copy"
    internal = True
    settings_matter = False

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        fields, supplies = making.fields, making.instruction.supplies
        owner = None
        if fields.get("chown"):
            user = account(fields["chown"], making.layers).user
            owner = (user.uid, user.gid if ":" in fields["chown"] or user.uid else 0)
        mode = None
        if fields.get("chmod"):
            mode = mode_change(fields["chmod"])
        copying = Copying(making.upper, making.layers, owner, mode, making.stage, fields.get("exclude"))
        tree = Tree(supplies["layers"], supplies["root"])
        extract = bool(fields.get("extract"))
        destination, texts = fields["destination"], fields.get("texts") or []
        if fields.get("sources"):
            parents = bool(fields.get("parents"))
            await asyncio.to_thread(copying.copy, tree, fields["sources"], destination, extract, parents)
        for text in texts:
            several = len(texts) > 1 or bool(fields.get("sources"))
            copying.write(text["name"], text["data"].encode(), destination, several)
        if fields.get("urls"):
            await self._download(workshop, making, copying)
        return None

    async def _download(self, workshop: Workshop, making: Making, copying: Copying) -> None:
        """In a container with Debian's Python, so that the download sees the network as containers do."""
        urls, config = making.fields["urls"], making.instruction.supplies["downloader"]
        place = making.stage / "downloads"
        place.mkdir()
        inside = f"{TOOLS}/downloads"
        names = [posixpath.basename(urlsplit(url).path.rstrip("/")) for url in urls]
        if not all(names):
            raise StepError(f"{urls[names.index('')]} has no name of a file: use RUN to fetch it")
        words = [word for url, name in zip(urls, names, strict=True) for word in (url, f"{inside}/{name}")]
        scratch = making.stage / "download-upper"
        scratch.mkdir()
        layers = [workshop.home.layers / layer for layer in config.layers]
        downloading = Making(making.instruction, config, layers, making.stage, {}, making.log)
        bind = Bind(place, inside, read_only=False)
        await workshop.run(downloading, [config.python, "-c", _DOWNLOAD, *words], [bind], upper=scratch)
        wanted = making.fields.get("checksum", "")
        for name in names:
            path = place / name
            path.chmod(0o600)
            if wanted:
                found = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
                if found != wanted:
                    raise StepError(f"{name} has the checksum {found}, not {wanted}")
        unpack = bool(making.fields.get("unpack_urls"))
        await asyncio.to_thread(copying.copy, Tree([place]), names, making.fields["destination"], unpack)


class DockerfileRun(Kind):
    """RUN."""

    name = "dockerfile_run"
    internal = True

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        fields = making.fields
        who = account(fields["user"], making.layers)
        binds = workshop.caches()
        argv = list(fields["argv"])
        if not argv:
            path = making.stage / "script"
            path.write_text(fields["script"])
            path.chmod(0o755)
            argv = [f"{TOOLS}/script"]
            binds.append(Bind(path, argv[0]))
        env = {"HOME": who.home, **fields["arguments"]}
        async with AsyncExitStack() as stack:
            for number, mount in enumerate(making.instruction.supplies.get("mounts") or []):
                if mount["type"] == "cache" and mount.get("sharing") == "locked":
                    await stack.enter_async_context(workshop.alone(f"cache {_cache_name(mount)}"))
                bind = await asyncio.to_thread(_bind, workshop, making, mount, number, env)
                if bind is not None:
                    binds.append(bind)
            network = "none" if fields["network"] == "none" else "bridge"
            await workshop.run(making, argv, binds, env, user=who.user, network=network)
        return None


def _bind(workshop: Workshop, making: Making, mount: Fields, number: int, env: dict[str, str]) -> Bind | None:
    """What a --mount shows. Raises StepError."""
    kind, target = mount["type"], str(mount.get("target", ""))
    place = making.stage / f"mount-{number}"
    if kind == "secret":
        return _secret(making, mount, place, env)
    if kind == "tmpfs":
        place.mkdir()
        place.chmod(0o1777)
        return Bind(place, target, read_only=False)
    if kind == "cache":
        place = workshop.home.cache / "dockerfile" / _cache_name(mount)
        if not place.is_dir():
            place.mkdir(parents=True)
            place.chmod(int(str(mount.get("mode", "0755")), 8))
            if os.geteuid() == 0:
                os.chown(place, int(mount.get("uid", 0)), int(mount.get("gid", 0)))
            if mount.get("layers"):
                Copying(place, [place], None, None, making.stage).copy(
                    Tree(mount["layers"]), [mount.get("source", ".")], "/"
                )
        os.utime(place)  # when it was last used, for whoever prunes
        return Bind(place, target, read_only=_is_on(mount, "readonly"))
    place.mkdir(mode=0o755)
    root = "" if mount.get("from") else "context"
    writable = _is_on(mount, "rw") or _is_on(mount, "readwrite")
    source = str(mount.get("source", "."))
    tree = Tree(mount["layers"], root)
    found = tree.find(source)
    if not found:
        raise StepError(f"RUN --mount: there is no {source!r} to mount")
    is_file = not found[0][1].is_directory
    Copying(place, [place], None, None, making.stage).copy(tree, [source], "/file" if is_file else "/")
    if writable:  # what is written must not reach the files that these are links to
        shutil.copytree(place, f"{place}-own", symlinks=True)
        place = Path(f"{place}-own")
    return Bind(place / "file" if is_file else place, target, read_only=not writable)


def _secret(making: Making, mount: Fields, place: Path, env: dict[str, str]) -> Bind | None:
    name = str(mount.get("id") or posixpath.basename(str(mount.get("target", ""))))
    value = making.secrets.get(name)
    if value is None:
        if _is_on(mount, "required"):
            raise StepError(f"RUN --mount=type=secret: no secret of the step has the variable {name!r}")
        return None
    if mount.get("env"):
        env[str(mount["env"])] = value
        if not mount.get("target"):
            return None
    place.touch(mode=0o600)
    place.write_text(value)
    place.chmod(int(str(mount.get("mode", "0400")), 8))
    if os.geteuid() == 0:
        os.chown(place, int(mount.get("uid", 0)), int(mount.get("gid", 0)))
    return Bind(place, str(mount.get("target") or f"/run/secrets/{name}"))


def _is_on(mount: Fields, name: str) -> bool:
    return name in mount and str(mount[name]).lower() in ("", "true", "1")


def _cache_name(mount: Fields) -> str:
    return hashlib.sha256(str(mount.get("id") or mount["target"]).encode()).hexdigest()[:40]


KINDS = [DockerfileImage(), DockerfileCommands(), Empty(), Directory(), DockerfileCopy(), DockerfileRun()]
