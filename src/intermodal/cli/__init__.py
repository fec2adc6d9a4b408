"""The command `intermodal`, which operates the platform. Programs are run with the command `modal`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; the exit code."""
    if sys.argv[1:] == ["up", "--quiet"]:  # how `modal` starts a server: 60 ms less without click
        from intermodal.cli.running import up_quietly

        return up_quietly()
    from intermodal.cli.commands import cli

    return int(cli(prog_name="intermodal", standalone_mode=True) or 0)
