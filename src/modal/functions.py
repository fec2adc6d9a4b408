"""Names that programs import from here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modal._call import FunctionCall
from modal._function import Function, FunctionStats
from modal._sync import synchronized

if TYPE_CHECKING:
    from typing import Sequence


@synchronized
async def gather(*function_calls: FunctionCall[Any]) -> Sequence[Any]:
    """Deprecated: use `FunctionCall.gather`."""
    from modal._deprecation import warn_deprecated

    warn_deprecated("modal.functions.gather is deprecated. Use modal.FunctionCall.gather instead.")
    return await FunctionCall.gather.aio(*function_calls)


__all__ = ["Function", "FunctionCall", "FunctionStats", "gather"]
