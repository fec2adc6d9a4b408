"""As `test_fault_walk`, for what lasts longer or has more parts: queues, dicts, web requests, schedules, deployments
and builds in the middle, cancelled calls, large values, classes with hooks, retries with a backoff, long silences."""

from __future__ import annotations

import contextlib
import json
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modal._protocol.messages.call import Status
from tests.acceptance.conftest import Platform, new_platform
from tests.acceptance.faults import CLIENTS, PATIENCE, SEED, Walk, comes_to_rest, store_of
from tests.ports import free_port

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(0)]

DISK = "2g"
CLOCK = "INTERMODAL_FAULT_CLOCK" in os.environ  # the clock is set now and then; needs a C compiler
HOURS = 11.0  # by which it goes wrong: items of queues live for 24
STEADY = 2  # clients that are never killed, so that what they note is all that they did

APP = """
import asyncio, hashlib, random, time, uuid
import modal

app = modal.App("wide")
queue = modal.Queue.from_name("wide", create_if_missing=True)
limits = dict(timeout=30, scaledown_window=2, max_containers=2)
VERSION = 0

@app.function(retries=modal.Retries(max_retries=10, initial_delay=1.0, backoff_coefficient=1.2), **limits)
def flaky(i):
    if random.random() < 0.3:
        raise ValueError("once more")
    return i * i

@app.function(retries=3, **limits)
def large(data):
    return data + b"!"

@app.function(retries=3, **limits)
def slow(i):
    time.sleep(random.uniform(0, 1.0))
    return i * i

@app.function(scaledown_window=2, max_containers=2, min_containers=VERSION % 2, retries=3, timeout=30)
@modal.concurrent(max_inputs=10)
def tiny(i):
    return i

@app.function(retries=3, timeout=60, scaledown_window=2, max_containers=2)
def outer(n):
    calls = [slow.spawn(i) for i in range(2)]
    return sum(tiny.map(range(n))) + tiny.remote(n) + sum(call.get() for call in calls)

@app.function(retries=10, **limits)
def put(partition):
    name = uuid.uuid4().hex
    queue.put(name, partition=partition)
    return name

@app.cls(retries=3, **limits)
class Kept:
    number: int = modal.parameter()

    @modal.enter()
    def begin(self):
        self.opened = [self.number]

    @modal.method()
    def add(self, i):
        return self.opened[0] + i

    @modal.method()
    def count(self, n):
        for i in range(n):
            yield self.opened[0] + i

    @modal.exit()
    def finish(self):
        self.opened.clear()

@app.function(scaledown_window=2, max_containers=1, schedule=modal.Period(seconds=2), retries=3, timeout=10)
def often():
    queue.put(modal.current_function_call_id(), partition="schedule")

@app.function(scaledown_window=2, max_containers=2)
@modal.concurrent(max_inputs=10)
@modal.asgi_app()
def web():
    async def serve(scope, receive, send):
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if event["type"] == "http.disconnect" or not event.get("more_body"):
                break
        await asyncio.sleep(random.uniform(0, 0.1))
        said = hashlib.sha256(body).hexdigest().encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"64")]})
        await send({"type": "http.response.body", "body": said})
    return serve
"""

BUILT = """
import time
import modal

app = modal.App("built")
image = modal.Image.debian_slim().run_commands("echo NUMBER > /number", "sleep 0.5; echo more >> /number")

@app.function(image=image, scaledown_window=2, timeout=20, retries=3)
def read():
    return open("/number").read().split()

@app.function(image=image, scaledown_window=2, timeout=20, retries=10, max_containers=2)
def square(i):
    time.sleep(0.05)
    return i * i

@app.local_entrypoint()
def main():
    number = read.remote()
    assert list(square.map(range(60))) == [i * i for i in range(60)]
    print("read", *number)
"""

