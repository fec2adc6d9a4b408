"""Signalling and the connection that it makes: data and frames go from peer to peer, past every server."""

from typing import Any

import modal

from .peers import Peer, SignallingServer

app = modal.App("webrtc-media")
image = modal.Image.debian_slim().pip_install("aiortc", "fastapi", "numpy")


@app.cls(image=image)
@modal.concurrent(target_inputs=2, max_inputs=3)
class Flip(Peer):
    async def answer(self, peer_id: str, offer: dict) -> dict:  # type: ignore[type-arg]
        from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
        from aiortc.contrib.media import VideoFrame

        class Flipped(MediaStreamTrack):
            kind = "video"

            def __init__(self, source: Any) -> None:
                super().__init__()
                self.source = source

            async def recv(self) -> VideoFrame:
                frame = await self.source.recv()
                flipped = VideoFrame.from_ndarray(frame.to_ndarray(format="bgr24")[::-1].copy(), format="bgr24")
                flipped.pts, flipped.time_base = frame.pts, frame.time_base
                return flipped

        connection = self.connections[peer_id] = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connection.on("track", lambda track: connection.addTrack(Flipped(track)))
        await connection.setRemoteDescription(RTCSessionDescription(sdp=offer["sdp"], type="offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        return {"type": "answer", "sdp": connection.localDescription.sdp}


@app.cls(image=image)
@modal.concurrent(max_inputs=10)
class Server(SignallingServer):
    def peer_class(self) -> type:
        return Flip
