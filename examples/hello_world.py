"""The first program: one function, called here, in a container, and in many.

modal run examples/hello_world.py
modal run examples/hello_world.py --count 500
"""

import sys

import modal

app = modal.App("example-hello-world")


@app.function()
def square(number: int) -> int:
    if number % 2:
        print(f"{number} is odd")
    else:
        print(f"{number} is even", file=sys.stderr)
    return number * number


@app.local_entrypoint()
def main(count: int = 20):
    print("on this machine:", square.local(1000))
    print("in a container:", square.remote(1000))
    print("sum over all containers:", sum(square.map(range(count))))
