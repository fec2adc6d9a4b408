"""Builds one image, and prints the seconds that this took: build.py STEPS [--twice]. STEPS is JSON.

The clock starts when the process does: a build pays for the start of its client, as a peer's command does.
"""

import json
import sys
import time

import modal


def image_of(steps: "list[list[str]]") -> modal.Image:
    image = modal.Image.debian_slim("3.11")
    for kind, *words in steps:
        if kind == "env":
            image = image.env({words[0]: words[1]})
        elif kind == "workdir":
            image = image.workdir(words[0])
        elif kind == "pip":
            image = image.pip_install(*words)
        elif kind == "copy":
            image = image.add_local_dir(words[0], words[1], copy=True)
        else:
            image = image.run_commands(words[0])
    return image


def main() -> None:
    steps = json.loads(sys.argv[1])
    image_of(steps).hydrate()
    if "--twice" in sys.argv:
        began = time.perf_counter()
        image_of(steps).hydrate()
        print(time.perf_counter() - began)


main()
