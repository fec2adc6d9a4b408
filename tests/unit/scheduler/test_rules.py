"""Each rule of the scheduler by itself, without a clock."""

from __future__ import annotations

import pytest

from intermodal.server.scheduler import Request
from tests.unit.scheduler.world import World


@pytest.fixture
def world() -> World:
    return World()


def test_an_input_starts_a_container_and_runs_in_it(world: World) -> None:
    world.function()
    (item,) = world.send()
    box = world.box()
    assert not box.inputs
    world.ready()
    assert box.inputs == [item]
    world.finish(box)
    assert world.finished == [item]
    assert world.scheduler.pools["f"].assigned == 0


def test_an_idle_container_is_used_again(world: World) -> None:
    world.function()
    world.send()
    world.ready()
    world.finish(world.box())
    world.send()
    assert len(world.started) == 1
    assert len(world.box().inputs) == 1


def test_the_most_recently_used_idle_container_is_taken(world: World) -> None:
    world.function()
    world.send(2)
    world.ready()
    first, second = world.of()
    world.finish(second)
    world.now += 1
    world.finish(first)
    world.send()
    assert first.inputs
    assert not second.inputs


def test_each_long_input_gets_a_container(world: World) -> None:
    world.function()
    world.send(3)
    for _ in range(3):
        world.ready()
    assert [len(box.inputs) for box in world.of()] == [1, 1, 1]


def test_max_containers(world: World) -> None:
    world.function(max_containers=2)
    world.send(10)
    world.ready()
    world.ready()
    assert len(world.of()) == 2
    assert world.waiting() == 8


def test_min_containers_run_without_inputs_and_are_kept(world: World) -> None:
    world.function(min_containers=2, scaledown_window=10.0)
    world.ready()
    assert len(world.of()) == 2
    world.pass_time(1000)
    assert len(world.of()) == 2


def test_a_container_of_the_minimum_that_dies_is_replaced(world: World) -> None:
    world.function(min_containers=1)
    world.ready()
    world.die(world.box())
    assert len(world.of()) == 1


def test_buffer_containers_run_while_the_function_is_active(world: World) -> None:
    world.function(buffer_containers=2, scaledown_window=10.0)
    world.pass_time(100)
    assert not world.of(), "nothing is buffered for a function that nobody calls"
    world.send()
    world.ready()
    assert len(world.of()) == 3
    busy = next(box for box in world.of() if box.inputs)
    world.pass_time(100)
    assert len(world.of()) == 3, "the buffer stays as long as something runs"
    world.finish(busy)
    world.pass_time(100)
    assert not world.of()


def test_an_input_for_an_idle_container_starts_the_buffer(world: World) -> None:
    world.function(buffer_containers=1, min_containers=1)
    world.ready()
    world.send()
    assert len(world.of()) == 2


def test_an_idle_container_ends_after_its_window(world: World) -> None:
    world.function(scaledown_window=60.0)
    world.send()
    world.ready()
    world.finish(world.box())
    world.pass_time(59)
    assert world.of()
    world.pass_time(2)
    assert not world.of()
    assert world.stopped == [("ta-1", "idle")]


def test_use_begins_the_window_anew(world: World) -> None:
    world.function(scaledown_window=60.0)
    world.send()
    world.ready()
    world.finish(world.box())
    world.pass_time(50)
    world.send()
    world.finish(world.box())
    world.pass_time(50)
    assert world.of()
    world.pass_time(11)
    assert not world.of()


def test_the_window_is_shorter_when_most_containers_idle() -> None:
    world = World(cpus=64)
    world.function(scaledown_window=60.0)
    world.send(10)
    for _ in range(10):
        world.ready()
    for box in world.of():
        world.finish(box)
    world.pass_time(16)
    assert len(world.of()) == 4
    world.pass_time(60)
    assert not world.of()


def test_short_inputs_do_not_start_a_container_each(world: World) -> None:
    world.function()
    world.send()
    world.ready()
    world.finish(world.box(), seconds=0.001)
    world.send(100)
    assert len(world.started) == 1


