"""A client of one system, in a process of its own: measures when it is told to.

    python driver.py PEER OPTIONS      PEER: a module `peer_…` beside this file; OPTIONS: a JSON object

Each line on stdin is a JSON object {"do": name, …arguments}; each answer is a line {"ok": …} or
{"error": …}. Standard library only, and whatever the peer needs.
"""

import importlib
import json
import os
import sys
import time


class Driver:
    """The measurements that are the same for everybody. Times in seconds."""

    def __init__(self, peer):
        self.peer = peer
        self.payloads = {}

    def calls(self, count):
        """How long each of `count` no-op calls took, one after another."""
        clock, call, times = time.perf_counter, self.peer.call, []
        for _ in range(count):
            began = clock()
            call()
            times.append(clock() - began)
        return times

    def map(self, count, **options):
        """How long `count` no-ops took on two workers, until the last result was here."""
        return self._timed(lambda number: self.peer.map(number, **options), count)

    def concurrent(self, count):
        """How long `count` no-ops took on one worker that takes 100 at once."""
        return self._timed(self.peer.concurrent, count)

    def items(self, count):
        """How long one generator's `count` items took to be here."""
        return self._timed(self.peer.items, count)

    def careful(self, count):
        """As `map`, by a function with retries and a time limit."""
        return self._timed(self.peer.careful, count)

    def _timed(self, action, count):
        began = time.perf_counter()
        received = action(count)
        took = time.perf_counter() - began
        if received != count:
            raise RuntimeError(f"{received} results for {count} inputs")
        return took

    def send(self, size):
        """How long a call with an argument of `size` bytes took."""
        data = self._payload(size)
        began = time.perf_counter()
        got = self.peer.send(data)
        took = time.perf_counter() - began
        if got != size:
            raise RuntimeError(f"{got} of {size} bytes arrived")
        return took

    def fetch(self, size):
        """How long a call with a result of `size` bytes took."""
        began = time.perf_counter()
        data = self.peer.fetch(size)
        took = time.perf_counter() - began
        if len(data) != size:
            raise RuntimeError(f"{len(data)} of {size} bytes arrived")
        return took

    def fresh(self):
        """How long a call took whose worker had to be started for it."""
        began = time.perf_counter()
        self.peer.fresh()
        return time.perf_counter() - began

    def own(self, name, **arguments):
        """A measurement that this peer alone has."""
        return getattr(self.peer, name)(**arguments)

    def _payload(self, size):
        if size not in self.payloads:
            self.payloads[size] = os.urandom(1 << 16) * (size // (1 << 16)) + bytes(size % (1 << 16))
        return self.payloads[size]


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a peer prints is no answer
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    module = importlib.import_module(f"peer_{sys.argv[1]}")
    peer = module.Peer(**json.loads(sys.argv[2]))
    driver = Driver(peer)
    try:
        answers.write('{"ok": "ready"}\n')
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = {"ok": getattr(driver, request.pop("do"))(**request)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
    finally:
        peer.close()


if __name__ == "__main__":
    main()
