"""Running and deploying apps from programs: `App.run` and `App.deploy` under their older names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from modal._sync import synchronized

if TYPE_CHECKING:
    from modal._app import App
    from modal._client import Client


@synchronized
async def deploy_app(
    app: App,
    name: Optional[str] = None,
    namespace: Any = None,
    client: Optional[Client] = None,
    environment_name: Optional[str] = None,
    tag: str = "",
) -> App:
    """Deploy an app; see `App.deploy`."""
    return await app.deploy.aio(name=name, environment_name=environment_name, tag=tag, client=client)