def test_short_inputs_that_take_long_together_start_some(world: World) -> None:
    world.function()
    world.send()
    world.ready()
    world.finish(world.box(), seconds=0.001)
    world.send(5000)
    assert 1 < len(world.started) <= 11


def test_short_inputs_wait_inside_the_container(world: World) -> None:
    world.function(max_containers=1)
    world.send()
    world.ready()
    world.finish(world.box(), seconds=0.001)
    world.send(100)
    assert len(world.box().inputs) == 11  # 1 that runs and 10 ms of work
    world.finish(world.box(), 3, seconds=0.001)
    assert len(world.box().inputs) == 8, "filled again only when half empty"
    world.finish(world.box(), 3, seconds=0.001)
    assert len(world.box().inputs) == 11


def test_nothing_waits_inside_where_the_function_does_not_allow_it(world: World) -> None:
    world.function(max_containers=1, prefetch=False)
    world.send()
    world.ready()
    world.finish(world.box(), seconds=0.001)
    world.send(100)
    assert len(world.box().inputs) == 1


def test_what_waits_behind_a_long_input_is_recalled(world: World) -> None:
    world.function(max_containers=2)
    world.send(2)
    world.ready()
    world.ready()
    first, second = world.of()
    world.finish(first, seconds=0.001)
    world.finish(second, seconds=0.001)
    inputs = world.send(20)
    assert len(first.inputs) == len(second.inputs) == 10
    while second.inputs:
        world.finish(second, len(second.inputs), seconds=0.001)
    running = first.inputs[0]
    world.pass_time(0.1)
    assert running not in first.recalled
    back = world.give_back()
    assert len(back) == 9
    assert first.inputs == [running]
    assert second.inputs, "the other container gets them"
    while second.inputs:
        world.finish(second, seconds=0.001)
    assert set(world.finished) >= set(inputs) - {running}


def test_what_was_recalled_does_not_go_back_behind_the_same_input(world: World) -> None:
    world.function(max_containers=1)
    world.send()
    world.ready()
    box = world.box()
    world.finish(box, seconds=0.0001)
    world.send(10)
    world.pass_time(0.1)
    world.give_back()
    for _ in range(20):
        world.pass_time(0.1)
        world.give_back()
    assert len(box.inputs) == 1
    assert world.waiting() == 9
    world.finish(box, seconds=2.0)
    assert box.inputs


def test_inputs_are_shared_evenly(world: World) -> None:
    world.function(max_containers=4)
    world.send(4)
    world.ready()
    world.ready()
    for box in world.of():
        world.finish(box, seconds=0.0001)
    world.send(40)
    assert [len(box.inputs) for box in world.of()] == [10, 10, 10, 10]


def test_the_first_container_starts_although_everything_is_reserved() -> None:
    world = World(cpus=1.0)
    world.function("a", request=Request(1.0, 100))
    world.function("b", request=Request(1.0, 100))
    world.send(2, "a")
    world.ready()
    assert len(world.of("a")) == 1, "only one fits"
    world.send(1, "b")
    assert len(world.of("b")) == 1


def test_a_request_larger_than_the_machine_gets_all_of_it() -> None:
    world = World(cpus=2.0, memory=1000)
    world.function(request=Request(32.0, 64000))
    world.send(2)
    world.ready()
    assert len(world.of()) == 1
    assert world.scheduler.capacity.workers["wo-0"].cpu_used == 2.0


def test_hungry_functions_take_turns() -> None:
    world = World(cpus=2.0)  # four may start at once
    world.function("a", request=Request(0.01, 10))
    world.function("b", request=Request(0.01, 10))
    world.send(20, "a")
    world.send(20, "b")
    while len(world.started) < 20:
        world.ready(next(box.id for box in world.boxes.values() if not box.ready))
    assert abs(len(world.of("a")) - len(world.of("b"))) <= 4


def test_only_so_many_start_at_once() -> None:
    world = World(cpus=2.0)
    world.function(request=Request(0.01, 10))
    world.send(100)
    assert len(world.started) == 4
    world.ready()
    assert len(world.started) == 8


