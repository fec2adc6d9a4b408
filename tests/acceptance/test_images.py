"""Images as the guide has them, through the real command line: local files, functions as steps, caching, faults."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform, ProgramFinder, Ran

pytestmark = pytest.mark.acceptance


def run(platform: Platform, path: Path, source: str, **env: str) -> Ran:
    path.write_text(source)
    return platform.modal("run", path, cwd=path.parent, env=env)


def ids(ran: Ran) -> list[str]:
    return re.findall(r"Building image (im-\w+)", ran.text)


def test_a_local_module(platform: Platform, program: ProgramFinder) -> None:
    path = program("guide/images__1")
    (path.parent / "my_local_module.py").write_text("def do_stuff():\n    print('did stuff')\n")
    ran = platform.modal("run", path, cwd=path.parent)
    assert ran.code == 0, ran.text
    assert ran.lines() == ["did stuff"]


FILES = """
import modal
from pathlib import Path
here = Path(__file__).parent
image = (
    modal.Image.debian_slim()
    .add_local_dir(here / "assets", "/assets", copy=True, ignore=["**/*.tmp", "!keep.tmp"])
    .run_commands("cat /assets/one.txt > /seen && ls -A /assets > /listed")
    .add_local_file(here / "assets/one.txt", "/late/")
    .add_local_dir(here / "assets", "/python", ignore=~modal.FilePatternMatcher("**/*.py"))
    .add_local_dir(here / "assets", "/chosen", ignore=lambda path: path.is_relative_to("sub"))
)
app = modal.App("files", image=image)

@app.function()
def f():
    import os
    def tree(top):
        return sorted(os.path.relpath(os.path.join(at, name), top) for at, _, names in os.walk(top) for name in names)
    print(open("/seen").read().strip(), open("/listed").read().split(), os.listdir("/late"))
    print(tree("/assets"), tree("/python"), tree("/chosen"))

@app.local_entrypoint()
def main():
    f.remote()
"""


def test_local_files_in_layers_and_at_start(platform: Platform, tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    (assets / "sub").mkdir(parents=True)
    for name in ("one.txt", "keep.tmp", "drop.tmp", "sub/deep.tmp", "sub/code.py"):
        (assets / name).write_text(name)
    (assets / "loop").symlink_to(assets)  # it leads in circles: it is not followed for ever
    ran = run(platform, tmp_path / "files.py", FILES)
    assert ran.code == 0, ran.text
    first, second = ran.lines()[-2:]
    assert first == "one.txt ['keep.tmp', 'one.txt', 'sub'] ['one.txt']"
    assert second == ("['keep.tmp', 'one.txt', 'sub/code.py'] ['sub/code.py'] ['drop.tmp', 'keep.tmp', 'one.txt']")
    (assets / "one.txt").write_text("changed")
    ran = run(platform, tmp_path / "files.py", FILES)
    assert ran.lines()[-2].startswith("changed ")


STEPS = """
import modal

VALUE = "%(value)s"
volume = modal.Volume.from_name("build-%(name)s", create_if_missing=True)

def prepare(target, *, times=1):
    import os
    print("preparing", VALUE, os.getcwd(), os.environ["TOKEN"], modal.is_local())
    open(target, "w").write(VALUE * times)
    open("/cache/weights", "a").write("w")
    volume.commit()

def unrelated():
    return %(unrelated)s

image = (
    modal.Image.debian_slim()
    .run_function(prepare, args=["/made"], kwargs={"times": 2}, volumes={"/cache": volume},
                  secrets=[modal.Secret.from_dict({"TOKEN": "a-build-secret"})])
    .run_commands("cat /made")
)
app = modal.App("steps", image=image)
with image.imports():
    import no_such_package_in_the_image_either_%(missing)s  # noqa

@app.function(volumes={"/volume": volume})
def f():
    print(open("/made").read(), open("/volume/weights").read())

@app.local_entrypoint()
def main():
    f.remote()
