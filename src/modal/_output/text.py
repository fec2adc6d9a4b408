"""Text as a terminal sees it: how wide it is, where it may be cut, how it is coloured."""

from __future__ import annotations

import re

ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours and movements
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: titles and links
    r"|\x1b[PX^_][^\x1b]*\x1b\\"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"  # two-character sequences
)
COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
UNFINISHED_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[PX^_][^\x1b]*\x1b?|[ -/]*)?\Z")
RESET = "\x1b[0m"
STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36"}
PLAIN = str.maketrans({**dict(zip("✓✗├└─│━╭╮╰╯·⋯’•", "+x|`-|=++++-.'*")), "🔨": "*", "🎉": "", "…": "..."})


def style(text: str, *names: str) -> str:
    """`text` in these styles (keys of STYLES)."""
    return f"\x1b[{';'.join(STYLES[name] for name in names)}m{text}{RESET}" if names and text else text


def without_escapes(text: str) -> str:
    """Only what is seen."""
    return ESCAPE.sub("", text) if "\x1b" in text else text


def only_colours(text: str) -> str:
    """Without sequences that move the cursor or change the terminal; colours are closed at the end."""
    if "\x1b" not in text:
        return text
    kept = ESCAPE.sub(lambda match: match.group() if COLOUR.fullmatch(match.group()) else "", text)
    kept = UNFINISHED_ESCAPE.sub("", kept)
    colours = COLOUR.findall(kept)
    if not colours or colours[-1] in (RESET, "\x1b[m"):
        return kept
    return f"{kept[:-1]}{RESET}\n" if kept.endswith("\n") else kept + RESET


def cells(text: str) -> int:
    """How many columns `text` takes."""
    text = without_escapes(text)
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns; no character and no escape sequence is torn."""
    if (len(text) <= width and text.isascii()) or cells(text) <= width:
        return text
    result, used = [], 0
    for piece in _pieces(text):
        if piece.startswith("\x1b"):
            result.append(piece)
            continue
        size = cells(piece)
        if used + size > width - 1:
            return "".join(result) + "…" + (RESET if "\x1b" in text else "")
        result.append(piece)
        used += size
    return "".join(result)


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    at = 0
    for match in ESCAPE.finditer(text):
        pieces.extend(text[at : match.start()])
        pieces.append(match.group())
        at = match.end()
    pieces.extend(text[at:])
    return pieces


def last_state(line: str) -> str:
    """What a terminal shows of a line that returned to its start several times (a progress bar)."""
    if "\r" not in line:
        return line
    ending = "\n" if line.endswith("\n") else ""
    parts = [part for part in line[: len(line) - len(ending)].split("\r") if part]
    return (parts[-1] if parts else "") + ending


def safe_end(text: str) -> int:
    """Up to where `text` may be shown now: not in the middle of an escape sequence."""
    match = UNFINISHED_ESCAPE.search(text, max(0, len(text) - 64))
    return match.start() if match else len(text)


def encodable(text: str, encoding: str | None) -> str:
    """`text` in characters that `encoding` has: our own signs become plain ones, others question marks."""
    name = encoding or "utf-8"
    try:
        text.encode(name)
    except UnicodeEncodeError:
        return text.translate(PLAIN).encode(name, "replace").decode(name)
    except LookupError:
        return text
    return text
