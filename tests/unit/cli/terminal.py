"""A terminal that understands what the screen sends, and remembers what a person would see."""

from __future__ import annotations

import os
import re
from typing import List

from rich.cells import cell_len

TOKEN = re.compile(r"\x1b\[(\d*(?:;\d+)*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class FakeTerminal:
    """A file whose `lines` are what stands on an endlessly high screen. Unknown sequences are an error."""

    encoding = "utf-8"
    errors = "strict"
    closed = False

    def __init__(self, columns: int = 80, rows: int = 24, tty: bool = True) -> None:
        self.columns = columns
        self.rows = rows
        self.raw = ""
        self.flushed = ""
        self._tty = tty
        self._lines: List[str] = [""]
        self._row = 0
        self._column = 0

    def isatty(self) -> bool:
        return self._tty

    def size(self) -> os.terminal_size:
        return os.terminal_size((self.columns, self.rows))

    def write(self, text: str) -> int:
        text.encode(self.encoding, self.errors)
        self.raw += text
        at = 0
        while at < len(text):
            match = TOKEN.match(text, at)
            assert match is not None, f"a sequence that this terminal does not know: {text[at : at + 20]!r}"
            at = match.end()
            number, final, control, plain = match.groups()
            if final:
                self._sequence(int(number or 1) if final == "A" else number, final)
            elif control == "\r":
                self._column = 0
            elif control == "\n":
                self._down()
                self._column = 0
            else:
                self._print(plain)
        return len(text)

    def flush(self) -> None:
        self.flushed = self.raw

    def _sequence(self, number: object, final: str) -> None:
        if final == "A":
            assert isinstance(number, int)
            assert number <= self._row, "moved above the first line"
            self._row -= number
        elif final == "J":
            del self._lines[self._row + 1 :]
            self._lines[self._row] = self._lines[self._row][: self._column]
        else:
            assert final == "m", f"unexpected sequence {final}"

    def _print(self, text: str) -> None:
        for character in text:
            if self._column + cell_len(character) > self.columns:
                self._down()
                self._column = 0
            line = self._lines[self._row].ljust(self._column)
            self._lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._lines):
            self._lines.append("")

    @property
    def lines(self) -> List[str]:
        """What is seen, without empty lines at the end."""
        shown = [line.rstrip() for line in self._lines]
        while shown and not shown[-1]:
            shown.pop()
        return shown