"""


def test_a_function_as_a_step_runs_again_by_the_documented_rules(platform: Platform, tmp_path: Path) -> None:
    path, name = tmp_path / "steps.py", f"{random.getrandbits(32):x}"
    source = STEPS.replace("no_such_package_in_the_image_either_%(missing)s", "json")
    given = {"value": "ab", "name": name, "unrelated": "1"}
    ran = run(platform, path, source % given)
    assert ran.code == 0, ran.text
    assert "preparing ab /root *** False" in ran.out
    assert ran.lines()[-1] == "abab w"
    [image_id] = ids(ran)
    log = platform.intermodal("images", "logs", image_id)
    assert "=> Step 1: RUN python -c 'run_function(prepare)'\npreparing ab" in log.out
    assert "a-build-secret" not in log.out + ran.text
    again = run(platform, path, source % {**given, "unrelated": "2"})
    assert "preparing" not in again.out and again.lines() == ["abab w"]
    changed = run(platform, path, source % {**given, "value": "cd"})
    assert changed.lines()[-1] == "cdcd ww"
    missing = run(platform, path, STEPS % {**given, "value": "cd", "missing": "x"})
    assert missing.code != 0
    assert "No module named 'no_such_package_in_the_image_either_x'" in missing.text


CACHED = """
import modal
image = modal.Image.debian_slim().run_commands("echo first-%(tag)s").run_commands("echo second"%(force)s)
app = modal.App("cached", image=image)

@app.function()
def f():
    print("ran")

@app.local_entrypoint()
def main():
    f.remote()
    built = modal.Image.from_id(image.object_id)
    print(built.run_commands("true").hydrate().object_id != image.object_id)
"""


def test_what_is_unchanged_is_not_built_again_unless_it_is_forced(platform: Platform, tmp_path: Path) -> None:
    path, tag = tmp_path / "cached.py", f"{random.getrandbits(32):x}"
    plain = CACHED % {"tag": tag, "force": ""}
    first = run(platform, path, plain)
    assert (first.code, first.lines()) == (0, [f"first-{tag}", "second", "ran", "True"]), first.text
    assert run(platform, path, plain).lines() == ["ran", "True"]
    forced = CACHED % {"tag": tag, "force": ", force_build=True"}
    assert run(platform, path, forced).lines() == ["second", "ran", "True"]
    assert run(platform, path, plain, MODAL_FORCE_BUILD="1").lines()[:3] == [f"first-{tag}", "second", "ran"]
    assert run(platform, path, plain, MODAL_IGNORE_CACHE="1").lines()[:3] == [f"first-{tag}", "second", "ran"]
    assert run(platform, path, plain).lines() == ["ran", "True"]


WEB = """
import modal
app = modal.App("bare-or-not")

@app.function()
def f():
    import importlib.util, shutil
    print([bool(importlib.util.find_spec(name)) for name in ("fastapi", "aiohttp")], bool(shutil.which("uv")))
"""


def test_the_builder_version_decides_what_bases_carry(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "web.py"
    assert run(platform, path, WEB).lines() == ["[True, True] True"]
    bare = run(platform, path, WEB, MODAL_IMAGE_BUILDER_VERSION="2026.11-bare")
    assert bare.lines() == ["[False, False] False"]
    unknown = run(platform, path, WEB, MODAL_IMAGE_BUILDER_VERSION="1999.01")
    assert unknown.code != 0
    assert "there is no image builder version '1999.01' here" in unknown.text
    shown = platform.intermodal("images", "builder").out
    assert re.search(r"^\* 2026\.11 ", shown, re.M)


def test_images_are_listed_and_those_in_use_stay(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "web.py"
    path.write_text(WEB)
    assert platform.modal("deploy", path).code == 0
    listed = json.loads(platform.intermodal("images", "list", "--json").out)
    assert all(image["size"] >= image["own_size"] >= 0 for image in listed)
    used = {image["image_id"] for image in listed if image["in_use"]}
    assert used
    assert "Deleted 0 images" in platform.intermodal("images", "prune", "-y", "--keep-size", "500GB").out
    assert "is no size" in platform.intermodal("images", "prune", "-y", "--keep-size", "much").err
    assert "0 damaged" in platform.intermodal("images", "verify").out
    assert platform.modal("app", "stop", "bare-or-not").code == 0


FAILS = """
import modal
image = modal.Image.debian_slim().env({"A": "1"}).run_commands("echo fine", "echo not so good; ls /not-there; exit 7")
app = modal.App("fails", image=image)

