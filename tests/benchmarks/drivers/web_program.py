"""The web app as a program of ours, and a bare one whose every parameter is a pool of containers of its own."""

import modal

image = modal.Image.debian_slim().pip_install("fastapi", "uvloop").add_local_python_source("web_app")
app = modal.App("bench-web", image=image)


@app.function(min_containers=1, max_containers=1, cpu=1.0, timeout=3600)
@modal.concurrent(max_inputs=4000)
@modal.asgi_app()
def web():
    from web_app import web_app

    return web_app


@app.cls(cpu=0.1, scaledown_window=2)
class Cold:
    number: int = modal.parameter()

    @modal.method()
    def call(self):
        return 1

    @modal.asgi_app()
    def page(self):
        async def bare(scope, _receive, send):
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"ok"})

        return bare
