"""Recipes become images, in real containers."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from intermodal.files import Files
from intermodal.home import Home
from intermodal.worker.containers.containers import Containers
from intermodal.worker.devices.edits import Edits, Mount, Node
from intermodal.worker.images import BuildFailed, Images
from intermodal.worker.images import images as module
from intermodal.worker.images.interpreters import find
from intermodal.worker.images.trees import remove_tree
from modal._protocol.errors import Fault
from modal._protocol.messages.file import FileEntry
from modal._protocol.messages.image import BuildLog

from .conftest import BASE, Builder, run

pytestmark = pytest.mark.containers


async def test_steps_build_on_each_other(builder: Builder) -> None:
    output = await builder.output(
        {"kind": "env", "vars": {"COLOUR": "blue sky", "EMPTY": ""}},
        run("pwd", "echo one > /data && chmod 600 /data", "rm /etc/debian_version"),
        {"kind": "workdir", "path": "/srv/app"},
        run("pwd; cat /data; stat -c %a /data; echo $COLOUR; echo ${EMPTY-unset}; ls /etc/debian_version || true"),
        {"kind": "shell", "args": ["/bin/bash", "-c"]},
        run("echo ${BASH_VERSION:+bash}"),
    )
    assert output.splitlines() == [
        *("/", "/srv/app", "one", "600", "blue sky", ""),
        *("ls: cannot access '/etc/debian_version': No such file or directory", "bash"),
    ]
    assert builder.started[:3] == [
        "=> Step 0: FROM base",
        "=> Step 1: ENV COLOUR='blue sky' EMPTY=''",
        "=> Step 2: RUN pwd",
    ]


async def test_the_base_is_what_programs_expect(builder: Builder) -> None:
    config = await builder.build(
        run(
            "python -c 'import ssl, sqlite3, ctypes, venv, lzma; print(\"imports\")'",
            "for name in python python3 pip gcc; do command -v $name; done",
            "python -c 'import sys; print(sys.version_info[:2])'",
            "test -s /etc/ssl/certs/ca-certificates.crt && echo certificates",
            "echo $LANG; stat -c %a /tmp /root; test ! -e /.dockerenv",
            "pip --version | cut -d' ' -f1; ls /usr/local/lib/python3.11/site-packages | grep -c pip",
        )
    )
    lines = builder.printed.splitlines()
    assert lines[0] == "imports"
    assert lines[1:5] == ["/usr/local/bin/python", "/usr/local/bin/python3", "/usr/local/bin/pip", "/usr/bin/gcc"]
    assert lines[5:10] == ["(3, 11)", "certificates", "C.UTF-8", "1777", "700"]
    assert lines[10] == "pip"
    assert config.python == "/usr/local/bin/python"
    assert config.python_version.startswith("3.11.")
    assert config.env["GPG_KEY"]


async def test_what_a_container_needs_for_mounts_is_no_part_of_a_layer(builder: Builder) -> None:
    config = await builder.build(run("true"), {"kind": "pip_install", "packages": ["six"]})
    for layer in builder.images.layer_paths(config)[1:]:
        names = {str(path.relative_to(layer)) for path in layer.rglob("*")}
        assert not {name for name in names if name.startswith((".intermodal", "proc", "sys", "dev", "etc"))}


async def test_packages_are_installed_with_bytecode(builder: Builder) -> None:
    config = await builder.build(
        {"kind": "pip_install", "packages": ["six", "tabulate"]},
        {"kind": "pip_requirements", "requirements": "# comment\nidna==3.*\n"},
        {"kind": "pip_install", "packages": ["iniconfig"], "extra_options": "--no-deps --progress-bar off"},
        run("python -c 'import six, tabulate, idna, iniconfig; print(six.__file__)'; tabulate --help | head -n 1"),
    )
    assert "/usr/local/lib/python3.11/dist-packages/six.py\n" in builder.printed
    assert "Usage: tabulate" in builder.printed
    layer = builder.images.layer_paths(config)[1]
    assert list(layer.glob("usr/local/lib/python3.11/dist-packages/__pycache__/six*.pyc"))
    assert not (layer / "root").exists()  # no cache of downloads


async def test_a_package_that_does_not_exist_is_named(builder: Builder) -> None:
    with pytest.raises(BuildFailed) as caught:
        await builder.build({"kind": "pip_install", "packages": ["no-such-package-intermodal"]})
    assert caught.value.step == 1
    assert "no-such-package-intermodal" in caught.value.text
    assert "step 1 (RUN python -m pip install no-such-package-intermodal)" in caught.value.text


async def test_system_packages_are_installed_and_their_lists_left_out(builder: Builder) -> None:
    config = await builder.build({"kind": "apt_install", "packages": ["tree"]}, run("tree --version"))
    assert "tree v" in builder.printed
    layer = builder.images.layer_paths(config)[1]
    assert not list(layer.glob("var/lib/apt/lists/*"))
    assert not list(layer.glob("var/cache/apt/archives/*.deb"))
    assert list((builder.home.cache).glob("apt-*/cache/archives/tree_*.deb"))


async def test_a_failed_step_says_which_and_why_and_leaves_nothing(builder: Builder) -> None:
    with pytest.raises(BuildFailed) as caught:
        await builder.build(run("echo fine; echo trouble >&2; exit 7"))
    error = caught.value
    assert (error.step, error.command) == (1, "RUN echo fine; echo trouble >&2; exit 7")
    assert set(error.last_lines) == {"fine", "trouble"}
    assert "exit code 7" in error.text
    assert [name for name in builder.names("layers") if not name.endswith(".json")] == [".locks"]
    assert builder.names("containers") == []
    assert builder.images.config("im-1") is None


async def test_a_program_ended_by_a_signal_is_told(builder: Builder) -> None:
    with pytest.raises(BuildFailed, match=r"signal 9|SIGKILL"):
        await builder.build(run("sh -c 'kill -9 $$'; exit $?"))


async def test_an_unchanged_image_is_found_and_a_changed_one_built_from_where_it_changed(builder: Builder) -> None:
    first = await builder.build(run("cat /proc/sys/kernel/random/uuid > /a"), run("echo 1"))
    builder.entries.clear()
    assert await builder.images.build("im-1", [{"kind": "debian_slim", "python_version": "3.11"}], {}, print) == first
    second = await builder.build(run("cat /proc/sys/kernel/random/uuid > /a"), run("echo 2"))
    assert second.layers[:2] == first.layers[:2]
    assert second.layers[2] != first.layers[2]
    assert builder.printed == "2\n"


async def test_force_rebuilds_its_step_and_later_ones_for_everybody_after(builder: Builder) -> None:
    fresh = "cat /proc/sys/kernel/random/uuid"
    first = await builder.build(run("true"), run(f"{fresh} > /a"), run(f"{fresh} > /b"))
    forced = await builder.build(run("true"), run(f"{fresh} > /a", force=True), run(f"{fresh} > /b"))
    after = await builder.build(run("true"), run(f"{fresh} > /a"), run(f"{fresh} > /b"))
    assert forced.layers[:2] == first.layers[:2]
    assert not set(forced.layers[2:]) & set(first.layers[2:])
    assert after.layers == forced.layers
    assert all(path.is_dir() for path in builder.images.layer_paths(first))


async def test_images_that_ask_for_one_layer_at_once_share_its_build(builder: Builder) -> None:
    steps = [run("echo building; cat /proc/sys/kernel/random/uuid > /id; sleep 2")]
    before = builder.names("layers")
    configs = await asyncio.gather(*(builder.build(*steps) for _ in range(5)))
    assert len({tuple(config.layers) for config in configs}) == 1
    new = set(builder.names("layers")) - set(before)
    assert len([name for name in new if name.endswith(".json")]) == 1
    told = [entry.image_id for entry in builder.entries if entry.text == "building\n"]
    assert sorted(told) == [f"im-{number}" for number in range(1, 6)]


async def test_independent_images_build_at_the_same_time(builder: Builder) -> None:
    tasks = [asyncio.create_task(builder.build(run(f"echo {name}; exec sleep 1000"))) for name in ("one", "two")]
    while not {"one", "two"} <= set(builder.printed.split()):
        await asyncio.sleep(0.01)
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_cancelled_build_leaves_nothing_and_its_container_ends(builder: Builder) -> None:
    task = asyncio.create_task(builder.build(run("echo sleeping; exec sleep 1000")))
    while "sleeping" not in builder.printed:
        await asyncio.sleep(0.01)
    assert builder.names("containers")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert builder.names("containers") == []
    assert [name for name in builder.names("layers") if name.startswith(".new")] == []


async def test_secrets_reach_their_step_and_stay_nowhere(builder: Builder) -> None:
    builder.secrets = {"st-1": {"TOKEN": "sesame-open-4711"}}
    config = await builder.build(
        run("test ${#TOKEN} = 16 && echo given $TOKEN", secrets=["st-1"]), run("echo ${TOKEN-gone}")
    )
    assert builder.printed == "given ***\ngone\n"
    assert "TOKEN" not in config.env
    await builder.images.close()
    found = subprocess.run(
        ["grep", "-rl", "sesame-open-4711", str(builder.home.path)], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""


async def test_a_secret_that_is_not_there_is_named(builder: Builder) -> None:
    with pytest.raises(Fault, match="st-9"):
        await builder.build(run("true", secrets=["st-9"]))


async def test_files_are_copied_where_links_lead_and_directories_keep_their_modes(builder: Builder) -> None:
    content = b"#!/bin/sh\necho tool\n"
    digest = hashlib.sha256(content).hexdigest()
    Files(builder.home).put(digest, content)
    paths = ["/bin/tool", "/link/deep/tool", "/tmp/tool", "/root/pkg/tool"]
    await builder.images.mount("mo-1", [FileEntry(path, digest, len(content), 0o755) for path in paths])
    output = await builder.output(
        run("mkdir -p /real && ln -s real /link"),
        {"kind": "copy", "mount_id": "mo-1"},
        run("tool; /bin/ls -l /real/deep | wc -l; stat -c %a /tmp /root /root/pkg; readlink /bin /link"),
    )
    assert output.splitlines() == ["tool", "2", "1777", "700", "755", "usr/bin", "real"]


async def test_the_parts_of_a_large_set_are_kept_each_by_itself(builder: Builder) -> None:
    def entry(name: str, text: str) -> FileEntry:
        digest = hashlib.sha256(text.encode()).hexdigest()
        Files(builder.home).put(digest, text.encode())
        return FileEntry(f"/many/{name}", digest, len(text))

    for mount, name, text in (("mo-a", "a", "1"), ("mo-b", "b", "2"), ("mo-c", "c", "3"), ("mo-a2", "a", "4")):
        await builder.images.mount(mount, [entry(name, text)])
    first = await builder.build({"kind": "copy_parts", "mount_ids": ["mo-a", "mo-b", "mo-c"]})
    second = await builder.build({"kind": "copy_parts", "mount_ids": ["mo-a2", "mo-b", "mo-c"]}, run("cat /many/*"))
    assert builder.printed == "423\n"
    assert second.layers[-3:-1] == first.layers[-2:]
    assert second.layers[-4] != first.layers[-3]


async def test_files_that_were_never_uploaded(builder: Builder) -> None:
    with pytest.raises(BuildFailed, match="mo-none are not on this worker"):
        await builder.build({"kind": "copy", "mount_id": "mo-none"})


async def test_many_layers_are_merged_and_show_the_same(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LAYERS", 6)
    monkeypatch.setattr(module, "MERGED_AT_ONCE", 4)
    commands = [f"echo {n} > /f{n}; rm -f /f{n - 2}; rm -rf /d; mkdir /d; touch /d/{n}" for n in range(12)]
    config = await builder.build(run(*commands), run("ls -d /f*; ls /d"))
    assert builder.printed.split() == ["/f10", "/f11", "11"]
    assert len(config.layers) <= 6
    again = await builder.build(run(*commands), run("ls -d /f*; ls /d"))
    assert again.layers == config.layers


async def test_two_hundred_layers_start_like_one(builder: Builder) -> None:
    """More than an overlay mount should have, and far more than fit into its options by name."""
    copies = []
    for number in range(220):
        content = f"{number}\n".encode()
        digest = hashlib.sha256(content).hexdigest()
        Files(builder.home).put(digest, content)
        mount = f"mo-{number}"
        files = [FileEntry("/same", digest, len(content)), FileEntry(f"/many/f{number}", digest, len(content))]
        await builder.images.mount(mount, files)
        copies.append({"kind": "copy", "mount_id": mount})
    config = await builder.build(*copies, run("cat /same; ls /many | wc -l; cat /many/f0 /many/f219"))
    assert builder.printed.split() == ["219", "220", "0", "219"]
    assert len(config.layers) <= module.MOST_LAYERS


async def test_a_step_has_the_gpu_that_it_asks_for_and_others_have_none(builder: Builder, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"no GPU to lend \(H100\)"):
        await builder.build(run("true", gpu=["H100"]))
    (tmp_path / "libcuda.so.1").write_text("the driver")
    builder.lends.edits = Edits(
        nodes=[Node("/dev/full", "/dev/nvidia0")],
        mounts=[Mount(str(tmp_path / "libcuda.so.1"), "/usr/lib/libcuda.so.1")],
        env={"CUDA_VISIBLE_DEVICES": "0"},
    )
    builder.images.workshop.lends = builder.lends
    look = "echo $CUDA_VISIBLE_DEVICES; cat /usr/lib/libcuda.so.1; test -c /dev/nvidia0 && echo there"
    config = await builder.build(
        run(look, gpu=["H100:2", "A100"]), run("echo then; ! ls /dev/nvidia0 2>&1 | grep -v cannot")
    )
    assert builder.printed == "0\nthe driverthere\nthen\n"
    assert builder.lends.asked == [["H100:2", "A100"]]
    lines = "RUN echo device $CUDA_VISIBLE_DEVICES\nWORKDIR /made\n"
    await builder.build({"kind": "dockerfile_commands", "text": lines, "mount_ids": [], "gpu": ["T4"]})
    assert builder.printed.endswith("device 0\n")
    assert builder.lends.asked[1:] == [["T4"]]
    assert builder.lends.out == 0
    layer = builder.images.layer_paths(config)[1]
    assert [path.name for path in layer.rglob("*")] == []


async def test_a_lost_layer_is_built_again(builder: Builder) -> None:
    config = await builder.build(run("echo x > /x"))
    remove_tree(builder.images.layer_paths(config)[1])
    assert builder.images.config("im-1") is None
    again = await builder.build(run("echo x > /x"))
    assert (builder.images.layer_paths(again)[1] / "x").read_text() == "x\n"


async def test_a_damaged_layer_is_built_again(builder: Builder) -> None:
    steps = [run("echo one > /one"), run("echo two; cat /one > /two")]
    config = await builder.build(*steps)
    path = builder.images.layer_paths(config)[1] / "one"
    path.write_text("broken")
    again = Images(builder.home, builder.containers)  # the next process of the worker looks before it trusts
    entries: list[BuildLog] = []
    rebuilt = await again.build("im-again", [BASE, *steps, run("cat /two")], {}, entries.append)
    await again.close()
    assert rebuilt.layers[:3] == config.layers
    assert path.read_text() == "one\n"
    printed = "".join(entry.text for entry in entries if entry.kind == "output")
    assert printed == "what was kept of this step is damaged: it is built again\none\n"


async def test_the_operators_settings_reach_build_steps(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = builder.images.host()
    monkeypatch.setitem(settings.proxies, "no_proxy", "inside.example")
    steps = [{"kind": "env", "vars": {"FTP_PROXY": "image"}}, run("echo $no_proxy $FTP_PROXY")]
    monkeypatch.setitem(settings.proxies, "FTP_PROXY", "host")
    assert await builder.output(*steps) == "inside.example image\n"


async def test_a_full_disk_is_told_and_leaves_no_half_layer(tmp_path: Path) -> None:
    home = tmp_path / "small"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(home)], check=True)
    try:
        from tests.images_cache import lend_base

        await lend_base(Home(home))
        containers = Containers(Home(home))
        await containers.open()
        images = Images(Home(home), containers)
        await images.open()
        recipe = [{"kind": "debian_slim", "python_version": "3.11"}, run("head -c 64M /dev/zero > /big")]
        with pytest.raises(BuildFailed, match="no space is left on the disk"):
            await images.build("im-1", recipe, {}, lambda _entry: None)
        assert not list(Home(home).layers.glob(".new*"))
        await images.close()
        await containers.close()
    finally:
        subprocess.run(["umount", str(home)], check=True)


async def test_a_killed_worker_leaves_half_a_layer_that_the_next_one_removes(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    from tests.images_cache import lend_base

    await lend_base(home)
    program = f"""
