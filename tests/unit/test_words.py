"""What must not stand in the repository: registries' host names (mirrors are the host's business), absolute paths of
some developer's machine."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = {".py", ".md", ".toml", ".sh", ".cfg", ".txt", ".html", ".js", ".css", ".sql", ".json", ""}
SKIPPED = {
    ".git",
    ".venv",
    ".bench-venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
    ".fuzz",
    "__pycache__",
}

# Written in two halves, so that this file does not contain what it looks for.
REGISTRIES = ["pypi" + ".org", "files.python" + "hosted", "registry." + "npmjs", "proxy." + "golang", "crates" + ".io"]
MACHINE = ["/" + "work/", "/home" + "/[a-z]+/", "/" + "root/.pyenv"]


def files() -> list[Path]:
    everything = (path for path in ROOT.rglob("*") if not SKIPPED & set(path.relative_to(ROOT).parts))
    return [path for path in everything if path.suffix in TEXT and path.is_file()]


def occurrences(patterns: list[str]) -> list[str]:
    pattern = re.compile("|".join(patterns))
    found = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    return found


def test_no_registry_is_named() -> None:
    assert not occurrences([re.escape(name) for name in REGISTRIES])


def test_no_path_of_a_developers_machine() -> None:
    assert not occurrences(MACHINE)


def test_modules_stay_small() -> None:
    """A module owns one noun; what passes 600 lines owns more than one."""
    long = {}
    for path in (ROOT / "src").rglob("*.py"):
        lines = len(path.read_text().splitlines())
        if lines > 650:
            long[str(path.relative_to(ROOT))] = lines
    assert not long
