"""Image builds: one for all who ask, its log for each of them, ended when nobody is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from intermodal.image_builder import DEFAULT
from intermodal.server.services.build_logs import MOST_BYTES, BuildLogs
from intermodal.server.services.builder_version import WorkspaceBuilderVersion
from intermodal.server.services.images import Images, image_id_of
from intermodal.server.services.pruning import Sizes, choose
from intermodal.server.services.secrets import Secrets
from intermodal.server.services.vault import Vault
from intermodal.server.services.vault_keys import KeyFile
from intermodal.server.store.images import ImageRow
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
        environment: str,
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
    secrets = Secrets(store.secrets, Vault(KeyFile(tmp_path / "secrets.key")))
    logs, version = BuildLogs(tmp_path / "images"), WorkspaceBuilderVersion(store)
    return Images(store.images, secrets, builder, tmp_path / "layers", logs, version.get)  # type: ignore[arg-type]


async def follow(images: Images, force: bool = False) -> list[str]:
    build = images.build(RECIPE, False, force, "main")
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


async def test_who_leaves_takes_nobody_along(images: Images, builder: Builder) -> None:
    first = asyncio.create_task(follow(images))
    await builder.began.wait()
    second = asyncio.create_task(follow(images))
    for _ in range(3):
        await asyncio.sleep(0)  # until both wait for the next line
    first.cancel()
    await asyncio.wait([first])
    builder.go.set()
    assert await second == ["start", "done"]


async def test_the_last_to_leave_ends_the_build(images: Images, builder: Builder) -> None:
    one, two = images.build(RECIPE, False, False, "main"), images.build(RECIPE, False, False, "main")
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
    secrets = Secrets(store.secrets, Vault(KeyFile(tmp_path / "secrets.key")))
    (environment,) = await store.environments.all()
    secret_id = await secrets.create_inline(environment, {"TOKEN": "t"})
    recipe = [*RECIPE, {"kind": "run", "commands": ["true"], "secrets": [secret_id]}]
    build = images.build(recipe, False, True, "main")
    assert build.task is not None
    await build.task
    images.leave(build)
    assert builder.secrets == {secret_id: {"TOKEN": "t"}}
    assert [step.get("force") for step in builder.recipe] == [None, True]  # the version pins the base


def test_ids_depend_on_what_an_image_is() -> None:
    again = [dict(reversed(RECIPE[0].items()))]
    assert image_id_of(again) == image_id_of(RECIPE)
    assert image_id_of([{**RECIPE[0], "force": True}]) == image_id_of(RECIPE)
    assert image_id_of([{**RECIPE[0], "python_version": "3.12"}]) != image_id_of(RECIPE)
    assert len(image_id_of(RECIPE)) == 25


@pytest.mark.parametrize("recipe", [[], [{"python_version": "3.11"}], [{"kind": 3}], [{"kind": "run"}] * 501])
async def test_no_recipes(images: Images, recipe: list[dict[str, Any]]) -> None:
    with pytest.raises(Fault) as caught:
        await images.resolve(recipe)
    assert caught.value.code == Code.INVALID


async def test_a_recipe_gets_the_workspaces_builder_version(images: Images, store: Store) -> None:
    assert (await images.resolve(RECIPE))[0]["builder_version"] == DEFAULT
    assert (await images.resolve(RECIPE, "2026.11-bare"))[0]["builder_version"] == "2026.11-bare"
    with pytest.raises(Fault, match=r"no image builder version '2024\.10' here") as caught:
        await images.resolve(RECIPE, "2024.10")
    assert caught.value.code == Code.INVALID
    await WorkspaceBuilderVersion(store).set("2026.11-bare")
    assert await WorkspaceBuilderVersion(store).get() == "2026.11-bare"


async def test_an_image_that_exists_can_be_built_upon(images: Images, builder: Builder) -> None:
    builder.go.set()
    await follow(images)
    step = {"kind": "run", "commands": ["x"]}
    assert await images.resolve([{"kind": "image", "image_id": image_id_of(RECIPE)}, step]) == [*RECIPE, step]
    with pytest.raises(Fault, match="there is no image im-none"):
        await images.resolve([{"kind": "image", "image_id": "im-none"}, step])


def test_what_a_step_is_carried_out_with_is_no_part_of_the_image() -> None:
    plain = [*RECIPE, {"kind": "run_function", "name": "f", "identity": "x"}]
    assert image_id_of(plain) == image_id_of(
        [*RECIPE, {**plain[1], "supplies": {"mount_ids": ["mo-1"]}, "force": True}]
    )
    assert image_id_of(plain) != image_id_of([*RECIPE, {**plain[1], "identity": "y"}])


async def test_the_log_of_a_build_is_kept_also_of_one_that_failed(
    images: Images, builder: Builder, tmp_path: Path
) -> None:
    logs, image_id = BuildLogs(tmp_path / "images"), image_id_of(RECIPE)
    with pytest.raises(Fault, match="there is no log of im-"):
        await logs.get(image_id)
    with pytest.raises(Fault, match="is not the id of an image"):
        await logs.get("../../etc/passwd")
    builder.go.set()
    builder.fault = Fault(Code.REMOTE, "step 1 failed")
    await asyncio.gather(follow(images), return_exceptions=True)
    assert await logs.get(image_id) == b"step 1\nstep 1 failed\n"
    builder.fault = None
    await follow(images)
    assert await logs.get(image_id) == b"step 1\nstep 1\n"
    await logs.keep(image_id, [BuildLog("output", "x" * MOST_BYTES), BuildLog("output", "the end\n")])
    text = await logs.get(image_id)
    assert len(text) == MOST_BYTES and text.endswith(b"the end\n")


def row(image_id: str, *layers: str) -> ImageRow:
    return ImageRow(image_id, RECIPE, ImageConfig(list(layers)), 0.0, 0.0, 0.0)


def test_least_recently_used_images_go_until_the_rest_fits() -> None:
    rows = [row("im-old", "base", "a"), row("im-mid", "base", "b"), row("im-new", "base", "a", "c")]
    sizes = Sizes({"base": 100, "a": 10, "b": 20, "c": 5, "nobodys": 50}, Counter({"base": 3, "a": 2, "b": 1, "c": 1}))
    infos = [sizes.info(one, False) for one in rows]
    assert [(info.size, info.own_size) for info in infos] == [(110, 0), (120, 20), (115, 5)]
    assert [one.image_id for one in choose(rows, sizes, 200)] == []
    assert [one.image_id for one in choose(rows, sizes, 134)] == ["im-old", "im-mid"]  # the first frees nothing
    assert [one.image_id for one in choose(rows, sizes, 114)] == ["im-old", "im-mid", "im-new"]
    assert [one.image_id for one in choose(rows[:1], sizes, 1)] == ["im-old"]
