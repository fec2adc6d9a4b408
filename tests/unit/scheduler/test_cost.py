"""What an input costs does not grow with the number of functions or of waiting inputs: lines that run are counted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from intermodal.server.scheduler import Request
from tests.unit.scheduler.world import World


def lines(work: Callable[[], Any]) -> int:
    """Lines of the scheduler that `work` executes."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if "/scheduler/" not in frame.f_code.co_filename or frame.f_code.co_filename.startswith(__file__):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def busy_world(functions: int, pending: int, room: float = 1e6) -> World:
    """One function at work with `pending` inputs waiting, among idle and hungry ones."""
    world = World(cpus=room, memory=1 << 40)
    for number in range(functions):
        world.function(f"idle{number}", scaledown_window=1e9, request=Request(0.1, 1))
        world.send(1, f"idle{number}")
    world.ready()
    world.ready()
    for box in list(world.boxes.values()):
        while box.inputs:
            world.finish(box)
    world.function("f", max_containers=2, request=Request(0.1, 1))
    world.send(2)
    world.ready()
    for box in world.of():
        world.finish(box, seconds=0.001)
    world.send(pending)
    return world


def cost(world: World) -> dict[str, int]:
    scheduler, now = world.scheduler, world.now
    first, second = world.of()
    done = first.inputs[:8]
    found = {
        "enqueue": lines(lambda: scheduler.enqueue("f", ["x"], now)),
        "finished": lines(lambda: scheduler.finished(first.id, done, now, 0.001)),
        "returned": lines(lambda: scheduler.returned(second.id, second.inputs[-4:], now)),
        "withdraw": lines(lambda: scheduler.withdraw("f", ["x"])),
        "tick": lines(lambda: scheduler.tick(now + 0.05)),
        "due": lines(lambda: scheduler.due),
    }
    scheduler.decisions.clear()
    return found


@pytest.mark.parametrize(("functions", "pending"), [(2000, 40), (3, 5000), (2000, 5000)])
def test_hot_events_cost_the_same(functions: int, pending: int) -> None:
    small, large = cost(busy_world(3, 40)), cost(busy_world(functions, pending))
    for event, count in large.items():
        assert count <= small[event] + 40, (event, small, large)


def test_a_function_without_room_costs_its_inputs_nothing() -> None:
    """Functions that wait for room do not make every input try again to find some."""
    world = World(cpus=1.0, memory=1 << 40)
    for number in range(300):
        world.function(f"g{number}", request=Request(1.0, 1))
        world.send(3, f"g{number}")
    for _ in range(200):
        world.ready()
    assert all(len(world.of(f"g{number}")) == 1 for number in range(300))
    assert lines(lambda: world.scheduler.enqueue("g7", ["x"], world.now)) < 60
    box = world.of("g7")[0]
    assert lines(lambda: world.scheduler.finished(box.id, box.inputs[:1], world.now, 1.0)) < 120
    world.scheduler.tick(world.now + 1)
    assert lines(lambda: world.scheduler.tick(world.now + 2)) < 4000


def test_an_event_of_a_dormant_function_does_not_wake_the_others() -> None:
    world = busy_world(2000, 0)
    world.pass_time(10)
    assert lines(lambda: world.scheduler.tick(world.now + 1)) < 60
