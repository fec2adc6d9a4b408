"""Celery: the first result of a worker that runs."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "drivers"))

import celery_tasks

print("result", celery_tasks.noop.delay(1000).get(), flush=True)
