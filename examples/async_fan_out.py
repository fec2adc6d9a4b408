"""Asynchronous on both sides: an async entrypoint fans out to an async function and a generator.

modal run examples/async_fan_out.py --words "alpha beta gamma"
"""

import asyncio

import modal

app = modal.App("example-async-fan-out")


@app.function()
async def shout(word: str) -> str:
    await asyncio.sleep(0.1)
    return word.upper() + "!"


@app.function()
async def countdown(start: int):
    for number in range(start, 0, -1):
        yield number


@app.local_entrypoint()
async def main(words: str = "one two three"):
    print("gathered:", await asyncio.gather(*(shout.remote.aio(word) for word in words.split())))

    async for answer in shout.map.aio(words.split(), order_outputs=False):
        print("as they come:", answer)

    async for number in countdown.remote_gen.aio(3):
        print("counting:", number)
