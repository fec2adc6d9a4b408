"""Answers that have arrived, of which the server does not know that yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, List

if TYPE_CHECKING:
    from modal._client import Client

MAX_UNTOLD = 64  # answers that have arrived and that the server is not told of yet


class Taken:
    """Calls whose answer has arrived, of which the server does not know that yet.

    It keeps an answer until it is told, so that a lost one need not be computed again. The next call tells it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._calls: List[str] = []

    def told(self) -> List[str]:
        """What the call that is about to be sent shall tell."""
        calls = self._calls
        if not calls:
            return []
        self._calls = []
        return calls

    async def add(self, call_id: str) -> None:
        self._calls.append(call_id)
        if len(self._calls) >= MAX_UNTOLD:
            from modal._protocol.messages.call import OutputsTaken

            calls = self.told()
            await self._client.note(OutputsTaken(calls, [1] * len(calls)))
