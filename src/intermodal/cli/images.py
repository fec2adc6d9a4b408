"""`intermodal images`: what is built on this machine, what it takes, and what its bases contain."""

from __future__ import annotations

import sys

import click

from intermodal.cli import tables
from intermodal.cli.asking import ask
from intermodal.home import Home


@click.group()
def images() -> None:
    """Images on this machine."""


@images.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def images_list(as_json: bool) -> None:
    """List images, most recently used first."""
    from modal._protocol.messages.image import ImageList, ImagesKnown

    tables.images(ask(ImageList(), ImagesKnown).images, as_json)


@images.command("prune")
@click.option(
    "--unused-for",
    "--older-than",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    metavar="DAYS",
    help="Keep images that were used within so many days.",
)
@click.option(
    "--keep-size",
    default="",
    metavar="SIZE",
    help='Delete no more than is needed to bring all layers down to this, such as "20GB".',
)
@click.option("--caches", is_flag=True, help="Also delete what builds have downloaded (`images caches`), and first.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def images_prune(unused_for: float, keep_size: str, caches: bool, yes: bool) -> None:
    """Delete images that no app and no running container uses, least recently used first, and their layers."""
    from modal._protocol.messages.image import ImagePrune, ImagesKnown

    most = tables.bytes_of(keep_size) if keep_size else 0
    also = "caches and " if caches else ""
    if not yes:
        what = f"{also}images until all take at most {keep_size}" if most else f"{also}all images that no app uses"
        click.confirm(f"Delete {what}?", abort=True)
    gone = ask(ImagePrune(unused_for * 86400.0, most, caches), ImagesKnown)
    whole, parts = sum(not one.parts for one in gone.caches), sum(one.parts for one in gone.caches)
    some = f", {parts} {'entry' if parts == 1 else 'entries'} of others" if parts else ""
    also = f"{whole} caches{some} and " if caches else ""
    click.echo(f"Deleted {also}{len(gone.images)} images and freed {tables.size(gone.freed)}.")


@images.command("caches")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def images_caches(as_json: bool) -> None:
    """List what builds have downloaded and share, most recently used first. `images prune --caches` deletes it."""
    from modal._protocol.messages.image import CacheList, CachesKnown

    tables.caches(ask(CacheList(), CachesKnown).caches, as_json)


@images.command("logs")
@click.argument("image_id")
def images_logs(image_id: str) -> None:
    """Show what the last build of an image printed."""
    from modal._protocol.messages.image import ImageLog, ImageLogGet

    click.echo(ask(ImageLogGet(image_id), ImageLog).text, nl=False)


@images.command("builder")
@click.argument("version", required=False)
def images_builder(version: str | None) -> None:
    """Show the image builder versions, or set the one of the workspace.

    It decides what the bases of images contain. Images are built again with a new one when they are next used.
    """
    from modal._protocol.messages.image import BuilderVersionGet, BuilderVersionKnown, BuilderVersionSet

    if version:
        name = ask(BuilderVersionSet(version), BuilderVersionKnown).name
        click.echo(f"Images are built with {name} from now on.")
        return
    known = ask(BuilderVersionGet(), BuilderVersionKnown)
    for name, note in known.all.items():
        click.echo(f"{'*' if name == known.name else ' '} {name:14}  {note}")


@images.command("verify")
def images_verify() -> None:
    """Read every layer and compare it with what was built. A damaged one is built again when it is next needed.

    Exit code 1 when there were any.
    """
    from intermodal.worker.containers import enter_private_mounts
    from intermodal.worker.images.layers import LayerStore

    enter_private_mounts()  # what is mounted for this goes with this process
    store = LayerStore(Home())
    layers, damaged = store.all(), 0
    for layer in layers:
        if not store.is_sound(layer, content=True):
            damaged += 1
            store.discard(layer)
            click.echo(f"{layer.id} is damaged and out of use now: {layer.step}")
    store.close()
    click.echo(f"{len(layers)} layers, {damaged} damaged.")
    if damaged:
        sys.exit(1)
