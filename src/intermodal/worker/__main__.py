"""`python -m intermodal.worker [--server ADDRESS] [--clean]`: the worker process of this machine."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys

from intermodal import processes
from intermodal.home import Home

EXIT_BUSY = 75  # another worker serves this state directory
EXIT_SETTINGS = 78  # a setting of the operator is wrong; stderr says which


def main() -> int:
    parser = argparse.ArgumentParser(prog="intermodal.worker")
    parser.add_argument("--server", default="", help="address of the server; the one of the state directory if absent")
    parser.add_argument("--clean", action="store_true", help="remove what dead workers left behind, and exit")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    processes.leave_no_core()
    home = Home()
    home.path.mkdir(parents=True, exist_ok=True)
    lock = os.open(home.worker_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write(f"another worker serves {home.path}\n")
        return EXIT_BUSY
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())

    # Before any thread exists: the mounts of containers live in a namespace of this process.
    from intermodal.worker.containers.private_mounts import enter_private_mounts

    enter_private_mounts()
    from intermodal.worker import site

    try:
        site.check()
    except site.SiteError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_SETTINGS
    import uvloop

    uvloop.run(_clean(home) if options.clean else _serve(home, options.server or home.address))
    return 0


async def _serve(home: Home, server: str) -> None:
    from intermodal.worker.agent import Agent, hello

    agent = Agent(home, server, hello())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    await agent.run()


async def _clean(home: Home) -> None:
    from intermodal.worker.containers.containers import Containers

    containers = Containers(home)
    await containers.open()
    for running in await containers.adopt():
        await running.kill()
        await running.close()
    await containers.close()


if __name__ == "__main__":
    sys.exit(main())
