"""GPUs: whole devices, each in one container, by preference; and what no machine has."""

from __future__ import annotations

import pytest

from intermodal.server.scheduler import Capacity, Gpu, Request
from intermodal.server.scheduler.gpus import choose, describe, parse
from tests.unit.scheduler.world import World


def wants(*texts: str) -> Request:
    return Request(0.1, 100, tuple(parse(text) for text in texts))


@pytest.mark.parametrize(
    ("texts", "devices", "expected"),
    [
        ([], "T4", ()),
        (["T4"], "T4", ("0",)),
        (["T4"], "L4", None),
        (["T4:2"], "T4 L4 T4", ("0", "2")),
        (["T4:3"], "T4 L4 T4", None),
        (["ANY"], "T4 A10 L4", ("2",)),
        (["ANY"], "A10 T4", ("0",)),
        (["ANY"], "RTX-4090", ("0",)),
        (["ANY:2"], "L4 T4 T4", ("1", "2")),
        (["H100"], "H200", ("0",)),
        (["H100"], "H200 H100", ("1",)),
        (["H200"], "H100", None),
        (["H100", "A100-40GB:2"], "A100-40GB A100-40GB", ("0", "1")),
        (["H100", "A100-40GB:2"], "A100-40GB A100-40GB H100", ("2",)),
        (["A10G"], "A10", ("0",)),
        (["A100-80GB"], "A100-40GB", None),
    ],
)
def test_which_devices_answer_a_request(texts: list[str], devices: str, expected: tuple[str, ...] | None) -> None:
    there = {str(number): kind for number, kind in enumerate(devices.split())}
    assert choose([parse(text) for text in texts], there) == expected


def test_names_of_requests_and_devices() -> None:
    assert parse("a100-80gb:4") == Gpu("A100-80GB", 4)
    assert str(Gpu("A100-80GB", 4)) == "A100-80GB:4"
    assert describe(["T4", "L4", "T4"]) == "2 x T4, 1 x L4"
    assert describe([]) == "no GPU"


def test_no_device_is_in_two_containers() -> None:
    world = World(gpus="T4 T4 L4")
    world.function(request=wants("T4"))
    world.send(5)
    world.ready()
    assert sorted(box.devices for box in world.of()) == [("GPU-0-0",), ("GPU-0-1",)]
    assert world.waiting() == 3
    world.die(world.of()[0])
    assert sorted(box.devices for box in world.of()) == [("GPU-0-0",), ("GPU-0-1",)]


def test_all_devices_of_a_container_are_on_one_machine() -> None:
    world = World(gpus="T4", workers=2)
    world.function(request=wants("T4:2"))
    world.send(1)
    assert not world.boxes
    assert world.refused == [("f1", "gpu='T4:2' was asked for, and the machines have at most 1 x T4 each")]


def test_what_no_machine_has_is_refused_with_what_there_is() -> None:
    capacity = Capacity()
    assert capacity.problem(wants("H100")) == "", "without any machine nothing is known"
    capacity.add("wo-1", 2, 2000)
    assert capacity.problem(wants("H100", "T4:2")) == "gpu='H100 or T4:2' was asked for, and this machine has no GPU"
    assert capacity.problem(Request(8.0, 2000)) == "", "somewhat larger than the machine: it gets what there is"
    assert capacity.problem(Request(64.0, 1)) == "cpu=64 was asked for, and this machine has 2 cores"
    assert capacity.problem(Request(1, 99000)) == "memory=99000 (MiB) was asked for, and this machine has 2000 MiB"
    capacity.add("wo-2", 2, 1000, {"x": "T4", "y": "T4"})
    assert capacity.problem(wants("H100", "T4:2")) == ""


def test_the_second_choice_is_taken_while_the_first_is_busy() -> None:
    world = World(gpus="H100 T4")
    world.function(request=wants("H100", "T4"))
    world.send(3)
    world.ready()
    assert [box.devices for box in world.of()] == [("GPU-0-0",), ("GPU-0-1",)]


def test_an_idle_container_gives_its_device_to_who_has_none() -> None:
    world = World(gpus="T4")
    world.function("a", request=wants("T4"), scaledown_window=1000.0)
    world.function("b", request=wants("T4"))
    world.function("c", scaledown_window=1000.0)
    world.send(1, "c")
    world.send(1, "a")
    world.ready()
    world.finish(world.box("c"))
    world.finish(world.box("a"))
    world.send(1, "b")
    assert not world.of("b")
    world.pass_time(2.0)
    assert not world.of("a"), "its window is long, but another one waits"
    assert len(world.of("c")) == 1, "its end would help nobody"
    world.end_stopped()
    assert world.box("b").devices == ("GPU-0-0",)


def test_a_flood_for_one_device_takes_turns_with_others() -> None:
    world = World(gpus="T4")
    world.function("a", request=wants("T4"))
    world.function("b", request=wants("T4"))
    world.send(1000, "a")
    world.ready()
    world.send(1, "b")
    world.pass_time(31.0)
    busy = world.box("a")
    world.finish(busy)
    assert busy.stopping, "it gets no other input, although many wait"
    world.end_stopped()
    assert world.box("b").devices == ("GPU-0-0",)


def test_who_waits_for_several_devices_is_not_overtaken_for_ever() -> None:
    world = World(gpus="T4 T4")
    for name in "ab":
        world.function(name, request=wants("T4"))
        world.send(100, name)
    world.ready()
    world.function("big", request=wants("T4:2"))
    world.send(1, "big")
    for _ in range(20):
        world.pass_time(11.0)
        for box in list(world.boxes.values()):
            if box.function_id != "big" and box.inputs:
                world.finish(box)
        world.end_stopped()
        world.ready()
        if world.of("big"):
            break
    assert sorted(world.box("big").devices) == ["GPU-0-0", "GPU-0-1"]


def test_devices_of_adopted_containers_are_taken() -> None:
    world = World(gpus="T4 T4")
    world.function(request=wants("T4"))
    world.scheduler.adopt("ta-old", "f", "wo-0", True, world.now, ("GPU-0-0",))
    assert list(world.scheduler.capacity.workers["wo-0"].free) == ["GPU-0-1"]
    world.scheduler.container_gone("ta-old", world.now)
    assert list(world.scheduler.capacity.workers["wo-0"].free) == ["GPU-0-1", "GPU-0-0"]


def test_a_worker_that_comes_back_with_other_devices() -> None:
    capacity = Capacity()
    capacity.add("wo", 1, 100, {"x": "T4", "y": "T4"})
    taken = capacity.take("wo", wants("T4"))
    assert taken.devices == ("x",)
    capacity.add("wo", 1, 100, {"x": "T4", "z": "L4"})
    assert capacity.workers["wo"].free == {"z": "L4"}
    capacity.give("wo", taken)
    assert capacity.workers["wo"].free == {"z": "L4", "x": "T4"}
