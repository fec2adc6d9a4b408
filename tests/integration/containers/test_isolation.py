"""What a container sees and may do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from intermodal.worker.containers import Bind, Limits

pytestmark = pytest.mark.containers


async def test_it_has_its_own_processes_and_name(python):
    ran = await python(
        "import os, socket\n"
        "print(os.getpid(), socket.gethostname(), sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))",
        hostname="here",
    )
    assert (ran.exit.code, ran.out.strip(), ran.err) == (0, "1 here [1]", "")


async def test_every_namespace_is_its_own(python):
    kinds = ["pid", "mnt", "uts", "ipc", "net", "cgroup"]
    ran = await python(f"import os\nprint(*[os.readlink('/proc/self/ns/' + kind) for kind in {kinds}])")
    inside = ran.out.split()
    assert len(inside) == len(kinds)
    assert not set(inside) & {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}


async def test_few_capabilities_and_no_way_to_new_ones(python):
    ran = await python("print(open('/proc/self/status').read())")
    status = dict(re.findall(r"^(\w+):\s+(\S+)", ran.out, re.MULTILINE))
    allowed = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 29, 31))
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[kind], 16) & ~allowed == 0, kind
    assert int(status["CapEff"], 16)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


REFUSED_CALLS = """
import ctypes, errno, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    return "ok" if libc.syscall(*arguments) >= 0 else errno.errorcode[ctypes.get_errno()]
numbers = {
    "x86_64": dict(unshare=272, mount=165, keyctl=250, bpf=321, io_uring_setup=425, clone=56, clone3=435, unknown=999),
    "aarch64": dict(unshare=97, mount=40, keyctl=219, bpf=280, io_uring_setup=425, clone=220, clone3=435, unknown=999),
}[platform.machine()]
for name, number in numbers.items():
    arguments = {"unshare": (1 << 28,), "mount": (b"x", b"/mnt", b"tmpfs", 0, 0), "clone": (1 << 28 | 17, 0, 0, 0, 0)}
    print(name, call(number, *arguments.get(name, (0, 0, 0, 0, 0))))
for family in (38, 40):
    try:
        socket.socket(family, socket.SOCK_STREAM)
        print(family, "ok")
    except OSError as error:
        print(family, "refused")
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()
"""


async def test_dangerous_system_calls_are_refused(python):
    ran = await python(REFUSED_CALLS)
    assert ran.exit.code == 0, ran.err
    answers = dict(line.split() for line in ran.out.splitlines())
    assert answers == {
        "unshare": "EPERM",
        "mount": "EPERM",
        "keyctl": "EPERM",
        "bpf": "EPERM",
        "io_uring_setup": "EPERM",
        "clone": "ENOSYS",
        "clone3": "ENOSYS",
        "unknown": "ENOSYS",
        "38": "refused",
        "40": "refused",
    }


async def test_ordinary_programs_work(python):
    ran = await python(
        "import asyncio, multiprocessing, os, subprocess, tempfile, threading, socket\n"
        "assert subprocess.run(['echo', 'x'], capture_output=True).stdout == b'x\\n'\n"
        "with multiprocessing.Pool(2) as pool: assert pool.map(abs, [-1, 2]) == [1, 2]\n"
        "open('/tmp/a', 'w').write('x'); open('/dev/shm/b', 'w').write('y'); open('/root/c', 'w').write('z')\n"
        "os.chown('/tmp/a', 1000, 1000); tempfile.TemporaryDirectory().cleanup()\n"
        "for name in ('null', 'zero', 'random', 'urandom', 'full', 'tty', 'ptmx'): os.stat('/dev/' + name)\n"
        "import pty; a, b = pty.openpty()\n"
        "print(open('/dev/urandom', 'rb').read(4) != b'', os.getcwd(), flush=True)\n"
        "if os.fork() == 0:\n"
        "    os.setgid(1000); os.setuid(1000); open('/dev/stdout', 'w').write('as user\\n'); os._exit(0)\n"
        "os.wait()\n"
    )
    assert (ran.exit.code, ran.out, ran.err) == (0, "True /root\nas user\n", "")


async def test_the_machine_is_not_to_be_changed(python):
    ran = await python(
        "import os\n"
        "def tries(action):\n"
        "    try: action(); return 'done'\n"
        "    except OSError as error: return error.strerror\n"
        "print(tries(lambda: open('/proc/sys/kernel/hostname', 'w')))\n"
        "print(tries(lambda: open('/proc/sysrq-trigger', 'w')))\n"
        "print(tries(lambda: os.mkdir('/sys/fs/cgroup/x')))\n"
        "print(tries(lambda: os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0))))\n"
        "print(open('/proc/keys').read() if os.path.exists('/proc/keys') else '')\n"
    )
    lines = ran.out.splitlines()
    assert lines[0] == "Read-only file system"
    assert lines[1] in ("Read-only file system", "No such file or directory")
    assert lines[2] in ("Read-only file system", "No such file or directory")
    assert lines[3] == "Operation not permitted"
    assert not "".join(lines[4:])


async def test_what_it_writes_stays_its_own(run, tmp_path: Path):
    name = f"intermodal-{tmp_path.name}"
    ran = await run("sh", "-c", f"touch /srv/{name} /root/{name} && ls /srv/{name}")
    assert ran.exit.code == 0, ran.err
    assert not Path(f"/srv/{name}").exists()
    ran = await run("ls", f"/srv/{name}")
    assert ran.exit.code != 0


async def test_binds(run, tmp_path: Path):
    source = tmp_path / "data"
    source.mkdir()
    (source / "a").write_text("from outside")
    binds = [Bind(source, "/.intermodal/in"), Bind(source, "/.intermodal/out", read_only=False)]
    ran = await run(
        "sh", "-c", "cat /.intermodal/in/a; touch /.intermodal/in/b; echo inside >/.intermodal/out/c", binds=binds
    )
    assert ran.out == "from outside"
    assert "Read-only" in ran.err
    assert (source / "c").read_text() == "inside\n"
    assert not (source / "b").exists()


async def test_environment_directory_and_arguments(python):
    ran = await python(
        "import os; print(os.environ['GREETING'], os.environ['HOME'], os.getcwd())",
        env={"GREETING": "hej då"},
        cwd="/srv/new/place",
    )
    assert ran.out.strip() == "hej då /root /srv/new/place"


async def test_layers_lie_on_each_other_and_the_upper_directory_can_be_kept(run, tmp_path: Path, small_disk):
    layers = [Path("/")]
    for number in range(60):
        # On another file system: overlay refuses layers that contain each other.
        layer = small_disk / ("a-layer-with-a-name-as-long-as-a-digest-" + "x" * 40 + str(number))
        (layer / "srv").mkdir(parents=True)
        (layer / "srv" / "which").write_text(str(number))
        (layer / "srv" / f"of-{number}").write_text("")
        layers.append(layer)
    upper = tmp_path / "home" / "kept"
    upper.parent.mkdir(exist_ok=True)
    ran = await run(
        "sh", "-c", "cat /srv/which; ls /srv | wc -l; echo new >/srv/new; rm /srv/of-3", layers=layers, upper=upper
    )
    assert ran.out == "5961\n", ran.err
    assert (upper / "srv" / "new").read_text() == "new\n"
    assert (upper / "srv" / "of-3").is_char_device()


async def test_limits_of_files_and_core_dumps(python):
    ran = await python(
        "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE)[0] >= 1024, r.getrlimit(r.RLIMIT_CORE))",
        limits=Limits(memory=128),
    )
    assert ran.out.strip() == "True (0, 0)"
