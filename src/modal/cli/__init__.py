"""The command line `modal`. Each group of commands is a module of its own, imported when it is used."""

from __future__ import annotations

from typing import List, Optional


def main(args: Optional[List[str]] = None) -> None:
    """Run one command and exit: 0 when it succeeded, 1 when it failed, 2 when it was called wrongly."""
    import os
    import sys

    if sys.stdout is None:  # closed by whoever has started this: there is nobody to tell
        sys.stdout = open(os.devnull, "w", errors="replace")  # noqa: SIM115 - as long as the process lives
    from modal.cli.root import run_command_line

    sys.exit(run_command_line(sys.argv[1:] if args is None else args))
