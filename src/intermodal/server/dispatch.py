"""Carries out what the scheduler decides: containers are started and stopped, inputs sent, outputs taken in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from intermodal.server.crashes import Crashes
from intermodal.server.express import Express
from intermodal.server.function_rules import batching_of, rules_of
from intermodal.server.handover import Handovers
from intermodal.server.inputs import Call, Held, run_inputs
from intermodal.server.live import Container, Function
from intermodal.server.scheduler import Assign, GiveUp, Recall, Refuse, Scheduler, Start, Stop
from intermodal.server.store.calls import attempt_name
from modal._protocol.errors import Code, Fault
from modal._protocol.frames import Frame
from modal._protocol.messages.call import BATCH_BYTES, BATCH_INPUTS, CallFailure, Status, pack_failure, unpack_failure
from modal._protocol.messages.function import FunctionSpec
from modal._protocol.messages.worker import (
    EXIT_ABANDONED,
    EXIT_CANCELLED,
    EXIT_INTERRUPTED,
    EXIT_LOST,
    ContainerExited,
    ContainerSpec,
    RunnerFailed,
    RunnerReady,
    RunnerStops,
    RunOutputs,
)

log = logging.getLogger("intermodal.dispatch")

UNANSWERED_SECONDS = 10.0  # how long a container may ignore the cancellation of an input
NEVER = float("inf")
KNOWN = "known"  # the kind of calls that stand for inputs which a container has, and which are over already
TIMER_SLACK = 0.001  # seconds: a loop's timers may fire that much too early
STOP_GRACE = 30.0  # seconds for exit handlers


class Dispatch:
    """The scheduler's hands. `workers` starts and ends containers."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.functions: dict[str, Function] = {}
        self.of_app: dict[str, dict[str, Function]] = {}  # the same by app
        self.containers: dict[str, Container] = {}
        self.handovers = Handovers(self, rules_of)
        self.express = Express(self)
        self.crashes = Crashes(self, self._wake, self._requeue_later)
        # The last two: the number of a generator's item, and whether it has come by the express way.
        self.deliver: Callable[[Held, int, bytes, str, int, bool], None] = lambda *_: None
        self.settled: Callable[[], None] = lambda: None
        self.hollow: Callable[[Held], None] = lambda _held: None  # it must run again: where are its arguments?
        self.retried: Callable[[Held, str], None] = lambda _held, _name: None  # an attempt more has failed
        self.refill: Callable[[str], None] = lambda _function_id: None
        self.system_log: Callable[[Container, str], None] = lambda _container, _text: None
        self.start_container: Callable[[Container], Awaitable[None]]
        self.kill_container: Callable[[Container, float, str], None]
        self.durable: Callable[[Container], None] = lambda _container: None  # more frames may be acknowledged
        self.changed: Callable[[str], None] = lambda _app_id: None  # an app's numbers have changed
        self.forget_values: Callable[[Iterable[str]], None] = lambda _blobs: None  # large ones that nobody needs again
        self.gone: list[Callable[[str], None]] = []  # told the ids of containers that have ended
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    # -- functions
    def put_function(
        self, function_id: str, app_id: str, spec: FunctionSpec, ephemeral: bool, again: bool = False
    ) -> Function:
        """A function exists from now on, or has changed. `again`: it was deployed anew, changed or not.

        Where it has warm containers, they serve until those of the new version are warm.
        """
        known = self.functions.get(function_id)
        if known is not None and (again or known.spec != spec) and self.handovers.begin(known, spec):
            return known
        self.scheduler.put_function(function_id, app_id, rules_of(spec), time.monotonic())
        pool = self.scheduler.pools[function_id]
        function = self.functions.get(function_id)
        if function is None:
            function = self.functions[function_id] = Function(function_id, app_id, spec, pool, ephemeral)
            self.of_app.setdefault(app_id, {})[function_id] = function
        else:
            if function.spec != spec:
                self._replace_containers(function)
            function.spec, function.pool, function.ephemeral = spec, pool, ephemeral
        self.run()
        return function

    def _replace_containers(self, function: Function) -> None:
        """Containers of an older form finish what they have and end; new inputs go to new ones."""
        function.generation += 1
        function.crashes.renew()
        function.ever_ready = False
        for container in list(self.containers.values()):
            if container.function is function:
                self.scheduler.drain(container.id, time.monotonic())

    def rescale_function(self, function_id: str, spec: FunctionSpec) -> None:
        """Other limits for the autoscaler, the same containers."""
        function = self.function(function_id)
        function.spec = spec
        self.scheduler.put_function(function_id, function.app_id, rules_of(spec), time.monotonic())
        self.run()

    def keep_task(self, task: asyncio.Task[None]) -> None:
        """Hold on to a background task until it has ended."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def function(self, function_id: str) -> Function:
        """Raises Fault where it does not exist or its app was stopped."""
        function = self.functions.get(function_id)
        if function is not None and function_id not in self.scheduler.pools:  # a later deployment left it out
            self._forget_function(function_id)
            function = None
        if function is None:
            raise Fault(
                Code.NOT_FOUND,
                f"function {function_id} does not exist, or its app was stopped; if that was deployed again, look "
                "the function up anew",
            )
        return function

    def remove_function(self, function_id: str, reason: str) -> None:
        """It and its containers end now."""
        self.handovers.drop(function_id)
        if self._forget_function(function_id):
            self.scheduler.remove_function(function_id, reason)
            self.run()

    def _forget_function(self, function_id: str) -> bool:
        """Whether it was known."""
        function = self.functions.pop(function_id, None)
        if function is None:
            return False
        siblings = self.of_app.get(function.app_id, {})
        siblings.pop(function_id, None)
        if not siblings:
            self.of_app.pop(function.app_id, None)
        return True

    def retire_function(self, function_id: str) -> None:
        """It finishes what it has."""
        self.handovers.drop(function_id)
        self.scheduler.retire_function(function_id, time.monotonic())
        self.run()

    # -- inputs
    def accept(self, function: Function, inputs: list[Held]) -> None:
        """New inputs, on their way at once where a container is free."""
        self.scheduler.enqueue(function.function_id, inputs, time.monotonic())
        self.run()

    def requeue(self, inputs: Iterable[Held]) -> None:
        """Inputs that wait again, before the others."""
        by_function: dict[str, list[Held]] = {}
        for held in inputs:
            held.container = None
            if held.is_hollow and not held.over:
                held.parked = True
                self.hollow(held)
                continue
            by_function.setdefault(held.call.function_id, []).append(held)
        for function_id, items in by_function.items():
            if function_id in self.scheduler.pools:
                self.scheduler.enqueue(function_id, items, time.monotonic(), front=True)
            else:
                self._give_up(items, "the function was removed")
        self.run()

    def finish(
        self, held: Held, status: int, value: bytes, blob: str = "", *, interrupt: bool = False, kill: bool = False
    ) -> None:
        """The final output of an input from the platform's side, wherever the input is."""
        if held.over:
            return
        held.over = True
        if held.retry is not None:
            held.retry.cancel()
        container: Container | None = held.container
        if container is None:
            self.scheduler.withdraw(held.call.function_id, {held})
        elif kill:
            self.kill_container(container, 0.0, "its input was cancelled")
        elif interrupt:
            # The runner's answer frees the container; until then the input counts as running there.
            self._cancel(container, held.token)
            self._wake(time.monotonic() + UNANSWERED_SECONDS)
        self.deliver(held, status, value, blob, -1, False)

    def _cancel(self, container: Container, token: int, since: float = 0.0) -> None:
        container.cancelled[token] = since or time.monotonic()
        container.asked_to_cancel = True
        direct = container.tokens[token].call.direct
        if direct is not None:
            direct.interrupt()
        elif container.link is not None:
            container.link.cancel([token])

    def completed(self, held: Held, seconds: float | None) -> None:
        """An input that reached its container by another way (see Call.direct) is over there."""
        held.over = True
        container: Container | None = held.container
        if container is None or container.tokens.get(held.token) is not held:
            return
        del container.tokens[held.token]
        container.cancelled.pop(held.token, None)
        now = time.monotonic()
        container.running_since = now
        container.function.crashes.reset()
        self.scheduler.finished(container.id, [held], now, seconds)
        if self.scheduler.decisions:
            self.run()
        pool = container.function.pool
        if pool.idle and self._timer is None:
            self._wake(now + pool.rules.scaledown_window + 0.01)

    def reattached(self, container: Container, missing: list[Held]) -> list[Held]:
        """Its worker is back, without these inputs of it. Those that it shall have; what is over is told or freed."""
        now = time.monotonic()
        over = [held for held in missing if held.over]
        for held in over:
            container.tokens.pop(held.token, None)
            container.cancelled.pop(held.token, None)
        if over:
            self.scheduler.finished(container.id, over, now)
        for token, at in list(container.cancelled.items()):
            if token in container.tokens:
                self._cancel(container, token, at)  # it may not have heard
        if container.cancelled:
            self._wake(min(container.cancelled.values()) + UNANSWERED_SECONDS)
        return [held for held in missing if not held.over]

    # -- decisions
    def run(self) -> None:
        """Carry out all decisions."""
        decisions = self.scheduler.decisions
        while decisions:
            self.scheduler.decisions = []
            for decision in decisions:
                if type(decision) is Assign:
                    self._assign(decision)
                elif type(decision) is Start:
                    self._start(decision)
                elif type(decision) is Stop:
                    self._stop(decision)
                elif type(decision) is Recall:
                    self._recall(decision)
                elif type(decision) is GiveUp:
                    self._give_up(decision.inputs, decision.reason)
                elif type(decision) is Refuse:
                    self._refuse(decision)
            decisions = self.scheduler.decisions
        self._wake_when_due()

    def _wake_when_due(self) -> None:
        """See to it that what time alone calls for is done."""
        due = self.scheduler.due
        if due != NEVER:
            self._wake(due)

    def _assign(self, decision: Assign) -> None:
        container = self.containers[decision.container_id]
        tokens = container.tokens
        now = time.monotonic()
        deadline = now + (container.function.spec.timeout or NEVER)
        if not tokens:
            container.running_since = now
        if deadline != NEVER:
            self._wake(deadline)
        batch: list[Held] = []
        size = 0
        together = len(decision.inputs) if decision.batch else 0
        for held in decision.inputs:
            token = container.next_token
            container.next_token = token + 1
            held.token = token
            held.container = container
            held.deadline = deadline
            tokens[token] = held
            if held.call.direct is not None:
                held.call.direct.assigned(container)
                continue
            if batch and (len(batch) >= BATCH_INPUTS or size + len(held.args) > BATCH_BYTES):
                self._send(container, batch, together)
                batch, size = [], 0
            batch.append(held)
            size += len(held.args)
        if batch:
            self._send(container, batch, together)
        pool = container.function.pool
        if pool.backlog and len(pool.queue) < 500:
            self.refill(pool.function_id)

    def _send(self, container: Container, batch: list[Held], together: int = 0) -> None:
        if container.link is not None:
            if container.express is not None and not together and self.express.send(container, batch[0]):
                return
            container.link.send(run_inputs(batch, together))
        else:
            container.lost_inputs.extend(batch)  # its worker is away; sent when it is back

    def _start(self, decision: Start) -> None:
        function = self.handovers.candidates.get(decision.function_id) or self.functions[decision.function_id]
        container = Container(decision.container_id, function, decision.worker_id)
        container.devices = decision.devices
        self.containers[container.id] = container
        self.keep_task(asyncio.get_running_loop().create_task(self._start_task(container)))
        self.changed(function.app_id)

    async def _start_task(self, container: Container) -> None:
        try:
            await self.start_container(container)
        except Fault as fault:
            self.exited(container, ContainerExited(container.id, -1, "start-failed", fault.text))
        except Exception as error:
            log.exception("container %s could not be started", container.id)
            self.exited(
                container, ContainerExited(container.id, -1, "start-failed", f"{type(error).__name__}: {error}")
            )

    def _stop(self, decision: Stop) -> None:
        container = self.containers.get(decision.container_id)
        if container is None:
            return
        container.state = "stopping"
        container.stop_reason = decision.reason
        if container.link is not None:
            container.link.end()  # the runner finishes, runs its exit handlers and ends
        if container.asked:
            self.kill_container(container, STOP_GRACE, decision.reason)
        self.changed(container.function.app_id)

    def _recall(self, decision: Recall) -> None:
        container = self.containers.get(decision.container_id)
        if container is not None and container.link is not None:
            container.link.recall([held.token for held in decision.inputs])

    def _give_up(self, inputs: list[Held], reason: str) -> None:
        failure = pack_failure(CallFailure("cancelled", text=reason))
        for held in inputs:
            self.finish(held, Status.TERMINATED, failure)
        self.settled()

    def _refuse(self, decision: Refuse) -> None:
        """No machine can hold their containers."""
        failure = pack_failure(CallFailure(Code.INVALID, "modal.exception.InvalidError", decision.reason))
        for held in decision.inputs:
            self.finish(held, Status.INIT_FAILURE, failure)
        self.settled()

    # -- what containers say
    def take(self, container: Container, frame: Frame) -> None:
        """A frame from the runner (or the worker, for ContainerExited) on the container's stream."""
        if frame.type == RunOutputs.TYPE:
            self._outputs(container, RunOutputs.decode(frame.header, frame.body), False)
        elif frame.type == RunnerReady.TYPE:
            self._ready(container, RunnerReady.decode(frame.header, frame.body))
        elif frame.type == RunnerStops.TYPE:
            self.scheduler.drain(container.id, time.monotonic())
            self.run()
        elif frame.type == RunnerFailed.TYPE:
            container.failure = RunnerFailed.decode(frame.header, frame.body).failure
        elif frame.type == ContainerExited.TYPE:
            self.exited(container, ContainerExited.decode(frame.header, frame.body))

    def _ready(self, container: Container, message: RunnerReady) -> None:
        container.ready = True
        container.marks.update({f"runner {name}": at for name, at in message.marks.items()})
        container.function.ever_ready = True
        if container.state == "starting":
            container.state = "running"
            self.scheduler.container_ready(container.id, time.monotonic())
            self.run()
            pool = container.function.pool
            if pool.backlog and not pool.queue:  # it has started for what is on disk alone
                self.refill(pool.function_id)
            self.handovers.ready(container.function)
        self.changed(container.function.app_id)

    def take_express(self, container: Container, message: RunOutputs) -> None:
        """Outputs that came by another way than the worker's (see Express)."""
        self._outputs(container, message, True)

    def _outputs(self, container: Container, message: RunOutputs, express: bool) -> None:
        if not express:
            container.frames += 1
        tokens = container.tokens
        blobs = message.blobs or None
        final: list[Held] = []
        returned: list[Held] = []
        failed: list[Held] = []
        numbers = message.numbers
        position = 0
        retry = container.function.spec.retry
        for token, status, value in zip(message.tokens, message.statuses, message.values, strict=True):
            blob = blobs[position] if blobs else ""
            position += 1
            held = tokens.get(token)
            if held is None:
                continue
            if held.over and blob and held.call.kind != KNOWN:
                self.forget_values([blob])
            if status == Status.YIELDED:
                if not held.over:
                    number = numbers[position - 1] if position <= len(numbers) else -1
                    self.deliver(held, status, value, blob, number, express)
                continue
            del tokens[token]
            container.cancelled.pop(token, None)
            if status == Status.RETURNED:
                held.container = None
                returned.append(held)
                continue
            final.append(held)
            if held.over:
                continue  # cancelled or timed out before
            if status == Status.FAILURE and retry is not None and held.attempts < retry.max_retries:
                failed.append(held)
                if blob:
                    self.forget_values([blob])
                continue
            if status == Status.SUCCESS:
                container.function.crashes.reset()
            held.over = True
            self.deliver(held, status, value, blob, -1, express)
        self.settled()  # first of all: somebody waits for it
        now = time.monotonic()
        if final:
            container.running_since = now
            seconds = sum(message.durations) / len(message.durations) if message.durations else None
            self.express.learn(container, message.tokens, seconds, express)
            self.scheduler.finished(container.id, final, now, seconds)
        if returned:
            self._returned(container, returned, now)
        for held in failed:
            self._retry(held, attempt_name(container.id, held.token))
        self.run() if self.scheduler.decisions else self._wake_when_due()
        pool = container.function.pool
        if pool.backlog and len(pool.queue) < 500:
            self.refill(pool.function_id)
        self.settled()

    def _returned(self, container: Container, returned: list[Held], now: float) -> None:
        self.scheduler.returned(container.id, [held for held in returned if not held.over and not held.is_hollow], now)
        self.requeue([held for held in returned if not held.over and held.is_hollow])
        over = [held for held in returned if held.over or held.is_hollow]
        if over:
            self.scheduler.finished(container.id, over, now)

    def _retry(self, held: Held, failed: str) -> None:
        """Another attempt after the one that has `failed` (its name), after the delay that the function asks for."""
        retry = self.functions[held.call.function_id].spec.retry
        assert retry is not None
        delay = min(retry.initial_delay * retry.backoff_coefficient**held.attempts, retry.max_delay)
        held.attempts += 1
        self.retried(held, failed)
        self._requeue_later(held, delay)

    def _requeue_later(self, held: Held, delay: float) -> None:
        held.container = None

        def again() -> None:
            held.retry = None
            if not held.over:
                self.requeue([held])

        held.retry = asyncio.get_running_loop().call_later(delay, again)

    def exited(self, container: Container, message: ContainerExited) -> None:
        """The container is no more."""
        if self.containers.pop(container.id, None) is None:
            return
        if container.link is not None:
            container.link.end()  # the worker need not remember it
        if container.express is not None:
            container.express.close()
        self.scheduler.container_gone(container.id, time.monotonic())
        function = container.function
        held_inputs = list(container.tokens.values())
        container.tokens.clear()
        limit = max(1, function.spec.concurrent_max, batching_of(function.spec)[0])
        running, waiting = held_inputs[:limit], held_inputs[limit:]
        # A worker that went away is nobody's fault: what ran there runs again elsewhere.
        stopped = (
            container.state == "stopping"
            or message.reason in ("stopped", "lost")
            or (message.exit_code in (EXIT_LOST, EXIT_ABANDONED) and container.orphaned)
            or message.exit_code == EXIT_INTERRUPTED  # a preemption, perhaps a simulated one
            or (
                message.exit_code == EXIT_CANCELLED and container.asked_to_cancel
            )  # threads cannot be interrupted one by one
        )
        back = [held for held in waiting if not held.over]
        if stopped:
            back = [held for held in running if not held.over] + back
            if message.exit_code == EXIT_INTERRUPTED and not container.ready and container.state != "stopping":
                self.crashes.start_interrupted(container)
        elif container.failure is not None or not container.ready:
            self.crashes.start_failed(container, message)
        elif held_inputs or message.exit_code or message.reason != "exited":  # else it has served its number of inputs
            if waiting:
                self.crashes.be_careful(function)
            back = self.crashes.crashed(container, message, running, blame=not waiting) + back
        self.requeue(back)
        self.changed(function.app_id)
        self.settled()
        for tell in self.gone:
            tell(container.id)

    # -- time
    def _wake(self, at: float) -> None:
        """See that `tick` runs at `at` or before."""
        if self._timer is not None and self._timer_at <= at + 0.001:
            return
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer_at = at
        self._timer = loop.call_later(max(0.0, at - time.monotonic()) + TIMER_SLACK, self.tick)

    def tick(self) -> None:
        """Time has passed."""
        self._timer = None
        now = time.monotonic()
        due = self.scheduler.tick(now)
        self.run()
        due = min(due, self._check_deadlines(now))
        self.settled()
        if due != float("inf"):
            self._wake(due)

    def _check_deadlines(self, now: float) -> float:
        """Time-outs of inputs, and containers that do not obey."""
        due = float("inf")
        for container in list(self.containers.values()):
            timeout = container.function.spec.timeout
            if container.tokens and timeout and container.ready:
                due = min(due, self._time_out(container, now))
            for told in container.cancelled.values():
                if told + UNANSWERED_SECONDS <= now:
                    self.kill_container(container, 0.0, "it did not react to the cancellation of its input")
                    break
                due = min(due, told + UNANSWERED_SECONDS)
        return due

    def _time_out(self, container: Container, now: float) -> float:
        """Cancel what has run for too long; when the next input of the container will have."""
        spec = container.function.spec
        limit = max(1, spec.concurrent_max, batching_of(spec)[0])
        for token, held in list(container.tokens.items())[:limit]:
            if held.over or token in container.cancelled:
                continue
            # Where one runs at a time, those behind it have not begun.
            at = held.deadline if limit > 1 else max(held.deadline, container.running_since + spec.timeout)
            if at > now:
                return at
            self._cancel(container, token)
            if spec.retry is not None and held.attempts < spec.retry.max_retries and held.call.direct is None:
                # The old attempt's answer is for nobody; the new one is an input of its own.
                container.tokens[token] = Held(Call("fc-", "", "", "dead"), 0, b"", "", "")
                container.tokens[token].over = True
                self.scheduler.swap(container.id, held, container.tokens[token], now)
                self._retry(held, attempt_name(container.id, token))
                continue
            text = f"the input ran longer than its timeout of {spec.timeout} seconds"
            failure = CallFailure(Code.TIMEOUT, "modal.exception.FunctionTimeoutError", text)
            held.over = True
            self.deliver(held, Status.TIMEOUT, pack_failure(failure), "", -1, False)
        return NEVER

    def stats(self, app_id: str) -> dict[str, list[int]]:
        """Function name -> [pending, running, finished is not known here, containers]."""
        result: dict[str, list[int]] = {}
        for function in self.of_app.get(app_id, {}).values():
            pool = function.pool
            numbers = [len(pool.queue) + pool.backlog, pool.assigned, 0, pool.ready + pool.starting]
            known = result.get(function.name)  # variants of a class have its name
            result[function.name] = [sum(both) for both in zip(known, numbers, strict=True)] if known else numbers
        return result


__all__ = ["Container", "ContainerSpec", "Dispatch", "Function", "rules_of", "unpack_failure"]
