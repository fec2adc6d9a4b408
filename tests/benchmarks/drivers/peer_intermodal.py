"""Intermodal: the app of `bench_app` in a running server."""

import platform
import time

import bench_app as bench

from modal._protocol import blocking
from modal._protocol.frames import VERSION_MAX, VERSION_MIN
from modal._protocol.messages.container import ContainerList, Containers, ContainerTimings, ContainerTimingsGet
from modal._protocol.messages.wire import Hello

POLL_SECONDS = 0.02


class Peer:
    def __init__(self, address):
        self._address = address
        self._run = bench.app.run()
        self._run.__enter__()
        self._fresh = 0
        for function in (bench.noop, bench.spread):
            function.remote(1)

    def call(self):
        bench.noop.remote(1)

    def map(self, count, order_outputs=True):
        return sum(1 for _ in bench.spread.map(range(count), order_outputs=order_outputs))

    def queue(self, count):
        """spawn_map: durable when it returns; then wait until nothing is queued."""
        began = time.perf_counter()
        bench.spread.spawn_map(range(count))
        accepted = time.perf_counter()
        while bench.spread.get_current_stats().backlog:
            time.sleep(POLL_SECONDS)
        return {"accept": accepted - began, "drain": time.perf_counter() - began}

    def concurrent(self, count):
        """No-ops on one worker that takes 100 at once."""
        return sum(1 for _ in bench.concurrent.map(range(count), order_outputs=False))

    def items(self, count):
        return sum(1 for _ in bench.items.remote_gen(count))

    def careful(self, count):
        """As `map`, with retries and a time limit."""
        return sum(1 for _ in bench.careful.map(range(count)))

    def cancel(self, count):
        """Seconds from the cancellation of an input that sleeps until the container has run another one."""
        times = []
        bench.sleep.remote(0)
        for _ in range(count):
            call = bench.sleep.spawn(600)
            while bench.sleep.get_current_stats().backlog:
                time.sleep(POLL_SECONDS)
            time.sleep(POLL_SECONDS)  # it sleeps by now
            began = time.perf_counter()
            call.cancel()
            bench.sleep.remote(0)
            times.append(time.perf_counter() - began)
        return times

    def many(self, count, steps):
        """`count` inputs: two that keep the function's containers busy, spawn_map of the others, their way through all.

        When each part of the inputs was accepted, and when each was done: seconds since the beginning of either.
        """
        bench.GATE.clear()
        bench.held.spawn_map([None, None])
        while bench.held.get_current_stats().num_total_runners < 2 or bench.held.get_current_stats().backlog:
            time.sleep(POLL_SECONDS)
        accepted, done = [], []
        began = time.perf_counter()
        bench.held.spawn_map(_timed(count - 2, count // steps, began, accepted))
        accepted.append(time.perf_counter() - began)
        waiting = bench.held.get_current_stats().backlog
        bench.GATE.put_many([1, 1])
        began = time.perf_counter()
        while waiting:
            time.sleep(POLL_SECONDS)
            waiting = bench.held.get_current_stats().backlog
            while len(done) < steps and count - waiting >= (len(done) + 1) * (count // steps):
                done.append(time.perf_counter() - began)
        return {"accepted": accepted, "done": done}

    def send(self, data):
        return bench.size.remote(data)

    def fetch(self, size):
        return bench.make.remote(size)

    def fresh(self):
        self.cold()

    def cold(self):
        """One cold start: when each step of it was done, in milliseconds after the call."""
        function = getattr(bench, f"cold_{self._fresh % bench.COLD}")
        self._fresh += 1
        called, clock = time.time(), time.perf_counter()
        container_id, ran = function.remote()
        took = (time.perf_counter() - clock) * 1000
        steps = self._steps([container_id])[container_id]
        marks = {name: at - called * 1000 for name, at in steps.items()}
        marks["function ran"] = (ran - called) * 1000
        marks["result here"] = took
        return marks

    def burst(self, count):
        """`count` containers of one function at once: when each was ready, in ms after the call; steps of each."""
        called = time.time()
        bench.stay.spawn_map([600] * count)
        while True:
            mine = [one for one in self._containers() if one.function_name == "stay"]
            if sum(one.state == "running" for one in mine) >= count:
                break
            time.sleep(0.1)
        steps = self._steps([one.container_id for one in mine])
        return [{name: at - called * 1000 for name, at in one.items()} for one in steps.values()]

    def burst_end(self):
        """Stop what `burst` started: a run that ends stops its containers."""
        self._run.__exit__(None, None, None)
        self._run = bench.app.run()
        self._run.__enter__()

    def _containers(self):
        with _connected(self._address) as connection:
            return connection.request(ContainerList(), Containers).containers

    def _steps(self, container_ids):
        """Container id -> step -> milliseconds since the epoch."""
        found = {}
        with _connected(self._address) as connection:
            asked = {
                one.container_id: one.started_at for one in connection.request(ContainerList(), Containers).containers
            }
            for container_id in container_ids:
                marks = connection.request(ContainerTimingsGet(container_id), ContainerTimings).marks
                begin = asked[container_id] * 1000
                found[container_id] = {"decided": begin, **{name: begin + at for name, at in marks.items()}}
        return found

    def close(self):
        self._run.__exit__(None, None, None)


def _timed(count, step, began, times):
    """The numbers below `count`; appends the seconds since `began` after each `step` of them."""
    for number in range(count):
        if number and number % step == 0:
            times.append(time.perf_counter() - began)
        yield number


class _connected:
    def __init__(self, address):
        hello = Hello("client", VERSION_MIN, VERSION_MAX, "", platform.python_version())
        self._connection = blocking.connect(address, hello)

    def __enter__(self):
        return self._connection

    def __exit__(self, *_):
        self._connection.close()
