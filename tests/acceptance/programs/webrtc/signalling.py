"""Signalling alone: the answer names what was offered."""

import modal

from .peers import Peer, SignallingServer

app = modal.App("webrtc-signalling")


@app.cls()
@modal.concurrent(target_inputs=2, max_inputs=3)
class Echo(Peer):
    async def initialize(self) -> None:
        self.answered = 0

    async def answer(self, peer_id: str, offer: dict) -> dict:  # type: ignore[type-arg]
        self.answered += 1
        return {"type": "answer", "peer": peer_id, "sdp": offer["sdp"][::-1], "number": self.answered}


@app.cls()
@modal.concurrent(max_inputs=10)
class Server(SignallingServer):
    def peer_class(self) -> type:
        return Echo
