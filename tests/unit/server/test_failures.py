"""What counts as a failure in a row, and how long the next start waits."""

from __future__ import annotations

from intermodal.server.failures import BACKOFF_AFTER, BACKOFF_MAX, HOPELESS_AFTER, CrashLoop


def test_containers_that_fail_side_by_side_are_one_failure() -> None:
    crashes = CrashLoop()
    started = [crashes.round] * 20
    assert [crashes.add(round) for round in started] == [True] + [False] * 19
    assert crashes.count == 1
    assert crashes.delay() == 0.0
    assert crashes.add(crashes.round), "one that was started after it counts"
    assert crashes.count == 2


def test_pauses_double_with_each_round() -> None:
    crashes = CrashLoop()
    pauses = []
    for _ in range(HOPELESS_AFTER):
        started = [crashes.round] * 5
        for round in started:
            crashes.add(round)
        pauses.append(crashes.delay())
    assert pauses == [0.0] * (BACKOFF_AFTER - 1) + [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, BACKOFF_MAX, BACKOFF_MAX]
    assert crashes.hopeless


def test_a_success_starts_the_count_anew() -> None:
    crashes = CrashLoop()
    crashes.add(crashes.round)
    crashes.add(crashes.round)
    before = crashes.round
    crashes.reset()
    assert crashes.count == 0
    assert crashes.add(before), "it was started after the last failure"
    assert crashes.count == 1


def test_containers_of_an_older_form_do_not_count() -> None:
    crashes = CrashLoop()
    older = crashes.round
    crashes.renew()
    assert not crashes.add(older)
    assert crashes.count == 0
    assert crashes.add(crashes.round)
