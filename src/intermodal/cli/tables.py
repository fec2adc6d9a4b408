"""What the commands show as tables, or as JSON."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from intermodal.doctor import Check
    from modal._protocol.messages.image import CacheInfo, ImageInfo
    from modal._protocol.messages.proxy import ProxyTokenInfo
    from modal._protocol.messages.secret import TokenInfo


def size(number: float) -> str:
    """Bytes for people: "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def bytes_of(text: str) -> int:
    """Turn "20GB", "1.5 GiB" or "500M" into bytes, in powers of 1,024. Raises click.BadParameter."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"{text!r} is no size: use for instance 20GB")
    return int(float(match[1]) * 1024 ** ("KMGT".index(match[2].upper()) + 1 if match[2] else 0))


def moment(seconds: float) -> str:
    """Seconds since the epoch as local time, "" for never."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S") if seconds else ""


def table(columns: list[str], rows: list[list[str]]) -> None:
    """Print it with rich."""
    from rich.console import Console
    from rich.table import Table

    made = Table()
    for number, name in enumerate(columns):
        made.add_column(name, no_wrap=number == 0)  # an id must be whole, to be copied
    for row in rows:
        made.add_row(*row)
    console = Console()
    if not console.is_terminal:  # a pipe has no width: nothing is cut
        console = Console(width=max(80, console.measure(made, options=console.options.update(width=10_000)).maximum))
    console.print(made)


def status(found: dict[str, Any]) -> None:
    """The part of the status below the addresses."""
    disk = found["disk"]
    click.echo(f"  memory   server {size(found['memory'])}, worker {size(found['worker_memory'])}")
    parts = ", ".join(f"{name} {size(disk[name])}" for name in ("layers", "files", "values", "logs", "store"))
    click.echo(f"  disk     {size(disk['total'])} used ({parts}), {size(disk['free'])} free")
    gpus = [gpu for worker in found["workers"] for gpu in worker.get("gpus", [])]
    if gpus:
        kinds = [gpu["kind"] for gpu in gpus]
        counted = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
        click.echo(f"  GPUs     {counted}{' (simulated)' if all(gpu['simulated'] for gpu in gpus) else ''}")
    click.echo(f"  since    {moment(found['started_at'])}, version {found['software']}, Python {found['python']}")
    if found["apps"]:
        table(
            ["App", "Name", "State", "Environment", "Containers"],
            [
                [app["app_id"], app["name"], app["state"], app["environment"], str(app["containers"])]
                for app in found["apps"]
            ],
        )
    if found["containers"]:
        table(
            ["Container", "App", "Function", "State", "Since"],
            [
                [one["container_id"], one["app_name"], one["function_name"], one["state"], moment(one["started_at"])]
                for one in found["containers"]
            ],
        )


def checks(found: list[Check]) -> None:
    """The doctor's findings."""
    for check in found:
        mark, colour = ("✓", "green") if check.ok else ("✗", "red") if check.required else ("!", "yellow")
        click.echo(f"{click.style(mark, fg=colour)} {check.name}: {check.detail}")
        if check.remedy and not check.ok:
            click.echo(f"    → {check.remedy}")


def tokens(found: list[TokenInfo], as_json: bool) -> None:
    if as_json:
        fields = ("token_id", "role", "note", "created_at", "last_used_at")
        click.echo(json.dumps([{name: getattr(token, name) for name in fields} for token in found], indent=2))
        return
    rows = [[one.token_id, one.role, one.note, moment(one.created_at), moment(one.last_used_at)] for one in found]
    table(["Token", "For a", "Note", "Created", "Last used"], rows)


def proxy_tokens(found: list[ProxyTokenInfo], as_json: bool) -> None:
    if as_json:
        fields = ("token_id", "note", "created_at", "last_used_at")
        click.echo(json.dumps([{name: getattr(token, name) for name in fields} for token in found], indent=2))
        return
    rows = [[one.token_id, one.note, moment(one.created_at), moment(one.last_used_at)] for one in found]
    table(["Token", "Note", "Created", "Last used"], rows)


def images(found: list[ImageInfo], as_json: bool) -> None:
    if as_json:
        fields = ("image_id", "python", "steps", "built_at", "used_at", "in_use", "size", "own_size")
        click.echo(json.dumps([{name: getattr(image, name) for name in fields} for image in found], indent=2))
        return
    rows = [
        [
            one.image_id,
            one.python,
            str(one.steps),
            moment(one.built_at),
            moment(one.used_at),
            "yes" if one.in_use else "",
            size(one.size),
            size(one.own_size),
        ]
        for one in found
    ]
    table(["Image", "Python", "Steps", "Built", "Used", "In use", "Size", "Own size"], rows)


def caches(found: list[CacheInfo], as_json: bool) -> None:
    if as_json:
        fields = ("name", "what", "size", "used_at")
        click.echo(json.dumps([{name: getattr(cache, name) for name in fields} for cache in found], indent=2))
        return
    table(["Cache", "Of", "Used", "Size"], [[one.name, one.what, moment(one.used_at), size(one.size)] for one in found])


def _yes(value: bool) -> str:
    return "yes" if value else ""
