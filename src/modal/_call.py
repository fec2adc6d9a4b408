"""Calls that somebody started and somebody else may wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Optional, Sequence, TypeVar

from modal._object import Object
from modal._sync import gather, synchronized
from modal.exception import InvalidError

if TYPE_CHECKING:
    from modal._client import Client
    from modal.call_graph import InputInfo

R = TypeVar("R")


class FunctionCall(Object, Generic[R]):
    """A reference to an executed function call.

    Constructed using `.spawn(...)` on a Modal function with the same arguments that a function normally takes.
    Acts as a reference to an ongoing function call that can be passed around and used to poll or fetch function
    results at some later time.
    """

    _kind = "function call"
    _made_by = "from_id, or what .spawn() returns"
    _app_id = ""  # whose logs are shown before the result

    @classmethod
    def _of(cls, call_id: str, client: Optional[Client], app_id: str = "") -> FunctionCall[Any]:
        call = cls._from_object_id(call_id)
        call._client = client
        call._app_id = app_id
        return call

    @synchronized
    async def get(self, timeout: Optional[float] = None) -> R:
        """Get the result of the function call.

        This function waits indefinitely by default. It takes an optional `timeout` argument that specifies the
        maximum number of seconds to wait, which can be set to `0` to poll for an output immediately.

        The returned coroutine is not cancellation-safe.
        """
        from modal._invocation import call_result

        if timeout is not None:
            if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
                raise InvalidError(f"FunctionCall.get: timeout must be a number of seconds, not {timeout!r}.")
            if not timeout >= 0:  # nan neither
                raise InvalidError(f"FunctionCall.get: timeout must not be negative, not {timeout}.")
        client = await self._ready()
        return await call_result(client, self.object_id, 0, timeout, self._app_id)  # type: ignore[no-any-return]

    @synchronized
    async def get_call_graph(self) -> list[InputInfo]:
        """Returns a structure representing the call graph from a given root call ID, along with the status of
        execution for each node.

        See `modal.call_graph` for the structure of the returned `InputInfo` items.
        """
        from modal._invocation import call_graph
        from modal.call_graph import _build_tree

        client = await self._ready()
        return _build_tree(await call_graph(client, self.object_id))

    @synchronized
    async def cancel(
        self,
        # if true, containers running the inputs are forcibly terminated
        terminate_containers: bool = False,
    ) -> None:
        """Cancels the function call, which will stop its execution and mark its inputs as TERMINATED.

        If `terminate_containers=True` - the containers running the cancelled inputs are all terminated
        causing any non-cancelled inputs on those containers to be rescheduled in new containers.
        """
        from modal._invocation import call_cancel

        client = await self._ready()
        await call_cancel(client, self.object_id, terminate_containers)

    @synchronized
    @staticmethod
    async def from_id(function_call_id: str, client: Optional[Client] = None) -> FunctionCall[Any]:
        """Instantiate a FunctionCall object from an existing ID.

        ```python
        fc = my_func.spawn()
        fc_id = fc.object_id

        # Later, use the ID to re-instantiate the FunctionCall object
        fc = modal.FunctionCall.from_id(fc_id)
        result = fc.get()
        ```
        """
        given: Any = function_call_id
        if not isinstance(given, str) or not given.startswith("fc-"):
            raise InvalidError(f"{function_call_id!r} is no id of a function call: these begin with fc-.")
        return FunctionCall._of(function_call_id, client)

    @synchronized
    @staticmethod
    async def gather(*function_calls: FunctionCall[Any]) -> Sequence[Any]:
        """Wait until all Modal FunctionCall objects have results before returning.

        Returns a list of results from each FunctionCall, or raises an exception from the first failing call.

        ```python
        fc1 = slow_func_1.spawn()
        fc2 = slow_func_2.spawn()

        result_1, result_2 = modal.FunctionCall.gather(fc1, fc2)
        ```
        """
        given: Sequence[Any] = function_calls
        for call in given:
            if not isinstance(call, FunctionCall):
                hint = ": write gather(*calls)" if isinstance(call, (list, tuple)) else ""
                raise InvalidError(f"FunctionCall.gather takes FunctionCall objects, not {type(call).__name__}{hint}.")
        return await gather(*[call.get.aio() for call in function_calls])

    def __repr__(self) -> str:
        return f"modal.FunctionCall.from_id({self._object_id!r})"
