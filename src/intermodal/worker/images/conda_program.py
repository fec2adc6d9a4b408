"""Installs conda packages: runs in a build container, by Debian's Python, with py-rattler beside it.

    python3 conda_program.py LIBRARY REQUEST ANSWER

REQUEST is JSON: prefix, cache, alias (of channels), channels, specs. ANSWER, a directory, receives the version of the
environment's Python. What is installed already stays, its Python in the same version.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def install(request: dict[str, Any]) -> str:
    import rattler  # type: ignore[import-not-found,unused-ignore]

    prefix = Path(request["prefix"])
    config = rattler.ChannelConfig(channel_alias=request["alias"], root_dir="/")
    channels = [rattler.Channel(name, config) for name in request["channels"]]
    here = [rattler.PrefixRecord.from_path(path) for path in sorted(prefix.glob("conda-meta/*.json"))]
    pythons = [record for record in here if record.name.normalized == "python"]
    kept = [record.name.normalized for record in here]
    asked = [rattler.MatchSpec(text) for text in request["specs"]]
    named = {getattr(spec.name, "normalized", "") for spec in asked}
    places = ", ".join(channel.base_url for channel in channels)
    say(f"looking for {', '.join(request['specs'])} in {places}")
    records = await rattler.solve(
        channels,
        [*asked, *(rattler.MatchSpec(name) for name in kept if name not in named)],
        platforms=[rattler.Subdir.current(), "noarch"],
        locked_packages=[record for record in here if record not in pythons],
        pinned_packages=pythons,
        virtual_packages=rattler.VirtualPackage.detect(),
    )
    before = {(record.name.normalized, str(record.version)) for record in here}
    for name, version in sorted((record.name.normalized, str(record.version)) for record in records):
        if (name, version) not in before:
            say(f" + {name}={version}")
    await rattler.install(
        records,
        str(prefix),
        cache_dir=request["cache"],
        installed_packages=here,
        execute_link_scripts=True,
        show_progress=False,
    )
    after = {(record.name.normalized, str(record.version)) for record in records}
    for record in here:
        if (record.name.normalized, str(record.version)) not in after:
            forget_bytecode(prefix, record.files)
    compile_all(prefix)
    return next((str(record.version) for record in records if record.name.normalized == "python"), "")


def forget_bytecode(prefix: Path, files: list[Any]) -> None:
    """Files of packages all have the same time: Python would take old bytecode for that of the new file."""
    for name in files:
        path = prefix / name
        if path.suffix == ".py":
            for old in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
                old.unlink(missing_ok=True)


def compile_all(prefix: Path) -> None:
    """What has no bytecode yet; containers start without their own."""
    python = prefix / "bin/python"
    for place in prefix.glob("lib/python3*/site-packages"):
        words = [str(python), "-m", "compileall", "-q", "-j", "0", str(place)]
        subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def main(arguments: list[str]) -> int:
    library, request, answer = arguments
    sys.path.insert(0, library)
    try:
        version = asyncio.run(install(json.loads(Path(request).read_text())))
    except Exception as error:
        say(f"{type(error).__name__}: {error}".strip())
        return 1
    Path(answer, "python").write_text(version)
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # the library's threads do not wait for the interpreter's end
