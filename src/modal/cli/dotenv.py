"""Files of `KEY=VALUE` lines (`.env`), as the package python-dotenv reads them, but nothing is left out silently."""

from __future__ import annotations

import os
import re
from typing import Dict, Match

_ITEM = re.compile(
    r"""(?:export[^\S\r\n]+)?
    (?:'(?P<quoted>[^'\r\n]+)'|(?P<name>[^=\#\s']+))[^\S\r\n]*=
    (?P<blank>[^\S\r\n]*)
    (?:'(?P<single>(?:\\'|[^'])*)'(?P<behind>[^\r\n]*)
      |"(?P<double>(?:\\"|[^"])*)"(?P<after>[^\r\n]*)
      |(?P<plain>[^\r\n]*))""",
    re.VERBOSE,
)
_LINE_END = re.compile(r"\r\n|\r|\n")
_BLANK = re.compile(r"(?:\s|#[^\r\n]*)*")
_COMMENT = re.compile(r"\s*(?:#.*)?")
_SINGLE_ESCAPE = re.compile(r"\\([\\'])")
_DOUBLE_ESCAPE = re.compile(r"\\([\\'\"abfnrtv])")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_REFERENCE = re.compile(r"\$\{(?P<name>[^}:]*)(?::-(?P<default>[^}]*))?\}")


def parse(text: str) -> Dict[str, str]:
    """The variables of such a file. Raises ValueError that names the line, and shows nothing of a value.

    A value stands as it is, without blanks around it and a comment behind it; in single quotes, where `\\'` is a quote;
    or in double quotes, where `\\n` and its like are what they are in Python. `${NAME}` and `${NAME:-default}` stand
    for a variable of the file that came before, or of this process's environment.
    """
    values: Dict[str, str] = {}
    place = _after_blank(text, 1 if text.startswith("\ufeff") else 0)
    while place < len(text):
        where = f"Line {len(_LINE_END.findall(text, 0, place)) + 1}"
        item = _ITEM.match(text, place)
        if item is None:
            raise ValueError(f"{where} is no KEY=VALUE line.")
        name = item["quoted"] or item["name"]
        values[name] = _filled(_value(item, name, where), values, where)
        place = _after_blank(text, item.end())
    return values


def _after_blank(text: str, place: int) -> int:
    found = _BLANK.match(text, place)
    return place if found is None else found.end()


def _value(item: Match[str], name: str, where: str) -> str:
    plain = item["plain"]
    if plain is None:
        if not _COMMENT.fullmatch(item["behind"] or item["after"] or ""):
            raise ValueError(f"{where}: there is more behind the closing quote of the value of {name}.")
        if item["single"] is not None:
            return _SINGLE_ESCAPE.sub(r"\1", item["single"])
        return _DOUBLE_ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), item["double"])
    if plain[:1] in ("'", '"'):
        raise ValueError(f"{where}: the value of {name} begins with a quote that nothing closes.")
    if item["blank"] and plain.startswith("#"):
        return ""
    return re.sub(r"\s+#.*", "", plain).rstrip()


def _filled(value: str, known: Dict[str, str], where: str) -> str:
    """With what `${NAME}` stands for."""

    def found(reference: Match[str]) -> str:
        name, default = reference["name"], reference["default"]
        held = known.get(name, os.environ.get(name, default))
        if held is None:
            raise ValueError(
                f"{where}: ${{{name}}} is a variable that is not set. Set it, write ${{{name}:-}} for nothing, or give "
                "the values with --from-json, where they are taken as they are."
            )
        return held

    return _REFERENCE.sub(found, value)
