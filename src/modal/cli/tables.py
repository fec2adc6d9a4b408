"""Lists: a table for people, JSON for programs (`--json`)."""

from __future__ import annotations

import datetime
import sys
from typing import Any, Dict, List, Sequence


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], as_json: bool) -> None:
    """Print `rows`; as JSON they are objects with the columns' names as keys."""
    if as_json:
        show_json([dict(zip(columns, map(_plain, row))) for row in rows])
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column.endswith("ID"))
    for row in rows:
        table.add_row(*[cell if isinstance(cell, Text) else Text(_shown(cell)) for cell in row])
    console = Console(soft_wrap=False)
    if not sys.stdout.isatty():  # a pipe has no width: nothing is cut
        console = Console(width=max(80, console.measure(table, options=console.options.update(width=10_000)).maximum))
    console.print(table)


def show_json(value: Any) -> None:
    """Print JSON that people can read too."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a terminal of few characters, or names that are no UTF-8
        text = json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")


def moment(seconds: float) -> str:
    """A time as tables show it: "2025-02-02 16:02 EST"; "" for 0."""
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z") if seconds else ""


def _shown(cell: Any) -> str:
    return "-" if cell is None else str(cell)


def _plain(cell: Any) -> Any:
    return cell if isinstance(cell, (int, float, bool, type(None), Dict, List)) else str(cell)
