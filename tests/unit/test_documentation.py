"""README and docs/ keep up with the code: settings, commands, links, names of modules."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from intermodal.cli.commands import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTATION = "\n".join(page.read_text() for page in PAGES)
# What parts of the platform tell each other in a process's environment: nobody sets them.
INTERNAL = {"INTERMODAL_BUILD", "INTERMODAL_ROOT", "INTERMODAL_RUN_DIR", "INTERMODAL_SOURCE_DIR"}
SETTING = re.compile(r"\bINTERMODAL_[A-Z0-9_]*[A-Z0-9]\b")


def sources(folder: str) -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / folder).rglob("*.py")))


def test_every_setting_is_documented() -> None:
    used = set(SETTING.findall(sources("src"))) - INTERNAL
    assert used - set(SETTING.findall(DOCUMENTATION)) == set()


def test_every_documented_setting_is_there() -> None:
    used = set(SETTING.findall(sources("src"))) | set(SETTING.findall(sources("tests")))
    prefixed = {f"INTERMODAL_ACME{name}" for name in re.findall(r'text\("(_[A-Z_]+)"', sources("src"))}
    assert set(SETTING.findall(DOCUMENTATION)) - used - prefixed == set()


def commands(group: click.Group, above: str = "") -> set[str]:
    found = set()
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{above}{name} ")
        else:
            found.add(above + name)
    return found


def documented_commands(text: str) -> list[str]:
    """Commands in code, and what stands after them in the same cell: "`intermodal token new`, `list`"."""
    found = []
    for command, more in re.findall(r"`intermodal ([a-z][^`\n]*)`((?:, `[a-z][^`\n]*`)*)", text):
        words = command.split()
        found.append(" ".join(words))
        others = re.findall(r"`([^`]+)`", more)
        found += [one if one.split()[0] == words[0] else " ".join([*words[:-1], one]) for one in others]
    return found + re.findall(r"^\S*\$ intermodal (.*)$", text, re.MULTILINE)


def test_every_command_of_the_operator_is_documented() -> None:
    named = documented_commands((ROOT / "docs/operating.md").read_text())
    assert {one for one in commands(cli) if not any(f"{words} ".startswith(f"{one} ") for words in named)} == set()


def test_every_documented_command_of_the_operator_is_there() -> None:
    there = commands(cli)
    groups = {one.split()[0] for one in there if " " in one}
    wrong = [
        words
        for page in PAGES
        for words in documented_commands(page.read_text())
        if words not in groups and not any(f"{words} ".startswith(f"{one} ") for one in there)
    ]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_modules_that_pages_name_are_there() -> None:
    known = set()
    for path in (ROOT / "src").rglob("*.py"):
        parts = list(path.relative_to(ROOT / "src").with_suffix("").parts)
        for start in range(len(parts)):
            for end in range(start + 1, len(parts) + 1):
                known.add(".".join(parts[start:end]))
    code = sources("src")
    gone = []
    packages = "modal|intermodal|server|services|worker|runner|scheduler|store|tls|acme"
    for name in re.findall(rf"`((?:{packages})(?:\.\w+)+)`", DOCUMENTATION):
        owner, _, member = name.rpartition(".")
        if name not in known and not (owner in known and re.search(rf"\b{member}\b", code)):
            gone.append(name)
    assert gone == []
