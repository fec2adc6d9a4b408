"""Downloads of `modal volume` and `modal nfs`; how far they and uploads are, and what has come of them."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Iterator, List, Optional, Tuple

import click

if TYPE_CHECKING:
    from modal._protocol.messages.volume import Entry
    from modal._transfer import Progress
    from modal._volume import _Stored

SHOWN = 10  # paths of one kind


def visible(name: str) -> str:
    """As a terminal may be given it: characters that would move its cursor, or more, as escapes."""
    return "".join(sign if sign.isprintable() or sign == " " else repr(sign)[1:-1] for sign in name)


def size_of(number: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def say_uploaded(local: str, remote: str, name: str, totals: Tuple[int, int], left_out: List[str]) -> None:
    """How much has gone where, and what has not."""
    files, size = totals
    for path in left_out[:SHOWN]:
        click.echo(f"{path} was left out: it is neither a file nor a directory.", err=True)
    if len(left_out) > SHOWN:
        click.echo(f"{len(left_out) - SHOWN} more of that kind were left out.", err=True)
    click.echo(
        f"✓ Uploaded {local} to '{remote}' in '{name}' ({files} {'file' if files == 1 else 'files'}, {size_of(size)})",
        err=True,
    )


@contextlib.contextmanager
def progress_bar(text: str) -> Iterator[Optional[Progress]]:
    """A bar on the terminal; None where there is none."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns: Any = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)

        def show(files: int, all_files: int, done: int, total: int) -> None:
            bar.update(task, description=f"{text} ({files}/{all_files} files)", completed=done, total=total or None)

        yield show


def download(source: _Stored, remote: str, destination: str, force: bool) -> None:
    """Fetch a file, a directory or (network file systems) what a pattern matches."""
    from modal._volume_download import PARTIAL, Download, list_entries, make_directory

    if destination == "-":
        _to_stdout(source, remote)
        return
    if not destination:
        raise click.ClickException('LOCAL_DESTINATION is empty: name a file or directory, or "-" for standard output.')
    pattern = "*" in remote and source._wire_kind() != "volume"
    found = list_entries(source, remote, True)
    if pattern and not found:
        raise click.ClickException(f"Nothing matches {remote!r}.")
    note, said = os.path.join(destination, PARTIAL), f"{source.object_id} {remote}"
    into = (os.path.isdir(destination) or destination.endswith("/")) and _text_of(note) != said
    one = not pattern and _is_one_file(source, found, remote)
    if one and found[0].kind == 3 and source._wire_kind() == "volume":  # asked for by name, a link is what it leads to
        found = list_entries(source, remote.rstrip("/") + "/", True)
        one = _is_one_file(source, found, remote)
    wanted = _places(found, remote, destination, pattern, one, source._wire_kind() == "volume", into)
    # What makes its own directory leaves a note there until it is whole: the same command then goes on, and does not
    # take that for a directory to put things into.
    noted = not into and not pattern and any(local != destination for _entry, _remote, local in wanted)
    with progress_bar("Downloading") as progress:
        if noted:
            make_directory(destination)
            with open(note, "w") as file:
                file.write(said)
        elif not wanted:  # an empty directory
            name = remote.strip("/").rpartition("/")[2]
            make_directory(os.path.join(destination, name) if into and name else destination)
        Download(source, force, progress).fetch(wanted, destination)
        if noted:
            os.unlink(note)
    files = sum(entry.kind == 1 for entry, _remote, _local in wanted)
    size = sum(entry.size for entry, _remote, _local in wanted if entry.kind == 1)
    click.echo(f"✓ Downloaded {files} {'file' if files == 1 else 'files'} ({size_of(size)}) to {destination}", err=True)


def _is_one_file(source: _Stored, found: List[Entry], remote: str) -> bool:
    """Whether a listing is that of a file, and not of a directory."""
    from modal._volume_download import list_entries

    parent, _, name = "/".join(part for part in remote.split("/") if part not in ("", ".")).rpartition("/")
    if len(found) != 1 or found[0].kind == 2:
        return False
    if source._wire_kind() == "volume":
        return found[0].path == (f"{parent}/{name}" if parent else name)
    if found[0].path != name:
        return False
    # A directory may hold one file of its own name: only the listing above tells.
    return any(entry.path == name and entry.kind != 2 for entry in list_entries(source, parent or "/", False))


def _places(
    found: List[Entry], remote: str, destination: str, pattern: bool, one: bool, whole_paths: bool, into: bool
) -> List[Tuple[Entry, str, str]]:
    """Which entry goes where: as `cp -r` has it, `into` a directory that is there, else under that name.

    `one`: a file was asked for.
    """
    cleaned = "/".join(part for part in remote.split("/") if part not in ("", "."))
    name = cleaned.rpartition("/")[2]
    if pattern:
        fixed = remote.partition("*")[0].strip("/").rpartition("/")[0]
        return [_placed(e, e.path.strip("/"), destination, e.path.strip("/")[len(fixed) :].lstrip("/")) for e in found]
    whole = [(entry, entry.path if whole_paths else f"{cleaned}/{entry.path}".strip("/")) for entry in found]
    if one:
        entry = found[0]
        if entry.kind == 3:  # of a network file system
            entry = entry._replace(kind=1, mode=0o644, content="")
        return [_placed(entry, cleaned, destination, name if into else "")]
    base = f"{name}/" if into and name else ""
    return [_placed(entry, path, destination, base + path[len(cleaned) :].lstrip("/")) for entry, path in whole]


def _text_of(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _placed(entry: Entry, remote: str, destination: str, relative: str) -> Tuple[Entry, str, str]:
    parts = relative.split("/") if relative else []
    if ".." in parts:
        raise click.ClickException(f"{remote!r} would lead out of {destination}.")
    return entry, remote, os.path.join(destination, *parts) if parts else destination


def _to_stdout(source: _Stored, remote: str) -> None:
    from modal._volume_download import Download, list_entries

    out = sys.stdout.buffer
    pattern = "*" in remote and source._wire_kind() != "volume"
    if pattern:
        found = list_entries(source, remote, True)
        if not found:
            raise click.ClickException(f"Nothing matches {remote!r}.")
        for entry in found:
            if entry.kind == 1:
                Download(source, True).stream(entry.path, out.write)
    else:
        Download(source, True).stream(remote, out.write)
    out.flush()
