"""Web functions of every kind, for the acceptance tests."""

import os

import modal

VERSION = os.environ.get("WEB_APP_VERSION", "one")
image = modal.Image.debian_slim().pip_install("fastapi[standard]")
app = modal.App("web-app", image=image, secrets=[modal.Secret.from_dict({"WEB_APP_VERSION": VERSION})])


@app.function()
@modal.fastapi_endpoint(docs=True)
def square(x: int):
    return {"square": x**2}


@app.function()
@modal.concurrent(max_inputs=100)
@modal.asgi_app()
def web():
    import asyncio
    from contextlib import asynccontextmanager

    from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
    from fastapi.responses import StreamingResponse

    asyncio.run(asyncio.sleep(0))  # as documented programs start what they serve
    gate = asyncio.Event()

    @asynccontextmanager
    async def lifespan(_app):
        yield {"greeting": "lifespan"}

    web_app = FastAPI(lifespan=lifespan)

    @web_app.get("/")
    async def root(request: Request):
        return {"hello": request.state.greeting, "client": request.client.host}

    @web_app.post("/echo")
    async def echo(request: Request):
        return {"size": len(await request.body())}

    @web_app.get("/boom")
    async def boom():
        raise ValueError("boom")

    @web_app.get("/version")
    async def version():
        return VERSION

    @web_app.get("/die-at-once")
    async def die_at_once():
        os._exit(9)

    @web_app.get("/die")
    async def die():
        async def generate():
            yield b"begun"
            await asyncio.sleep(0.2)
            os._exit(9)

        return StreamingResponse(generate())

    @web_app.get("/events")
    async def events():
        async def generate():
            yield "data: 0\n\n"
            await gate.wait()
            yield "data: 1\n\n"

        return StreamingResponse(generate(), media_type="text/event-stream")

    @web_app.get("/go-on")
    async def go_on():
        gate.set()

    @web_app.websocket("/ws")
    async def ws(socket: WebSocket):
        await socket.accept()
        try:
            while True:
                message = await socket.receive()
                if message.get("text") is not None:
                    await socket.send_text(message["text"])
                elif message.get("bytes") is not None:
                    await socket.send_bytes(message["bytes"])
                else:
                    return
        except WebSocketDisconnect:
            return

    return web_app


@app.function()
@modal.concurrent(max_inputs=10)
@modal.wsgi_app()
def flask_like():
    import json

    def application(environ, start_response):
        said = {
            "path": environ["PATH_INFO"],
            "query": environ["QUERY_STRING"],
            "body": environ["wsgi.input"].read().decode(),
            "method": environ["REQUEST_METHOD"],
        }
        body = json.dumps(said).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return application


@app.function()
@modal.concurrent(max_inputs=100)
@modal.web_server(8000, startup_timeout=30)
def files():
    import subprocess

    subprocess.Popen("python -m http.server -d / 8000", shell=True)


@app.cls()
@modal.concurrent(max_inputs=10)
class Store:
    name: str = modal.parameter(default="all")
    number: int = modal.parameter(default=1)

    @modal.fastapi_endpoint()
    def shelf(self):
        return {"name": self.name, "number": self.number}


@app.function(timeout=10)
@modal.asgi_app()
def hangs():
    import time

    async def application(scope, receive, send):
        if scope["type"] != "http":
            return
        if scope["path"].endswith("/block"):
            time.sleep(3600)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    return application


@app.function()
@modal.asgi_app()
def broken():
    raise ValueError("secret detail")
