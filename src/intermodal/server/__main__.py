"""`python -m intermodal.server`: the server process of one state directory."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from intermodal import processes
from intermodal.home import Home

if TYPE_CHECKING:
    from intermodal.server.claim import Claim

EXIT_REFUSED = 78  # the state directory or an address cannot be used
EXIT_BUSY = 75  # another server uses the directory


def main() -> int:
    parser = argparse.ArgumentParser(prog="intermodal.server")
    parser.add_argument("--listen", action="append", default=[], metavar="ADDRESS", help="serve here too; repeatable")
    parser.add_argument("--tls-cert", default="", help="certificate for tls:// addresses (PEM)")
    parser.add_argument("--tls-key", default="", help="its key (PEM)")
    parser.add_argument("--no-worker", action="store_true", help="keep no worker on this machine")
    parser.add_argument("--foreground", action="store_true", help="an interrupt stops containers and worker too")
    parser.add_argument("--ready-fd", type=int, default=-1, help="write 'ready' there, or why not")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from intermodal.server.claim import claim_home
    from intermodal.server.state import Busy
    from intermodal.server.store.migrations import Refused

    processes.leave_no_core()
    home = Home()
    processes.allow_many_files()
    try:
        claim = claim_home(home, not options.no_worker)  # the worker comes up while the rest is imported
        import uvloop

        return uvloop.run(_run(home, options, claim))
    except Refused as error:
        print(f"intermodal server: {error}", file=sys.stderr)  # noqa: T201 - its log, or the terminal
        _tell(options.ready_fd, f"error: {error}")
        return EXIT_BUSY if isinstance(error, Busy) else EXIT_REFUSED


async def _run(home: Home, options: argparse.Namespace, claim: Claim) -> int:
    from intermodal.server.main import Options, Server

    server = Server(home, Options(options.listen, options.tls_cert, options.tls_key), claim)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.end)
    await server.start()
    interrupts: set[asyncio.Task[None]] = set()

    def interrupted() -> None:
        if not options.foreground or interrupts:
            server.end()
            return
        task = asyncio.create_task(server.stop_everything(False))
        task.add_done_callback(lambda _done: server.end())
        interrupts.add(task)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    _tell(options.ready_fd, "ready")
    await server.finished()
    await server.close()
    return 0


def _tell(descriptor: int, text: str) -> None:
    """To whoever started this process: how the start ended."""
    if descriptor >= 0:
        os.write(descriptor, f"{text}\n".encode())
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