@app.function()
def f():
    pass
"""


def test_a_failing_step_shows_its_number_and_its_last_lines(platform: Platform, tmp_path: Path) -> None:
    ran = run(platform, tmp_path / "fails.py", FAILS)
    assert ran.code != 0
    assert "image build failed at step 3 (RUN echo not so good; ls /not-there; exit 7)" in ran.text
    assert "the command ended with exit code 7" in ran.text
    assert "cannot access '/not-there'" in ran.text
    [image_id] = ids(ran)
    assert "exit code 7" in platform.intermodal("images", "logs", image_id).out


SLOW_BUILD = """
import modal
image = modal.Image.debian_slim()
for number in range(6):
    image = image.run_commands(f"mkdir -p /made/{number} && seq {number} 20000 > /made/{number}/numbers && "
                               f"ls /made | wc -l > /made/{number}/count", force_build=(number == %d))
app = modal.App("slow-build", image=image)

@app.function()
def f():
    for number in range(6):
        lines = open(f"/made/{number}/numbers").read().split()
        assert lines == [str(n) for n in range(number, 20001)], number
        assert int(open(f"/made/{number}/count").read()) == number + 1
    print("whole")
"""


def test_builds_that_are_killed_at_any_moment_leave_no_half_layer(own_platform: Platform, tmp_path: Path) -> None:
    """Client, worker and server die in turn while six layers are built; what remains can always be built upon."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = tmp_path / "slow_build.py"
    rounds = int(os.environ.get("INTERMODAL_TEST_SOAK", "0")) or 4
    for number in range(rounds):
        assert own_platform.intermodal("up").code == 0
        path.write_text(SLOW_BUILD % chance.randrange(6))
        process = own_platform.start("modal", "run", path)
        victim = ("worker", "server", "client")[number % 3]
        status = own_platform.status()
        pid = {"client": process.pid, "server": status["pid"], "worker": status["workers"][0]["pid"]}[victim]
        time.sleep(chance.uniform(0.3, 1.3))  # the moment is what is tried
        os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=200)
        if victim != "client":
            assert process.returncode == 0, out + err
    assert own_platform.intermodal("up").code == 0
    path.write_text(SLOW_BUILD % 99)
    ran = own_platform.modal("run", path)
    assert (ran.code, ran.lines()[-1:]) == (0, ["whole"]), ran.text
    assert "0 damaged" in own_platform.intermodal("images", "verify").out
    assert own_platform.intermodal("down").code == 0
    left = [one.name for one in (own_platform.home / "layers").iterdir() if one.name.startswith(".new-")]
    assert left == [], (own_platform.home / "worker.log").read_text()[-5000:]


HELPER = """
import modal
app = modal.App("%(name)s-app")

@app.function()
def double(x):
    return 2 * x
"""