def test_an_idle_container_makes_room_for_a_hungry_function() -> None:
    world = World(cpus=2.0)
    world.function("a", request=Request(1.0, 100), scaledown_window=1000.0)
    world.function("b", request=Request(1.0, 100))
    world.send(2, "a")
    world.ready()
    for box in world.of("a"):
        world.finish(box)
    world.send(2, "b")
    world.ready()
    assert len(world.of("b")) == 1, "the first one starts in any case"
    world.pass_time(0.5)
    assert len(world.of("a")) == 2, "not before they have idled for a moment"
    world.pass_time(1.0)
    assert len(world.of("a")) == 1, "one at a time"
    world.end_stopped()
    world.pass_time(2.0)
    world.end_stopped()
    assert len(world.of("b")) == 2


def test_the_minimum_of_a_function_makes_room_for_nobody() -> None:
    world = World(cpus=1.0)
    world.function("a", request=Request(1.0, 100), min_containers=1)
    world.ready()
    world.function("b", request=Request(0.5, 100))
    world.send(5, "b")
    world.ready()
    world.pass_time(100)
    assert len(world.of("a")) == 1


def test_a_retired_function_finishes_what_it_has(world: World) -> None:
    world.function(max_containers=1)
    inputs = world.send(3)
    world.ready()
    world.scheduler.retire_function("f", world.now)
    world.obey()
    while world.of():
        world.finish(world.box())
    assert world.finished == inputs
    assert world.stopped
    world.end_stopped()
    assert "f" not in world.scheduler.pools


def test_a_retired_idle_function_is_gone_at_once(world: World) -> None:
    world.function(min_containers=1)
    world.ready()
    world.scheduler.retire_function("f", world.now)
    world.obey()
    assert not world.of()
    world.end_stopped()
    assert not world.scheduler.pools


def test_a_removed_function_gives_up_its_inputs(world: World) -> None:
    world.function(max_containers=1)
    inputs = world.send(3)
    world.ready()
    world.scheduler.remove_function("f", "stopped")
    world.obey()
    assert sorted(world.given_up) == sorted(inputs)
    assert not world.of()


def test_a_function_that_comes_back_is_not_forgotten_with_its_predecessor(world: World) -> None:
    world.function()
    world.send()
    world.ready()
    old = world.box()
    world.scheduler.remove_function("f", "stopped")
    world.obey()
    world.function()
    world.die(old)
    assert "f" in world.scheduler.pools
    world.send()
    assert len(world.of()) == 1


def test_a_drained_container_finishes_and_is_replaced(world: World) -> None:
    world.function(max_containers=1)
    world.send(2)
    world.ready()
    old = world.box()
    world.scheduler.drain(old.id, world.now)
    world.obey()
    assert not old.stopping
    assert len(world.boxes) == 2, "its successor starts at once"
    world.finish(old)
    assert old.stopping
    world.ready()
    assert len(world.box().inputs) == 1


def test_starts_are_held_back_after_failures(world: World) -> None:
    world.function()
    world.send()
    box = world.box()
    world.scheduler.hold_starts("f", world.now + 4.0)
    world.die(box)
    assert not world.of()
    world.send()
    assert not world.of()
    world.pass_time(3.9)
    assert not world.of()
    world.pass_time(0.2)
    assert world.of()


def test_nothing_happens_while_paused(world: World) -> None:
    world.scheduler.pause()
    world.function(min_containers=1)
    world.send(3)
    world.pass_time(100)
    assert not world.boxes
    world.scheduler.resume(world.now)
    world.obey()
    assert len(world.of()) == 3


def test_an_adopted_container_runs_what_it_holds(world: World) -> None:
    world.scheduler.pause()
    world.function()
    (again,) = world.send()  # the client sent it again before the worker came back
    assert world.scheduler.adopt("ta-old", "f", "wo-0", True, world.now)
    world.scheduler.hold("ta-old", again, world.now)
    world.scheduler.adopted("ta-old", world.now)
    world.scheduler.resume(world.now)
    world.obey()
    assert world.waiting() == 0, "it must not run twice"
    assert not world.started
    world.scheduler.finished("ta-old", [again], world.now)
    assert world.scheduler.pools["f"].idle


