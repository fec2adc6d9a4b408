"""How building an image fails."""

from __future__ import annotations

import errno

from modal._protocol.errors import Code, Fault

LAST_LINES = 30  # of a failed step's output, shown with the failure


class BuildFailed(Fault):
    """A step of an image failed. `text` names the step, its command and its last lines."""

    def __init__(self, step: int, command: str, reason: str, last_lines: list[str] | None = None) -> None:
        self.step = step
        self.command = command
        self.reason = reason
        self.last_lines = list(last_lines or [])[-LAST_LINES:]
        text = f"image build failed at step {step} ({_brief(command)}): {reason}"
        if self.last_lines:
            text += "\nlast lines of its output:\n" + "\n".join(f"  {line}" for line in self.last_lines)
        super().__init__(Code.REMOTE, text)


class StepError(Exception):
    """What a step found wrong, before it is known which step it is. The text says what to do next."""

    def __init__(self, reason: str, last_lines: list[str] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.last_lines = last_lines or []


class DiskFull(StepError):
    """There was no space for what a step makes."""

    def __init__(self, where: str = "", last_lines: list[str] | None = None) -> None:
        disk = f"the disk that holds {where}" if where else "the disk"
        super().__init__(f"no space is left on {disk}: free some and build again", last_lines)


def is_disk_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _brief(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= 200 else f"{line[:197]}..."