import asyncio
from intermodal.home import Home
from intermodal.worker.containers.containers import Containers
from intermodal.worker.images import Images
async def main():
    home = Home({str(home.path)!r})
    containers = Containers(home)
    await containers.open()
    images = Images(home, containers)
    await images.open()
    recipe = [dict(kind="debian_slim", python_version="3.11"), dict(kind="run", commands=["echo here; sleep 1000"])]
    await images.build("im-1", recipe, {{}}, lambda entry: print(entry.text, flush=True))
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process:
        while process.stdout.readline() != "here\n":
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    assert list(home.layers.glob(".new*"))
    containers = Containers(home)
    await containers.open()
    images = Images(home, containers)
    await images.open()
    assert not list(home.layers.glob(".new*"))
    assert not list(home.containers.iterdir())
    recipe = [{"kind": "debian_slim", "python_version": "3.11"}, run("echo here")]
    assert len((await images.build("im-1", recipe, {}, lambda _entry: None)).layers) == 2
    await images.close()
    await containers.close()


@pytest.mark.skipif(find("3.12") is None, reason="this machine has no Python 3.12 (uv python install 3.12)")
async def test_a_python_of_this_machine_serves_where_debian_has_none(builder: Builder) -> None:
    base = {"kind": "debian_slim", "python_version": "3.12"}
    config = await builder.build(
        {"kind": "pip_install", "packages": ["six"]},
        run("python -c 'import six, sys; print(sys.version_info[:2], sys.prefix, six.__file__)'; pip --version"),
        base=base,
    )
    assert "(3, 12) /usr/local /usr/local/lib/python3.12/site-packages/six.py\n" in builder.printed
    assert "(python 3.12)" in builder.printed
    assert config.python_version.startswith("3.12.")
    lib = builder.images.platform()[0].source
    assert list(lib.glob("modal/__pycache__/__init__.cpython-312.pyc"))
    assert list(lib.glob("modal/__pycache__/__init__.cpython-311.pyc"))
