"""Random walks: whatever happens, in whatever order, no input is lost and every count is right."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from intermodal.server.scheduler import Gpu, Request, Rules
from intermodal.server.scheduler.pool import READY, STARTING, STOPPING
from tests.unit.scheduler.world import Box, World

FUNCTIONS = ("a", "b", "c")
DEVICES = "T4 T4 L4"
GPUS = ((Gpu("T4"),), (Gpu("T4", 2),), (Gpu("L4"), Gpu("T4")), (Gpu("ANY"),), (Gpu("H100"),))
RULES = st.fixed_dictionaries(
    {
        "min_containers": st.integers(0, 2),
        "max_containers": st.sampled_from([0, 0, 2, 3]),
        "buffer_containers": st.integers(0, 2),
        "scaledown_window": st.sampled_from([0.0, 2.0, 60.0]),
        "limit": st.just(1),
        "target": st.just(1),
        "max_inputs": st.sampled_from([0, 0, 0, 3]),
        "prefetch": st.booleans(),
        "request": st.builds(
            Request,
            st.sampled_from([0.1, 1.0, 20.0]),
            st.sampled_from([100, 4000]),
            st.sampled_from([(), (), (), *GPUS]),
        ),
    }
).flatmap(
    lambda rules: st.one_of(
        st.just(rules),
        st.just({**rules, "limit": 4, "target": 2, "prefetch": False}),
        st.just({**rules, "batch_size": 3, "batch_wait": 1.0, "max_inputs": 0}),
    )
)


class Walk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(cpus=3.0, memory=20000, gpus=DEVICES)
        self.alive: set[Any] = set()  # sent and not over
        self.rules: dict[str, dict[str, Any]] = {}
        self.candidates: dict[str, dict[str, Any]] = {}  # function -> rules of its next version
        self.calls: list[tuple[Box, Any]] = []  # of containers' inputs, that they wait for
        self.checked_given_up = 0
        self.checked_refused = 0
        self.checked_finished = 0

    @initialize(rules=RULES)
    def begin(self, rules: dict[str, Any]) -> None:
        self.put("a", rules)

    # -- events
    @rule(function_id=st.sampled_from(FUNCTIONS), rules=RULES)
    def put(self, function_id: str, rules: dict[str, Any]) -> None:
        # A change of what a container runs at once replaces the containers, as publishing anew does.
        self.drop_candidate(function_id)
        if function_id in self.rules:
            for box in self.world.of(function_id):
                self.world.scheduler.drain(box.id, self.world.now)
                self.world.obey()
        self.rules[function_id] = rules
        self.world.function(function_id, "ap-2" if function_id == "c" else "ap-1", **rules)

    @precondition(lambda self: self.rules)
    @rule(data=st.data(), count=st.sampled_from([1, 1, 2, 7, 70]))
    def send(self, data: st.DataObject, count: int) -> None:
        function_id = data.draw(st.sampled_from(sorted(self.rules)))
        if not self.world.scheduler.pools[function_id].retired:
            self.alive |= set(self.world.send(count, function_id))

    def pick(self, data: st.DataObject, wanted: Any) -> Box | None:
        boxes = [box for box in self.world.boxes.values() if wanted(box)]
        return data.draw(st.sampled_from(boxes)) if boxes else None

    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        box = self.pick(data, lambda box: not box.ready)
        if box is not None:
            self.world.ready(box.id)

    @rule(data=st.data(), count=st.integers(1, 5), seconds=st.sampled_from([None, 0.0001, 0.003, 1.0]))
    def finish(self, data: st.DataObject, count: int, seconds: float | None) -> None:
        box = self.pick(data, lambda box: box.inputs)
        if box is not None:
            self.alive -= set(self.world.finish(box, count, seconds))

    @rule(data=st.data())
    def wait(self, data: st.DataObject) -> None:
        """An input that runs makes a call, or one more."""
        box = self.pick(data, lambda box: box.inputs)
        if box is not None:
            item = data.draw(st.sampled_from(box.inputs[:4]))
            self.world.waits(box, item)
            self.calls.append((box, item))

    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        """A call is over; perhaps its caller's container is no more, or its caller has ended."""
        if self.calls:
            call = data.draw(st.sampled_from(self.calls))
            self.calls.remove(call)
            self.world.goes_on(*call)

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        box = self.pick(data, lambda box: True)
        if box is not None:
            held = self.world.die(box)
            again = [item for item in held if item in self.alive]
            if again and box.function_id in self.world.scheduler.pools:
                self.world.scheduler.enqueue(box.function_id, again, self.world.now, front=True)
                self.world.obey()
            else:
                self.alive -= set(again)

    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        box = self.pick(data, lambda box: not box.stopping)
        if box is not None:
            self.world.scheduler.drain(box.id, self.world.now)
            self.world.obey()

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        items = [item for item in sorted(self.alive) if item not in self._in_boxes()]
        if items:
            item = data.draw(st.sampled_from(items))
            found = self.world.scheduler.withdraw(item[0], [item])
            assert found == [item]
            self.alive.discard(item)

    @rule(seconds=st.sampled_from([0.01, 0.06, 1.0, 3.0, 100.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule()
    def give_back(self) -> None:
        self.world.give_back()

    @rule()
    def end_stopped(self) -> None:
        for box in list(self.world.boxes.values()):
            if box.stopping and not box.inputs:
                self.world.die(box)

    @rule(function_id=st.sampled_from(FUNCTIONS))
    def retire(self, function_id: str) -> None:
        self.drop_candidate(function_id)
        if function_id in self.rules:
            self.world.scheduler.retire_function(function_id, self.world.now)
            self.world.obey()
            self._forget_gone()

    @rule(function_id=st.sampled_from(FUNCTIONS))
    def remove(self, function_id: str) -> None:
        self.drop_candidate(function_id)
        if self.rules.pop(function_id, None) is not None:
            self.world.scheduler.remove_function(function_id, "removed")
            self.world.obey()

    @rule(function_id=st.sampled_from(FUNCTIONS), rules=RULES, count=st.integers(1, 3))
    def put_candidate(self, function_id: str, rules: dict[str, Any], count: int) -> None:
        """A newer version is deployed, perhaps before the last one has taken over."""
        pool = self.world.scheduler.pools.get(function_id)
        if function_id in self.rules and pool is not None and not pool.retired:
            self.drop_candidate(function_id)
            self.candidates[function_id] = rules
            scheduler, now = self.world.scheduler, self.world.now
            scheduler.put_candidate(f"{function_id}+", function_id, Rules(**rules), count, now)
            self.world.obey()

    @rule(function_id=st.sampled_from(FUNCTIONS))
    def promote(self, function_id: str) -> None:
        rules = self.candidates.get(function_id)
        if rules is None or not any(box.ready for box in self.world.of(f"{function_id}+")):
            return
        del self.candidates[function_id]
        self.rules[function_id] = rules
        self.world.scheduler.promote(f"{function_id}+", function_id, Rules(**rules), self.world.now)
        for box in self.world.boxes.values():
            if box.function_id == f"{function_id}+":
                box.function_id = function_id
        self.world.obey()

    @rule(function_id=st.sampled_from(FUNCTIONS))
    def drop_candidate(self, function_id: str) -> None:
        if self.candidates.pop(function_id, None) is not None:
            self.world.scheduler.remove_function(f"{function_id}+", "given up")
            self.world.obey()

    @rule()
    def pause(self) -> None:
        self.world.scheduler.pause()

    @rule()
    def resume(self) -> None:
        self.world.scheduler.resume(self.world.now)
        self.world.obey()

    @rule(function_id=st.sampled_from(FUNCTIONS), seconds=st.sampled_from([0.5, 5.0]))
    def hold_starts(self, function_id: str, seconds: float) -> None:
        self.world.scheduler.hold_starts(function_id, self.world.now + seconds)

    @rule()
    def worker_hiccup(self) -> None:
        self.world.scheduler.capacity.leave("wo-0")
        self.world.pass_time(1.0)
        devices = {f"GPU-0-{number}": kind for number, kind in enumerate(DEVICES.split())}
        self.world.scheduler.capacity.add("wo-0", 3.0, 20000, devices)
        if not self.world.scheduler.paused:
            self.resume()

    # -- what must always be true
    def _in_boxes(self) -> list[Any]:
        return [item for box in self.world.boxes.values() for item in box.inputs]

    def _forget_gone(self) -> None:
        for function_id in list(self.rules):
            if function_id not in self.world.scheduler.pools:
                del self.rules[function_id]

    @invariant()
    def no_input_is_lost_or_in_two_places(self) -> None:
        self._forget_gone()
        given_up = self.world.given_up[self.checked_given_up :]
        self.checked_given_up = len(self.world.given_up)
        self.alive -= set(given_up)
        refused = [item for item, _reason in self.world.refused[self.checked_refused :]]
        self.checked_refused = len(self.world.refused)
        assert len(refused) == len(set(refused)), "an input is refused twice"
        self.alive -= set(refused)
        places = [item for item in self._in_boxes() if item in self.alive]
        for pool in self.world.scheduler.pools.values():
            places += list(pool.queue)
        assert len(places) == len(set(places)), "an input is in two places"
        assert set(places) == self.alive, "an input is lost"
        finished = self.world.finished
        assert len(finished) == len(set(finished)), "an input was finished twice"

    @invariant()
    def containers_know_their_inputs(self) -> None:
        slots = self.world.scheduler.slots
        assert set(slots) == set(self.world.boxes)
        for box in self.world.boxes.values():
            assert list(slots[box.id].inputs) == box.inputs

    @invariant()
    def counts_are_right(self) -> None:
        scheduler = self.world.scheduler
        for pool in scheduler.pools.values():
            states = [slot.state for slot in pool.slots.values()]
            assert pool.ready == states.count(READY)
            assert pool.starting == states.count(STARTING)
            assert pool.assigned == sum(len(slot.inputs) for slot in pool.slots.values())
            idle = {slot.id for slot in pool.slots.values() if slot.state == READY and not slot.inputs}
            assert set(pool.idle) == idle
            assert all(slot.state == READY and slot.inputs for slot in pool.open.values())
        assert scheduler._starts.running == sum(slot.state == STARTING for slot in scheduler.slots.values())
        everywhere = {slot_id for pool in scheduler.pools.values() for slot_id in pool.idle}
        assert set(scheduler._idle) == everywhere
        assert all(slot.state != STOPPING for slot in scheduler._overfull._slots.values())

    @invariant()
    def limits_hold(self) -> None:
        for pool in self.world.scheduler.pools.values():
            limit = pool.rules.max_containers
            started = sum(
                1 for slot in pool.slots.values() if slot.state != STOPPING and slot.started_at >= self.world.now
            )
            if limit and started:
                assert pool.ready + pool.starting <= limit

    @invariant()
    def what_is_reserved_is_what_runs(self) -> None:
        worker = self.world.scheduler.capacity.workers["wo-0"]
        slots = self.world.scheduler.slots.values()
        assert worker.containers == len(slots)
        assert worker.memory_used == sum(slot.taken.memory for slot in slots)
        assert abs(worker.cpu_used - sum(slot.taken.cpu for slot in slots if not slot.lent)) < 1e-6

    @invariant()
    def who_has_something_to_do_has_lent_nothing(self) -> None:
        open_calls = set(self.calls)
        for box in self.world.boxes.values():
            slot = self.world.scheduler.slots[box.id]
            rules = slot.pool.rules
            waiting = {item for item in box.inputs if (box, item) in open_calls}
            running = 1 if rules.batch_size else min(len(box.inputs), rules.limit)
            assert set(slot.waiting) == waiting
            assert not slot.lent or len(waiting) >= running > 0

    @invariant()
    def shares_are_what_apps_have(self) -> None:
        counts: dict[int, int] = {}
        for slot in self.world.scheduler.slots.values():
            share = id(slot.pool.share)
            counts[share] = counts.get(share, 0) + (slot.state != STOPPING)
        for pool in self.world.scheduler.pools.values():
            assert pool.share.containers == counts.get(id(pool.share), 0)

    @invariant()
    def each_device_is_in_one_place(self) -> None:
        worker = self.world.scheduler.capacity.workers["wo-0"]
        taken = [device for slot in self.world.scheduler.slots.values() for device in slot.taken.devices]
        assert len(taken) == len(set(taken)), "two containers have one device"
        assert set(taken) | set(worker.free) == set(worker.devices)
        assert not set(taken) & set(worker.free)

    def teardown(self) -> None:
        """When containers behave, everything ends."""
        world = self.world
        for call in self.calls:
            world.goes_on(*call)
        self.calls.clear()
        for function_id in FUNCTIONS:
            self.drop_candidate(function_id)
        world.scheduler.resume(world.now)
        world.obey()
        for _ in range(400 + len(self.alive)):
            if not self.alive:
                break
            for box in list(world.boxes.values()):
                if box.stopping and not box.inputs:
                    world.die(box)
                elif not box.ready and not box.stopping:
                    world.ready(box.id)
            for box in list(world.boxes.values()):
                if box.inputs:
                    self.alive -= set(world.finish(box, len(box.inputs), 0.01))
            world.give_back()
            world.pass_time(1.0)
            self.no_input_is_lost_or_in_two_places()
        assert not self.alive, "some inputs never ran"
        for function_id in list(world.scheduler.pools):
            world.scheduler.retire_function(function_id, world.now)
        world.obey()
        for _ in range(4):
            world.end_stopped()
            for box in list(world.boxes.values()):
                world.ready(box.id)
            world.pass_time(100.0)
        assert not world.boxes
        assert not world.scheduler.pools
        worker = world.scheduler.capacity.workers["wo-0"]
        assert (worker.cpu_used, worker.memory_used, worker.containers) == (0.0, 0, 0)
        assert worker.free.keys() == worker.devices.keys()
        assert world.scheduler.due == float("inf")


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=int(os.environ.get("INTERMODAL_WALK_EXAMPLES", "30")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
