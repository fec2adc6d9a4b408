"""The Dockerfile language, as text: what client and worker must read alike.

`parse` turns text into instructions with line numbers; `dockerfile_words` has quoting and variables. What the
instructions do is the worker's business. Parser directives, comments, continued lines and heredocs are Docker's.
"""

from __future__ import annotations

import json
import re
from typing import List, NamedTuple, Optional, Tuple

from modal._protocol.dockerfile_words import WordError, split

KEYWORDS = (
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER"),
    *("ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
)
FLAGS = {  # flags that are carried out, or change nothing here
    "ADD": ("chown", "chmod", "link", "checksum", "exclude", "unpack"),
    "COPY": ("from", "chown", "chmod", "link", "parents", "exclude"),
    "FROM": ("platform",),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries"),
    "RUN": ("mount", "network"),
}
JSON_FORM = ("ADD", "CMD", "COPY", "ENTRYPOINT", "RUN", "SHELL", "VOLUME")  # may be lists in JSON
HEREDOCS = ("ADD", "COPY", "RUN")
SWITCHES = ("link", "parents", "unpack")  # flags without a value
TRIGGERS_FORBIDDEN = ("ONBUILD", "FROM", "MAINTAINER")

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*\Z")
_HEREDOC = re.compile(r"(\d*)<<(-?)(['\"]?)([A-Za-z0-9_.][^\s<'\"]*)\3\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_STAGE = re.compile(r"[a-z][a-z0-9_.-]*\Z")


class DockerfileError(ValueError):
    """What is wrong, with the number of the line."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}" if line else text)
        self.line = line


class Heredoc(NamedTuple):
    name: str
    body: str  # with its last line's end
    expand: bool  # whether variables in it count
    chomp: bool  # whether tabs at the beginning of lines were taken away


class Instruction(NamedTuple):
    """One instruction: `words` where it is a list in JSON, else `text`."""

    line: int
    keyword: str  # upper case
    flags: List[Tuple[str, str]]
    text: str
    words: Optional[List[str]] = None
    heredocs: List[Heredoc] = []

    def flag(self, name: str, default: str = "") -> str:
        """The value of a flag, the last one where it stands twice."""
        return next((value for key, value in reversed(self.flags) if key == name), default)

    def title(self) -> str:
        """As a log shows it: on one line, heredocs by their first line."""
        flags = "".join(f"--{key}={value} " if value else f"--{key} " for key, value in self.flags)
        text = json.dumps(self.words) if self.words is not None else " ".join(self.text.split())
        return f"{self.keyword} {flags}{text}"


class Dockerfile(NamedTuple):
    instructions: List[Instruction]
    escape: str = "\\"
    syntax: str = ""


def parse(text: str) -> Dockerfile:
    """The instructions of a Dockerfile. Raises DockerfileError."""
    lines = text.replace("\r\n", "\n").lstrip("\ufeff").split("\n")
    escape, syntax = _directives(lines)
    return Dockerfile(_Reader(lines, escape).instructions(), escape, syntax)


def _directives(lines: List[str]) -> Tuple[str, str]:
    found = {}
    for number, line in enumerate(lines, 1):
        match = _DIRECTIVE.match(line.strip())
        if match is None or match[1].lower() not in ("escape", "syntax", "check"):
            break
        name = match[1].lower()
        if name in found:
            raise DockerfileError(number, f"the parser directive {name!r} stands there twice")
        found[name] = match[2]
        if name == "escape" and match[2] not in ("\\", "`"):
            raise DockerfileError(number, f"escape must be \\ or `, not {match[2]!r}")
    return found.get("escape", "\\"), found.get("syntax", "")


class _Reader:
    def __init__(self, lines: List[str], escape: str) -> None:
        self._lines = lines
        self._escape = escape
        self._at = 0
        backslash = re.escape(escape)
        self._continued = re.compile(rf"(?:^|[^{backslash}]){backslash}[ \t]*\Z")

    def instructions(self) -> List[Instruction]:
        found = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if not line.strip() or line.lstrip().startswith("#"):
                self._at += 1
                continue
            number = self._at + 1
            found.append(self._instruction(number, self._logical_line()))
        return found

    def _logical_line(self) -> str:
        """The line at hand with those that continue it; comments and empty lines between them do not count."""
        parts: List[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            if parts and (not line.strip() or line.lstrip().startswith("#")):
                continue
            if self._continued.search(line):
                parts.append(line.rstrip(" \t")[:-1])
                continue
            parts.append(line)
            break
        return "".join(parts).strip()

    def _instruction(self, number: int, line: str, trigger: bool = False) -> Instruction:
        keyword, rest = _first(line)
        keyword = keyword.upper()
        if keyword not in KEYWORDS:
            import difflib

            near = difflib.get_close_matches(keyword, KEYWORDS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DockerfileError(number, f"unknown instruction {line.split(maxsplit=1)[0] if line else ''!r}{hint}")
        if trigger and keyword in TRIGGERS_FORBIDDEN:
            raise DockerfileError(number, f"ONBUILD {keyword} is not allowed")
        flags, rest = _flags(number, keyword, rest)
        words = None
        if keyword in JSON_FORM and rest.startswith("["):
            words = _json_words(rest)
        heredocs = []
        if keyword in HEREDOCS and words is None and "<<" in rest:
            heredocs = self._heredocs(number, rest)
        instruction = Instruction(number, keyword, flags, rest, words, heredocs)
        if keyword == "ONBUILD":
            self._instruction(number, rest, trigger=True)
        _check(instruction, self._escape)
        return instruction

    def _heredocs(self, number: int, text: str) -> List[Heredoc]:
        try:
            words = split(text, self._escape)
        except WordError:
            return []  # of a shell's own quoting: the shell will see to it
        found = []
        for word in words:
            match = _HEREDOC.match(word)
            if match is not None:
                chomp, quote, name = bool(match[2]), match[3], match[4]
                found.append(Heredoc(name, self._body(number, name, chomp), not quote, chomp))
        return found

    def _body(self, number: int, name: str, chomp: bool) -> str:
        body: List[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            if chomp:
                line = line.lstrip("\t")
            if line == name:
                return "".join(f"{one}\n" for one in body)
            body.append(line)
        raise DockerfileError(number, f"the heredoc <<{name} has no end: a line with {name} alone is missing")


def _first(text: str) -> Tuple[str, str]:
    """The first word, and what follows it."""
    parts = text.split(None, 1)
    return (parts[0] if parts else ""), (parts[1] if len(parts) > 1 else "")


def _flags(number: int, keyword: str, rest: str) -> Tuple[List[Tuple[str, str]], str]:
    """The flags right behind the keyword, and what follows them."""
    flags = []
    while rest.startswith("--"):
        word, rest = _first(rest)
        if word == "--":
            break
        name, equals, value = word[2:].partition("=")
        if name not in FLAGS.get(keyword, ()):
            known = ", ".join(f"--{one}" for one in FLAGS.get(keyword, ())) or "no flags"
            raise DockerfileError(number, f"{keyword} --{name} is not supported here ({keyword} has {known})")
        if not equals and name not in SWITCHES:
            raise DockerfileError(number, f"{keyword} --{name} needs a value: --{name}=…")
        flags.append((name, value))
    return flags, rest


def _json_words(text: str) -> Optional[List[str]]:
    """The list, None where it is none: then the text counts, as Docker has it."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(word, str) for word in value) else None


def _check(instruction: Instruction, escape: str) -> None:
    """Raise DockerfileError where an instruction lacks what it needs."""
    number, keyword, text, words = instruction.line, instruction.keyword, instruction.text, instruction.words
    if not text.strip() and keyword != "CMD":
        raise DockerfileError(number, f"{keyword} needs at least one argument")
    if keyword == "SHELL" and not words:
        raise DockerfileError(number, f'SHELL must be a list in JSON, such as SHELL ["/bin/bash", "-c"], not {text!r}')
    if keyword in ("USER", "STOPSIGNAL") and len(_words(number, text, escape)) != 1:
        raise DockerfileError(number, f"{keyword} takes one argument, not {text!r}")
    if keyword in ("ADD", "COPY"):
        count = len(words if words is not None else _words(number, text, escape))
        if count < 2:
            raise DockerfileError(number, f"{keyword} needs a source and a destination")
    if keyword == "FROM":
        from_parts(instruction)
    if keyword in ("ENV", "LABEL"):
        pairs(instruction, escape)
    if keyword == "ARG":
        arguments(instruction, escape)


def _words(number: int, text: str, escape: str) -> List[str]:
    try:
        return split(text, escape)
    except WordError as error:
        raise DockerfileError(number, str(error)) from None


def from_parts(instruction: Instruction) -> Tuple[str, str]:
    """The image and the stage's name ("" for none) of a FROM. Raises DockerfileError."""
    parts = instruction.text.split()
    if len(parts) == 1:
        return parts[0], ""
    if len(parts) != 3 or parts[1].upper() != "AS":
        raise DockerfileError(instruction.line, "FROM must be: FROM image [AS name]")
    name = parts[2].lower()
    if not _STAGE.match(name) or name == "scratch":
        raise DockerfileError(instruction.line, f"{parts[2]!r} cannot be the name of a stage")
    return parts[0], name


def pairs(instruction: Instruction, escape: str = "\\") -> List[Tuple[str, str]]:
    """Names and values of ENV or LABEL, with quotes and variables as they stand. Raises DockerfileError."""
    number, keyword = instruction.line, instruction.keyword
    words = _words(number, instruction.text, escape)
    if "=" not in words[0]:
        value = instruction.text[len(words[0]) :].strip()
        if not value:
            raise DockerfileError(number, f"{keyword} must have the form {keyword} name=value")
        return [(words[0], value)]
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(
                number, f"{keyword}: {word!r} lacks its value; use name=value, with quotes around spaces"
            )
        if not name:
            raise DockerfileError(number, f"{keyword}: {word!r} lacks a name")
        found.append((name, value))
    return found


def arguments(instruction: Instruction, escape: str = "\\") -> List[Tuple[str, Optional[str]]]:
    """Names and defaults (None for none) of an ARG. Raises DockerfileError."""
    found: List[Tuple[str, Optional[str]]] = []
    for word in _words(instruction.line, instruction.text, escape):
        name, equals, value = word.partition("=")
        if not _NAME.match(name):
            raise DockerfileError(instruction.line, f"ARG: {name!r} is no name of a variable")
        found.append((name, value if equals else None))
    return found


def render(dockerfile: Dockerfile) -> str:
    """Text that parses to the same instructions."""
    lines = []
    if dockerfile.syntax:
        lines.append(f"# syntax={dockerfile.syntax}")
    if dockerfile.escape != "\\":
        lines.append(f"# escape={dockerfile.escape}")
    for one in dockerfile.instructions:
        flags = "".join(
            f"--{key}={value} " if value or key not in SWITCHES else f"--{key} " for key, value in one.flags
        )
        lines.append(f"{one.keyword} {flags}{one.text}".rstrip())
        for heredoc in one.heredocs:
            lines.extend([*heredoc.body.split("\n")[:-1], heredoc.name])
    return "\n".join(lines) + "\n"