CLIENT = """
import collections, faulthandler, hashlib, json, os, random, signal, sys, time
import http.client, urllib.error, urllib.request
import modal

faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does

PATIENCE = 400.0
seed, until, journal, steady = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], len(sys.argv) > 4
chance = random.Random(seed)
flaky, large, slow, put, web, tiny, outer = [
    modal.Function.from_name("wide", name) for name in ("flaky", "large", "slow", "put", "web", "tiny", "outer")
]
Kept = modal.Cls.from_name("wide", "Kept")
queue = modal.Queue.from_name("wide", create_if_missing=True)
table = modal.Dict.from_name("wide", create_if_missing=True)
me = f"{os.getpid()}-{seed}"
numbers = iter(range(10**9))

def tell(*said):
    print(json.dumps(said), flush=True)

def note(*what):
    with open(journal, "a") as file:  # one write: several clients note things here
        file.write(json.dumps(what) + "\\n")

def full(error):
    return "disk" in str(error) or "No space left" in str(error)

def retried():
    n = chance.randrange(1, 20)
    assert list(flaky.map(range(n))) == [i * i for i in range(n)]

def retried_later():
    call = flaky.spawn(7)
    note("spawned", call.object_id, 49)
    if chance.random() < 0.5:
        assert call.get() == 49

def patient():
    call = slow.spawn(9)
    note("spawned", call.object_id, 81)
    again = modal.FunctionCall.from_id(call.object_id)
    while True:
        try:
            assert again.get(timeout=chance.choice([0, 0.1, 1])) == 81
            return
        except modal.exception.FunctionTimeoutError:
            raise
        except (TimeoutError, modal.exception.ConnectionError):  # the server was away for longer than it was to wait
            continue

def cancelled():
    call = slow.spawn(11)
    time.sleep(chance.uniform(0, 1.2))
    call.cancel(terminate_containers=chance.random() < 0.2)
    first = outcome(call)
    assert first == outcome(call) and first in (121, "cancelled"), first
    note("cancelled", call.object_id, first)

def outcome(call):
    try:
        return call.get()
    except modal.exception.FunctionTimeoutError:
        raise
    except (modal.exception.RemoteError, modal.exception.InputCancellation) as error:
        if full(error):
            raise
        assert "cancel" in str(error), error
        return "cancelled"

def huge():
    data = os.urandom(1 << 20) * chance.randrange(8, 20)
    assert large.remote(data) == data + b"!"

def huge_map():
    many = [os.urandom(1 << 20) * chance.randrange(8, 12) for _ in range(chance.randrange(1, 4))]
    assert list(large.map(many)) == [data + b"!" for data in many]

def huge_spawn():
    data = os.urandom(1 << 20) * chance.randrange(8, 12)
    call = large.spawn(data)
    note("large", call.object_id, hashlib.sha256(data + b"!").hexdigest())
    if chance.random() < 0.7:
        assert call.get() == data + b"!"

def instance():
    number = chance.randrange(3)
    n = chance.randrange(30)
    assert list(Kept(number=number).add.map(range(n))) == [number + i for i in range(n)]

def instance_generator():
    number = chance.randrange(3)
    n = chance.randrange(300)
    assert list(Kept(number=number).count.remote_gen(n)) == [number + i for i in range(n)]

def nested():
    n = chance.randrange(50)
    assert outer.remote(n) == sum(range(n + 1)) + 1

def many():
    "More than the server holds in memory."
    note("putting many", 2500)
    tiny.spawn_map(range(2500))
    note("many", 2500)

def asked():
    for _ in range(10):
        body = os.urandom(chance.choice([0, 10, 100_000, 3_000_000]))
        try:
            # In a container that was stopped a request waits: 150 s for a redirect, 300 until that container is missed.
            with urllib.request.urlopen(of_the_gateway(web.get_web_url(), body), timeout=PATIENCE) as answer:
                assert answer.read().decode() == hashlib.sha256(body).hexdigest()
        except urllib.error.HTTPError as error:
            assert error.code in (502, 503, 504, 507), (error.code, error.read()[:300])
            tell("documented", "asked", str(error.code), error.read().decode()[:200])
        except urllib.error.URLError as error:  # there is no server
            if not isinstance(error.reason, ConnectionError):
                raise
            time.sleep(0.2)
        except (ConnectionError, http.client.IncompleteRead):  # it was killed in the middle
            time.sleep(0.2)

# What follows notes what it does: only those who are not killed know it all.
def ordered():
    "One producer and one consumer of a partition: all of it, in order."
    partition = f"{me}-{next(numbers)}"
    n, at = chance.randrange(1, 300), 0
    got = []
    while len(got) < n:
        if at < n and (chance.random() < 0.5 or at == len(got)):
            some = list(range(at, min(n, at + chance.randrange(1, 20))))
            queue.put_many(some, partition=partition)
            at += len(some)
        else:
            got += queue.get_many(chance.randrange(1, 20), partition=partition)
    assert got == list(range(n)), got
    assert queue.len(partition=partition) == 0

def shared():
    "Several producers and consumers of a partition."
    for _ in range(chance.randrange(1, 30)):
        item = f"{me}-{next(numbers)}"
        note("putting", item)
        queue.put(item, partition="shared")
        note("put", item)
        if chance.random() < 0.5:
            for one in queue.get_many(3, block=False, partition="shared"):
                note("got", one)

def container_puts():
    for name in put.map(["made"] * chance.randrange(1, 10)):
        note("made", name)

def stored():
    key = f"{me}-{chance.randrange(20)}"
    for _ in range(chance.randrange(1, 30)):
        value = next(numbers)
        table[key] = value
        assert table[key] == value
    if chance.random() < 0.5:
        assert table.pop(key) == value
        assert table.get(key) is None

def contested():
    for _ in range(20):
        key = f"contested-{chance.randrange(2000)}"
        if table.put(key, me, skip_if_exists=True):
            note("won", key, me)

kinds = [retried, retried_later, patient, cancelled, huge, huge_map, huge_spawn, instance, instance_generator, asked,
         container_puts, nested]
if steady:
    kinds += [ordered, shared, stored, contested, many] * 2
while time.monotonic() < until:
    kind = chance.choice(kinds)
    tell("begin", kind.__name__)
    try:
        kind()
    except modal.exception.FunctionTimeoutError as error:  # its container had been stopped, three times over
        tell("documented", kind.__name__, type(error).__name__, str(error))
    except BaseException as error:
        documented = isinstance(error, (modal.exception.Error, OSError)) and full(error)
        tell("documented" if documented else "wrong", kind.__name__, type(error).__name__, repr(error))
        if not documented:
            raise
    else:
        tell("right", kind.__name__)
"""

