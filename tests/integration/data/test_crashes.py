"""The server is killed in the middle: what was acknowledged is there, and nothing is delivered twice or never."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter

import modal
from tests.integration.data.conftest import ServerProcess

ROUNDS = int(os.environ.get("INTERMODAL_SOAK_ROUNDS", "5"))
PRODUCERS = 3
CONSUMERS = 3


def test_every_item_arrives_once(q: modal.Queue, server: ServerProcess) -> None:
    q.hydrate()
    put: list[tuple[int, int]] = []
    got: list[tuple[int, int]] = []
    over = threading.Event()
    errors: list[BaseException] = []

    def produce(producer: int) -> None:
        number = 0
        try:
            while not over.is_set():
                batch = [(producer, number + index) for index in range(number % 3 + 1)]
                q.put_many(batch)
                put.extend(batch)
                number += len(batch)
        except BaseException as error:
            errors.append(error)

    def consume() -> None:
        try:
            while (item := q.get()) is not None:
                got.append(item)
        except BaseException as error:
            errors.append(error)

    producers = [threading.Thread(target=produce, args=(number,)) for number in range(PRODUCERS)]
    consumers = [threading.Thread(target=consume) for _ in range(CONSUMERS)]
    for thread in producers + consumers:
        thread.start()
    chance = random.Random(7)
    for _ in range(ROUNDS):
        time.sleep(chance.uniform(0.05, 0.6))  # some moment in their work
        server.kill()
        server.start()
    while len(put) <= 100 and not errors:
        time.sleep(0.01)
    over.set()
    for thread in producers:
        thread.join()
    for _ in consumers:
        q.put(None)
    for thread in consumers:
        thread.join()
    assert not errors
    assert q.len() == 0
    counts = Counter(got)
    assert sorted(set(put) - set(counts)) == []  # lost
    assert [item for item, count in counts.items() if count > 1] == []  # twice


def test_dict_entries_are_there_after_every_kill(d: modal.Dict, server: ServerProcess) -> None:
    d.hydrate()
    over = threading.Event()
    written: dict[str, int] = {}
    popped: Counter[str] = Counter()
    locks: list[int] = []

    def work() -> None:
        number = 0
        while not over.is_set():
            number += 1
            d["counter"] = number
            written["counter"] = number
            d.update({f"a{number}": number, f"b{number}": number})
            written[f"a{number}"] = written[f"b{number}"] = number
            if d.put(f"lock{number}", number, skip_if_exists=True):
                locks.append(number)
            assert d.pop(f"a{number}") == number  # also when the answer was lost on its way
            popped[f"a{number}"] += 1
            del written[f"a{number}"]

    thread = threading.Thread(target=work)
    thread.start()
    chance = random.Random(11)
    for _ in range(ROUNDS):
        time.sleep(chance.uniform(0.05, 0.4))  # some moment in its work
        server.kill()
        server.start()
    while "counter" not in written and thread.is_alive():
        time.sleep(0.01)
    over.set()
    thread.join()
    assert locks == list(range(1, written["counter"] + 1))
    expected = {**written, **{f"lock{number}": number for number in locks}}
    assert dict(d.items()) == expected


def test_what_waits_goes_on_after_a_restart(q: modal.Queue, server: ServerProcess) -> None:
    q.hydrate()
    got: list[str] = []
    consumer = threading.Thread(target=lambda: got.append(q.get(timeout=200)))
    consumer.start()
    q.put_many(list(range(5000)), partition="full")
    producer = threading.Thread(target=lambda: q.put("late", partition="full", timeout=200))
    producer.start()
    time.sleep(0.1)
    server.kill()
    server.start()
    q.put("hello")
    assert q.get_many(10, partition="full") == list(range(10))
    consumer.join()
    producer.join()
    assert got == ["hello"]
    assert q.get_many(5000, partition="full")[-1] == "late"
