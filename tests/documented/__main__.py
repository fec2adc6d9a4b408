"""Builds the images of the documented example programs, and says of each that cannot be built why.

    python -m tests.documented DIRECTORY [PROGRAM…]

A report, not a test: it needs package indexes, gigabytes and up to hours. It runs a platform of its own, whose site has
stand-ins (`stand_ins`) for a registry, a model hub and a browser mirror. What was built is deleted program by program,
so that it fits into `--keep`. Results are kept in a file, so that a later run goes on where this one ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.documented import loading, side_files
from tests.documented.stand_ins import USES, StandIns

# Releases since then that fetch what no index has: an operator pins them for the whole machine.
CONSTRAINTS = "dbt-core<1.11\n"
LAYERS = "1MB"  # that stay between programs, besides the bases
BASES = """
import modal
app = modal.App("bases")  # deployed, so that its images stay

@app.function(image=modal.Image.debian_slim("3.11"))
def python_3_11(): pass

@app.function(image=modal.Image.debian_slim("3.12"))
def python_3_12(): pass

@app.function(image=modal.Image.debian_slim("3.10"))
def python_3_10(): pass
"""
Result = dict[str, Any]


class Site:
    """A platform on a state directory of its own."""

    def __init__(self, home: Path, settings: dict[str, str], keep: str) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MODAL_", "INTERMODAL_"))}
        gpus = {"INTERMODAL_SIMULATED_GPUS": "all"}
        self.env = {**kept, **settings, **gpus, "INTERMODAL_HOME": str(home), "MODAL_CONFIG_PATH": str(home / "none")}
        self._keep = keep

    def __enter__(self) -> Site:
        self._say("up", "--quiet")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bases.py"
            path.write_text(BASES)
            subprocess.run([sys.executable, "-m", "modal", "deploy", path], env=self.env, check=True)
        return self

    def __exit__(self, *_error: object) -> None:
        self._say("down")

    def make_room(self) -> None:
        # What programs install in common is in the caches: these stay as long as they may.
        self._say("images", "prune", "--yes", "--keep-size", LAYERS)
        self._say("images", "prune", "--yes", "--keep-size", self._keep, "--caches")

    def _say(self, *words: str) -> None:
        subprocess.run([sys.executable, "-m", "intermodal", *words], env=self.env, check=False)

    def build(self, program: Path, leave_out: str, timeout: float) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            path = side_files.lay_out(program, Path(folder))
            about = side_files.beside(program.stem)
            words = [sys.executable, "-m", loading.__name__, str(path), about.package, about.sandbox, leave_out]
            began = time.monotonic()
            process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=self.env
            )
            try:
                out, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGTERM)
                out, _ = process.communicate()
                out += f'\n{loading.MARK} {{"state": "failed", "image": "", "why": "not ready after {timeout:g} s"}}\n'
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # it would start the platform again
                raise
        found = [json.loads(line[len(loading.MARK) :]) for line in out.splitlines() if line.startswith(loading.MARK)]
        if not found:
            found = [{"state": "not loaded", "why": out[-1000:]}]
        return {"program": program.stem, "images": found, "seconds": round(time.monotonic() - began, 1)}


def is_whole(result: Result) -> bool:
    return {image["state"] for image in result["images"]} == {"built"}


def show(result: Result) -> None:
    states = ", ".join(image["state"] for image in result["images"])
    mark = "✓" if is_whole(result) else "✗"
    print(f"{mark} {result['program']}: {states} ({result['seconds']:.0f} s)", flush=True)
    for image in result["images"]:
        if image["state"] != "built":
            print(f"    {image['state']}: {image.get('image', '')}\n        {image['why'].strip()}", flush=True)


def summary(results: dict[str, Result]) -> str:
    whole = [name for name, result in results.items() if is_whole(result)]
    lent = [name for name in whole if name in USES]
    lines = [f"{len(whole)} of {len(results)} programs have all their images, {len(lent)} of them with stand-ins:"]
    lines += [f"  {name}{f' ({USES[name]})' if name in USES else ''}" for name in sorted(whole)]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="with the programs")
    parser.add_argument("programs", nargs="*", help="names without .py; else all")
    parser.add_argument("--results", type=Path, default=Path("documented-images.json"), metavar="FILE")
    parser.add_argument("--again", action="store_true", help="build what the results have already")
    parser.add_argument("--bare", action="store_true", help="without stand-ins")
    parser.add_argument("--leave-out", default="", metavar="REGEX", help="on an image's recipe: do not try it")
    parser.add_argument("--keep", default="4GB", metavar="SIZE", help="of layers and caches between programs")
    parser.add_argument("--timeout", type=float, default=1500.0, metavar="SECONDS", help="for each program")
    options = parser.parse_intermixed_args()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # so that nothing stays behind
    names = options.programs or sorted(path.stem for path in options.directory.glob("*.py"))
    results: dict[str, Result] = json.loads(options.results.read_text()) if options.results.exists() else {}
    wanted = [name for name in names if options.again or name not in results or not is_whole(results[name])]
    with tempfile.TemporaryDirectory(prefix="intermodal-documented-") as folder:
        constraints = Path(folder) / "constraints.txt"
        own = Path(os.environ.get("PIP_CONSTRAINT", "/etc/xdg/pip/constraints.txt"))
        constraints.write_text((own.read_text() if own.exists() else "") + CONSTRAINTS)
        with contextlib.ExitStack() as stack:
            settings = {"PIP_CONSTRAINT": str(constraints)}
            if not options.bare:
                settings |= stack.enter_context(StandIns(Path(folder) / "site")).settings
            with Site(Path(folder) / "home", settings, options.keep) as site:
                for name in wanted:
                    program = options.directory / f"{name}.py"
                    result = results[name] = site.build(program, options.leave_out, options.timeout)
                    show(result)
                    options.results.write_text(json.dumps(results, indent=1))
                    site.make_room()
    print(summary(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