# Not every resolver knows names below `localhost`.
OF_THE_GATEWAY = """
import urllib.parse, urllib.request

def of_the_gateway(url, body=None):
    parts = urllib.parse.urlsplit(url)
    there = parts._replace(netloc=f"127.0.0.1:{parts.port}", path=parts.path or "/")
    return urllib.request.Request(there.geturl(), body, {"Host": parts.netloc})

class Redirects(urllib.request.HTTPRedirectHandler):
    "To the result of a request that takes long: a path, or an address of the gateway's."
    def redirect_request(self, request, answer, code, message, headers, url):
        again = of_the_gateway(url)
        if again.get_header("Host") == again.host:
            again.add_header("Host", request.get_header("Host"))
        return again

urllib.request.install_opener(urllib.request.build_opener(Redirects))
"""

CHECK = """
import collections, hashlib, json, sys
import modal

found = collections.Counter()
queue = modal.Queue.from_name("wide")
table = modal.Dict.from_name("wide")
noted = collections.defaultdict(list)
for line in open(sys.argv[1]):
    what, *more = json.loads(line)
    noted[what].append(more)

def ended(call_id):
    try:
        return modal.FunctionCall.from_id(call_id).get(timeout=350)
    except modal.exception.FunctionTimeoutError:
        return "timed out"
    except BaseException as error:
        full = "disk" in str(error) or "No space left" in str(error)
        return "disk full" if full else f"{type(error).__name__}: {error}"

DOCUMENTED = ("timed out", "disk full")
for call_id, wanted in noted["spawned"]:
    got = ended(call_id)
    found["right" if got == wanted else got if got in DOCUMENTED else f"wrong: {got} for {wanted}"] += 1
for call_id, wanted in noted["large"]:
    got = ended(call_id)
    if isinstance(got, bytes):
        got = hashlib.sha256(got).hexdigest()
    found["right" if got == wanted else got if got in DOCUMENTED else f"wrong: {got} for {wanted}"] += 1
for call_id, wanted in noted["cancelled"]:
    got = ended(call_id)
    same = got == wanted or (wanted == "cancelled" and "cancel" in str(got))
    found["cancelled" if same else f"wrong: {got} for {wanted}"] += 1

def drained(partition):
    items = []
    while some := queue.get_many(100, block=False, partition=partition):
        items += some
    return items

got = [item for item, in noted["got"]] + drained("shared")
put, putting = ({item for item, in noted[name]} for name in ("put", "putting"))
found["items that were put"] = len(put)
found["wrong: items twice"] = len(got) - len(set(got))
found["wrong: items lost"] = len(put - set(got))
found["wrong: items that nobody put"] = len(set(got) - putting)
made = drained("made")
found["items of containers"] = len(noted["made"])
found["wrong: items of containers twice"] = len(made) - len(set(made))
found["wrong: items of containers lost"] = len({name for name, in noted["made"]} - set(made))
for key, winner in noted["won"]:
    found["won" if table[key] == winner else "wrong: another won"] += 1
found["wrong: several won"] = len(noted["won"]) - len({key for key, _winner in noted["won"]})
runs = drained("schedule")
found["scheduled runs"] = len(set(runs))
queue.get(timeout=390, partition="schedule")  # it goes on
print(json.dumps({what: count for what, count in found.items() if count}))
"""


