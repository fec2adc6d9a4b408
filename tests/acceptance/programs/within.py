"""Functions that use the addresses of this app's web functions and tunnels, as the platform gives them out."""

import modal

image = modal.Image.debian_slim().pip_install("httpx", "requests", "websockets")
app = modal.App("within", image=image)


@app.function()
@modal.concurrent(max_inputs=20)
@modal.asgi_app()
def web():
    async def answer(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            message = await receive()
            await send({"type": "websocket.send", "text": message["text"].upper()})
            await send({"type": "websocket.close"})
        elif scope["type"] == "http":
            size, more = 0, True
            while more:
                message = await receive()
                size, more = size + len(message.get("body", b"")), message.get("more_body", False)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"%d" % size, "more_body": True})
            await send({"type": "http.response.body", "body": b" bytes at " + scope["path"].encode()})

    return answer


@app.function()
def ask(url: str = "", port: int = 0) -> dict[str, str]:
    import asyncio
    import subprocess
    import urllib.request

    import httpx
    import requests
    from websockets.asyncio.client import connect

    url = url or web.get_web_url()

    async def talk() -> str:
        async with connect(url.replace("http", "ws", 1)) as socket:
            await socket.send("hello")
            return await socket.recv()

    seen = {
        "requests": requests.get(f"{url}/r", timeout=60).text,
        "httpx": httpx.post(f"{url}/h", content=b"x" * 3_000_000, timeout=60).text,
        "urllib": urllib.request.urlopen(f"{url}/u", timeout=60).read().decode(),
        "websocket": asyncio.run(talk()),
    }
    host = url.rpartition("/")[2].rpartition(":")[0]
    seen["program"] = subprocess.run(["getent", "ahostsv4", host], capture_output=True, text=True).stdout.split()[0]
    return seen


@app.function(block_network=True)
def ask_without_network(url: str) -> list[str]:
    import socket

    port = int(url.rpartition(":")[2])
    seen = []
    for host in (url.rpartition("/")[2].rpartition(":")[0], "127.0.0.1", "::1"):
        try:
            socket.create_connection((host, port), timeout=60).close()
            seen.append("reached")
        except OSError as error:
            seen.append(type(error).__name__)
    return seen


@app.function()
def serve_by_tunnel() -> list[str]:
    import socket
    import ssl
    import threading

    with (
        socket.create_server(("127.0.0.1", 9000)) as server,
        modal.forward(9000, unencrypted=True) as tunnel,
    ):

        def echo() -> None:
            for _ in range(3):
                connection, _address = server.accept()
                with connection:
                    connection.sendall(connection.recv(100)[::-1])

        thread = threading.Thread(target=echo)
        thread.start()
        seen = []
        with socket.create_connection(tunnel.tcp_socket, timeout=60) as plain:
            plain.sendall(b"plain")
            seen.append(plain.recv(100).decode())
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(tunnel.tls_socket, timeout=60) as raw,
            context.wrap_socket(raw, server_hostname=tunnel.tls_socket[0]) as secure,
        ):
            secure.sendall(b"secret")
            seen.append(secure.recv(100).decode())
        seen.append(say_through.remote(tunnel.tcp_socket))
        thread.join()
        return seen


@app.function()
def say_through(address: tuple[str, int]) -> str:
    import socket

    with socket.create_connection(tuple(address), timeout=60) as connection:
        connection.sendall(b"elsewhere")
        return connection.recv(100).decode()
