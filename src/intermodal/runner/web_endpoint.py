"""`@modal.fastapi_endpoint`: one function as a FastAPI app with one route. FastAPI is the user's image's."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable

from intermodal.runner.loading import load_error
from modal._protocol.messages.function import WebSpec


def endpoint_app(function: Callable[..., Any], web: WebSpec, shown: str) -> Any:
    """The app. Raises ExecutionError where the image lacks FastAPI."""
    try:
        from fastapi import FastAPI
        from fastapi.middleware.cors import CORSMiddleware
    except ImportError as error:
        raise load_error(
            f"{shown} is a FastAPI endpoint, but its image has no FastAPI ({error}): add it with "
            'Image.debian_slim().pip_install("fastapi[standard]")'
        ) from None
    app = FastAPI(
        title=shown,
        docs_url="/docs" if web.docs else None,
        redoc_url="/redoc" if web.docs else None,
        openapi_url="/openapi.json" if web.docs else None,
    )
    # The page of any other site may call an endpoint, as the documentation's examples do.
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_credentials=True, allow_methods=["*"], allow_headers=["*"]
    )
    app.add_api_route("/", _streamed(function), methods=[web.method])
    return app


def _streamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A generator's items become the parts of a streamed response; any other function stays as it is."""
    if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        return function
    from fastapi.responses import StreamingResponse

    @functools.wraps(function)
    def streaming(*args: Any, **kwargs: Any) -> Any:
        return StreamingResponse(function(*args, **kwargs))

    streaming.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    streaming.__annotations__ = {k: v for k, v in streaming.__annotations__.items() if k != "return"}
    return streaming
