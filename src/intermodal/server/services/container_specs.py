"""Puts together all that a worker needs to start a container."""

from __future__ import annotations

import asyncio

from intermodal.server.dispatch import Container
from intermodal.server.handover import form_of
from intermodal.server.services.apps import Apps
from intermodal.server.services.environments import Environments
from intermodal.server.services.secrets import Secrets
from intermodal.server.services.volume_names import VolumeNames
from intermodal.server.store.images import ImageRow
from intermodal.server.store.store import Store
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.function import VolumeMount
from modal._protocol.messages.image import ImageConfig
from modal._protocol.messages.volume import NETWORK_FILE_SYSTEM, VOLUME
from modal._protocol.messages.worker import ContainerSpec, RunnerSpec

CONTAINER_API = "unix:/.intermodal/run/api.sock"  # where the container's own client connects
PROVIDER = "intermodal"
REGION = "local"
BUCKET = "bucket"  # as a kind of mount: its `object_id` is that of a secret
RESERVED = frozenset(
    {
        "MODAL_CLOUD_PROVIDER", "MODAL_ENVIRONMENT", "MODAL_IMAGE_ID", "MODAL_IS_REMOTE", "MODAL_REGION",
        "MODAL_TASK_ID", "MODAL_IDENTITY_TOKEN", "MODAL_SERVER_URL",
    }
)  # fmt: skip


class ContainerSpecs:
    """`await specs.prepare(container)`. What does not change while a function has containers is kept in memory."""

    def __init__(
        self, store: Store, apps: Apps, environments: Environments, secrets: Secrets, volumes: VolumeNames
    ) -> None:
        self._store = store
        self._apps = apps
        self._environments = environments
        self._secrets = secrets
        self._volumes = volumes
        self._images: dict[str, ImageRow] = {}
        self._class_parameters: dict[str, bytes] = {}  # by function id; they never change

    async def prepare(self, container: Container) -> ContainerSpec:
        """The spec of a container that the scheduler wants. Fault: not-found (its image or a secret is gone)."""
        function = container.function
        spec = function.spec
        app = self._apps.running(function.app_id)
        image, secrets, parameters = await asyncio.gather(
            self._image(spec.image_id), self._secrets.merged(spec.secret_ids), self._parameters(function.function_id)
        )
        environment = self._environments.name_of(app.environment_id)
        env = {key: value for key, value in secrets.items() if key not in RESERVED}
        env["MODAL_IS_REMOTE"] = "1"
        env["MODAL_TASK_ID"] = container.id
        env["MODAL_IMAGE_ID"] = spec.image_id
        env["MODAL_ENVIRONMENT"] = environment
        env["MODAL_CLOUD_PROVIDER"] = spec.cloud or PROVIDER
        env["MODAL_REGION"] = spec.regions[0] if spec.regions else REGION
        env["MODAL_SERVER_URL"] = CONTAINER_API
        runner = RunnerSpec(
            container.id,
            app.app_id,
            app.name or app.description,
            function.function_id,
            spec,
            environment,
            parameters,
        )
        return ContainerSpec(
            container.id,
            app.app_id,
            function.function_id,
            spec.image_id,
            image,
            spec.mount_ids,
            env,
            [await self._volume(volume) for volume in spec.volumes],
            spec.resources,
            runner,
            spec.block_network,
            spec.restrict_modal_access,
            credentials=await self._credentials(spec.volumes),
            devices=list(container.devices),
            form=form_of(spec),
        )

    async def _credentials(self, volumes: list[VolumeMount]) -> dict[str, dict[str, str]]:
        """What the worker, and nobody in the container, needs to mount buckets. Fault: not-found."""
        secret_ids = {volume.path: volume.object_id for volume in volumes if volume.kind == BUCKET and volume.object_id}
        opened = await self._secrets.values(sorted(set(secret_ids.values())))
        return {path: opened[secret_id] for path, secret_id in secret_ids.items()}

    async def _volume(self, volume: VolumeMount) -> VolumeMount:
        """With the version that is the newest one now. Fault: not-found."""
        if volume.kind not in (VOLUME, NETWORK_FILE_SYSTEM):
            return volume
        row = await self._volumes.get(volume.object_id)
        options = {**volume.options, "version": row.version}
        return VolumeMount(volume.path, volume.kind, volume.object_id, volume.read_only, options)

    def forget_images(self, image_ids: list[str]) -> None:
        """They were pruned."""
        for image_id in image_ids:
            self._images.pop(image_id, None)

    async def _image(self, image_id: str) -> ImageConfig:
        image = self._images.get(image_id)
        if image is None:
            image = await self._store.images.get(image_id)
            if image is None:
                raise Fault(Code.NOT_FOUND, f"image {image_id} is gone: run or deploy the app again to build it anew")
            if len(self._images) >= 1000:
                self._images.clear()
            self._images[image_id] = image
            await self._store.images.used(image)
        return image.config

    async def _parameters(self, function_id: str) -> bytes:
        parameters = self._class_parameters.get(function_id)
        if parameters is None:
            row = await self._store.functions.get(function_id)
            if row is None:
                raise Fault(Code.NOT_FOUND, f"function {function_id} does not exist any more")
            if len(self._class_parameters) >= 1000:
                self._class_parameters.clear()
            parameters = self._class_parameters[function_id] = row.parameters
        return parameters
