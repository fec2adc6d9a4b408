"""From descriptions to things on the server: local files go up, images are built.

Everything here takes all that an app needs at once: one question tells which files the server lacks,
and images that do not depend on each other build at the same time.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Coroutine, Iterable, Optional, Sequence, TypeVar

from modal import _events
from modal._hashing import hashes
from modal._mounts import FileSet, Found, Stamp, container_mode, stamp_of
from modal._object import environment_of
from modal._protocol.messages.file import (
    FileEntry,
    FilePut,
    FilesMissing,
    FilesPut,
    MountKnown,
    MountPut,
    MountsMissing,
    mount_id_of,
)
from modal._protocol.messages.image import BuildLog, ImageBuild, ImageBuilt
from modal._protocol.messages.wire import Done
from modal._sync import blocking, call_blocking, gather, run
from modal._upload import upload
from modal.config import config
from modal.exception import ExecutionError, InvalidError

if TYPE_CHECKING:
    from modal._client import Client
    from modal._image import Image

T = TypeVar("T")
QUESTION_HASHES = 4000  # hashes in one FilesMissing
PUT_BYTES = 2 << 20  # bytes in one FilesPut
PUT_FILES = 2000  # files in one FilesPut
LARGE = 1 << 20  # bytes; larger files go up in chunks
MANY_FILES = 500  # from so many on, the server is asked first which parts of the sets it knows
PART_LEAST = 500  # files in a part of a large set, which on average has twice as many
MOUNT_HEADER = 700_000  # bytes of one MountPut's header; a larger set becomes several mounts


class LocalFiles:
    """The local files of one app: found, hashed, sent up, and checked for changes before the app starts."""

    def __init__(self) -> None:
        self.mount_ids: dict[Any, list[str]] = {}  # by the file set's key
        self._stamps: dict[str, Stamp] = {}

    async def send(self, client: Client, sets: Iterable[FileSet]) -> None:
        """Make every set known to the server; `mount_ids` then has them."""
        wanted = {files.key: files for files in sets if files.key not in self.mount_ids}
        if not wanted:
            return
        sink = _events.sink()
        for files in wanted.values():
            sink.object_creating(f"mount:{files.key}", f"Creating mount {files.description}")
        entries: dict[Any, list[FileEntry]] = {}
        paths: dict[str, str] = {}  # hash -> local path
        for key, files in wanted.items():
            entries[key] = await call_blocking(self._describe, files, paths)
        await call_blocking(hashes.save)
        parts = {key: [_Part(some) for some in _portions(entries[key])] for key in wanted}
        await self._find_known(client, [part for many in parts.values() for part in many])
        unknown = [part for many in parts.values() for part in many if not part.mount_id]
        needed = {entry.hash for part in unknown for entry in part.entries if entry.hash}
        await self._send_missing(client, {digest: path for digest, path in paths.items() if digest in needed})
        for part in unknown:
            part.mount_id = (await client.request(MountPut(part.entries), MountKnown)).mount_id
        for key, files in wanted.items():
            ids = self.mount_ids[key] = [part.mount_id for part in parts[key]]
            text = f"Created mount {files.description}"
            sink.object_created(f"mount:{key}", text, ids[0] if ids else "")

    def _describe(self, files: FileSet, paths: dict[str, str]) -> list[FileEntry]:
        found: dict[str, Found] = {one.remote: one for one in files.find()}
        entries = []
        for remote in sorted(found):
            one = found[remote]
            if one.link:
                entries.append(FileEntry(remote, "", 0, 0o777, one.link))
                continue
            if one.directory:
                entries.append(FileEntry(remote, "", 0, 0o755))
                continue
            try:
                digest, stamp = hashes.get(one.local, len(found))
            except OSError as error:
                raise InvalidError(f"{one.local} cannot be read: {error.strerror or error}.") from None
            self._stamps[one.local] = stamp
            paths.setdefault(digest, one.local)
            entries.append(FileEntry(remote, digest, stamp.size, container_mode(stamp.mode)))
        return entries

    async def _find_known(self, client: Client, parts: list[_Part]) -> None:
        """Tell which of many files need not be asked about: most of a large tree is as it was last time."""
        if sum(len(part.entries) for part in parts) < MANY_FILES:
            return
        ids = await call_blocking(lambda: [_mount_id(part.entries) for part in parts])
        missing = set((await client.request(MountsMissing(ids), MountsMissing)).mount_ids)
        for part, mount_id in zip(parts, ids):
            part.mount_id = "" if mount_id in missing else mount_id

    async def _send_missing(self, client: Client, paths: dict[str, str]) -> None:
        digests = list(paths)
        missing: list[str] = []
        for at in range(0, len(digests), QUESTION_HASHES):
            question = FilesMissing(digests[at : at + QUESTION_HASHES])
            missing.extend((await client.request(question, FilesMissing)).hashes)
        small: list[tuple[str, bytes]] = []
        size = 0
        for digest in missing:
            path = paths[digest]
            if self._stamps[path].size > LARGE:
                await _send_large(client, digest, path, self._stamps[path].size)
                continue
            small.append((digest, await call_blocking(_content, path)))
            size += len(small[-1][1])
            if size >= PUT_BYTES or len(small) >= PUT_FILES:
                await _send_small(client, small)
                small, size = [], 0
        if small:
            await _send_small(client, small)

    def check_unchanged(self) -> None:
        """Whether all files are still as they were sent; `build_validation` says what happens when one is not."""
        validation = config.get("build_validation")
        if validation == "ignore":
            return
        changed = [path for path, stamp in self._stamps.items() if stamp_of(path) != stamp]
        if not changed:
            return
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        text = f"{changed[0]}{more} was modified during build process."
        if validation == "warning":
            from modal._deprecation import warn_user

            warn_user(text)
            return
        raise ExecutionError(f"{text} Run it again, or set MODAL_BUILD_VALIDATION=warning to go on all the same.")


class _Part:
    """Some files of a set, which have an id of their own."""

    def __init__(self, entries: list[FileEntry]) -> None:
        self.entries = entries
        self.mount_id = ""  # "" = the server must be told of it


def _mount_id(entries: list[FileEntry]) -> str:
    try:
        return mount_id_of(entries)
    except UnicodeEncodeError:
        bad = next(one.path for one in entries if not _is_text(one.path) or not _is_text(one.link))
        raise InvalidError(
            f"{bad!r} is no text in UTF-8, which names of files in images must be: rename it, or leave it out "
            "with `ignore=`."
        ) from None


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _portions(entries: Sequence[FileEntry]) -> list[list[FileEntry]]:
    """Parts of a file set that each fit into one message.

    A large set falls into parts of about a thousand files. Where they end is decided by the paths there alone,
    so that a file that comes, goes or changes leaves all parts but its own what they were.
    """
    import zlib

    parts: list[list[FileEntry]] = [[]]
    size = 0
    for entry in entries:
        cost = 6 * len(entry.path) + 6 * len(entry.link) + 120  # bytes, at worst: \u escapes
        ends = len(parts[-1]) >= PART_LEAST and zlib.crc32(entry.path.encode("utf-8", "replace")) % PART_LEAST == 0
        if parts[-1] and (ends or size + cost > MOUNT_HEADER):
            parts.append([])
            size = 0
        parts[-1].append(entry)
        size += cost
    return parts


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InvalidError(f"{path} cannot be read: {error.strerror or error}.") from None


async def _send_small(client: Client, files: Sequence[tuple[str, bytes]]) -> None:
    await client.request(FilesPut([digest for digest, _ in files], [content for _, content in files]), Done)


async def _send_large(client: Client, digest: str, path: str, size: int) -> None:
    sink, key = _events.sink(), f"file:{digest}"
    sink.object_creating(key, f"Uploading {path} ({size / (1 << 20):.1f} MiB)")
    await upload(client, FilePut(digest, size), path, Done)
    sink.object_created(key, f"Uploaded {path}")


# -- images ---------------------------------------------------------------------------------------


def recipe_of(image: Image, secret_ids: dict[int, str], mount_ids: dict[Any, list[str]]) -> list[dict[str, Any]]:
    """The steps as the server wants them. Raises InvalidError, NotImplementedYetError."""
    existing = image._existing()
    recipe: list[dict[str, Any]] = [{"kind": "image", "image_id": existing}] if existing else []
    for step in image._steps():
        recipe.extend(step.render(secret_ids, mount_ids))
    return recipe


async def build_images(
    client: Client,
    images: Sequence[Image],
    secret_ids: dict[int, str],
    mount_ids: dict[Any, list[str]],
    app_id: str,
    environment: str,
) -> dict[int, ImageBuilt]:
    """Build what is not built yet, several at a time; by `id()` of the image object. Raises RemoteError."""
    recipes: dict[str, list[dict[str, Any]]] = {}
    key_of: dict[int, str] = {}
    names: dict[str, str] = {}
    for image in images:
        for step in image._steps():
            await step.prepare(client)
        recipe = recipe_of(image, secret_ids, mount_ids)
        key = json.dumps(recipe, sort_keys=True)
        key_of[id(image)] = key
        recipes[key] = recipe
        names.setdefault(key, repr(image))
    keys = list(recipes)
    built = await _together([_build(client, key, names[key], recipes[key], app_id, environment) for key in keys])
    by_key = dict(zip(keys, built))
    for image in images:
        image._object_id = by_key[key_of[id(image)]].image_id
        image._client = client
    return {number: by_key[key] for number, key in key_of.items()}


async def _build(
    client: Client, key: str, description: str, recipe: list[dict[str, Any]], app_id: str, environment: str
) -> ImageBuilt:
    sink = _events.sink()
    started = time.monotonic()
    announced = False
    request = ImageBuild(
        recipe,
        environment,
        app_id,
        config.get("force_build"),
        config.get("ignore_cache"),
        config.get("image_builder_version") or "",
    )
    built: Optional[ImageBuilt] = None
    try:
        async for item in client.stream(request, repeat=True):
            if isinstance(item, ImageBuilt):
                built = item
            elif isinstance(item, BuildLog):
                if not announced:
                    announced = True
                    sink.image_building(key, description)
                if item.kind == "start":
                    sink.image_step(key, item.step, item.text, item.image_id)
                elif item.kind in ("output", "progress"):
                    sink.image_log(key, item.text, progress=item.kind == "progress")
    except BaseException as error:
        sink.image_failed(key, str(error))
        raise
    if built is None:
        raise ExecutionError("The server ended the image's build without a result. Try again.")
    sink.image_built(key, built.image_id, built.cached, built.seconds or time.monotonic() - started)
    return built


async def _together(coroutines: list[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once in either face: tasks under asyncio, threads where calls block."""
    if len(coroutines) < 2 or not blocking():
        return await gather(*coroutines)
    import threading

    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def work(number: int, coroutine: Coroutine[Any, Any, T]) -> None:
        try:
            results[number] = run(coroutine)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(number, coroutine), daemon=True, name=f"modal-build-{number}")
        for number, coroutine in enumerate(coroutines)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
        if errors:
            raise errors[0]
    return [results[number] for number in range(len(coroutines))]


async def secrets_of(client: Client, secrets: Iterable[Any], app_id: str, environment: Optional[str]) -> dict[int, str]:
    """The ids of secrets, by `id()` of the object."""
    ids: dict[int, str] = {}
    for secret in secrets:
        if id(secret) not in ids:
            ids[id(secret)] = await secret._load_for(client, app_id, environment)
    return ids


async def build_one(client: Client, image: Image) -> str:
    """Build an image by itself; returns its id."""
    environment = environment_of(None)
    steps = image._steps()
    files = LocalFiles()
    secret_ids = await secrets_of(client, [secret for step in steps for secret in step.secrets], "", environment)
    await files.send(client, [files_of for step in steps for files_of in step.file_sets])
    built = await build_images(client, [image], secret_ids, files.mount_ids, "", environment)
    return built[id(image)].image_id
