"""A machine beyond this one: a network namespace, routed and not bridged, in which a program of a test serves."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def machine(program: str, network: str) -> Iterator[str]:
    """The address of a machine that runs a Python program, which prints "ready" when it serves.

    `network` is the first three numbers of an address range for documentation: `198.51.100`.
    """
    name = f"t{os.getpid() % 100000}"
    first = os.getpid() % 60 * 4  # others may run the same test on this machine
    here, there = f"{network}.{first + 1}", f"{network}.{first + 2}"
    process = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", "input()\n" + program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    inside = ["nsenter", "-t", str(process.pid), "-n", "ip"]
    try:
        while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            pass
        for command in (
            ["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid)],
            ["ip", "addr", "add", f"{here}/30", "dev", name],
            ["ip", "link", "set", name, "up"],
            [*inside, "addr", "add", f"{there}/30", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "up"],
        ):
            subprocess.run(command, check=True)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        yield there
    finally:
        process.kill()
        process.communicate()
        subprocess.run(["ip", "link", "del", name], check=False, stderr=subprocess.DEVNULL)
