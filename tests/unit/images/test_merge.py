"""Merging layers, and looking at a stack of them, must show what overlayfs shows."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from pathlib import Path

import pytest

from intermodal.worker.images.merge import merge
from intermodal.worker.images.view import View

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts are device files: only root makes them")


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, 0)


def opaque(path: Path) -> None:
    os.setxattr(path, "trusted.overlay.opaque", b"y")


def tree(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        kind = "dir" if stat.S_ISDIR(mode) else os.readlink(path) if path.is_symlink() else path.read_text()
        found[str(path.relative_to(root))] = f"{mode:o} {kind}"
    return found


def shown(layers: list[Path], script: str) -> str:
    """What a command prints in the overlay mount of the layers (lowest first), mounted in a namespace of its own."""
    names = ":".join(str(layer) for layer in reversed(layers))
    command = f'mount -t overlay overlay -o lowerdir={names} "$0" && cd "$0" && {script}'
    target = layers[0].parent / "shown"
    target.mkdir(exist_ok=True)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", command, str(target)], capture_output=True, text=True, check=True
    )
    return done.stdout


LIST = "find . -printf '%P %y %m %s %l\\n' | sort"


def grow(root: Path, random: random.Random, below: list[Path]) -> None:
    """Change a mounted view as a build step would: in an overlay of its own, whose upper directory is the layer."""
    steps = []
    names = ["a", "b", "c", "a/x", "a/y", "b/x", "b/y/z", "c/d/e"]
    for _ in range(6):
        name = random.choice(names)
        steps.append(
            random.choice(
                [
                    f"rm -rf {name}",
                    f"rm -rf {name}; mkdir -p {name}",
                    f"mkdir -p {name} 2>/dev/null || true",
                    f"mkdir -p $(dirname {name}) 2>/dev/null && echo {random.random()} > {name} 2>/dev/null || true",
                    f"rm -rf {name}; mkdir -p $(dirname {name}) 2>/dev/null && ln -s target {name} || true",
                    f"chmod 700 {name} 2>/dev/null || true",
                ]
            )
        )
    upper, work, target = root / "upper", root / "work", root / "mounted"
    for path in (upper, work, target):
        path.mkdir(parents=True)
    names_below = ":".join(str(layer) for layer in reversed(below))
    options = f"lowerdir={names_below},upperdir={upper},workdir={work}"
    script = f'mount -t overlay overlay -o {options} "$0" && cd "$0" || exit 9\n' + "\n".join([*steps, "true"])
    subprocess.run(["unshare", "--mount", "sh", "-c", script, str(target)], check=True, capture_output=True, cwd=target)


@pytest.mark.parametrize("seed", range(8))
def test_the_merged_layer_shows_what_the_stack_showed(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    base = tmp_path / "base"
    (base / "a/x").mkdir(parents=True)
    (base / "b").mkdir()
    (base / "b/y").write_text("1")
    (base / "c").write_text("2")
    layers = [base]
    for number in range(5):
        grow(tmp_path / f"layer{number}", chance, layers)
        layers.append(tmp_path / f"layer{number}/upper")
    target = tmp_path / "merged"
    target.mkdir()
    merge(layers[1:5], target)
    assert shown([base, target, layers[5]], LIST) == shown(layers, LIST)

    listing = shown(layers, "find . -mindepth 1 -printf '%P\\n'").splitlines()
    view = View(layers)
    for name in listing:
        assert view.lookup(name) is not None, name
    for name in ("a", "b", "c", "a/x", "a/y", "b/x", "b/y", "b/y/z", "c/d", "c/d/e"):
        assert (view.lookup(name) is not None) == (name in listing), name


def test_whiteouts_and_opaque_directories_stay_for_the_layers_below(tmp_path: Path) -> None:
    one, two, target = tmp_path / "1", tmp_path / "2", tmp_path / "m"
    for path in (one, two, target):
        path.mkdir()
    whiteout(one / "gone")
    (one / "dir").mkdir()
    opaque(one / "dir")
    (two / "dir").mkdir()
    (two / "dir/new").write_text("n")
    merge([one, two], target)
    assert stat.S_ISCHR((target / "gone").lstat().st_mode)
    assert os.getxattr(target / "dir", "trusted.overlay.opaque") == b"y"
    assert (target / "dir/new").stat().st_nlink == 2


def test_links_are_followed_within_the_image(tmp_path: Path) -> None:
    base, upper = tmp_path / "1", tmp_path / "2"
    (base / "usr/bin").mkdir(parents=True)
    upper.mkdir()
    (base / "bin").symlink_to("usr/bin")
    (base / "abs").symlink_to("/usr/../usr/bin")
    (base / "loop").symlink_to("loop")
    view = View([base, upper])
    assert view.resolve("bin/x") == "usr/bin/x"
    assert view.resolve("abs") == "usr/bin"
    assert view.resolve("new/place") == "new/place"
    assert view.resolve("../../etc") == "etc"
    with pytest.raises(OSError, match="too many"):
        view.resolve("loop/x")
