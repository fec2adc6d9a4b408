"""The commands of `intermodal`."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from intermodal import lifecycle
from intermodal.cli import running, tables
from intermodal.cli.asking import ask
from intermodal.cli.draining import drain, undrain
from intermodal.cli.images import images
from intermodal.cli.proxy_tokens import proxy_token
from intermodal.cli.tokens import token
from intermodal.cli.volumes import volumes
from intermodal.home import Home
from modal._protocol.errors import Fault, WireError

NOT_RUNNING = 3  # exit code of `status` where no server answers


class Group(click.Group):
    """Shows errors as one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (lifecycle.Failed, Fault, WireError) as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="intermodal", prog_name="intermodal")
def cli() -> None:
    """Operate Intermodal on this machine.

    Programs that `import modal` are run with the command `modal`; it starts a server and a worker
    in the background when none runs. These commands start, stop and watch them.

    Everything is kept below one directory: INTERMODAL_HOME, else /var/lib/intermodal for root and
    ~/.local/state/intermodal for anybody else.
    """


@cli.command()
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless it fails.")
def up(quiet: bool) -> None:
    """Start server and worker in the background, unless they run.

    Returns when both are ready. Exit code 1 when one of them cannot be started; the reason is shown.
    """
    if quiet:
        sys.exit(running.up_quietly())
    found, started = lifecycle.up(Home())
    click.echo("Intermodal was started." if started else "Intermodal is running.")
    _show(found)


@cli.command()
@click.option("--keep-containers", is_flag=True, help="Let containers run on; the next `up` adopts them.")
def down(keep_containers: bool) -> None:
    """Stop server and worker, and remove what they had.

    Ephemeral apps end; deployed apps are back after the next `up`. No process, mount, cgroup, network
    namespace or firewall rule is left, also when server or worker were killed before.
    """
    done = lifecycle.down(Home(), keep_containers)
    for line in done or ["Intermodal was not running."]:
        click.echo(line[:1].upper() + line[1:])


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show what runs: server, worker, apps, containers, memory and disk.

    Exit code 3 when no server runs.
    """
    home = Home()
    found = lifecycle.status(home)
    if as_json:
        click.echo(json.dumps({"running": found is not None, "home": str(home.path), **(found or {})}, indent=2))
    elif found is None:
        click.echo(f"Intermodal is not running ({home.path}). Start it with `intermodal up`.")
        other = lifecycle.holder(home.lock)
        if other is not None:
            click.echo(f"Process {other.pid} holds the directory but does not answer: `intermodal down` ends it.")
    else:
        _show(found)
        tables.status(found)
    if found is None:
        sys.exit(NOT_RUNNING)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--clean", is_flag=True, help="First remove what killed workers of deleted state directories have left.")
def doctor(as_json: bool, clean: bool) -> None:
    """Say what this machine can do for containers, why not, and what would help.

    Starts one container to see. Exit code 1 when something that is needed is missing.
    """
    from intermodal.doctor import leftovers, report

    for gone in leftovers(remove=True) if clean else ():
        click.echo(f"removed what was left of {gone}", err=True)
    checks = report(Home())
    if as_json:
        fields = ("name", "ok", "detail", "remedy", "required")
        click.echo(json.dumps([{name: getattr(check, name) for name in fields} for check in checks], indent=2))
    else:
        tables.checks(checks)
    if any(check.required and not check.ok for check in checks):
        sys.exit(1)


@cli.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
@click.option("-n", "--lines", default=50, show_default=True, type=click.IntRange(0), help="How many lines of each.")
@click.option("--server", "only", flag_value="server", help="Only the server's log.")
@click.option("--worker", "only", flag_value="worker", help="Only the worker's log.")
def logs(follow: bool, lines: int, only: str | None) -> None:
    """Show the logs of server and worker. (What apps print: `modal app logs`.)"""
    home = Home()
    paths = {home.server_log: "server", home.worker_log: "worker"}
    chosen = [path for path, name in paths.items() if only in (None, name)]
    if not any(path.exists() for path in chosen):
        raise click.ClickException(f"there is no log in {home.path}: has Intermodal been started?")
    width = max(len(name) for name in paths.values())
    try:
        for path, line in running.follow(chosen, lines, follow):
            click.echo(line if only else f"{paths[path]:{width}} | {line}")
    except KeyboardInterrupt:
        sys.exit(130)


@cli.command()
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="tcp://HOST:PORT, or tls://HOST:PORT (https://HOST: the same on port 443), for clients and web functions, "
    "besides the socket in the state directory. Repeatable.",
)
@click.option(
    "--tls-cert",
    default="",
    type=click.Path(dir_okay=False),
    help="Certificate for tls:// and https://, with its chain (PEM). A renewed file is taken over by itself.",
)
@click.option("--tls-key", default="", type=click.Path(dir_okay=False), help="Its key (PEM).")
@click.option(
    "--domain",
    default="",
    metavar="URL",
    help="Below which web functions have their names: https://apps.example.com, with :PORT where it is unusual.",
)
@click.option("--workspace", default="", help="Name of the workspace, the first part of those names.")
@click.option("--no-worker", is_flag=True, help="Run no worker on this machine.")
def serve(listen: tuple[str, ...], tls_cert: str, tls_key: str, domain: str, workspace: str, no_worker: bool) -> None:
    """Run the server in the foreground, for a team.

    Clients elsewhere need a token (`intermodal token new`) and MODAL_SERVER_URL. Ctrl-C stops apps,
    worker and server; SIGTERM stops the server alone, and the next one adopts what runs.
    """
    command = [sys.executable, "-m", "intermodal.server", "--foreground"]
    for address in listen:
        command += ["--listen", address]
    for option, value in (("--tls-cert", tls_cert), ("--tls-key", tls_key)):
        if value:
            command += [option, os.path.abspath(value)]
    if no_worker:
        command.append("--no-worker")
    for variable, value in (("INTERMODAL_WEB_DOMAIN", domain), ("INTERMODAL_WORKSPACE", workspace)):
        if value:
            os.environ[variable] = value
    os.execv(sys.executable, command)  # noqa: S606 - our own program


cli.add_command(drain)
cli.add_command(undrain)
cli.add_command(volumes)
cli.add_command(token)
cli.add_command(proxy_token)
cli.add_command(images)


@cli.group()
def secrets() -> None:
    """How secrets are kept. (`modal secret` creates and deletes them.)"""


@secrets.command("rotate-key")
def secrets_rotate_key() -> None:
    """Encrypt all secrets with a new key.

    The old key is deleted: copies of the store made before cannot be read with the new one, so keep `secrets.key`
    with each backup, or rotate and back up again. Nothing that runs is disturbed.
    """
    from modal._protocol.messages.object import ObjectCount
    from modal._protocol.messages.secret import SecretsRotate

    count = ask(SecretsRotate(), ObjectCount).count
    click.echo(f"Encrypted {count} secrets with a new key.")


def _show(found: dict[str, Any]) -> None:
    for line in running.describe(found):
        click.echo(f"  {line}")
    warning = running.host_warning(found)
    if warning:
        click.secho(warning, fg="red", bold=True, err=True)
