"""The web app that we and our peers serve."""

import asyncio

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse, StreamingResponse

web_app = FastAPI()


@web_app.get("/", response_class=PlainTextResponse)
async def noop():
    return "ok"


@web_app.get("/download")
async def download(size: int):
    async def parts():
        for _ in range(size >> 18):
            yield b"x" * (1 << 18)

    return StreamingResponse(parts())


@web_app.post("/upload")
async def upload(request: Request):
    size = 0
    async for part in request.stream():
        size += len(part)
    return size


@web_app.get("/events")
async def events():
    async def forever():
        yield "data: 0\n\n"
        await asyncio.Event().wait()

    return StreamingResponse(forever(), media_type="text/event-stream")


@web_app.websocket("/ws")
async def ws(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass
