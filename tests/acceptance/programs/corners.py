"""What functions without access, without a network, and with unusual ends and inputs do."""

import itertools
import sys
import warnings

import modal

app = modal.App("accept-corners")


@app.function()
def square(x):
    return x * x


@app.function(restrict_modal_access=True)
def restricted(queue):
    calls = {
        "remote": lambda: square.remote(2),
        "map": lambda: list(square.map([2])),
        "spawn": lambda: square.spawn(2),
        "lookup": lambda: modal.Function.from_name("other", "f").remote(),
        "passed queue": lambda: queue.get(),
        "dict": lambda: modal.Dict.from_name("d", create_if_missing=True).put("a", 1),
        "volume": lambda: modal.Volume.from_name("v", create_if_missing=True).listdir("/"),
        "call": lambda: modal.FunctionCall.from_id("fc-" + "A" * 26).get(timeout=1),
        "app": lambda: modal.App("other").run().__enter__(),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
        except modal.exception.AuthError as error:
            found[name] = "not permitted" in str(error) and "restrict" in str(error)
    return [name for name in calls if not found.get(name)], square.local(3)


@app.function(block_network=True)
def blocked(x):
    import socket

    reached = []
    for host in ("1.1.1.1", "10.0.0.1", "example.com"):
        try:
            socket.create_connection((host, 53), 2).close()
            reached.append(host)
        except OSError:
            pass
    return reached, square.remote(x), sorted(square.map([1, 2]))


@app.function(block_network=True)
def items(n):
    yield from range(n)


@app.function()
def end(kind):
    if kind == "interrupt":
        raise KeyboardInterrupt("by hand")
    if kind == "exit":
        sys.exit(3)
    if kind == "group":
        raise ValueGroup("both", [ValueError("a"), KeyError("b")])
    return kind


class ValueGroup(ExceptionGroup):
    pass


def failing():
    yield 1
    raise RuntimeError("the iterator")


def raised(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@app.local_entrypoint()
def main():
    with modal.Queue.ephemeral() as queue:
        print("restricted", *restricted.remote(queue))
    print("blocked", *blocked.remote(2), [found[1] for found in blocked.map([1])], list(items.remote_gen(3)))
    print("ends", raised(lambda: end.remote("interrupt")), raised(lambda: end.remote("exit")))
    try:
        end.remote("group")
    except* ValueError as caught:
        print("group", [repr(error) for error in caught.exceptions])
    except* KeyError as caught:
        print("group", [repr(error) for error in caught.exceptions])
    print("map", list(end.map(["a", "exit", "interrupt"], return_exceptions=True)))
    print("endless", list(itertools.islice(square.map(itertools.count()), 5)))
    print("endless", len(list(itertools.islice(square.map((n for n in itertools.count()), order_outputs=False), 5))))
    print("zip", list(square.map([1, 2, 3])), raised(lambda: list(square.map(failing()))))
    print("bad", raised(lambda: list(square.map(3))), raised(lambda: square.spawn_map(failing())))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        square.map([1])
        sys.stdout.flush()
    print("told", [str(warning.message).partition(",")[0] for warning in told])
