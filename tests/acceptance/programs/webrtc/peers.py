"""The undecorated bases: their hooks, methods and web app are inherited by the classes that the app registers."""

import json

import fastapi

import modal


class Peer:
    """One end of connections. It is told what the other ends say through queues."""

    @modal.enter()
    async def prepare(self) -> None:
        self.connections = {}  # type: ignore[var-annotated]
        await self.initialize()

    async def initialize(self) -> None:
        """For subclasses."""

    async def answer(self, peer_id: str, offer: dict) -> dict:  # type: ignore[type-arg]
        """For subclasses."""
        raise NotImplementedError

    @modal.method()
    async def run(self, queue: modal.Queue, peer_id: str) -> None:
        while True:
            told = json.loads(await queue.get.aio(partition=peer_id, timeout=60))
            if told["type"] == "bye":
                return
            answer = await self.answer(peer_id, told)
            await queue.put.aio(json.dumps(answer), partition="server")

    @modal.exit()
    async def part(self) -> None:
        for connection in self.connections.values():
            await connection.close()


class SignallingServer:
    """Takes offers by WebSocket, hands them to a peer of its own and sends the answers back."""

    @modal.enter()
    def build(self) -> None:
        self.web_app = fastapi.FastAPI()

        @self.web_app.get("/")
        async def page() -> fastapi.responses.HTMLResponse:
            return fastapi.responses.HTMLResponse("<h1>Call</h1>")

        @self.web_app.websocket("/ws/{peer_id}")
        async def signalling(websocket: fastapi.WebSocket, peer_id: str) -> None:
            await websocket.accept()
            async with modal.Queue.ephemeral() as queue:
                call = await self.peer_class()().run.spawn.aio(queue, peer_id)
                try:
                    async for text in websocket.iter_text():
                        await queue.put.aio(text, partition=peer_id)
                        if json.loads(text)["type"] == "bye":
                            await call.get.aio()
                            await websocket.send_text(json.dumps({"type": "ended", "call": call.object_id}))
                        else:
                            await websocket.send_text(await queue.get.aio(partition="server", timeout=60))
                finally:
                    await call.cancel.aio()

    def peer_class(self) -> type:
        """For subclasses."""
        raise NotImplementedError

    @modal.asgi_app()
    def web(self) -> fastapi.FastAPI:
        return self.web_app
