"""Calls from children, threads and event loops, on the launching machine and in a container."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading

import modal

app = modal.App("accept-processes")


@app.function(max_containers=4)
@modal.concurrent(max_inputs=100)
def square(x):
    return x * x


def call(x):
    return square.remote(x)


def fork(work):
    """What a child has written and its exit code; in the child, what `work` returns."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, str(work()).encode())
        return None
    os.close(write)
    _, status = os.waitpid(pid, 0)
    with open(read) as file:
        return file.read(), os.waitstatus_to_exitcode(status)


def end_badly():
    raise ValueError("in the child")


def pool(method):
    with multiprocessing.get_context(method).Pool(2) as workers:
        return workers.map(call, [4, 5])


@app.function()
def inside():
    found = [square.remote(2)]
    for work in (lambda: square.remote(3), end_badly, lambda: sys.exit(7)):
        got = fork(work)
        if got is None:
            return "what a child returns is nobody's result"
        found.append(got)
    found += [pool("fork"), pool("spawn")]
    script = "import modal; print(modal.is_local())"
    found.append(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    found.append(square.remote(8))
    return found


@app.function()
async def inside_a_loop():
    got = fork(lambda: "child")
    if got is None:
        return "what a child returns is nobody's result"
    return [got, await square.remote.aio(9)]


async def gather(count):
    return await asyncio.gather(*[square.remote.aio(x) for x in range(count)])


def everything_at_once():
    """100 threads, an event loop in the main thread, another one in a thread of its own, and maps."""
    threads, found = [], []

    def start(work, *args):
        def run():
            found.append(work(*args))

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    for x in range(100):
        start(square.remote, x)
    start(lambda count: asyncio.run(gather(count)), 50)
    start(lambda count: list(square.map(range(count))), 200)
    first = asyncio.run(gather(50))
    for thread in threads:
        thread.join()
    squares = sorted(value for value in found if isinstance(value, int))
    lists = sorted((value for value in found if isinstance(value, list)), key=len)
    assert squares == [x * x for x in range(100)]
    assert first == [x * x for x in range(50)]
    assert lists == [[x * x for x in range(50)], [x * x for x in range(200)]]


@app.local_entrypoint()
def main():
    print("inside", inside.remote())
    print("inside a loop", inside_a_loop.remote())
    found = []
    for end in (os._exit, sys.exit):
        got = fork(lambda: square.remote(3))
        if got is None:
            end(5)
        found.append(got)
    found.append(pool("fork"))
    try:
        pool("spawn")
    except modal.exception.ExecutionError as error:
        found.append("its app is not running" in str(error))
    found.append(square.remote(9))
    print("outside", found)
    everything_at_once()
    print("all at once")
