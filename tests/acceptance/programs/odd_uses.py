"""Odd but legal: what is decorated, passed, raised, printed and left behind."""

import asyncio
import atexit
import functools
import logging
import logging.handlers
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor

import modal

app = modal.App("accept-odd-uses")


# -- what is decorated and passed
def doubled(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return [function(*args, **kwargs)] * 2

    return inner


@app.function()
@doubled
def stacked(x):
    return x


@app.function()
def renamed(x):
    return x + 1


@app.function()
def removed(x):
    return x + 2


kept, gone = renamed, removed
renamed = print  # what the module calls so later is not what the app knows by that name
del removed

add = app.function(serialized=True, name="add")(lambda x, y=100: x + y)


@app.function()
def apply(function, *args):
    return function(*args)


@app.function()
def apply_remotely(function, *args):
    return function.remote(*args)


class Base:
    size: int = modal.parameter(default=1)

    @modal.enter()
    def first(self):
        self.entered = ["base"]

    @modal.method()
    def inherited(self):
        return self.size, self.entered, self.overridden.local()

    @modal.method()
    def overridden(self):
        return "base"


@app.cls()
class Child(Base):
    name: str = modal.parameter(default="n")
    kept: str = "plain"

    @modal.enter()
    async def second(self):
        self.entered.append("child")

    @modal.method()
    def overridden(self):
        return "child", self.kept, self.doubled, self.static()

    @modal.method()
    async def count(self, number):
        for i in range(number):
            yield i, self.name

    @property
    def doubled(self):
        return self.size * 2

    @staticmethod
    def static():
        return "static"


# -- what is raised
class Told(Exception):
    def __init__(self, code, *, reason):
        super().__init__(f"{reason} ({code})")
        self.code = code


class Locked(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock, self.kept = threading.Lock(), 5


class OnlyThere:
    """An attribute whose type is there in the container alone."""

    def __reduce__(self):
        return int, ("no number",)


@app.function()
def fail(kind):
    if kind == "told":
        raise Told(7, reason="because")
    if kind == "locked":
        raise Locked("it")
    if kind == "group":
        raise ExceptionGroup("both", [ValueError("a"), Locked("b")])
    if kind == "unreadable":
        error = ValueError("text")
        error.there, error.kept = OnlyThere(), 5
        raise error
    if kind == "deep":
        sys.setrecursionlimit(20_000)
        descend(5_000)
    if kind == "items":
        return (i for i in range(3))
    if kind == "coroutine":
        return asyncio.sleep(0)
    return threading.Lock()


def descend(depth):
    if not depth:
        raise ValueError("the ground")
    descend(depth - 1)


def raised(call):
    try:
        return call()
    except Exception as error:
        inner = [f"{type(one).__name__}({one})" for one in getattr(error, "exceptions", ())]
        return f"{type(error).__name__}: {str(error)[:150]}", getattr(error, "kept", None), inner


# -- what is printed, and what a process does besides
@app.function(max_containers=1)
def do(kind):
    if kind == "bytes":
        sys.stdout.buffer.write(b"bytes \xff\xfe\x00.\n")
    elif kind == "descriptor":
        os.write(1, b"descriptor \x80.\n")
    elif kind == "large":
        print("large " + "h" * 3_000_000)
    elif kind == "colour":
        print("\x1b[31mred\x1b[0m")
    elif kind == "returns":
        for i in range(3):
            print(f"\rstep {i}", end="")
        print()
    elif kind == "warning":
        warnings.warn("take care", stacklevel=1)
    elif kind == "logging":
        logging.basicConfig(level=logging.INFO, force=True, format="logged %(message)s", stream=sys.stdout)
        logging.getLogger("own").info("info")
    elif kind == "child":
        return subprocess.run("echo from a child; exit 3", shell=True).returncode
    elif kind == "children":
        with ProcessPoolExecutor(2) as pool:
            return list(pool.map(abs, [-1, -2]))
    elif kind == "thread":
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    elif kind == "alarm":

        def ring(*_args):
            raise InterruptedError("the alarm")

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        try:
            signal.pause()
        except InterruptedError as error:
            return str(error)
    elif kind == "interrupt":
        before = signal.signal(signal.SIGINT, lambda *_args: print("an interrupt of its own"))
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
    elif kind == "loop":
        return asyncio.run(mixed())
    elif kind == "input":
        return raised(input)
    elif kind == "directory":
        os.chdir("/tmp")
    elif kind == "where":
        return os.getcwd()
    elif kind == "closed":
        sys.stdout.close()
    return None


async def mixed():
    return await add.remote.aio(1), add.remote(2), [x async for x in add.map.aio([3])], list(add.map([4]))


# -- what is left at the end of a container
buffered = logging.handlers.MemoryHandler(100, target=logging.StreamHandler(sys.stdout))
logging.getLogger("buffered").addHandler(buffered)


@app.function(max_inputs=1)
def leave(ended):
    global processes
    atexit.register(lambda: ended.put("ended"))
    atexit.register(print, "at the end")
    atexit.register(lambda: 1 / 0)
    logging.getLogger("buffered").warning("what a handler has kept")
    processes = ProcessPoolExecutor(1)
    processes.submit(abs, -1).result()
    multiprocessing.Process(target=time.sleep, args=(10_000,)).start()


@app.cls()
class Ends:
    @modal.method()
    def f(self):
        pass

    @modal.exit()
    def save(self):
        raise RuntimeError("the hook")


@app.local_entrypoint()
def main():
    print("decorated", stacked.remote(1), stacked.local(2), add.remote(1), list(add.map([1], [2])), add.local(1))
    print("names", kept.remote(1), gone.remote(1))
    print("passed", apply.remote(lambda x: x * 2, 4), apply.remote(functools.partial(pow, 2), 3))
    print("passed", apply_remotely.remote(add, 3), apply_remotely.remote(Child(size=3).inherited))
    child = Child(size=4, name="m")
    print("class", child.inherited.remote(), child.inherited.local() == child.inherited.remote())
    print("class", list(child.count.remote_gen(2)), child.static(), child.doubled, child.kept)
    for kind in ("told", "locked", "group", "unreadable", "deep", "items", "coroutine", "lock"):
        print(kind, *raised(lambda kind=kind: fail.remote(kind)))
    for kind in "bytes descriptor large colour returns warning logging child children thread alarm interrupt".split():
        print(kind, do.remote(kind))
    for kind in "loop input directory where closed where".split():
        print(kind, do.remote(kind))
    with modal.Queue.ephemeral() as ended:
        leave.remote(ended)
        print("the container has", ended.get(timeout=60))
    Ends().f.remote()
    late = app.function(serialized=True, name="late")(lambda: 1)
    print("late", *raised(late.remote)[:1])
    print("again", *raised(lambda: app.run().__enter__())[:1])
    call = add.spawn(1)
    print("wait", raised(lambda: call.get(timeout="1"))[0])
    print("gather", raised(lambda: modal.FunctionCall.gather([call]))[0], modal.FunctionCall.gather(call))
