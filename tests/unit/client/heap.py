"""A heap in which glibc finds no room for a large object, as in a young process: it makes a mapping of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modal import _mapped_bytes

LARGE = 40 << 20  # bytes; glibc never puts so much into its heap while that has no free piece as large
MOST = 200  # pieces


@pytest.fixture
def full_heap() -> Iterator[None]:
    """What earlier tests have freed and glibc has kept is taken meanwhile."""
    taken = []
    for _ in range(MOST):
        piece = bytes(LARGE)
        if _mapped_bytes._is_own_mapping(id(piece) + bytes.__basicsize__ - 1, LARGE):
            break
        taken.append(piece)
    yield
    taken.clear()
