"""A FastAPI app with a bit of everything, for generated requests."""

from typing import Annotated

from fastapi import Body, FastAPI, Header, HTTPException, Path, Query
from pydantic import BaseModel, Field

app = FastAPI()


class Item(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=20)]
    price: Annotated[float, Field(gt=0, lt=1e6)]
    tags: list[str] = []


@app.get("/items/{number}")
async def read(
    number: Annotated[int, Path(ge=0)],
    q: Annotated[str | None, Query(max_length=5)] = None,
    x_flag: Annotated[bool, Header()] = False,
) -> dict[str, object]:
    return {"number": number, "q": q, "flag": x_flag}


@app.post("/items", status_code=201)
async def create(item: Item) -> Item:
    return item


@app.put("/items/{name}/price", responses={404: {"description": "no such item"}})
async def price(name: str, price: Annotated[float, Body(gt=0)]) -> dict[str, object]:
    if len(name) > 10:
        raise HTTPException(404)
    return {"name": name, "price": price}


@app.delete("/items/{number}", status_code=204)
async def delete(number: int) -> None:
    return None


@app.get("/sized")
async def sized(size: int = 0) -> dict[str, str]:
    if size > 100:
        raise ValueError("too large")
    return {"size": "x" * max(size, 0)}
