"""Large values through calls that containers make: arguments, results, items, maps, spawned calls."""

import modal

app = modal.App("nested-large")
LARGE = 3_000_000


@app.function()
def double(data: bytes) -> bytes:
    return data + data


@app.function()
def pieces(data: bytes):  # type: ignore[no-untyped-def]
    yield data
    yield data[1:]


@app.function()
def caller() -> list[int]:
    data = bytes(LARGE)
    spawned = double.spawn(data)
    lengths = [len(double.remote(data)), *(len(item) for item in pieces.remote_gen(data))]
    lengths += [len(result) for result in double.map([data] * 2)]
    return [*lengths, len(spawned.get())]


@app.function()
async def caller_aio() -> list[int]:
    data = bytes(LARGE)
    lengths = [len(await double.remote.aio(data))]
    return lengths + [len(item) async for item in pieces.remote_gen.aio(data)]


@app.local_entrypoint()
def main() -> None:
    print(caller.remote())
    print(caller_aio.remote())
