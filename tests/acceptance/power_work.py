"""What is done on a disk that will lose its power, and what must be there afterwards.

    python power_work.py work NAME LEDGER COUNT SECONDS SEED
    python power_work.py check MOMENT LEVEL LEDGER…

Each action is noted in a ledger elsewhere, with how many records the disk had (`power_disk`) before it began and after
it was acknowledged. The check knows from that what a disk that ended at MOMENT must have: all that was acknowledged by
then; of an action that was under way everything or nothing; nothing else. It prints what is wrong, a JSON line each.
LEVEL `server`: what the server says; `all`: what containers see too.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ABSENT = "absent"
SIZES = (10, 3_000, 70_000, 400_000, 3_000_000)  # bytes of contents
BULK = (3_000, 200_000, 250_000, 400_000)  # of values of dicts, below and above what is kept in a file of its own
DATA = 300_000  # bytes of the file that a deployed app brings

HELPER = "VERSION = {version}\n"
APP = """
import hashlib, os
import modal

VERSION = {version}
app = modal.App("power")
uploads = modal.Volume.from_name("power-uploads", create_if_missing=True)
mounted = modal.Volume.from_name("power-mounted", create_if_missing=True)
image = (
    modal.Image.debian_slim()
    .run_commands(
        "python -c \\"import random; open('/big', 'wb').write(random.Random({build}).randbytes(2_000_000))\\""
    )
    .add_local_file("data-{version}.bin", "/data.bin")
    .add_local_file("tool.sh", "/tool.sh")
    .add_local_python_source("power_helper")
)

