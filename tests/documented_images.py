"""Builds the images of programs, and says of each that cannot be built why: python -m tests.documented_images FILE…

A report, not a test: it needs package indexes and minutes. `--leave-out` names what is not tried, as a regular
expression on an image's recipe (packages of several GB, say). The server is that of INTERMODAL_HOME.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MARK = "documented-images:"


def load(path: Path) -> Any:
    """Import a program as `modal run` does."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def images_of(module: Any) -> dict[str, Any]:
    """The images of a program's apps and of its global variables, by what they are."""
    import modal

    found: dict[str, Any] = {}
    apps = [value for value in vars(module).values() if isinstance(value, modal.App)]
    images = [one.image(app) for app in apps for one in app._definitions()]
    images += [value for value in vars(module).values() if isinstance(value, modal.Image)]
    for image in images:
        key = json.dumps([[step.kind, repr(step.fields)] for step in image._steps()])
        found.setdefault(key, image)
    return found


def child(path: Path, leave_out: str) -> int:
    """Build one program's images in this process; one line of JSON for each."""

    def tell(**fields: Any) -> None:
        print(MARK, json.dumps(fields), flush=True)

    try:
        images = images_of(load(path))
    except BaseException as error:
        tell(state="not loaded", why=f"{type(error).__name__}: {error}")
        return 1
    import modal

    for text, image in images.items():
        name = " > ".join(step.method for step in image._steps())
        matched = re.search(leave_out, text) if leave_out else None
        if matched:
            tell(state="left out", image=name, why=matched[0])
            continue
        began = time.monotonic()
        try:
            with modal.enable_output():
                image.hydrate()
        except BaseException as error:
            tell(state="failed", image=name, why=str(error)[-600:])
        else:
            tell(state="built", image=name, seconds=round(time.monotonic() - began, 1))
    return 0


def report(paths: list[Path], leave_out: str, timeout: float) -> int:
    whole = 0
    for path in paths:
        command = [sys.executable, "-m", "tests.documented_images", "--child", "--leave-out", leave_out, str(path)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            out, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            out, _ = process.communicate()
            out += f'\n{MARK} {{"state": "failed", "image": "", "why": "not ready after {timeout:g} s"}}\n'
        found = [json.loads(line[len(MARK) :]) for line in out.splitlines() if line.startswith(MARK)]
        states = [one["state"] for one in found]
        all_built = bool(states) and set(states) == {"built"}
        whole += all_built
        print(f"{'✓' if all_built else '✗'} {path.name}: {', '.join(states) or 'no image'}", flush=True)
        for one in found:
            if one["state"] != "built":
                print(f"    {one['state']}: {one.get('image', '')}\n        {one['why'].strip()}", flush=True)
    print(f"{whole} of {len(paths)} programs have all their images", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="+", type=Path)
    parser.add_argument("--leave-out", default="", metavar="REGEX")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="for each program")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.programs[0], options.leave_out)
    return report(options.programs, options.leave_out, options.timeout)


if __name__ == "__main__":
    sys.exit(main())
