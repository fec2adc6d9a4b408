"""`modal app`: apps that run, are deployed, or were stopped lately."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import click

from modal.cli.command import Group
from modal.cli.options import argument, choose_environment, env_option, json_option, needed

ROLLBACK = """Redeploy a previous version of an App.

Note that the App must currently be in a "deployed" state.
Rollbacks will appear as a new deployment in the App history, although
the App state will be reset to the state at the time of the previous deployment.

**Examples:**

Rollback an App to its previous version:

```
modal app rollback my-app
```

Rollback an App to a specific version:

```
modal app rollback my-app v3
```

Rollback an App using its App ID instead of its name:

```
modal app rollback ap-abcdefghABCDEFGH123456
```"""

app_identifier = argument("APP_IDENTIFIER", "App name or ID", required=False)


@click.group("app", cls=Group, help="Manage deployed and running apps.")
def app() -> None:
    """See `help`."""


@app.command("list", help="List Modal apps that are currently deployed/running or recently stopped.")
@env_option
@json_option
def list_apps(env: Optional[str], as_json: bool) -> None:
    """Newest last."""
    from modal._protocol.messages.app import AppList, Apps
    from modal.cli.server import ask
    from modal.cli.tables import moment, show_table

    environment = choose_environment(env)
    found = ask(AppList(environment), Apps).apps
    rows = [
        [
            info.app_id,
            info.description or info.name,
            "; ".join([info.state, *info.notices]),
            str(info.tasks),
            moment(info.created_at),
            moment(info.stopped_at) or None,
        ]
        for info in found
    ]
    title = f"Apps in environment: {environment}" if environment else "Apps"
    show_table(title, ["App ID", "Description", "State", "Tasks", "Created at", "Stopped at"], rows, as_json)


@app.command(
    "logs",
    help="""Show App logs, streaming while active.

**Examples:**

Get the logs based on an app ID:

```
modal app logs ap-123456
```

Get the logs for a currently deployed App based on its name:

```
modal app logs my-app
```""",
)
@app_identifier
@env_option
@click.option("--timestamps", is_flag=True, help="Show timestamps for each log line")
def logs(app_identifier: Optional[str], env: Optional[str], timestamps: bool) -> None:
    """See `help`."""
    from modal._protocol.messages.app import AppState
    from modal.cli.follow import follow_logs
    from modal.cli.server import find_app

    info = find_app(needed(app_identifier, "APP_IDENTIFIER"), choose_environment(env))
    follow_logs(info.app_id, timestamps=timestamps, active=info.state != AppState.STOPPED)


@app.command("rollback", help=ROLLBACK)
@app_identifier
@argument("VERSION", "Target version for rollback.", required=False)
@env_option
def rollback(app_identifier: Optional[str], version: Optional[str], env: Optional[str]) -> None:
    """See ROLLBACK."""
    from modal._protocol.messages.app import AppPublished, AppRollback
    from modal.cli.server import ask, find_app

    name = needed(app_identifier, "APP_IDENTIFIER")
    if version is not None and not version.lstrip("v").isdigit():
        raise click.UsageError(f"{version!r} is no version: write it like v3.", click.get_current_context())
    info = find_app(name, choose_environment(env))
    published = ask(AppRollback(info.app_id, int(version.lstrip("v")) if version else 0), AppPublished)
    target = (version and f"v{version.lstrip('v')}") or f"v{info.version - 1}"
    click.echo(f"✓ App {info.name or info.app_id} is rolled back to {target}: that is now v{published.version}.")


@app.command("stop", help="Stop an app.")
@app_identifier
@env_option
def stop(app_identifier: Optional[str], env: Optional[str]) -> None:
    """Returns when nothing of the app runs any more."""
    from modal._protocol.messages.app import AppState, AppStop
    from modal._protocol.messages.wire import Done
    from modal.cli.server import ask, find_app

    info = find_app(needed(app_identifier, "APP_IDENTIFIER"), choose_environment(env))
    if info.state == AppState.STOPPED:
        click.echo(f"App {info.description or info.name} ({info.app_id}) is stopped already.")
        return
    ask(AppStop(info.app_id, source="cli"), Done)
    click.echo(f"App {info.description or info.name} ({info.app_id}) is stopped.")


@app.command(
    "history",
    help="""Show App deployment history, for a currently deployed app

**Examples:**

Get the history based on an app ID:

```
modal app history ap-123456
```

Get the history for a currently deployed App based on its name:

```
modal app history my-app
```""",
)
@app_identifier
@env_option
@json_option
def history(app_identifier: Optional[str], env: Optional[str], as_json: bool) -> None:
    """Newest first."""
    from modal._protocol.messages.app import AppHistory, AppHistoryGet
    from modal.cli.server import ask, find_app
    from modal.cli.tables import moment, show_table

    info = find_app(needed(app_identifier, "APP_IDENTIFIER"), choose_environment(env))
    versions = ask(AppHistoryGet(info.app_id), AppHistory).versions
    columns = ["Version", "Time deployed", "Client", "Deployed by"]
    tagged = any(version.tag for version in versions)
    commits = as_json or any(version.commit for version in versions)
    columns += ["Commit"] * commits + ["Tag"] * tagged
    rows: List[List[Any]] = []
    for version in versions:
        name = f"v{version.version}"
        if version.rolled_back_from and not as_json:
            name += f" (rollback to v{version.rolled_back_from})"
        row: List[Any] = [name, moment(version.deployed_at), version.software, version.deployed_by]
        rows.append(row + [_commit(version.commit)] * commits + [version.tag or None] * tagged)
    show_table(f"Deployments of {info.name or info.app_id}", columns, rows, as_json)


def _commit(commit: Dict[str, Any]) -> Optional[str]:
    """The short hash, with a star where the tree held changes; None where nothing was recorded."""
    if not commit.get("hash"):
        return None
    return str(commit["hash"])[:7] + ("*" if commit.get("dirty") else "")