class Programs:
    """`modal deploy` and `modal run` in the middle of it all: one of each at a time."""

    def __init__(self, platform: Platform, folder: Path, chance: random.Random) -> None:
        self.deployments = self.builds = 0  # that succeeded
        self._platform = platform
        self._folder = folder
        self._chance = chance
        self._number = 0
        self._running: dict[str, tuple[subprocess.Popen[str], str]] = {}  # kind -> process, what it is to print
        self._killed: set[int] = set()

    def deploy(self) -> bool:
        """The app again, now and then killed meanwhile."""
        return self._start("deploy", APP.replace("VERSION = 0", f"VERSION = {self._number}"), "App deployed!", 0.3)

    def build(self) -> bool:
        """A new image, and a function that runs in it."""
        number = f"{self._number}-{self._chance.randrange(1 << 32)}"
        return self._start("run", BUILT.replace("NUMBER", number), f"read {number} more", 0.2)

    def _start(self, kind: str, program: str, wanted: str, killed: float) -> bool:
        self._number += 1
        before = self._running.get(kind)
        if before is not None:
            if before[0].poll() is None:
                if self._chance.random() >= killed:
                    return False
                before[0].kill()
                self._killed.add(before[0].pid)
            self._ended(*self._running.pop(kind))
        path = self._folder / f"{kind}-{self._number}" / "wide.py"
        path.parent.mkdir()
        path.write_text(program)
        self._running[kind] = self._platform.start("modal", kind, path, merged=True), wanted
        return True

    def end(self) -> None:
        """Wait for what runs; fails where one did not do what it should."""
        for running in self._running.values():
            self._ended(*running)
        self._running.clear()

    def _ended(self, process: subprocess.Popen[str], wanted: str) -> None:
        said, _ = process.communicate(timeout=PATIENCE)
        if process.pid in self._killed:
            return
        if process.returncode != 0 and ("disk" in said or "No space left" in said):
            print("documented:", said[-300:])
            return
        assert process.returncode == 0 and wanted in said, said
        if "deployed" in wanted:
            self.deployments += 1
        else:
            self.builds += 1


@pytest.fixture
def small_platform() -> Iterator[Platform]:
    """On a disk that can be filled up, and is one: large values are mapped."""
    with new_platform(DISK, on_disk=True) as it:
        yield it


