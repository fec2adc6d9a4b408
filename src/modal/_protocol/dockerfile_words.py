"""Quotes and variables in Dockerfiles: words are split at blanks outside of quotes, `$NAME` and `${NAME:-default}`
stand for variables. The defaults go beyond what Modal's documentation promises; they work as in Docker."""

from __future__ import annotations

import re
from typing import List, Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]|[@*#]")
_SLASHED = re.compile(r"((?:\\.|[^/\\])*)(?:/(.*))?\Z", re.DOTALL)
_MODIFIER = re.compile(r":?[-+?]|##?|%%?|//?")


class WordError(ValueError):
    """Quotes or braces that are not closed, or a modifier that nobody knows."""


def split(text: str, escape: str = "\\") -> List[str]:
    """The words of a line, quotes and variables left as they are. Raises WordError."""
    words: List[str] = []
    word = ""
    quote = ""
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if quote:
            word += character
            if character == quote:
                quote = ""
            elif character == escape and quote == '"' and at < len(text):
                word += text[at]
                at += 1
        elif character in " \t\n":
            if word:
                words.append(word)
            word = ""
        else:
            word += character
            if character in "'\"":
                quote = character
            elif character == escape and at < len(text):
                word += text[at]
                at += 1
            elif text.startswith("{", at) and character == "$":
                end = _closing(text, at, escape)
                word += text[at:end]
                at = end
    if quote:
        raise WordError(f"the quotation mark {quote} has no end")
    if word:
        words.append(word)
    return words


def _closing(text: str, at: int, escape: str) -> int:
    """The place behind the brace that closes the one at `at`. Raises WordError."""
    depth = 0
    while at < len(text):
        if text[at] == escape:
            at += 1
        elif text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    raise WordError("${ has no }")


def expand(text: str, variables: Mapping[str, str], escape: str = "\\", quotes: bool = True) -> str:
    """The text with its variables, and without its quotes (unless not `quotes`, as in heredocs). Raises WordError."""
    return _Expansion(variables, escape, quotes).expand(text)


class _Expansion:
    def __init__(self, variables: Mapping[str, str], escape: str, quotes: bool) -> None:
        self._variables = variables
        self._escape = escape
        self._quotes = quotes

    def expand(self, text: str) -> str:
        out: List[str] = []
        at = 0
        quote = ""
        while at < len(text):
            character = text[at]
            at += 1
            if quote == "'":
                if character == "'":
                    quote = ""
                else:
                    out.append(character)
            elif character == "$":
                value, at = self._variable(text, at)
                out.append(value)
            elif character == self._escape:
                following = text[at : at + 1]
                at += 1
                kept = (quote == '"' and following not in ('"', "$", self._escape)) or (
                    not self._quotes and following not in ("$", self._escape)
                )
                out.append((character if kept or not following else "") + following)
            elif self._quotes and character in "'\"":
                if not quote:
                    quote = character
                elif quote == character:
                    quote = ""
                else:
                    out.append(character)
            else:
                out.append(character)
        if quote:
            raise WordError(f"the quotation mark {quote} has no end")
        return "".join(out)

    def _variable(self, text: str, at: int) -> tuple[str, int]:
        """The value of the variable whose `$` is before `at`, and the place behind it."""
        if text[at : at + 1] != "{":
            match = _NAME.match(text, at)
            if match is None:
                return "$", at
            return self._variables.get(match[0], ""), match.end()
        end = _closing(text, at, self._escape)
        inner = text[at + 1 : end - 1]
        match = _NAME.match(inner)
        if match is None:
            raise WordError(f"${{{inner}}} names no variable")
        name, rest = match[0], inner[match.end() :]
        if not rest:
            return self._variables.get(name, ""), end
        modifier = _MODIFIER.match(rest)
        if modifier is None:
            raise WordError(f"${{{inner}}}: {rest[0]!r} is no modifier that is known here")
        return self._modified(name, modifier[0], rest[modifier.end() :], inner), end

    def _modified(self, name: str, modifier: str, word: str, shown: str) -> str:
        value = self._variables.get(name)
        is_set = value is not None and (value != "" or not modifier.startswith(":"))
        if modifier[-1] in "-+?":
            if modifier[-1] == "-":
                return (value or "") if is_set else self.expand(word)
            if modifier[-1] == "+":
                return self.expand(word) if is_set else ""
            if not is_set:
                raise WordError(f"{name}: {self.expand(word) or 'it is not set'}")
            return value or ""
        text = value or ""
        if modifier[0] == "/":
            parts = _SLASHED.match(word)
            pattern, replacement = (parts[1], parts[2] or "") if parts is not None else (word, "")
            expression = re.compile(_glob(self.expand(pattern), greedy=True))
            return expression.sub(lambda _found: self.expand(replacement), text, count=0 if modifier == "//" else 1)
        pattern = _glob(self.expand(word), greedy=len(modifier) == 2)
        if modifier[0] == "#":
            found = re.match(pattern, text, re.DOTALL)
            return text[found.end() :] if found else text
        starts = range(len(text) + 1) if len(modifier) == 2 else range(len(text), -1, -1)
        cut = next((at for at in starts if re.compile(pattern + r"\Z", re.DOTALL).match(text, at)), len(text))
        return text[:cut]


def _glob(pattern: str, greedy: bool) -> str:
    star = ".*" if greedy else ".*?"
    return "".join(star if one == "*" else "." if one == "?" else re.escape(one) for one in pattern)
