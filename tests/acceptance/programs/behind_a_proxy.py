"""What the tests of proxies in front of the gateway talk to: plain ASGI, so that the image needs nothing."""

import asyncio
import hashlib
import json

import modal

app = modal.App("behind")


@app.function(max_containers=1)
@modal.concurrent(max_inputs=50)
@modal.asgi_app()
def web():
    go = asyncio.Event()

    async def serve(scope, receive, send):
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await echo(receive, send)
        else:
            await answer(scope, receive, send)

    async def echo(receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", **{k: message.get(k) for k in ("text", "bytes") if message.get(k)}})

    async def answer(scope, receive, send):
        async def begin(kind="application/json"):
            headers = [(b"content-type", kind.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def part(data, more=True):
            await send({"type": "http.response.body", "body": data, "more_body": more})

        path = scope["path"]
        if path == "/who":
            await begin()
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            who = {"client": scope["client"][0], "scheme": scope["scheme"], "headers": headers}
            await part(json.dumps(who).encode(), False)
        elif path == "/upload":
            size, digest = 0, hashlib.sha256()
            while True:
                message = await receive()
                size += len(message.get("body", b""))
                digest.update(message.get("body", b""))
                if not message.get("more_body"):
                    break
            await begin()
            await part(json.dumps({"size": size, "sha256": digest.hexdigest()}).encode(), False)
        elif path == "/download":
            await begin("application/octet-stream")
            for _ in range(int(scope["query_string"])):
                await part(b"x" * 1_000_000)
            await part(b"", False)
        elif path == "/events":
            go.clear()
            await begin("text/event-stream")
            await part(b"data: first\n\n")
            await go.wait()  # until another request says so: whoever holds the first event back waits for ever
            await part(b"data: second\n\n", False)
        elif path == "/go":
            go.set()
            await begin()
            await part(b"{}", False)
        else:
            await begin("text/plain")
            await part(b"hello", False)

    return serve
