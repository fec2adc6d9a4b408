"""Classes and calls, as the guide's chapters and the reference's pages about them promise, line by line."""

import asyncio
import os
import sys
import threading
import time

import modal

app = modal.App("accept-classes-and-calls")
hook = sys.executable  # something of the module's global scope


# -- classes
@app.cls()
class Typed:
    text: str = modal.parameter()
    data: bytes = modal.parameter(default=b"x")
    flag: bool = modal.parameter(default=False)
    number: int = modal.parameter(default=3)
    apart: list = modal.parameter(init=False)
    plain: float
    attribute = "attribute"

    @modal.enter()
    def first(self, kind=list):
        self.apart = kind([self.text])

    @modal.method()
    def all(self, own: str = "own"):
        return self.text, self.data, self.flag, self.number, self.apart, self.attribute, own


@app.cls()
class Hooks:
    @modal.enter()
    async def first(self):
        self.loop = asyncio.get_running_loop()

    @modal.enter()
    def second(self):
        self.entered = hook == sys.executable and not modal.is_local()

    @modal.method()
    async def same_loop(self):
        return self.loop is asyncio.get_running_loop(), self.entered

    @modal.method()
    def container(self):
        return os.environ["MODAL_TASK_ID"]

    @modal.method()
    def siblings(self):
        mine = os.environ["MODAL_TASK_ID"]
        return self.container.local() == mine, self.container.remote() != ""


@app.cls(serialized=True)
class Serialized:
    number: int = modal.parameter(default=3)

    @modal.method()
    def mine(self):
        return self.number

    @modal.method()
    def both(self):
        return self.mine.local(), self.mine.remote()


@app.cls()
class Constructed:
    def __init__(self, a=1):
        self.a = a

    @modal.method()
    def get(self):
        return self.a


@app.cls()
@modal.concurrent(max_inputs=4)
class Shared:
    """All methods are served by the same containers, at the same time."""

    @modal.enter()
    def first(self):
        self.together = threading.Barrier(4)

    @modal.method()
    def one(self):
        self.together.wait(60)
        return os.environ["MODAL_TASK_ID"]

    @modal.method()
    def other(self):
        return self.one.local()


# -- functions
@app.function()
def power(base, exponent=2):
    return base**exponent


@app.function()
def item(instance, **by_name):
    return instance.mine.remote(), list(power.map([1, 2], kwargs=by_name))


@app.function()
def unlucky(number):
    if number == 2:
        raise KeyError("two")
    return number


@app.function(is_generator=True)
def returned_items(number):
    return (i for i in range(number))


@app.function(is_generator=True)
def returned_async_items(number):
    return async_items.local(number)


@app.function()
async def async_items(number):
    for i in range(number):
        yield i


@app.function()
def items_of_others():
    yield from async_items.remote_gen(2)
    yield list(power.map([3]))


@app.function()
def closed_early(ended):
    try:
        yield from range(10**9)
    finally:
        ended.put("closed")


@app.function(max_inputs=2, max_containers=1)
def twice():
    return os.environ["MODAL_TASK_ID"]


@app.function()
def ids():
    return modal.current_input_id(), modal.current_function_call_id()


@app.function()
def objects(queue, dictionary):
    queue.put("from the container")
    dictionary["key"] = "value"
    return queue


@app.function()
def slow(number, seconds):
    time.sleep(seconds)
    return number


def raised(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def in_async_code():
    async def numbers():
        for i in range(3):
            yield i

    found = [x async for x in power.map.aio(numbers())]
    found += [x async for x in power.starmap.aio([(2, 5)])]
    found += [x async for x in async_items.remote_gen.aio(2)]
    found.append(await power.for_each.aio([1]))
    call = await power.spawn.aio(7)
    found += [await call.get.aio(timeout=60), await modal.FunctionCall.gather.aio(call, call)]
    found.append(power.remote(8))  # the blocking form, in async code
    return found, sum(await asyncio.gather(*[power.remote.aio(i) for i in range(50)]))


@app.local_entrypoint()
async def main():
    await asyncio.to_thread(classes)
    await asyncio.to_thread(calls)
    print("async", await in_async_code())


def classes():
    print("typed", Typed(text="t").all.remote(), Typed(text="é", data=b"\xff", flag=True, number=-1).all.remote("by"))
    print("local", Typed(text="t").all.local("here"), Typed(text="t").attribute)
    print("hooks", Hooks().same_loop.remote(), Hooks().siblings.remote())
    print("serialized", Serialized(number=4).both.remote(), item.remote(Serialized(number=5), exponent=3))
    print("constructed", Constructed(5).get.remote(), Constructed(a=7).get.remote(), Constructed().get.remote())
    several = Shared()
    together = [several.one.spawn(), several.other.spawn(), several.one.spawn(), several.other.spawn()]
    print("shared", len(set(modal.FunctionCall.gather(*together))))
    merged = Typed.with_options(cpu=1.0, timeout=60).with_options(memory=256).with_concurrency(max_inputs=2)
    print("options", merged(text="o").all.remote()[0], Typed(text="p").all.remote()[0])


def calls():
    print("map", list(power.map([1, 2, 3], [2, 3, 4])), list(power.starmap([(2, 3), (4,)])), power(5), power.local(6))
    print("order", list(slow.map([1, 2], [0.5, 0.0])), sorted(slow.map([1, 2], [0.1, 0.0], order_outputs=False)))
    print("raised", raised(lambda: list(unlucky.map(range(4)))), list(unlucky.map(range(4), return_exceptions=True)))
    print("each", raised(lambda: unlucky.for_each(range(4))), unlucky.for_each(range(4), ignore_exceptions=True))
    print("background", power.spawn_map([1, 2], [3, 4]))
    print("items", list(returned_items.remote_gen(2)), list(returned_async_items.remote_gen(2)))
    print("items", list(async_items.remote_gen(2)), list(items_of_others.remote_gen()))
    with modal.Queue.ephemeral() as queue, modal.Dict.ephemeral() as dictionary:
        endless = closed_early.remote_gen(queue)
        print("closed", next(endless), next(endless), endless.close(), queue.get(timeout=60))
        print("objects", objects.remote(queue, dictionary).object_id == queue.object_id, queue.get(), dictionary["key"])
    used = [twice.remote() for _ in range(4)]
    print("twice", used[0] == used[1], used[2] == used[3], used[1] != used[2])
    call = ids.spawn()
    input_id, call_id = call.get()
    print("ids", input_id.startswith("in-"), call_id == call.object_id, modal.current_input_id(), modal.is_local())
    waiting = slow.spawn(3, 1.0)
    print("wait", raised(lambda: waiting.get(timeout=0)).partition(":")[0], waiting.get(), waiting.get())
    try:
        slow.spawn(3, 30.0).get(timeout=0.01)
    except TimeoutError as error:  # the builtin one
        print("builtin", isinstance(error, modal.exception.TimeoutError))
    again = modal.FunctionCall.from_id(waiting.object_id)
    again.cancel()  # it is over
    print("again", again.get(), raised(lambda: modal.FunctionCall.gather(waiting, unlucky.spawn(2))))