def test_a_container_of_an_unknown_function_is_not_adopted(world: World) -> None:
    assert not world.scheduler.adopt("ta-old", "nobody", "wo-0", True, world.now)


def test_a_container_serves_no_more_than_its_life_of_inputs(world: World) -> None:
    world.function(max_inputs=2, max_containers=1)
    world.send(3)
    world.ready()
    first = world.box()
    world.finish(first)
    assert len(first.inputs) == 1
    world.finish(first)
    assert first.stopping
    world.die(first)
    world.ready()
    assert len(world.box().inputs) == 1


def test_a_life_counts_only_what_was_not_returned(world: World) -> None:
    world.function(max_inputs=3, max_containers=1, limit=2, target=2)
    world.send(2)
    world.ready()
    box = world.box()
    back = [box.inputs.pop()]
    world.scheduler.returned(box.id, back, world.now)
    world.obey()
    assert world.scheduler.slots[box.id].served == 1
    world.finish(box)
    assert box.inputs == back


def test_concurrent_inputs_share_a_container(world: World) -> None:
    world.function(limit=10, target=5, prefetch=False)
    world.send(5)
    world.ready()
    assert len(world.of()) == 1
    assert len(world.box().inputs) == 5


def test_the_target_starts_more_containers_and_the_limit_holds(world: World) -> None:
    world.function(limit=10, target=5, prefetch=False, max_containers=2)
    world.send(30)
    world.ready()
    world.ready()
    assert [len(box.inputs) for box in world.of()] == [10, 10]
    assert world.waiting() == 10


def test_concurrent_inputs_go_to_the_emptiest_container(world: World) -> None:
    world.function(limit=4, target=4, prefetch=False, max_containers=2)
    world.send(5)
    world.ready()
    world.ready()
    first, second = sorted(world.of(), key=lambda box: len(box.inputs))
    before = len(first.inputs), len(second.inputs)
    assert sum(before) == 5
    world.send(1)
    assert abs(len(first.inputs) - len(second.inputs)) <= 1 or len(first.inputs) > before[0]


def test_a_full_batch_runs_at_once(world: World) -> None:
    world.function(batch_size=4, batch_wait=10.0)
    world.send(1)
    world.ready()
    assert not world.box().inputs, "it waits for company"
    world.send(3)
    assert len(world.box().batches) == 1


def test_a_batch_that_is_not_full_runs_after_its_wait(world: World) -> None:
    world.function(batch_size=4, batch_wait=2.0)
    world.send(2)
    world.ready()
    world.pass_time(1.9)
    assert not world.box().inputs
    world.pass_time(0.2)
    assert world.box().batches == [world.box().inputs]


def test_the_wait_of_a_batch_begins_with_its_first_input(world: World) -> None:
    world.function(batch_size=4, batch_wait=2.0, max_containers=1)
    world.send(4)
    world.ready()
    world.send(1)
    world.pass_time(5)
    world.finish(world.box(), 4)
    assert len(world.box().inputs) == 1, "it has waited long enough already"


def test_a_batch_whose_inputs_were_withdrawn_asks_for_nothing(world: World) -> None:
    world.function(batch_size=4, batch_wait=2.0)
    inputs = world.send(2)
    world.ready()
    assert world.scheduler.withdraw("f", inputs) == inputs
    world.pass_time(1000)
    assert not world.finished


def test_withdrawn_inputs_do_not_run(world: World) -> None:
    world.function(max_containers=1)
    first, second, third = world.send(3)
    assert world.scheduler.withdraw("f", [second]) == [second]
    assert world.scheduler.withdraw("f", [second]) == []
    world.ready()
    world.finish(world.box())
    world.finish(world.box())
    assert world.finished == [first, third]


