"""The first program of every container. Python runs this file by its path.

It puts the user's source first and the platform's second on `sys.path`, and hands over. The
platform's copy of cloudpickle comes last, so that an image's own wins.
"""

import os
import signal
import sys
import time

STARTED = time.time()  # seconds since the epoch: the interpreter is up

LIB = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCE = "/root"
INTERRUPTED = 74  # EXIT_INTERRUPTED of the protocol, which is not imported yet
RUN_DIR = os.environ.get("INTERMODAL_RUN_DIR", "/.intermodal/run")


def main() -> None:
    """Never returns: the process exits with the container's exit code."""
    # Asked to end before the user's code is there: nothing to clean up, and nothing to tell anybody.
    signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(INTERRUPTED))
    source = os.environ.get("INTERMODAL_SOURCE_DIR", SOURCE)
    sys.path[0:1] = [source, LIB]
    # Processes that user code starts find the same, before what the image has set.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, LIB, os.environ.get("PYTHONPATH")]))
    carried = os.path.join(os.path.dirname(LIB), "carried")
    if os.path.isdir(carried):
        sys.path.append(carried)
    from intermodal.runner.process import run

    run(RUN_DIR, {"interpreter": STARTED})


if __name__ == "__main__":
    main()
