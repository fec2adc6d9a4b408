"""Celery: two worker processes, Redis as broker and for results."""

import time

import celery_tasks as tasks


class Peer:
    def __init__(self):
        tasks.noop.delay(1).get(timeout=60)

    def call(self):
        tasks.noop.delay(1).get()

    def map(self, count):
        waiting = [tasks.noop.delay(number) for number in range(count)]
        received = 0
        for result in waiting:
            result.get()
            received += 1
        return received

    def queue(self, count):
        """Accept `count` tasks without waiting for results; then wait until the last is done."""
        began = time.perf_counter()
        waiting = [tasks.noop.delay(number) for number in range(count)]
        accepted = time.perf_counter()
        for result in waiting:
            result.get()
        return {"accept": accepted - began, "drain": time.perf_counter() - began}

    def send(self, data):
        return tasks.size.delay(data).get()

    def fetch(self, size):
        result = tasks.make.delay(size)
        data = result.get()
        result.forget()
        return data

    def close(self):
        tasks.app.close()