def test_the_inputs_of_a_dead_container_come_first_again(world: World) -> None:
    world.function(max_containers=1)
    first, _second = world.send(2)
    world.ready()
    held = world.die(world.box())
    world.scheduler.enqueue("f", held, world.now, front=True)
    world.obey()
    world.ready()
    assert world.box().inputs == [first]


def test_work_on_disk_wants_containers(world: World) -> None:
    world.function()
    world.scheduler.set_backlog("f", 5, world.now)
    world.obey()
    assert len(world.of()) == 5
    world.scheduler.set_backlog("f", 0, world.now)
    world.ready()
    world.pass_time(1000)
    assert not world.of()


def test_nothing_is_placed_on_a_worker_that_is_away() -> None:
    world = World(workers=2)
    world.scheduler.capacity.leave("wo-0")
    world.function()
    world.send(4)
    assert {box.worker_id for box in world.of()} == {"wo-1"}


def test_without_any_worker_a_function_waits_for_the_first(world: World) -> None:
    world.scheduler.capacity.remove("wo-0")
    world.function()
    world.send()
    world.pass_time(10)
    assert not world.of()
    world.scheduler.capacity.add("wo-1", 4, 1000)
    world.scheduler.resume(world.now)
    world.obey()
    assert len(world.of()) == 1


def test_rules_that_change_do_not_unbalance_what_is_reserved(world: World) -> None:
    world.function(request=Request(1.0, 1000))
    world.send()
    world.ready()
    world.function(request=Request(2.0, 5000))
    world.die(world.box())
    worker = world.scheduler.capacity.workers["wo-0"]
    taken = len(world.of())
    assert (worker.cpu_used, worker.memory_used) == (2.0 * taken, 5000 * taken)


def test_a_lower_limit_holds_at_once(world: World) -> None:
    world.function()
    world.send(4)
    world.ready()
    assert len(world.of()) == 4
    world.finish(world.of()[3])
    world.send(1)
    world.function(max_containers=2)
    busy = [box for box in world.of() if box.inputs]
    for box in busy:
        world.finish(box)
    assert len(world.of()) == 2
    assert {reason for _id, reason in world.stopped} == {"replaced or asked to end"}
    world.function(max_containers=1)
    assert len(world.of()) == 1
    assert world.stopped[-1][1] == "more than its function may have"


def test_an_input_behind_a_long_one_gets_a_container_though_inputs_are_short(world: World) -> None:
    """A call that waits for another call of its own function must not wait for itself."""
    world.function(prefetch=False)
    world.send(1)
    world.ready()
    for _ in range(3):
        world.finish(world.box(), seconds=0.001)
        world.send(1)
    inner = world.send(1)
    assert world.waiting() == 1
    assert len(world.of()) == 1, "it will be its turn in a moment"
    world.pass_time(0.2)
    assert len(world.of()) == 2
    world.ready()
    assert [box.inputs for box in world.of()][1] == inner


def test_short_inputs_that_move_start_no_containers(world: World) -> None:
    world.function(prefetch=False)
    world.send(1)
    world.ready()
    world.finish(world.box(), seconds=0.004)
    world.send(60)
    for _ in range(50):
        world.pass_time(0.004)
        world.finish(world.box(), seconds=0.004)
    assert len(world.of()) == 1


def test_what_comes_back_from_behind_a_long_input_starts_a_container(world: World) -> None:
    world.function()
    world.send(1)
    world.ready()
    world.finish(world.box(), seconds=0.001)
    world.send(4)
    world.pass_time(0.06)
    world.give_back()
    world.pass_time(0.2)
    assert len(world.of()) >= 2


def test_inputs_that_wait_for_the_queue_are_no_short_ones(world: World) -> None:
    """Recursion: what runs waits for what is queued, though inputs were short until now."""
    world.function()
    world.send()
    world.ready()
    world.finish(world.box(), seconds=0.001)
    world.send()
    (parent,) = world.of()
    assert parent.inputs
    children = world.send(2)
    for _ in range(4):
        world.pass_time(0.1)
        world.give_back()
        world.ready()
    held = [item for box in world.of() if box is not parent for item in box.inputs]
    assert held
    assert set(held) <= set(children)