def hash_of(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()

@app.function(
    image=image, volumes={{"/uploads": uploads, "/mounted": mounted}}, secrets=[modal.Secret.from_name("power-secret")],
    max_containers=1, timeout=60, scaledown_window=20,
)
def work(what, arg=None, size=0):
    import random, subprocess
    import power_helper

    if what == "version":
        tool = subprocess.run(["/tool.sh"], capture_output=True, text=True).stdout.strip()
        return [VERSION, power_helper.VERSION, hash_of("/data.bin"), hash_of("/big"), tool]
    if what == "large":
        return random.Random(arg).randbytes(size)
    if what == "secret":
        return os.environ["POWER"]
    if what == "commit":
        path, seed = arg
        with open(f"/mounted/{{path}}", "wb") as file:
            file.write(random.Random(seed).randbytes(size))
        mounted.commit()
    if what == "read":
        folder, path = arg
        (uploads if folder == "uploads" else mounted).reload()
        return hash_of(f"/{{folder}}/{{path}}") if os.path.exists(f"/{{folder}}/{{path}}") else "absent"
    print("did", what)
    return arg

@app.function(schedule=modal.Period(days=3))
def later():
    pass
"""
BUILDS = 2  # different images of the app


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Ledger:
    """What is done, as it is done."""

    def __init__(self, path: str, count: str) -> None:
        self._file = open(path, "a", buffering=1)
        with open(count, "rb") as file:
            self._count = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
        self._ids = 0

    def now(self) -> int:
        found: int = struct.unpack("<Q", self._count[:8])[0]
        return found

    def do(self, kind: str, key: str, value: Any, action: Callable[[], Any]) -> Any:
        """Carry it out; what it returns, if anything, is noted as `got`."""
        self._ids += 1
        action_id = self._ids
        self._note({"id": action_id, "kind": kind, "key": key, "value": value, "begin": self.now()})
        got = action()
        self._note({"id": action_id, "done": self.now(), "got": got})
        return got

    def _note(self, fields: dict[str, Any]) -> None:
        self._file.write(json.dumps(fields) + "\n")


# -- what is done -----------------------------------------------------------------------------------


def command(*args: str, cwd: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *args], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise RuntimeError(f"{args}: {done.stdout}{done.stderr}")
    return done.stdout


def stored(ledger: Ledger, chance: random.Random, more: Callable[[], bool]) -> None:
    """Dicts and queues."""
    import modal

    table = modal.Dict.from_name("power-dict", create_if_missing=True)
    queue = modal.Queue.from_name("power-queue", create_if_missing=True)
    number = 0
    while more():
        for _ in range(chance.randrange(1, 12)):
            number += 1
            key, value = f"key-{chance.randrange(40)}", number
            if chance.random() < 0.15:
                ledger.do("dict", key, ABSENT, partial(_drop, table, key))
            else:
                ledger.do("dict", key, value, partial(table.put, key, value))
        for size in (chance.choice(BULK), chance.choice(BULK)):  # so much that the journal's files take turns
            number += 1
            key, seed = f"large-{chance.randrange(4)}", number
            data = content(seed, size)
            ledger.do("dict-large", key, digest(data), partial(table.put, key, data))
        for _ in range(chance.randrange(1, 6)):
            items = [number := number + 1 for _ in range(chance.randrange(1, 4))]
            ledger.do("queue-put", "queue", items, partial(queue.put_many, items))
        if chance.random() < 0.7:
            most = chance.randrange(1, 5)
            ledger.do("queue-get", "queue", most, partial(queue.get_many, most, block=False))
        time.sleep(chance.uniform(0, 0.05))  # idle disks flush later


def _drop(table: Any, key: str) -> None:
    with contextlib.suppress(KeyError):
        table.pop(key)


def volumes(ledger: Ledger, chance: random.Random, more: Callable[[], bool]) -> None:
    """Uploads to a volume, and files of a network file system."""
    import modal

    volume = modal.Volume.from_name("power-uploads", create_if_missing=True)
    files = modal.NetworkFileSystem.from_name("power-files", create_if_missing=True)
    number = 0
    while more():
        number += 1
        data = content(1000 + number, chance.choice(SIZES))
        path = f"file-{chance.randrange(6)}"

        def upload(data: bytes = data, path: str = path, number: int = number) -> None:
            with volume.batch_upload(force=True) as batch:
                batch.put_file(io.BytesIO(data), path)
                batch.put_file(io.BytesIO(b"%d" % number), "pair/one")
                batch.put_file(io.BytesIO(b"%d" % number), "pair/two")

        ledger.do("volume", path, [digest(data), number], upload)
        if chance.random() < 0.3:
            texts = [b"%d" % (number * 1000 + i) for i in range(chance.randrange(20, 60))]
            many = {f"many/{chance.randrange(200)}": text for text in texts}

            def upload_many(many: dict[str, bytes] = many) -> None:
                with volume.batch_upload(force=True) as batch:
                    for name, text in many.items():
                        batch.put_file(io.BytesIO(text), name)

            ledger.do("volume-many", "many", {name: digest(text) for name, text in many.items()}, upload_many)
        if chance.random() < 0.5:
            data = content(5000 + number, chance.choice(SIZES))
            path = f"dir-{chance.randrange(3)}/file"
            ledger.do("files", path, digest(data), partial(files.write_file, path, io.BytesIO(data)))
        time.sleep(chance.uniform(0, 0.3))


def administration(ledger: Ledger, chance: random.Random, more: Callable[[], bool]) -> None:
    """Environments, tokens, secrets."""
    number = 0
    while more():
        number += 1
        what = chance.choice(("environment", "token", "secret"))
        if what == "environment":
            name = f"power-{number}"
            ledger.do("environment", name, True, partial(command, "modal", "environment", "create", name))
        elif what == "token":
            name = f"power-{number}"
            ledger.do("token", name, True, partial(command, "intermodal", "token", "new", "--note", name))
        else:
            value = f"{number}"
            make = ("modal", "secret", "create", "power-secret", f"POWER={value}", "--force")
            ledger.do("secret", "power-secret", value, partial(command, *make))


def calls(ledger: Ledger, chance: random.Random, more: Callable[[], bool]) -> None:
    """Deployments, spawned calls and commits in containers."""
    import modal

    command("modal", "secret", "create", "power-secret", "POWER=first", "--force")
    folder = Path(os.environ["POWER_FOLDER"])
    number = 0
    while True:
        number += 1
        deploy(ledger, folder, number)
        tell("deployed", "", number)
        work = modal.Function.from_name("power", "work")
        work.remote("commit", ["first", number], 1000)
        # Half a minute later the kernel has written all of that by itself; what comes now is new beside it.
        subprocess.run(["sync", "-f", os.environ["INTERMODAL_HOME"]], check=True)
        for _ in range(chance.randrange(3, 8)):
            kind = chance.choice(("echo", "bytes", "large", "commit", "commit"))
            seed, size = chance.randrange(1 << 30), chance.choice(SIZES)
            if kind == "echo":
                started = ledger.do("call", "", seed, partial(spawn, work, "echo", seed))
            elif kind == "bytes":
                data = content(seed, size)
                started = ledger.do("call", "", digest(data), partial(spawn, work, "echo", data))
            elif kind == "large":
                expected = digest(content(seed, size))
                started = ledger.do("call", "", expected, partial(spawn, work, "large", seed, size))
            else:
                path = f"file-{chance.randrange(4)}"
                ledger.do(
                    "commit", path, digest(content(seed, size)), partial(work.remote, "commit", [path, seed], size)
                )
                continue
            if chance.random() < 0.4:
                modal.FunctionCall.from_id(started).get(timeout=120)  # what is known stays known
        if not more():
            return


def spawn(work: Any, *args: Any) -> str:
    found: str = work.spawn(*args).object_id
    return found


def deploy(ledger: Ledger, folder: Path, number: int) -> None:
    """Version `number` of the app, of local files that are new."""
    data = content(9000 + number, DATA)
    (folder / "app.py").write_text(APP.format(version=number, build=number % BUILDS))
    (folder / "power_helper.py").write_text(HELPER.format(version=number))
    (folder / f"data-{number}.bin").write_bytes(data)
    tool = folder / "tool.sh"
    tool.write_text(f"#!/bin/sh\necho tool {number}\n")
    tool.chmod(0o755)
    built = digest(content(number % BUILDS, 2_000_000))
    seen = [number, number, digest(data), built, f"tool {number}"]
    ledger.do("app", "power", seen, partial(command, "modal", "deploy", "app.py", cwd=str(folder)))


FIRST = "calls"  # the others begin when this one says that the app is deployed
WORKS = {FIRST: calls, "stored": stored, "volumes": volumes, "administration": administration}


def work(name: str, path: str, count: str, seconds: str, seed: str) -> None:
    end = time.monotonic() + float(seconds)
    WORKS[name](Ledger(path, count), random.Random(f"{name} {seed}"), lambda: time.monotonic() < end)


# -- what must be there -----------------------------------------------------------------------------


class Action:
    def __init__(self, fields: dict[str, Any]) -> None:
        self.kind, self.key, self.value = fields["kind"], fields["key"], fields["value"]
        self.begin: int = fields["begin"]
        self.done: int | None = None
        self.got: Any = None


class Past:
    """What had been done at a moment."""

    def __init__(self, paths: list[str], moment: int) -> None:
        self.actions: dict[str, list[tuple[Action, bool]]] = defaultdict(list)  # by kind; acknowledged or under way
        for path in paths:
            known: dict[int, Action] = {}
            for line in Path(path).read_text().splitlines():
                fields = json.loads(line)
                if "kind" in fields:
                    known[fields["id"]] = Action(fields)
                else:
                    known[fields["id"]].done, known[fields["id"]].got = fields["done"], fields["got"]
            for action in known.values():
                if action.begin < moment:
                    self.actions[action.kind].append((action, action.done is not None and action.done <= moment))

    def moments(self) -> dict[str, list[int]]:
        """By kind: right after something was acknowledged."""
        return {
            kind: [action.done for action, _acknowledged in actions if action.done is not None]
            for kind, actions in self.actions.items()
        }

    def allowed(self, kind: str) -> dict[str, list[Any]]:
        """What may stand at each key: what was acknowledged last, and what was under way."""
        found: dict[str, list[Any]] = defaultdict(lambda: [ABSENT])
        for action, acknowledged in self.actions[kind]:
            found[action.key] = [action.value] if acknowledged else [*found[action.key], action.value]
        return found


def tell(*said: Any) -> None:
    print(json.dumps(said), flush=True)


def compare(kind: str, key: str, allowed: list[Any], found: Any) -> None:
    if found not in allowed:
        tell(kind, key, f"found {found!r}, which may be {allowed!r}")


@contextlib.contextmanager
def watched(kind: str, key: str = "") -> Iterator[None]:
    try:
        yield
    except Exception as error:
        tell(kind, key, f"{type(error).__name__}: {error}")


def check_stored(past: Past) -> None:
    import modal

    table = modal.Dict.from_name("power-dict", create_if_missing=True)
    for key, allowed in past.allowed("dict").items():
        with watched("dict", key):
            compare("dict", key, allowed, table.get(key, ABSENT))
    for key, allowed in past.allowed("dict-large").items():
        with watched("dict-large", key):
            found = table.get(key, ABSENT)
            compare("dict-large", key, allowed, found if found == ABSENT else digest(found))
    check_queue(past)


def check_queue(past: Past) -> None:
    """Each item once, in order; what the last `get` took may be there again when that is not known to have arrived."""
    import modal

    put: list[int] = []
    perhaps: list[int] = []
    for action, acknowledged in past.actions["queue-put"]:
        if acknowledged:
            put += action.value
        else:
            perhaps = action.value
    gets = past.actions["queue-get"]
    taken = sum(len(action.got) for action, acknowledged in gets[:-1])
    last = len(gets[-1][0].got or ()) if gets else 0
    if gets and gets[-1][0].got is None:
        last = gets[-1][0].value
    with watched("queue"):
        found = list(modal.Queue.from_name("power-queue", create_if_missing=True).iterate(item_poll_timeout=0.0))
        rest = (put + perhaps)[taken:]
        certain = put[taken + last :]
        whole = [put[taken + gone :] + more for gone in range(last + 1) for more in ([], perhaps)]
        if found not in whole:
            tell("queue", "", f"found {found}, of {rest}, certainly {certain}")


def check_volumes(past: Past) -> None:
    import modal

    volume = modal.Volume.from_name("power-uploads", create_if_missing=True)
    for path, allowed in past.allowed("volume").items():
        with watched("volume", path):
            found = _read(volume, path)
            compare("volume", path, [one if one == ABSENT else one[0] for one in allowed], found)
    uploads = past.actions["volume"]
    if uploads:
        with watched("volume", "pair"):
            allowed = [b"%d" % uploads[-1][0].value[1]]
            if not uploads[-1][1]:
                allowed.append(b"%d" % uploads[-2][0].value[1] if len(uploads) > 1 else b"")
            one, two = (b"".join(_chunks(volume, f"pair/{name}")) for name in ("one", "two"))
            if one != two or one not in allowed:
                tell("volume", "pair", f"found {one!r} and {two!r}, which may be {allowed!r}")
    many: dict[str, list[Any]] = defaultdict(lambda: [ABSENT])
    for action, acknowledged in past.actions["volume-many"]:
        for name, text in action.value.items():
            many[name] = [text] if acknowledged else [*many[name], text]
    for path, allowed in many.items():
        with watched("volume-many", path):
            compare("volume-many", path, allowed, _read(volume, path))
    files = modal.NetworkFileSystem.from_name("power-files", create_if_missing=True)
    for path, allowed in past.allowed("files").items():
        with watched("files", path):
            compare("files", path, allowed, _read(files, path))
    mounted = modal.Volume.from_name("power-mounted", create_if_missing=True)
    for path, allowed in past.allowed("commit").items():
        with watched("commit", path):
            compare("commit", path, allowed, _read(mounted, path))


def _read(volume: Any, path: str) -> str:
    try:
        return digest(b"".join(volume.read_file(path)))
    except Exception as error:
        if "not found" in str(error).lower() or isinstance(error, FileNotFoundError) or "no file" in str(error).lower():
            return ABSENT
        raise


def _chunks(volume: Any, path: str) -> list[bytes]:
    try:
        return list(volume.read_file(path))
    except FileNotFoundError:
        return []


def check_administration(past: Past) -> None:
    with watched("environment"):
        listed = command("modal", "environment", "list", "--json") if past.actions["environment"] else ""
        for action, acknowledged in past.actions["environment"]:
            if acknowledged and f'"{action.key}"' not in listed:
                tell("environment", action.key, f"is gone: {listed}")
    with watched("token"):
        listed = command("intermodal", "token", "list") if past.actions["token"] else ""
        for action, acknowledged in past.actions["token"]:
            if acknowledged and action.key not in listed:
                tell("token", action.key, f"is gone: {listed}")


def check_calls(past: Past) -> None:
    import modal

    allowed = past.allowed("app")["power"]
    if ABSENT not in allowed:
        with watched("app"):
            modal.Function.from_name("power", "work").hydrate()
    for action, acknowledged in past.actions["call"]:
        if acknowledged:
            with watched("call", action.got), contextlib.suppress(TimeoutError):
                _check_result(action, modal.FunctionCall.from_id(action.got).get(timeout=0))


def _check_result(action: Action, found: Any) -> None:
    compare("call", action.got, [action.value], digest(found) if isinstance(found, bytes) else found)


def check_containers(past: Past) -> None:
    import modal

    allowed = past.allowed("app")["power"]
    if ABSENT in allowed:
        return
    for action, acknowledged in past.actions["call"]:
        if acknowledged:
            with watched("call", action.got):
                _check_result(action, modal.FunctionCall.from_id(action.got).get(timeout=150))
    work = modal.Function.from_name("power", "work")
    with watched("app", "in a container"):
        compare("app", "in a container", allowed, work.remote("version"))
    with watched("secret"):
        secrets = past.allowed("secret")["power-secret"]
        compare("secret", "", [*secrets, "first"] if ABSENT in secrets else secrets, work.remote("secret"))
    for kind, folder in (("volume", "uploads"), ("commit", "mounted")):
        for path, values in past.allowed(kind).items():
            with watched(f"{kind} in a container", path):
                values = [one[0] if isinstance(one, list) else one for one in values]
                compare(f"{kind} in a container", path, values, work.remote("read", [folder, path]))
    with watched("commit", "a new one"):
        work.remote("commit", ["new", 1], 5000)
        mounted = modal.Volume.from_name("power-mounted")
        compare("commit", "a new one", [digest(content(1, 5000))], _read(mounted, "new"))


def check(moment: str, level: str, *ledgers: str) -> None:
    past = Past(list(ledgers), int(moment))
    for look in (check_stored, check_volumes, check_administration, check_calls):
        look(past)
    if level == "all":
        check_containers(past)
    tell("checked", "", sum(map(len, past.actions.values())))


if __name__ == "__main__":
    (work if sys.argv[1] == "work" else check)(*sys.argv[2:])
