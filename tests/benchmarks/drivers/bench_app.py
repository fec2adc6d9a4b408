"""The Modal app that is measured."""

import os
import time

import modal

COLD = 60  # functions that nobody has called yet
DATA = {}
GATE = modal.Queue.from_name("bench-gate", create_if_missing=True)

app = modal.App("bench")


@app.function(min_containers=1, max_containers=1)
def noop(value=None):
    return value


@app.function(min_containers=2, max_containers=2)
def spread(value=None):
    return value


@app.function(max_containers=2, scaledown_window=1200, retries=3, timeout=600)
def careful(value=None):
    return value


@app.function(max_containers=1, scaledown_window=1200)
@modal.concurrent(max_inputs=100)
async def concurrent(value=None):
    return value


@app.function(max_containers=1, scaledown_window=1200)
def items(count):
    yield from range(count)


@app.function(max_containers=1, scaledown_window=1200)
def sleep(seconds):
    time.sleep(seconds)


@app.function(max_containers=2, scaledown_window=1200)
def held(value):
    """Nothing, but `None` waits until somebody opens the gate."""
    if value is None:
        GATE.get()
    return value


@app.function(max_containers=1, scaledown_window=1200)
def size(data):
    return len(data)


@app.function(max_containers=1, scaledown_window=1200)
def make(size):
    if size not in DATA:
        DATA[size] = b"x" * size
    return DATA[size]


@app.function(max_containers=100, cpu=0.01, memory=16, timeout=600)
def stay(seconds):
    time.sleep(seconds)


def _cold(number):
    def where():
        return os.environ["MODAL_TASK_ID"], time.time()

    where.__name__ = where.__qualname__ = f"cold_{number}"
    return app.function(max_containers=1, scaledown_window=2)(where)


for _number in range(COLD):
    globals()[f"cold_{_number}"] = _cold(_number)
