"""Images: a recipe goes up, build logs and an id come down."""

from __future__ import annotations

from typing import Any, Dict, List

from modal._protocol.message import Message, Record


class ImageBuild(Message, type=60):
    """Opens a stream: BuildLog items down, then one ImageBuilt, END. Fault: remote (a step failed), invalid.

    `recipe` is a list of steps, the first one a base; docs/architecture.md defines every step. The image id
    is a hash of the recipe and its inputs' content: an image that exists is answered at once.
    """

    recipe: List[Dict[str, Any]]
    environment: str = ""
    app_id: str = ""
    force: bool = False
    ignore_cache: bool = False
    builder_version: str = ""  # "" is the workspace's


class BuildLog(Message, type=61):
    """`kind`: "start" (a step begins: text is its line), "output", "progress" (replaces the last one), "done"."""

    kind: str
    text: str
    step: int = 0
    image_id: str = ""


class ImageBuilt(Message, type=62):
    image_id: str
    cached: bool = False
    python: str = ""  # "3.11.2"
    seconds: float = 0.0


class ImageGet(Message, type=63):
    """Does the image exist? Answered with ImageBuilt. Fault: not-found."""

    image_id: str


class ImageConfig(Record):
    """What a container of the image starts with."""

    layers: List[str]  # layer ids, lowest first
    env: Dict[str, str] = {}
    workdir: str = ""
    entrypoint: List[str] = []
    cmd: List[str] = []
    shell: List[str] = []
    user: str = ""
    python: str = ""  # path of the interpreter
    python_version: str = ""


class ImageList(Message, type=69):
    """Answered with ImagesKnown: all images of the server, most recently used first."""


class ImageInfo(Record):
    image_id: str
    built_at: float
    used_at: float
    python: str = ""
    steps: int = 0
    in_use: bool = False  # a function that takes calls, or a running container, has it
    size: int = 0  # bytes of all its layers
    own_size: int = 0  # bytes of the layers that no other image has


class CacheInfo(Record):
    """Downloads that builds share."""

    name: str
    what: str = ""  # for people
    size: int = 0  # bytes
    used_at: float = 0.0
    parts: int = 0  # of a cache that was pruned: how many of its parts went; 0: all of it


class ImagesKnown(Message, type=70):
    images: List[ImageInfo]
    freed: int = 0  # bytes
    caches: List[CacheInfo] = []


class CacheList(Message, type=393):
    """Answered with CachesKnown: all caches of builds, most recently used first."""


class CachesKnown(Message, type=394):
    caches: List[CacheInfo]


class ImagePrune(Message, type=71):
    """Delete images that nothing uses and nobody used for that long, least recently used first, and their layers.
    Answered with ImagesKnown: those that are gone. Fault: execution (an image is being built)."""

    unused_for: float = 0.0  # seconds
    keep_size: int = 0  # bytes: stop as soon as layers (and caches) take no more; 0 deletes all that may go
    caches: bool = False  # the caches of builds too, before any image


class ImageLogGet(Message, type=72):
    """What the last build of an image printed. Answered with ImageLog. Fault: not-found."""

    image_id: str


class ImageLog(Message, type=73):
    text: bytes  # UTF-8; the last MiB


class BuilderVersionGet(Message, type=74):
    """Which builder version the workspace has. Answered with BuilderVersionKnown."""


class BuilderVersionSet(Message, type=75):
    """Images are built with it from now on. Answered with BuilderVersionKnown. Fault: invalid (no such version)."""

    name: str


class BuilderVersionKnown(Message, type=76):
    name: str
    all: Dict[str, str] = {}  # every version, and what its bases have


def mounts_of(recipe: List[Dict[str, Any]]) -> List[str]:
    """The sets of local files that a recipe needs: `mount_id` and `mount_ids` of its steps, each once."""
    found: Dict[str, None] = {}
    for step in recipe:
        supplies = step.get("supplies")
        for place in (step, supplies if isinstance(supplies, dict) else {}):
            ids = place.get("mount_ids")
            for mount_id in (place.get("mount_id"), *(ids if isinstance(ids, list) else ())):
                if mount_id:
                    found[str(mount_id)] = None
    return list(found)
