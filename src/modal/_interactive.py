"""A terminal into a container that runs."""

from __future__ import annotations

from modal._planned import planned


@planned
def interact() -> None:
    """Enable interactivity with user input inside a Modal container. Needs `modal run --interactive`."""
