"""What follows when containers die: who is blamed, what is tried again, and when a function is given up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from intermodal.server.failures import crash_pause, describe_exit
from modal._protocol.errors import Code
from modal._protocol.messages.call import CallFailure, Status, pack_failure

if TYPE_CHECKING:
    from intermodal.server.dispatch import Dispatch
    from intermodal.server.inputs import Held
    from intermodal.server.live import Container, Function
    from modal._protocol.messages.worker import ContainerExited

CRASHES_ALLOWED = 2  # times that an input of an ephemeral app is tried again after its container died under it
HOPELESS_STARTS = 3  # failed ones in a row, after which whoever waits hears of it
CAREFUL_SECONDS = 60.0  # how long containers hold no more than they run after one of them died


class Crashes:
    """Judges the ends of containers that nobody has asked for. `wake(at)` has the scheduler looked at again then,
    `requeue_later(held, seconds)` has an input run again."""

    def __init__(
        self, dispatch: Dispatch, wake: Callable[[float], None], requeue_later: Callable[[Held, float], None]
    ) -> None:
        self._dispatch = dispatch
        self._wake = wake
        self._requeue_later = requeue_later

    def be_careful(self, function: Function) -> None:
        """Short inputs' outputs leave together, so the one that killed the container need not be its first."""
        pool = function.pool
        if not pool.careful:
            pool.careful = True
            asyncio.get_running_loop().call_later(CAREFUL_SECONDS, setattr, pool, "careful", False)

    def crashed(self, container: Container, message: ContainerExited, running: list[Held], blame: bool) -> list[Held]:
        """It died under its inputs. Returns those that are tried again at once.

        In an ephemeral app they fail after some attempts. A deployed one tries for ever, ever more slowly: the pause
        is the input's own, so that one that kills its containers does not hold up the others.
        """
        text, hint = describe_exit(message, container.function.spec)
        if running or message.exit_code:
            self._dispatch.system_log(container, text)
        function = container.function
        failure = CallFailure(Code.EXECUTION, "modal.exception.ExecutionError", text, hint=hint)
        if function.crashes.add(container.round):
            self._back_off(container)
        again = []
        for held in running:
            if held.over:
                continue
            held.crashes += blame
            retries = function.spec.retry.max_retries if function.spec.retry else 0
            lasting = not function.ephemeral and held.call.direct is None  # a client waits for an answer now
            if lasting or held.crashes <= CRASHES_ALLOWED + retries:
                pause = crash_pause(held.crashes) if not function.ephemeral else 0.0
                if pause:
                    self._requeue_later(held, pause)
                else:
                    again.append(held)
                continue
            held.container = None
            held.over = True
            self._dispatch.deliver(held, Status.FAILURE, pack_failure(failure), "", -1, False)
        if function.ephemeral and function.crashes.hopeless:
            self._fail_waiting(function, failure, Status.FAILURE)
        return again

    def start_failed(self, container: Container, message: ContainerExited) -> None:
        """It never became ready. What waits for the function hears why, unless it has worked before, or the container
        died without a word: that may be bad luck, and is tried again."""
        function = container.function
        counts = function.crashes.add(container.round)
        failure = container.failure
        if failure is None:
            text, hint = describe_exit(message, function.spec, "while it started")
            self._dispatch.system_log(container, text)
            failure = CallFailure(Code.EXECUTION, "modal.exception.ExecutionError", text, hint=hint)
        if counts:
            self._back_off(container)
        hopeless = function.crashes.count >= HOPELESS_STARTS
        died = container.failure is None and message.reason != "start-failed"  # killed, out of memory, by `os._exit`
        if (function.ever_ready or died) and not hopeless:
            return
        if not function.ephemeral and container.failure is None and (died or not hopeless):
            return  # it goes on trying, unless its containers cannot be started at all
        self._fail_waiting(function, failure, Status.INIT_FAILURE)

    def start_interrupted(self, container: Container) -> None:
        """Nobody's failure, but nobody here has asked for it: if that happens again and again, then slowly."""
        if container.function.crashes.add(container.round):
            self._back_off(container)

    def _back_off(self, container: Container) -> None:
        """After some failures in a row, containers start ever more slowly."""
        function = container.function
        pool_id, delay = function.pool.function_id, function.crashes.delay()
        if not delay or pool_id not in self._dispatch.scheduler.pools:
            return
        self._dispatch.scheduler.hold_starts(pool_id, time.monotonic() + delay)
        self._wake(time.monotonic() + delay)
        self._dispatch.system_log(
            container, function.crashes.describe(function.name, self._dispatch.handovers.is_candidate(function))
        )

    def _fail_waiting(self, function: Function, failure: CallFailure, status: int) -> None:
        """What waits for the function hears why it will not run; of a deployed one, spawned inputs wait on."""
        value = pack_failure(failure)
        doomed = [held for held in function.pool.queue if function.ephemeral or held.call.kind != "spawn"]
        self._dispatch.scheduler.withdraw(function.function_id, set(doomed))
        for held in doomed:
            if not held.over:
                held.over = True
                self._dispatch.deliver(held, status, value, "", -1, False)
