"""A WebRTC client as a browser would be one: python webrtc_client.py WEBSOCKET_URL. Prints the frame it got back.

Runs in an environment of its own: needs aiortc, numpy and websockets.
"""

import asyncio
import json
import sys

import numpy
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from av import VideoFrame
from websockets.asyncio.client import connect


class Striped(VideoStreamTrack):
    """White above, black below."""

    async def recv(self) -> VideoFrame:
        picture = numpy.zeros((480, 640, 3), numpy.uint8)
        picture[:240] = 255
        frame = VideoFrame.from_ndarray(picture, format="bgr24")
        frame.pts, frame.time_base = await self.next_timestamp()
        return frame


async def main(url: str) -> None:
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    frames: asyncio.Queue[VideoFrame] = asyncio.Queue()

    @connection.on("track")
    def on_track(track) -> None:  # type: ignore[no-untyped-def]
        async def take() -> None:
            for _ in range(30):
                frames.put_nowait(await track.recv())

        tasks.append(asyncio.create_task(take()))

    tasks: list[asyncio.Task[None]] = []
    connection.addTrack(Striped())
    async with connect(url) as signalling:
        await connection.setLocalDescription(await connection.createOffer())
        await signalling.send(json.dumps({"type": "offer", "sdp": connection.localDescription.sdp}))
        answer = json.loads(await signalling.recv())
        await connection.setRemoteDescription(RTCSessionDescription(sdp=answer["sdp"], type="answer"))
        await tasks[0] if tasks else await frames.get()
        frame = frames.get_nowait()
        while not frames.empty():
            frame = frames.get_nowait()
        picture = frame.to_ndarray(format="bgr24")
        await signalling.send(json.dumps({"type": "bye"}))
        ended = json.loads(await signalling.recv())
        print(json.dumps({
            "state": connection.connectionState, "top": int(picture[:200].mean()), "bottom": int(picture[280:].mean()),
            "ended": ended["type"],
        }))  # fmt: skip
    await connection.close()


asyncio.run(asyncio.wait_for(main(sys.argv[1]), 90))
