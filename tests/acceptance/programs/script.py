"""A program that is run by `python`: its app for the time of a `with`, and what is different in its container."""

import asyncio
import dataclasses
import threading

import modal

app = modal.App("accept-script")


@dataclasses.dataclass
class Point:
    x: int


class Wrong(Exception):
    pass


@app.function()
def echo(value):
    print("printed", value)
    return value


@app.function()
def make():
    return Point(1)


@app.function()
def is_point(value):
    return isinstance(value, Point), value == Point(1)


@app.function()
def fail():
    raise Wrong("on purpose")


def raised(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__, str(error)


async def in_async_code(number):
    async with app.run():
        return await echo.remote.aio(number)


def deployed():
    app.deploy(name="accept-script-deployed", tag="first")
    return modal.Function.from_name("accept-script-deployed", "echo").remote(8), app.app_id[:3]


if __name__ == "__main__":
    print("before", *raised(lambda: echo.remote(1))[:1], app.app_id)
    with app.run() as running:
        print("running", running is app, app.app_id[:3], echo.remote(1))
        print(
            "types",
            make.remote(),
            isinstance(make.remote(), Point),
            make.remote() == Point(1),
            is_point.remote(Point(1)),
        )
        try:
            fail.remote()
        except Wrong:
            print("the container's type is this one")
        except Exception as error:
            print("another type", type(error).__name__, error)
    print("after", *raised(lambda: echo.remote(1))[:1], app.app_id[:3])
    with modal.enable_output(), app.run():
        echo.remote(2)
    with app.run():
        print("silent", echo.remote(3))
    print("async", asyncio.run(in_async_code(4)))
    found = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(in_async_code(5))))
    thread.start()
    thread.join()
    print("thread", found)
    with modal.App("accept-script-other").run(), app.run():
        print("two apps", echo.remote(6))
    print("raised", raised(lambda: exec("with app.run():\n    raise KeyError('mine')")))
    print(
        "names",
        *[raised(lambda name=name: modal.App(name).deploy())[0] for name in ("a b", "a" * 64, "ap-" + "A" * 22)],
    )
    print("lookup", raised(lambda: modal.App.lookup("accept-script-nowhere"))[0])
    with app.run(detach=True):
        call = echo.spawn(7)
    print("detached", call.get())
    print("deployed", deployed())