REACHING = """
import io, os, modal
volume = modal.Volume.from_name("%(name)s-volume", create_if_missing=True)

def build(word, times=1):
    open("/data/first", "w").write(word)
    volume.commit()
    print("listed", [entry.path for entry in volume.listdir("/")])
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"from outside"), "second")
    volume.reload()
    print("reloaded", open("/data/second").read())
    modal.Dict.from_name("%(name)s-dict", create_if_missing=True)["large"] = word * times + "x" * 600_000
    modal.Queue.from_name("%(name)s-queue", create_if_missing=True).put({"token": os.environ["TOKEN"]})
    print("doubled", modal.Function.from_name("%(name)s-app", "double").remote(21))
    print("device", os.environ["NVIDIA_VISIBLE_DEVICES"], os.environ["MODAL_ENVIRONMENT"])
    open("/data/third", "w").write("not committed by hand")
    if word == "fails":
        raise RuntimeError("after all that work")

image = modal.Image.debian_slim().run_function(
    build, args=("%(word)s",), kwargs={"times": 3}, volumes={"/data": volume}, gpu="T4", cpu=1.0, memory=512,
    secrets=[modal.Secret.from_dict({"TOKEN": "a-token-of-the-build"})], cloud="aws", region="us-east",
)
app = modal.App("reaching", image=image)

@app.function(volumes={"/data": volume})
def f():
    print("kept", open("/data/third").read())

@app.local_entrypoint()
def main():
    f.remote()
    print("queued", modal.Queue.from_name("%(name)s-queue").get())
    print("stored", modal.Dict.from_name("%(name)s-dict")["large"][:8])
"""


def test_a_function_as_a_step_reaches_the_platform(platform: Platform, tmp_path: Path) -> None:
    name = f"build-{random.getrandbits(32):x}"
    helper = tmp_path / "helper.py"
    helper.write_text(HELPER % {"name": name})
    assert platform.modal("deploy", helper).code == 0
    failed = run(platform, tmp_path / "reaching.py", REACHING % {"name": name, "word": "fails"})
    assert failed.code != 0
    assert "RuntimeError: after all that work" in failed.text
    # What it had written is not lost.
    listed = platform.modal("volume", "ls", f"{name}-volume")
    assert all(file in listed.out for file in ("first", "second", "third")), listed.text
    ran = run(platform, tmp_path / "reaching.py", REACHING % {"name": name, "word": "ab"})
    assert ran.code == 0, ran.text
    for line in (
        "this step has 1 x T4, simulated: no device",
        "reloaded from outside",
        "doubled 42",
        "device void main",
        "kept not committed by hand",
        "queued {'token': 'a-token-of-the-build'}",
        "stored abababxx",
    ):
        assert line in ran.out, ran.text
    assert platform.modal("app", "stop", f"{name}-app").code == 0


def test_a_step_whose_gpu_no_machine_has_says_so(platform: Platform, tmp_path: Path) -> None:
    source = "import modal\nmodal.Image.debian_slim().run_commands('true', gpu='B200').hydrate()\n"
    ran = run(platform, tmp_path / "no_gpu.py", source)
    assert ran.code != 0
    assert "this step asks for gpu='B200', and the machine has" in ran.text
    assert 'INTERMODAL_SIMULATED_GPUS="B200"' in ran.text


WHO = """
import os, modal
image = (
    modal.Image.debian_slim()
    .dockerfile_commands("RUN useradd -m -d /srv/app app", "USER app", "RUN id -un > /srv/app/file")
    .dockerfile_commands("RUN id -un > /srv/app/later")
    .run_commands("id -un > /step")
)
app = modal.App("who", image=image)

@app.function()
def f():
    files = ("/srv/app/file", "/srv/app/later", "/step")
    print(os.getuid(), os.environ["HOME"], *(open(path).read().strip() for path in files))

@app.local_entrypoint()
def main():
    f.remote()
"""


def test_user_holds_for_the_lines_of_dockerfiles_and_functions_are_root(platform: Platform, tmp_path: Path) -> None:
    ran = run(platform, tmp_path / "who.py", WHO)
    assert ran.code == 0, ran.text
    assert ran.lines()[-1] == "0 /root app app root"


def test_an_image_that_its_own_build_asks_for_is_refused(platform: Platform, tmp_path: Path) -> None:
    source = "import modal\ndef step(): pass\nimage = modal.Image.debian_slim().run_function(step)\nimage.hydrate()\n"
    path = tmp_path / "itself.py"
    path.write_text(source)
    ran = platform.modal("run", path)
    assert ran.code != 0
    assert "cannot have an image built" in ran.text
