"""A random walk of faults: everything is killed or held up in the middle of everything, again and again.

`INTERMODAL_FAULT_SECONDS` says for how long (CI: some seconds), `INTERMODAL_FAULT_SEED` repeats a walk's choices.
Afterwards every call that was answered was answered right, every spawned input has exactly one result or one
documented error, and nothing runs.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modal._protocol.messages.call import Status
from tests.acceptance.conftest import Platform, new_platform
from tests.acceptance.faults import CLIENTS, PATIENCE, SECONDS, SEED, Walk, comes_to_rest, store_of

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(0)]

DISK = "256m"  # that of the state directory, which is filled up now and then

APP = """
import asyncio, random, time
import modal

app = modal.App("walk")
limits = dict(timeout=10, retries=3, scaledown_window=2)

@app.function(max_containers=2, **limits)
def work(i):
    time.sleep(random.uniform(0, 0.05))
    return i * i

@app.function(max_containers=2, timeout=20, scaledown_window=2)
def count(n):
    for i in range(n):
        if i % 50 == 0:
            time.sleep(0.02)
        yield i

@app.function(max_containers=1, timeout=20, scaledown_window=2)
def fill(n):
    for i in range(n):
        yield i, bytes(20_000)

@app.function(max_containers=1, **limits)
@modal.batched(max_batch_size=8, wait_ms=50)
def batch(xs):
    time.sleep(0.02)
    return [x * x for x in xs]

@app.function(max_containers=1, **limits)
@modal.concurrent(max_inputs=20)
async def concurrent(i):
    await asyncio.sleep(random.uniform(0, 0.1))
    return i * i
"""

CLIENT = """
import faulthandler, json, os, random, signal, sys, time
import modal

faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does

seed, until, journal = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
chance = random.Random(seed)
work, count, fill, batch, concurrent = [
    modal.Function.from_name("walk", name) for name in ("work", "count", "fill", "batch", "concurrent")
]

def tell(*said):
    print(json.dumps(said), flush=True)

def remote():
    for i in range(10):
        assert work.remote(i) == i * i, i

def map():
    n = chance.randrange(200)
    assert list(work.map(range(n))) == [i * i for i in range(n)]

def spawn():
    calls = []
    for i in range(10):
        call = work.spawn(i)
        with open(journal, "a") as file:  # the server has said that it is safe
            file.write(json.dumps([call.object_id, i]) + "\\n")
        calls.append((i, call))
    for i, call in calls:
        assert call.get() == i * i, i

def spawn_map():
    work.spawn_map(range(50))
    with open(journal, "a") as file:
        file.write(json.dumps(["spawn_map", 50]) + "\\n")

def generator():
    n = chance.randrange(2000)
    assert list(count.remote_gen(n)) == list(range(n))

def slow_generator():
    n = chance.randrange(400)
    for number, (i, data) in enumerate(fill.remote_gen(n)):
        assert (i, len(data)) == (number, 20_000), (i, number)
        time.sleep(0.005)

def slow_map():
    n = chance.randrange(300)
    for number, got in enumerate(work.map(range(n))):
        assert got == number * number, (got, number)
        time.sleep(0.005)
    assert number == n - 1 if n else True

def batched():
    n = chance.randrange(60)
    assert list(batch.map(range(n))) == [i * i for i in range(n)]

def concurrently():
    n = chance.randrange(200)
    assert sorted(concurrent.map(range(n), order_outputs=False)) == [i * i for i in range(n)]

kinds = dict(remote=remote, map=map, spawn=spawn, spawn_map=spawn_map, generator=generator, batch=batched,
             concurrent=concurrently, slow_generator=slow_generator, slow_map=slow_map)
while time.monotonic() < until:
    kind = chance.choice(list(kinds))
    tell("begin", kind)
    try:
        kinds[kind]()
    except modal.exception.FunctionTimeoutError as error:  # its container had been stopped, three times over
        tell("documented", kind, type(error).__name__, str(error))
    except modal.exception.Error as error:
        full = "disk" in str(error) or "No space left" in str(error)
        tell("documented" if full else "wrong", kind, type(error).__name__, str(error))
        if not full:
            raise
    except BaseException as error:
        tell("wrong", kind, type(error).__name__, str(error))
        raise
    else:
        tell("right", kind)
"""

CHECK = """
import collections, json, sys
import modal

found = collections.Counter()
for line in open(sys.argv[1]):
    call_id, i = json.loads(line)
    if call_id == "spawn_map":
        continue
    try:
        got = modal.FunctionCall.from_id(call_id).get(timeout=350)
    except modal.exception.FunctionTimeoutError:
        found["documented error"] += 1
    except BaseException as error:
        found[f"{type(error).__name__}: {error}"] += 1
    else:
        found["right" if got == i * i else f"wrong: {i} gave {got}"] += 1
print(json.dumps(found))
"""


@pytest.fixture
def small_platform() -> Iterator[Platform]:
    """On a disk that can be filled up."""
    with new_platform(DISK) as it:
        yield it


def test_random_faults(small_platform: Platform, tmp_path: Path) -> None:
    own_platform = small_platform
    print(f"seed {SEED}, {SECONDS:g} seconds")
    path = tmp_path / "walk.py"
    path.write_text(APP)
    assert own_platform.intermodal("up").code == 0
    deployed = own_platform.modal("deploy", path)
    assert deployed.code == 0, deployed.text
    walk = Walk(own_platform, tmp_path, random.Random(SEED), CLIENT)
    try:
        for _ in range(CLIENTS):
            walk.start_client()
        walk.go()
        walk.wait_for_clients()
        outcome = walk.outcome()
        checked = _check(walk)
        comes_to_rest(own_platform)
        spawned = _spawned(walk)
    finally:
        walk.end()
    print(f"{walk.faults.total()} faults injected: {dict(walk.faults)}")
    print("calls:", {f"{kind} {what}": count for (what, kind), count in sorted(outcome.items())})
    print("spawned inputs that were asked for:", checked)
    print("all spawned inputs:", spawned)
    assert set(checked) <= {"right", "documented error"}, checked


def _check(walk: Walk) -> dict[str, int]:
    """Every input whose spawn was acknowledged has a result, or an error that is documented."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(walk.journal)],
        env=walk.platform.env, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _spawned(walk: Walk) -> dict[str, int]:
    """How all spawned inputs ended, as the store has it: no row twice by its key, and nothing without an output."""
    with contextlib.closing(store_of(walk.platform)) as store:
        found = dict(store.execute("SELECT status, count(*) FROM outputs GROUP BY status").fetchall())
    acknowledged = sum(
        1 if call != "spawn_map" else n for call, n in map(json.loads, walk.journal.read_text().splitlines())
    )
    assert sum(found.values()) >= acknowledged
    assert set(found) <= {Status.SUCCESS, Status.TIMEOUT}, found
    return {"right" if status == Status.SUCCESS else "timed out": count for status, count in found.items()}
