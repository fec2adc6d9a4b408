"""Images on the wire."""

from __future__ import annotations

import asyncio

from intermodal.image_builder import VERSIONS
from intermodal.server.principal import principal_of
from intermodal.server.services.build_logs import BuildLogs
from intermodal.server.services.builder_version import WorkspaceBuilderVersion
from intermodal.server.services.container_specs import ContainerSpecs
from intermodal.server.services.environments import Environments
from intermodal.server.services.images import Images, apart
from intermodal.server.services.pruning import Pruning
from modal._protocol.aio import Connection, Handlers, Stream
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import (
    BuilderVersionGet,
    BuilderVersionKnown,
    BuilderVersionSet,
    CacheInfo,
    CacheList,
    CachesKnown,
    ImageBuild,
    ImageBuilt,
    ImageGet,
    ImageList,
    ImageLog,
    ImageLogGet,
    ImagePrune,
    ImagesKnown,
)

FROM_A_BUILD = (  # it could wait for itself
    "a function that runs in an image's build cannot have an image built: where its module does so when it is "
    "imported, let it do so under `if modal.is_local():` or in a local entrypoint"
)


class ImageHandlers:
    def __init__(
        self,
        images: Images,
        pruning: Pruning,
        specs: ContainerSpecs,
        logs: BuildLogs,
        version: WorkspaceBuilderVersion,
        environments: Environments,
    ) -> None:
        self._images = images
        self._pruning = pruning
        self._specs = specs
        self._logs = logs
        self._version = version
        self._environments = environments

    def register(self, handlers: Handlers) -> None:
        handlers.stream(ImageBuild)(self.build)
        handlers.unary(ImageGet)(self.get)
        handlers.unary(ImageList)(self.list)
        handlers.unary(ImagePrune)(self.prune)
        handlers.unary(CacheList)(self.list_caches)
        handlers.unary(ImageLogGet)(self.log)
        handlers.unary(BuilderVersionGet)(self.builder_version)
        handlers.unary(BuilderVersionSet)(self.set_builder_version)

    async def build(self, connection: Connection, message: ImageBuild, stream: Stream) -> None:
        """BuildLog items, then ImageBuilt, then END."""
        recipe = await self._images.resolve(message.recipe, message.builder_version)
        if message.ignore_cache:
            recipe = apart(recipe)
        known = await self._images.known(recipe, message.force)
        if known is not None:
            await stream.send(known)
            return
        principal = principal_of(connection)
        if principal.worker_id:
            raise Fault(Code.EXECUTION, FROM_A_BUILD)
        environment = self._environments.resolve(message.environment, principal)
        build = self._images.build(recipe, message.ignore_cache, message.force, environment.name)
        try:
            async for line in build.follow():
                await stream.send(line)
            assert build.task is not None
            try:
                built = await asyncio.shield(build.task)
            except asyncio.CancelledError:
                if not build.task.cancelled():
                    raise
                raise Fault(Code.CANCELLED, "the image build was given up") from None
            self._specs.forget_images([built.image_id])
            await stream.send(built)
        finally:
            self._images.leave(build)

    async def get(self, connection: Connection, message: ImageGet) -> ImageBuilt:
        return await self._images.get(message.image_id)

    async def list(self, connection: Connection, message: ImageList) -> ImagesKnown:
        return ImagesKnown(await self._pruning.known())

    async def prune(self, connection: Connection, message: ImagePrune) -> ImagesKnown:
        caches: list[CacheInfo] = []
        freed = 0
        if message.caches:
            caches, freed = await self._pruning.prune_caches(message.unused_for, message.keep_size)
        gone, more = await self._pruning.prune(message.unused_for, message.keep_size)
        self._specs.forget_images([image.image_id for image in gone])
        return ImagesKnown(gone, freed + more, caches)

    async def list_caches(self, connection: Connection, message: CacheList) -> CachesKnown:
        return CachesKnown(await self._pruning.caches.all())

    async def log(self, connection: Connection, message: ImageLogGet) -> ImageLog:
        return ImageLog(await self._logs.get(message.image_id))

    async def builder_version(self, connection: Connection, message: BuilderVersionGet) -> BuilderVersionKnown:
        return BuilderVersionKnown(await self._version.get(), {one.name: one.note for one in VERSIONS.values()})

    async def set_builder_version(self, connection: Connection, message: BuilderVersionSet) -> BuilderVersionKnown:
        await self._version.set(message.name)
        return BuilderVersionKnown(message.name)
