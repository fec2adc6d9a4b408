"""`apt_install`: Debian packages, with lists and downloads kept outside of layers."""

from __future__ import annotations

import asyncio
import shlex

from intermodal.worker.containers.launch import Bind
from intermodal.worker.images.host import apt_proxy_options
from intermodal.worker.images.kinds.kind import Fields, Kind, Made, Making
from intermodal.worker.images.workshop import TOOLS, Workshop

_APT_CONF = f"""Dir::State::lists "{TOOLS}/apt/lists/";
Dir::Cache "{TOOLS}/apt/cache/";
APT::Sandbox::User "root";
APT::Keep-Downloaded-Packages "true";
Acquire::Retries "3";
Dpkg::Use-Pty "0";
"""


class AptInstall(Kind):
    name = "apt_install"
    required = {"packages": list}

    def lines(self, step: Fields) -> list[tuple[Fields, str]]:
        return super().lines(step) if step["packages"] else []

    def title(self, fields: Fields) -> str:
        words = [shlex.quote(package) for package in fields["packages"]]
        return " ".join(["RUN apt-get update && apt-get install -y", *words])

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        conf = making.stage / "apt.conf"
        conf.write_text("\n".join([_APT_CONF, *await asyncio.to_thread(apt_proxy_options), ""]))
        cache = workshop.cache(f"apt-{making.config.layers[0][:20]}", "apt")
        for name in ("lists/partial", "cache/archives/partial"):
            (cache.source / name).mkdir(parents=True, exist_ok=True)
        script = 'apt-get update -q && exec apt-get install -y -q "$@"'
        binds = [cache, Bind(conf, f"{TOOLS}/apt.conf")]
        env = {"APT_CONFIG": f"{TOOLS}/apt.conf", "DEBIAN_FRONTEND": "noninteractive"}
        # apt locks its directories, and gives up at once where they are locked.
        async with workshop.alone(cache.source.name):
            await workshop.run(making, ["/bin/sh", "-ec", script, "apt", *making.fields["packages"]], binds, env)
        return None


KINDS = [AptInstall()]
