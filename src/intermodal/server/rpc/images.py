"""Images on the wire."""

from __future__ import annotations

import asyncio

from intermodal.server.services.container_specs import ContainerSpecs
from intermodal.server.services.images import Images
from intermodal.server.services.pruning import Pruning
from modal._protocol.aio import Connection, Handlers, Stream
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import (
    ImageBuild,
    ImageBuilt,
    ImageGet,
    ImageList,
    ImagePrune,
    ImagesKnown,
)


class ImageHandlers:
    def __init__(self, images: Images, pruning: Pruning, specs: ContainerSpecs) -> None:
        self._images = images
        self._pruning = pruning
        self._specs = specs

    def register(self, handlers: Handlers) -> None:
        handlers.stream(ImageBuild)(self.build)
        handlers.unary(ImageGet)(self.get)
        handlers.unary(ImageList)(self.list)
        handlers.unary(ImagePrune)(self.prune)

    async def build(self, connection: Connection, message: ImageBuild, stream: Stream) -> None:
        """BuildLog items, then ImageBuilt, then END."""
        known = await self._images.known(message.recipe, message.force)
        if known is not None:
            await stream.send(known)
            return
        build = self._images.build(message.recipe, message.ignore_cache, message.force)
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
        gone, freed = await self._pruning.prune(message.unused_for)
        self._specs.forget_images([image.image_id for image in gone])
        return ImagesKnown(gone, freed)
