"""The curve of the scheduler's cost can be drawn."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import scheduling


def test_a_row_for_each_case(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["scheduling", "--quick"])
    scheduling.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["functions"], row["pending"]) for row in rows] == [(10, 1000), (1000, 1000)]
    assert all(row["microseconds"] > 0 and row["ratio"] > 0 for row in rows)
