"""A newer version of a function takes over when it is warm; until then the older one serves."""

from __future__ import annotations

import pytest

from intermodal.server.scheduler import Gpu, Request, Rules
from tests.unit.scheduler.world import Box, World


@pytest.fixture
def world() -> World:
    world = World()
    world.function(scaledown_window=1000.0)
    return world


def candidate(world: World, count: int = 1, **rules: object) -> None:
    rules.setdefault("request", Request(0.1, 100))
    world.scheduler.put_candidate("f+2", "f", Rules(**rules), count, world.now)  # type: ignore[arg-type]
    world.obey()


def promote(world: World, **rules: object) -> None:
    rules.setdefault("request", Request(0.1, 100))
    world.scheduler.promote("f+2", "f", Rules(**rules), world.now)  # type: ignore[arg-type]
    for box in world.of("f+2"):
        box.function_id = "f"
    world.obey()


def busy(world: World) -> Box:
    world.send(1)
    world.ready()
    return world.box()


def test_the_old_version_serves_until_the_new_one_is_warm(world: World) -> None:
    old = busy(world)
    world.finish(old)
    candidate(world)
    new = world.box("f+2")
    world.send(1)
    assert len(old.inputs) == 1, "the new container is not ready"
    world.finish(old)
    world.ready()
    world.send(1)
    assert (len(old.inputs), len(new.inputs)) == (1, 0), "ready, but not yet in force"
    promote(world)
    world.send(2)
    assert len(old.inputs) == 1, "what runs goes on on the old version"
    assert len(new.inputs) == 1
    assert old.stopping is False
    world.finish(old)
    assert old.stopping, "and then it ends"


def test_idle_containers_of_the_old_version_end_at_once(world: World) -> None:
    old = busy(world)
    world.finish(old)
    candidate(world)
    world.ready()
    promote(world)
    assert old.stopping
    assert world.stopped == [(old.id, "replaced by a newer version")]
    world.end_stopped()
    world.send(1)
    assert world.of()[0].inputs


def test_a_new_version_that_never_starts_changes_nothing(world: World) -> None:
    old = busy(world)
    world.finish(old)
    candidate(world)
    for _ in range(3):
        world.die(world.box("f+2"))
    assert len(world.of("f+2")) == 1, "it is tried again"
    world.scheduler.remove_function("f+2", "given up")
    world.obey()
    world.end_stopped()
    world.send(1)
    assert len(old.inputs) == 1
    assert world.given_up == []


def test_waiting_inputs_go_to_the_new_version(world: World) -> None:
    busy(world)
    world.function(max_containers=1)
    world.send(5)
    candidate(world)
    world.ready()
    promote(world, max_containers=1)
    (new,) = [box for box in world.of() if len(box.inputs) and box.inputs != ["f1"]]
    assert new.inputs == ["f2"]


def test_the_only_device_goes_from_the_old_version_to_the_new_one() -> None:
    world = World(gpus="T4")
    request = Request(0.1, 100, (Gpu("T4"),))
    world.function(request=request, min_containers=1)
    world.ready()
    old = world.box()
    candidate(world, request=request)
    world.pass_time(2.0)
    assert old.stopping
    world.end_stopped()
    assert world.box("f+2").devices == ("GPU-0-0",)


def test_counts_after_a_promotion(world: World) -> None:
    busy(world)
    candidate(world, count=2)
    world.ready(world.of("f+2")[0].id)
    promote(world, min_containers=2)
    pool = world.scheduler.pools["f"]
    assert (pool.ready, pool.starting, len(pool.slots)) == (1, 1, 3)
    world.ready()
    world.finish(next(box for box in world.boxes.values() if box.inputs))
    world.end_stopped()
    assert (pool.ready, pool.starting, len(pool.slots)) == (2, 0, 2)


def test_a_limit_that_became_lower_while_the_candidate_warmed_up(world: World) -> None:
    busy(world)
    candidate(world, 3)
    new = world.of("f+2")
    world.ready(new[0].id)
    promote(world, max_containers=2)
    pool = world.scheduler.pools["f"]
    assert pool.ready + pool.starting == 2
    assert not new[0].stopping, "those that only start go first"
    assert [reason for id, reason in world.stopped if id != new[0].id] == ["more than its function may have"]
