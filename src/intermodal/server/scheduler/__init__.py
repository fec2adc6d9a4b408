"""Decides which containers run and which input goes to which of them. No clock, no socket, no database.

`machine` is the state machine: events are method calls that carry the time, decisions are appended to
`Scheduler.decisions` for the caller to carry out. `rules` says what a function asks for, `pool` is the
state of one function, `capacity` the state of the workers.
"""

from intermodal.server.scheduler.capacity import Capacity, Request
from intermodal.server.scheduler.decisions import Assign, Decision, GiveUp, Recall, Refuse, Start, Stop
from intermodal.server.scheduler.gpus import Gpu
from intermodal.server.scheduler.machine import Scheduler
from intermodal.server.scheduler.pool import Pool, Slot
from intermodal.server.scheduler.rules import Rules

__all__ = [
    "Assign",
    "Capacity",
    "Decision",
    "GiveUp",
    "Gpu",
    "Pool",
    "Recall",
    "Refuse",
    "Request",
    "Rules",
    "Scheduler",
    "Slot",
    "Start",
    "Stop",
]
