"""When a container counts as stuck, and how long it may start."""

from __future__ import annotations

import pytest

from intermodal.worker.liveness import FROZEN_SECONDS, HEARTBEAT_SECONDS, START_SETTING, Liveness, start_limit
from modal._protocol.messages.function import Autoscaler, FunctionSpec, MethodSpec, Resources, WebSpec

LOOK = 10.0  # seconds between two looks


def after(seconds: float, *, ready: bool, cpu_a_second: float, beats: bool = False, limit: float = 1e9) -> str:
    """The first verdict within that time."""
    liveness = Liveness(limit)
    for look in range(1, int(seconds / LOOK) + 1):
        if beats:
            liveness.beat()
        liveness.passed(LOOK, 0.3 + look * LOOK * cpu_a_second)
        verdict = liveness.verdict(ready)
        if verdict:
            return verdict
    return ""


def test_one_that_stands_still_while_it_starts_ends_early() -> None:
    assert after(FROZEN_SECONDS, ready=False, cpu_a_second=0.0) == ""
    assert "stand still" in after(FROZEN_SECONDS + 2 * LOOK, ready=False, cpu_a_second=0.0)


def test_one_that_works_silently_has_longer() -> None:
    """Native code that keeps the interpreter's lock while it loads a model."""
    assert after(HEARTBEAT_SECONDS, ready=False, cpu_a_second=0.5) == ""
    assert after(HEARTBEAT_SECONDS + LOOK, ready=False, cpu_a_second=0.5).startswith("heartbeat timeout")


def test_one_that_is_ready_has_longer_too() -> None:
    assert after(HEARTBEAT_SECONDS, ready=True, cpu_a_second=0.0) == ""
    assert after(HEARTBEAT_SECONDS + LOOK, ready=True, cpu_a_second=0.0).startswith("heartbeat timeout")


def test_one_that_is_heard_of_waits_as_long_as_it_likes() -> None:
    assert after(10_000, ready=True, cpu_a_second=0.0, beats=True) == ""
    assert after(10_000, ready=False, cpu_a_second=0.0, beats=True) == ""


def test_where_the_use_of_processors_is_not_known_silence_alone_counts() -> None:
    liveness = Liveness(1e9)
    for _ in range(int(HEARTBEAT_SECONDS / LOOK)):
        liveness.passed(LOOK, 0.0)
        assert liveness.verdict(False) == ""
    liveness.passed(LOOK, 0.0)
    assert liveness.verdict(False)


def test_a_start_that_its_runner_does_not_end_is_ended_a_little_later() -> None:
    assert after(100, ready=False, cpu_a_second=1.0, beats=True, limit=100) == ""
    assert after(200, ready=True, cpu_a_second=1.0, beats=True, limit=100) == ""
    assert "not ready within 100 seconds" in after(200, ready=False, cpu_a_second=1.0, beats=True, limit=100)


def function(timeout: int, *webs: WebSpec) -> FunctionSpec:
    methods = [MethodSpec(f"m{number}", web=web) for number, web in enumerate(webs)]
    return FunctionSpec("f", "m", "f", Resources(), Autoscaler(), timeout=timeout, methods=methods)


def test_the_time_that_a_start_may_take() -> None:
    assert start_limit(function(10), {}) == 600
    assert start_limit(function(3600), {}) == 3600
    server = WebSpec("server", port=80, startup_timeout=300.0)
    assert start_limit(function(10, server, WebSpec("asgi")), {}) == 900
    assert start_limit(function(10), {START_SETTING: "60"}) == 60
    assert start_limit(function(300), {START_SETTING: "60"}) == 300


@pytest.mark.parametrize("value", ["", "soon", "-"])
def test_a_setting_that_makes_no_sense_counts_as_unset(value: str) -> None:
    assert start_limit(function(10), {START_SETTING: value}) == 600
