"""A flood of one function does not starve the others."""

from __future__ import annotations

from intermodal.server.scheduler import Request
from tests.unit.scheduler.world import World


def test_a_flood_shares_the_machine_with_who_comes_later() -> None:
    world = World(cpus=8.0)
    world.function("flood", request=Request(1.0, 100))
    world.function("late", request=Request(1.0, 100))
    world.send(1000, "flood")
    for _ in range(4):
        world.ready()
    assert len(world.of("flood")) == 8
    world.send(1000, "late")
    assert len(world.of("late")) == 1, "the first one starts in any case"
    for _ in range(30):
        world.pass_time(11.0)
        for box in list(world.boxes.values()):
            if box.inputs:
                world.finish(box)
        world.end_stopped()
        world.ready()
    assert abs(len(world.of("flood")) - len(world.of("late"))) <= 2


def test_shares_that_are_fair_stay_as_they_are() -> None:
    world = World(cpus=4.0)
    for name in ("a", "b"):
        world.function(name, request=Request(1.0, 100))
        world.send(500, name)
    for _ in range(6):
        world.ready()
    before = set(world.boxes)
    for _ in range(20):
        world.pass_time(11.0)
        for box in list(world.boxes.values()):
            world.finish(box)
        world.ready()
    assert abs(len(world.of("a")) - len(world.of("b"))) <= 1
    assert len(before & set(world.boxes)) >= 3, "containers are not ended and started in turns for nothing"


def test_who_has_no_more_to_do_than_it_holds_is_left_alone() -> None:
    world = World(cpus=4.0)
    world.function("long", request=Request(1.0, 100))
    world.function("late", request=Request(1.0, 100))
    world.send(4, "long")
    world.ready()
    world.ready()
    world.send(10, "late")
    world.ready()
    world.pass_time(60.0)
    assert len(world.of("long")) == 4, "they end by themselves, sooner or later"
