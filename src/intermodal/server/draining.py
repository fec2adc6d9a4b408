"""Workers that the operator empties, to stop or repair their machine: `intermodal drain`.

A drained worker gets no containers. What idles there ends, what is at work may finish for a while and is preempted
then: it is interrupted, its exit handlers have 30 seconds, and its inputs start anew on another worker, or here once
the worker is wanted again. It stays drained when it, or the server, is started again.
"""

from __future__ import annotations

import asyncio
import logging
import time

from intermodal.server.dispatch import Container, Dispatch
from intermodal.server.store.fleet import FleetStore
from intermodal.server.workers import Workers
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.fleet import DrainAwait, DrainedWorker, WorkerDrain, WorkersDrained, WorkerUndrain

PREEMPTED = "its worker is drained"

log = logging.getLogger("intermodal.workers")


class Draining:
    def __init__(self, store: FleetStore, dispatch: Dispatch, workers: Workers) -> None:
        self._store = store
        self._dispatch = dispatch
        self._workers = workers
        self._drained = dispatch.scheduler.capacity.drained
        self._timers: dict[str, asyncio.TimerHandle] = {}  # by worker: when its containers are preempted
        self._emptied = asyncio.Event()
        dispatch.gone.append(lambda _container_id: self._emptied.set())

    async def open(self) -> None:
        """After a start of the server: what was drained stays so."""
        self._drained.update(await self._store.drained())

    def register(self, handlers: Handlers) -> None:
        handlers.unary(WorkerDrain)(self._drain)
        handlers.unary(WorkerUndrain)(self._undrain)
        handlers.unary(DrainAwait)(self._await)

    async def _drain(self, connection: Connection, message: WorkerDrain) -> WorkersDrained:
        worker_id = self._find(message.worker)
        await self._store.drain(worker_id)
        self._drained.add(worker_id)
        log.info("worker %s is drained", worker_id)
        now = time.monotonic()
        for container in self._containers(worker_id):
            self._dispatch.scheduler.drain(container.id, now)
        self._dispatch.run()
        self._forget_timer(worker_id)
        if message.patience > 0:
            loop = asyncio.get_running_loop()
            self._timers[worker_id] = loop.call_later(message.patience, self._preempt, worker_id)
        else:
            self._preempt(worker_id)
        return self._describe([worker_id])

    def _preempt(self, worker_id: str) -> None:
        self._forget_timer(worker_id)
        for container in self._containers(worker_id):
            if container.state != "stopping":
                self._workers.preempt(container, PREEMPTED)

    async def _undrain(self, connection: Connection, message: WorkerUndrain) -> WorkersDrained:
        worker_id = self._find(message.worker, among_drained=True)
        self._forget_timer(worker_id)
        await self._store.undrain(worker_id)
        self._drained.discard(worker_id)
        log.info("worker %s is drained no more", worker_id)
        self._dispatch.scheduler.resume(time.monotonic())
        self._dispatch.run()
        return self._describe(sorted(self._drained))

    async def _await(self, connection: Connection, message: DrainAwait) -> WorkersDrained:
        deadline = time.monotonic() + message.timeout
        while any(self._containers(worker_id) for worker_id in message.worker_ids if worker_id in self._drained):
            self._emptied.clear()
            try:
                await asyncio.wait_for(self._emptied.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                break
        return self._describe(message.worker_ids)

    def _forget_timer(self, worker_id: str) -> None:
        timer = self._timers.pop(worker_id, None)
        if timer is not None:
            timer.cancel()

    def _find(self, name: str, among_drained: bool = False) -> str:
        """The worker's id. Raises Fault."""
        links = self._workers.links
        hosts = {worker_id: link.hostname for worker_id, link in links.items()}
        known = {worker_id: hosts.get(worker_id, "away") for worker_id in {*hosts, *self._drained}}
        if among_drained:
            known = {worker_id: host for worker_id, host in known.items() if worker_id in self._drained}
        found = [worker_id for worker_id, host in known.items() if name in ("", worker_id, host)]
        if len(found) == 1:
            return found[0]
        there = ", ".join(f"{worker_id} ({host})" for worker_id, host in sorted(known.items()))
        if not known:
            raise Fault(Code.NOT_FOUND, "no worker is drained" if among_drained else "no worker is connected")
        if not found:
            raise Fault(Code.NOT_FOUND, f"there is no worker {name} among these: {there}")
        raise Fault(Code.INVALID, f"say which worker is meant: {there}")

    def _containers(self, worker_id: str) -> list[Container]:
        return [container for container in self._dispatch.containers.values() if container.worker_id == worker_id]

    def _describe(self, worker_ids: list[str]) -> WorkersDrained:
        links = self._workers.links
        return WorkersDrained(
            [
                DrainedWorker(
                    worker_id,
                    links[worker_id].hostname if worker_id in links else "",
                    len(self._containers(worker_id)),
                )
                for worker_id in worker_ids
                if worker_id in self._drained
            ]
        )
