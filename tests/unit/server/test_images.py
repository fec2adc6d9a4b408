"""Image builds: one for all who ask, its log for each of them, ended when nobody is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from intermodal.server.services.images import Images, image_id_of
from intermodal.server.services.secrets import Secrets
from intermodal.server.services.vault import Vault
from intermodal.server.store.store import Store
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import BuildLog, ImageConfig
from modal._protocol.messages.worker import WorkerImageBuilt

RECIPE: list[dict[str, Any]] = [{"kind": "debian_slim", "python_version": "3.11"}]


class Builder:
    """A worker that builds when it is told to."""

    def __init__(self) -> None:
        self.builds: list[str] = []
        self.secrets: dict[str, dict[str, str]] = {}
        self.recipe: list[dict[str, Any]] = []
        self.go = asyncio.Event()
        self.began = asyncio.Event()
        self.cancelled = False
        self.fault: Fault | None = None

    async def build_image(
        self,
        image_id: str,
        recipe: list[dict[str, Any]],
        secrets: dict[str, dict[str, str]],
        ignore_cache: bool,
        on_log: Callable[[BuildLog], None],
    ) -> WorkerImageBuilt:
        self.builds.append(image_id)
        self.secrets, self.recipe = secrets, recipe
        on_log(BuildLog("start", "step 1"))
        self.began.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.fault is not None:
            raise self.fault
        on_log(BuildLog("done", "step 1"))
        return WorkerImageBuilt(image_id, ImageConfig(["l1"], python_version="3.11.2"), False, 2.5)


@pytest.fixture
def builder() -> Builder:
    return Builder()


@pytest.fixture
async def images(store: Store, builder: Builder, tmp_path: Path) -> Images:
    secrets = Secrets(store.secrets, Vault(tmp_path / "secrets.key"))
    return Images(store.images, secrets, builder, tmp_path / "layers")  # type: ignore[arg-type]


async def follow(images: Images, force: bool = False) -> list[str]:
    build = images.build(RECIPE, False, force)
    try:
        lines = [line.kind async for line in build.follow()]
        assert build.task is not None
        await build.task
        return lines
    finally:
        images.leave(build)


async def test_equal_recipes_are_built_once(images: Images, builder: Builder) -> None:
    assert await images.known(RECIPE, False) is None
    first = asyncio.create_task(follow(images))
    await builder.began.wait()
    others = [asyncio.create_task(follow(images)) for _ in range(3)]
    await asyncio.sleep(0)
    builder.go.set()
    assert await asyncio.gather(first, *others) == [["start", "done"]] * 4
    assert builder.builds == [image_id_of(RECIPE)]
    known = await images.known(RECIPE, False)
    assert known is not None
    assert (known.cached, known.python) == (True, "3.11.2")
    assert await images.known(RECIPE, True) is None
    assert await images.known([{**RECIPE[0], "force": True}], False) is None
    assert not images.building


async def test_the_last_to_leave_ends_the_build(images: Images, builder: Builder) -> None:
    one, two = images.build(RECIPE, False, False), images.build(RECIPE, False, False)
    assert one is two
    await builder.began.wait()
    images.leave(one)
    await asyncio.sleep(0)
    assert not builder.cancelled
    images.leave(two)
    assert two.task is not None
    with pytest.raises(asyncio.CancelledError):
        await two.task
    assert builder.cancelled
    assert not images.building


async def test_a_failed_build_fails_for_all_and_can_be_tried_again(images: Images, builder: Builder) -> None:
    builder.fault = Fault(Code.REMOTE, "step 1 failed")
    builder.go.set()
    results = await asyncio.gather(follow(images), follow(images), return_exceptions=True)
    assert [getattr(result, "text", "") for result in results] == ["step 1 failed"] * 2
    assert await images.known(RECIPE, False) is None
    builder.fault = None
    assert await follow(images) == ["start", "done"]


async def test_an_image_that_lost_its_layers_is_built_again(images: Images, builder: Builder, tmp_path: Path) -> None:
    builder.go.set()
    await follow(images)
    (tmp_path / "layers" / "l1").mkdir(parents=True)
    assert await images.known(RECIPE, False) is not None
    (tmp_path / "layers" / "l1").rmdir()
    assert await images.known(RECIPE, False) is None


async def test_secrets_and_force_reach_the_worker(
    images: Images, builder: Builder, store: Store, tmp_path: Path
) -> None:
    builder.go.set()
    secrets = Secrets(store.secrets, Vault(tmp_path / "secrets.key"))
    (environment,) = await store.environments.all()
    secret_id = await secrets.create_inline(environment, {"TOKEN": "t"})
    recipe = [*RECIPE, {"kind": "run", "commands": ["true"], "secrets": [secret_id]}]
    build = images.build(recipe, False, True)
    assert build.task is not None
    await build.task
    images.leave(build)
    assert builder.secrets == {secret_id: {"TOKEN": "t"}}
    assert all(step["force"] for step in builder.recipe)


def test_ids_depend_on_what_an_image_is() -> None:
    again = [dict(reversed(RECIPE[0].items()))]
    assert image_id_of(again) == image_id_of(RECIPE)
    assert image_id_of([{**RECIPE[0], "force": True}]) == image_id_of(RECIPE)
    assert image_id_of([{**RECIPE[0], "python_version": "3.12"}]) != image_id_of(RECIPE)
    assert len(image_id_of(RECIPE)) == 25


@pytest.mark.parametrize("recipe", [[], [{"python_version": "3.11"}], [{"kind": 3}], [{"kind": "run"}] * 501])
async def test_no_recipes(images: Images, recipe: list[dict[str, Any]]) -> None:
    with pytest.raises(Fault) as caught:
        await images.known(recipe, False)
    assert caught.value.code == Code.INVALID
