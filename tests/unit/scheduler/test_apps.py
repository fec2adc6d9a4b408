"""Apps share the machines first, and then each app's functions its share."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.server.scheduler import Request
from intermodal.server.scheduler.pool import Pool, Share
from intermodal.server.scheduler.rules import Rules
from intermodal.server.scheduler.turns import Turns
from tests.unit.scheduler.world import World

CPU = Request(1.0, 100)


def count(world: World, prefix: str) -> int:
    return sum(box.function_id.startswith(prefix) and not box.stopping for box in world.boxes.values())


def work(world: World, rounds: int, seconds: float = 11.0) -> None:
    """Every container ends an input in each round."""
    for _ in range(rounds):
        world.pass_time(seconds)
        for box in list(world.boxes.values()):
            if box.inputs:
                world.finish(box)
        world.end_stopped()
        world.ready()


def test_an_app_with_many_functions_does_not_starve_one_with_a_single_function() -> None:
    world = World(cpus=8.0)
    for number in range(50):
        world.function(f"many{number}", "ap-many", request=CPU)
    world.function("one", "ap-one", request=CPU)
    for number in range(50):
        world.send(100, f"many{number}")
    world.send(5000, "one")
    world.ready()
    assert count(world, "one") >= 1, "its first container starts in any case"
    work(world, 40)
    one, many = count(world, "one"), count(world, "many")
    assert one >= many / 2, (one, many)


def test_a_newcomer_gets_its_share_of_a_machine_full_of_another_apps_functions() -> None:
    world = World(cpus=8.0)
    for number in range(8):
        world.function(f"many{number}", "ap-many", request=CPU)
        world.send(1000, f"many{number}")
    for _ in range(4):
        world.ready()
    assert count(world, "many") >= 8
    world.function("one", "ap-one", request=CPU)
    world.send(1000, "one")
    work(world, 30)
    assert count(world, "one") * 2 >= count(world, "many"), "one more of the many is let in now and then"


def test_within_its_share_all_functions_of_an_app_get_turns() -> None:
    world = World(cpus=8.0)
    for number in range(20):
        world.function(f"many{number}.", "ap-many", request=CPU)
    world.function("one", "ap-one", request=CPU)
    for number in range(20):
        world.send(1000, f"many{number}.")
    world.send(2000, "one")
    work(world, 100)
    done = {item.partition(".")[0] for item in world.finished if item.startswith("many")}
    assert len(done) == 20, "each of them has run"


def test_functions_of_an_app_alone_start_as_ever() -> None:
    """Nobody competes: each has its first container at once, room or not."""
    world = World(cpus=2.0)
    for number in range(10):
        world.function(f"f{number}.", "ap-1", request=CPU)
        world.send(1, f"f{number}.")
        world.ready()
    assert count(world, "f") == 10


def test_an_app_that_waits_for_devices_keeps_nobody_from_starting() -> None:
    world = World(cpus=1.0, gpus="T4")
    from intermodal.server.scheduler import Gpu

    world.function("gpu", "ap-gpu", request=Request(0.1, 100, (Gpu("T4"),)))
    world.send(2, "gpu")
    world.ready()
    for number in range(5):
        world.function(f"f{number}.", "ap-1", request=CPU)
        world.send(1, f"f{number}.")
        world.ready()
    assert count(world, "f") == 5


def test_what_has_waited_for_long_starts_though_its_app_has_more_than_others() -> None:
    """It may be what the others wait for."""
    world = World(cpus=4.0)
    for number in range(4):
        world.function(f"many{number}", "ap-many", request=CPU)
        world.send(1, f"many{number}")
        world.ready()
    world.function("one", "ap-one", request=CPU)
    world.send(10, "one")
    world.ready()
    world.function("needed", "ap-many", request=CPU)
    world.send(1, "needed")
    world.ready()
    assert count(world, "needed") == 0
    world.pass_time(31.0)
    assert count(world, "needed") == 1


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.sampled_from("aaapdf")), max_size=80))
def test_turns(steps: list[tuple[int, int, str]]) -> None:
    """Whoever waits is there once, and between two turns of an app every other app that waits throughout has one."""
    turns = Turns()
    shares = [Share() for _ in range(5)]
    pools = {(a, f): Pool(f"fu-{a}-{f}", f"ap-{a}", Rules(), shares[a]) for a in range(5) for f in range(7)}
    inside: set[tuple[int, int]] = set()
    since: dict[int, set[int]] = {}  # app -> apps that had a turn since its last
    for a, f, step in steps:
        pool = pools[a, f]
        if step == "a":
            turns.add(pool)
            inside.add((a, f))
        elif step == "d":
            turns.discard(pool)
            inside.discard((a, f))
        elif step == "f" and (a, f) in inside:
            turns.favour(pool)
            assert next(turns.heads(1)) is pool
            since.clear()
        elif step == "p" and inside:
            popped = turns.pop()
            key = next(key for key in inside if pools[key] is popped)
            inside.discard(key)
            waiting = {app for app, _ in inside}
            missed = {app for app in waiting if app != key[0] and app in since}
            for app in missed:
                assert key[0] not in since[app], "it had two turns while another one waited"
            since = {app: since.get(app, set()) | {key[0]} for app in waiting if app != key[0]}
            continue
        since = {app: had for app, had in since.items() if any(app == one for one, _ in inside)}
        assert len(turns) == len(inside)
        assert all((pools[key] in turns) == (key in inside) for key in pools)
