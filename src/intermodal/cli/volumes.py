"""`intermodal volumes`: what operators can do with volumes and their versions."""

from __future__ import annotations

import json

import click

from intermodal.cli import tables
from intermodal.cli.asking import ask
from modal._protocol.messages.secret import EnvironmentList, Environments
from modal._protocol.messages.volume import (
    VolumeGet,
    VolumeHistory,
    VolumeInfo,
    VolumeList,
    Volumes,
    VolumeVersion,
    VolumeVersions,
)

env_option = click.option("-e", "--env", default="", metavar="NAME", help="The volume's environment.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")


@click.group()
def volumes() -> None:
    """Volumes and their versions. (Files: `modal volume`.)

    Every commit and upload makes a new version of a volume. The last 100 are kept, for 7 days, as long as the
    files that only they have take no more than 10 GiB (or as much as the volume itself).
    """


@volumes.command("list")
@json_option
def list_volumes(as_json: bool) -> None:
    """List the volumes of all environments."""
    environments = ask(EnvironmentList(), Environments).environments
    found = [one for known in environments for one in ask(VolumeList(known.name), Volumes).volumes]
    if as_json:
        fields = ("volume_id", "name", "environment", "version", "inodes", "bytes", "created_at")
        click.echo(json.dumps([{name: getattr(one, name) for name in fields} for one in found], indent=2))
        return
    tables.table(["Volume", "Name", "Environment", "Version", "Files", "Size"], [_row(one) for one in found])


def _row(one: VolumeInfo) -> list[str]:
    return [one.volume_id, one.name, one.environment, str(one.version), str(one.inodes), tables.size(one.bytes)]


@volumes.command()
@click.argument("name")
@env_option
@json_option
def history(name: str, env: str, as_json: bool) -> None:
    """List the versions of a volume that are kept, newest first."""
    versions = ask(VolumeHistory(_find(name, env).volume_id), VolumeVersions).versions
    if as_json:
        fields = ("version", "created_at", "reason", "changes", "inodes", "bytes")
        click.echo(json.dumps([{field: getattr(one, field) for field in fields} for one in versions], indent=2))
        return
    tables.table(["Version", "Made", "By", "Changed paths", "Files", "Size"], [_version(one) for one in versions])


def _version(one: VolumeVersion) -> list[str]:
    made = tables.moment(one.created_at)
    return [str(one.version), made, one.reason, str(one.changes), str(one.inodes), tables.size(one.bytes)]


@volumes.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@env_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def restore(name: str, version: int, env: str, yes: bool) -> None:
    """Make an older version of a volume the newest one again.

    It becomes a new version, so this can be undone in the same way. Containers that run go on with what they have
    mounted until they reload it.
    """
    found = _find(name, env)
    if not yes:
        click.confirm(f"Make the volume {name!r} what it was in version {version}?", abort=True)
    newest = ask(VolumeHistory(found.volume_id, version), VolumeVersions).versions[0]
    click.echo(f"Restored version {version} of {name!r} as version {newest.version}.")


def _find(name: str, env: str) -> VolumeInfo:
    found: VolumeInfo = ask(VolumeGet(name, env), Volumes).volumes[0]
    return found