def test_random_faults(small_platform: Platform, tmp_path: Path) -> None:
    platform = small_platform
    print(f"seed {SEED}")
    # Another platform of this machine would take the usual port while there is no server, and answer in its place.
    platform.env["INTERMODAL_WEB_LISTEN"] = f"127.0.0.1:{free_port()}"
    clock = tmp_path / "clock"
    if CLOCK:
        platform.env |= _settable(clock, tmp_path / "clock.so")
    (tmp_path / "wide.py").write_text(APP)
    assert platform.intermodal("up").code == 0
    deployed = platform.modal("deploy", tmp_path / "wide.py")
    assert deployed.code == 0, deployed.text
    chance = random.Random(SEED)
    more: dict[str, tuple[int, Callable[[], bool]]] = {"clock": (2, lambda: _set_clock(clock, chance))} if CLOCK else {}
    programs = Programs(platform, tmp_path, chance)
    walk = Walk(
        platform, tmp_path, chance, OF_THE_GATEWAY + CLIENT,
        {
            **more,
            "deploy": (2, programs.deploy),
            "build": (2, programs.build),
            "power": (1, lambda: walk.power()),
            "term": (1, lambda: walk.term()),
            "long_pause": (1, lambda: walk.pause_part(chance.uniform(8, 25))),
        },
    )  # fmt: skip
    try:
        for _ in range(STEADY):
            walk.start_client(steady=True)
        for _ in range(CLIENTS):
            walk.start_client()
        walk.go()
        walk.wait_for_clients()
        outcome = walk.outcome()
        programs.end()
        checked = _check(walk)
        _spawned(walk)
        web = _web(platform)
        stopped = platform.modal("app", "stop", "wide")  # schedules would start containers for ever
        assert stopped.code == 0, stopped.text
        comes_to_rest(platform)
    finally:
        walk.end()
    print(f"{walk.faults.total()} faults injected: {dict(walk.faults)}")
    print("calls:", {f"{kind} {what}": count for (what, kind), count in sorted(outcome.items())})
    print(f"{programs.deployments} deployments and {programs.builds} builds; at the end:", checked)
    assert not [what for what in checked if what.startswith("wrong")], checked
    assert web == 200


def _settable(clock: Path, library: Path) -> dict[str, str]:
    """The variables of processes whose clock is set by that file."""
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    clock.write_bytes(bytes(8))
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(clock)}


def _set_clock(clock: Path, chance: random.Random) -> bool:
    """Of server, worker and clients, and of what these start; containers have the machine's."""
    with clock.open("r+b") as file:  # it is mapped
        file.write(struct.pack("q", int(chance.uniform(-HOURS, HOURS) * 3600)))
    return True


def _check(walk: Walk) -> dict[str, int]:
    """What was acknowledged is there, once."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(walk.journal)],
        env=walk.platform.env, capture_output=True, text=True, timeout=2 * PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _spawned(walk: Walk) -> None:
    """The store has an output for each spawned input of `tiny`, and no input any more."""
    function = "= (SELECT number FROM called_functions JOIN functions USING (function_id) WHERE name = 'tiny')"
    with contextlib.closing(store_of(walk.platform)) as store:
        deadline = time.monotonic() + PATIENCE
        while store.execute(f"SELECT count(*) FROM inputs WHERE function {function}").fetchone()[0]:
            assert time.monotonic() < deadline, "spawned inputs stay without an output"
            time.sleep(0.5)
        found = dict(
            store.execute(
                f"SELECT o.status, count(*) FROM outputs o JOIN calls c ON c.number = o.key >> 32 "
                f"WHERE c.function {function} GROUP BY o.status"
            ).fetchall()
        )
    noted = [json.loads(line) for line in walk.journal.read_text().splitlines()]
    least, most = (sum(one[1] for one in noted if one[0] == what) for what in ("many", "putting many"))
    assert least <= sum(found.values()) <= most, (found, least, most)
    assert set(found) <= {Status.SUCCESS, Status.TIMEOUT}, found
    print("spawned:", found)


def _web(platform: Platform) -> int:
    """What the web function answers when everything is there again."""
    program = f"""{OF_THE_GATEWAY}
import modal
url = modal.Function.from_name("wide", "web").get_web_url()
print(urllib.request.urlopen(of_the_gateway(url), timeout={PATIENCE}).status)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=platform.env, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
