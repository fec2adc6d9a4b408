"""Calls of a class whose every parameter is a pool of its own: a number a line, milliseconds a line."""

import sys
import time

import modal

Cold = modal.Cls.from_name("bench-web", "Cold")
for line in sys.stdin:
    began = time.perf_counter()
    Cold(number=int(line)).call.remote()
    print((time.perf_counter() - began) * 1e3, flush=True)
