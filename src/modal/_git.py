"""The commit that is being deployed, for the deployment's history."""

from __future__ import annotations

import subprocess
from typing import Any

TIMEOUT = 2.0  # seconds


def _git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    return result.stdout.strip()


def commit_info() -> dict[str, Any]:
    """Hash, branch, dirty, author, timestamp and subject of the current commit; {} outside of a repository."""
    try:
        digest, author, email, timestamp, subject = _git("log", "-1", "--format=%H%n%an%n%ae%n%ct%n%s").split("\n", 4)
        return {
            "hash": digest,
            "branch": _git("rev-parse", "--abbrev-ref", "HEAD"),
            "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
            "author_name": author,
            "author_email": email,
            "timestamp": int(timestamp),
            "subject": subject,
        }
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}  # no git, no repository, no commit yet: a deployment needs none
