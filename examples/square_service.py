"""A function with an address of its own, and a dictionary that outlives it.

modal deploy examples/square_service.py
curl 'http://…localhost:7723/?number=12'     (the address that was shown)
"""

import modal

app = modal.App("square-service", image=modal.Image.debian_slim().pip_install("fastapi[standard]"))
asked = modal.Dict.from_name("square-service-asked", create_if_missing=True)


@app.function()
@modal.fastapi_endpoint()
def square(number: int) -> dict[str, int]:
    """FastAPI checks the number; how often it was asked for stays in the dictionary."""
    times = asked.get(number, 0) + 1
    asked[number] = times
    return {"square": number * number, "asked": times}
