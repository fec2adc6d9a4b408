"""Containers that wait for their own calls lend what they have reserved."""

from __future__ import annotations

from intermodal.server.scheduler import Request
from tests.unit.scheduler.world import Box, World

CPU = Request(1.0, 100)


def used(world: World) -> float:
    return world.scheduler.capacity.workers["wo-0"].cpu_used


def test_a_recursion_deeper_than_the_machine_has_room() -> None:
    world = World(cpus=2.0)
    world.function(request=CPU)
    stack: list[tuple[Box, str]] = []
    for depth in range(20):
        (item,) = world.send()
        world.pass_time(1.0)
        world.ready()
        (box,) = [box for box in world.boxes.values() if item in box.inputs]
        assert len(world.boxes) == depth + 1
        world.waits(box, item)
        stack.append((box, item))
    while stack:
        box, item = stack.pop()
        world.finish(box, seconds=60.0)
        if stack:
            world.goes_on(*stack[-1])
    assert used(world) == 20.0, "all are idle, none has lent"


def test_a_fan_out_that_waits_makes_room_for_what_it_waits_for() -> None:
    world = World(cpus=4.0)
    world.function("parent", request=CPU)
    world.function("child", request=CPU)
    for parent in world.send(4, "parent"):
        world.ready()
        (box,) = [box for box in world.of("parent") if parent in box.inputs]
        world.send(3, "child")
        for _ in range(3):
            world.waits(box, parent)
    world.pass_time(1.0)
    world.ready()
    assert len(world.of("child")) == 4
    assert used(world) == 4.0


def test_what_was_lent_is_taken_back_at_once_even_if_it_is_used() -> None:
    world = World(cpus=1.0)
    world.function("parent", request=CPU)
    world.function("child", request=CPU)
    (parent,) = world.send(1, "parent")
    world.ready()
    box = world.box("parent")
    world.waits(box, parent)
    world.send(2, "child")
    world.ready()
    world.pass_time(1.0)
    world.ready()
    assert len(world.of("child")) == 1
    world.goes_on(box, parent)
    assert used(world) == 2.0, "more than there is, for a while"
    world.pass_time(5.0)
    assert len(world.of("child")) == 1


def test_calls_that_are_answered_at_once_lend_nothing() -> None:
    world = World(cpus=1.0)
    world.function("parent", request=CPU)
    world.function("other", request=CPU)
    (parent,) = world.send(1, "parent")
    world.ready()
    world.send(2, "other")
    world.ready()
    box = world.box("parent")
    for _ in range(100):
        world.waits(box, parent)
        world.pass_time(0.01)
        world.goes_on(box, parent)
        world.pass_time(0.01)
    assert len(world.of("other")) == 1


def test_nobody_lends_while_one_of_its_inputs_works() -> None:
    world = World(cpus=2.0)
    world.function("parent", request=CPU, limit=3, target=3, prefetch=False)
    world.function("other", request=CPU)
    first, second = world.send(2, "parent")
    world.ready()
    box = world.box("parent")
    world.waits(box, first)
    world.send(2, "other")
    world.ready()
    world.pass_time(5.0)
    assert len(world.of("other")) == 1
    world.waits(box, second)
    world.pass_time(5.0)
    world.ready()
    assert len(world.of("other")) == 2
    world.send(1, "parent")
    assert used(world) == 3.0, "a new input has something to do"


def test_another_limit_of_inputs_decides_anew_who_lends() -> None:
    world = World(cpus=2.0)
    world.function("parent", request=CPU, limit=3, target=3, max_containers=1, prefetch=False)
    world.function("other", request=CPU)
    first, _second = world.send(2, "parent")
    world.ready()
    world.waits(world.box("parent"), first)
    world.function("parent", request=CPU, max_containers=1)  # one input at a time: the other one has not begun
    world.send(2, "other")
    world.ready()
    world.pass_time(1.0)
    world.ready()
    assert len(world.of("other")) == 2
    assert used(world) == 2.0
    world.function("parent", request=CPU, limit=3, target=3, max_containers=1, prefetch=False)
    assert used(world) == 3.0, "the second input runs"


def test_a_batch_waits_as_one() -> None:
    world = World(cpus=2.0)
    world.function("parent", request=CPU, batch_size=3, batch_wait=0.1)
    world.function("other", request=CPU)
    first, _second, _third = world.send(3, "parent")
    world.ready()
    world.waits(world.box("parent"), first)
    world.send(2, "other")
    world.pass_time(1.0)
    world.ready()
    world.pass_time(1.0)
    assert len(world.of("other")) == 2


def test_a_container_that_ends_while_it_waits_leaves_nothing_behind() -> None:
    world = World(cpus=1.0)
    world.function("parent", request=CPU)
    world.function("other", request=CPU)
    (parent,) = world.send(1, "parent")
    world.ready()
    box = world.box("parent")
    world.waits(box, parent)
    world.send(2, "other")
    world.pass_time(1.0)
    world.die(box)
    world.goes_on(box, parent)
    world.scheduler.remove_function("other", "removed")
    world.obey()
    world.end_stopped()
    assert used(world) == 0.0


def test_who_waits_for_its_own_call_is_not_asked_to_make_room() -> None:
    world = World(cpus=2.0)
    world.function("parent", request=Request(1.0, 32000))  # memory is not lent
    world.function("child", request=Request(1.0, 32000))
    for parent in world.send(3, "parent"):
        world.ready()
        for box in world.of("parent"):
            if parent in box.inputs:
                world.waits(box, parent)
    world.send(2, "child")
    world.ready()
    world.pass_time(100.0)
    assert len(world.of("parent")) == 2


def lack(world: World, name: str = "f") -> str:
    world.pass_time(2.0)
    return world.scheduler.lack(world.scheduler.pools[name], world.now)


def test_what_a_recursion_waits_for_that_cannot_go_on() -> None:
    """Memory is not lent: people hear who holds it, and that waiting is of no use."""
    world = World(cpus=8.0, memory=250)
    world.function(request=CPU)
    for _ in range(2):
        (item,) = world.send()
        world.pass_time(1.0)
        world.ready()
        (box,) = [box for box in world.boxes.values() if item in box.inputs]
        world.waits(box, item)
    world.send()
    assert lack(world) == (
        "memory=100: 50 of 250 MiB are not reserved by other containers, 200 MiB held by 2 that wait for calls of "
        "their own. No other container runs, so this will not change: ask for less memory, or make fewer calls in calls"
    )


def test_where_others_run_waiting_may_help() -> None:
    world = World(cpus=8.0, memory=250)
    world.function(request=CPU)
    (item,) = world.send()
    world.ready()
    world.waits(world.box(), item)
    world.send(2)
    world.pass_time(1.0)
    world.ready()
    text = lack(world)
    assert text.endswith("100 MiB held by 1 that wait for calls of their own")


def test_what_a_recursion_waits_for_within_max_containers() -> None:
    world = World()
    world.function(request=CPU, max_containers=1)
    (item,) = world.send()
    world.ready()
    assert lack(world) == ""
    world.send()
    assert lack(world) == "", "its container will be free"
    world.waits(world.box(), item)
    assert lack(world) == (
        "a container of its own: all 1 (max_containers) wait for calls that they have made themselves"
    )
