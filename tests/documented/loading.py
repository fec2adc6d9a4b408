"""One program in one process: loaded as `modal run` does, and the images that it describes, built one after another."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

MARK = "documented-images:"


class Enough(BaseException):
    """The program has come to its first sandbox: all that it describes before is known."""


def load(path: Path, package: str) -> Any:
    """Import a program: as a file, or as a module of its package where it has relative imports."""
    if package:
        sys.path.insert(0, str(path.parent.parent))
        return importlib.import_module(f"{package}.{path.stem}")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Enough:
        pass
    return module


def images_of(module: Any, of_sandboxes: list[Any]) -> dict[str, Any]:
    """The images of a program's apps, global variables and sandboxes, by what they are."""
    import modal

    found: dict[str, Any] = {}
    apps = [value for value in vars(module).values() if isinstance(value, modal.App)]
    images = [one.image(app) for app in apps for one in app._definitions()]
    images += [value for value in vars(module).values() if isinstance(value, modal.Image)]
    for image in [*images, *of_sandboxes]:
        key = json.dumps([[step.kind, repr(step.fields)] for step in image._steps()])
        found.setdefault(key, image)
    return found


def _watch_sandboxes() -> list[Any]:
    """The images of sandboxes that the program would start here; it goes no further than its first one."""
    import modal

    images: list[Any] = []

    def create(*_words: Any, image: Any = None, **_options: Any) -> None:
        images.append(image if image is not None else modal.Image.debian_slim())
        raise Enough

    modal.Sandbox.create = create  # type: ignore[method-assign, assignment]
    return images


def tell(**fields: Any) -> None:
    print(MARK, json.dumps(fields), flush=True)


def build_all(path: Path, package: str, calls: str, leave_out: str) -> int:
    """Build one program's images; one line of JSON for each. `calls` is a function that starts a sandbox."""
    of_sandboxes = _watch_sandboxes()
    try:
        module = load(path, package)
        if calls:
            try:
                getattr(module, calls)(module.app)
            except Enough:
                pass
        images = images_of(module, of_sandboxes)
    except Exception as error:
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
        except Exception as error:
            tell(state="failed", image=name, why=_reason(str(error)))
        else:
            tell(state="built", image=name, seconds=round(time.monotonic() - began, 1))
    return 0


def _reason(text: str) -> str:
    """Where the build failed, and the lines that say why."""
    lines = [line for line in text.splitlines() if line.strip()]
    telling = [line for line in lines[1:] if re.search(r"error|not found|failed|could not|resolve", line, re.I)]
    return "\n".join([lines[0][:300], *(line.strip()[:300] for line in telling[-4:])])


if __name__ == "__main__":
    sys.exit(build_all(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]))
