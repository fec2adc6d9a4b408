"""Results on the disk: what a server finds that starts anew, and what goes when there is no room."""

from __future__ import annotations

from pathlib import Path

from intermodal.server.gateway import kept
from intermodal.server.gateway.kept import BROKEN, WHOLE, Kept, found_in, outdated


def complete(directory: Path, call_id: str, body: bytes, over_at: float = 0.0) -> Kept:
    result = Kept(directory, call_id, "ap-1")
    result.status, result.headers = 200, b"x\0\xe9"
    result.append(body)
    result.end(WHOLE)
    result.over_at = over_at or result.over_at
    result.rest()
    return result


def test_what_was_complete_is_found(tmp_path: Path) -> None:
    complete(tmp_path, "fc-1", b"body")
    (found,) = found_in(tmp_path)
    assert (found.call_id, found.app_id, found.state, found.status) == ("fc-1", "ap-1", WHOLE, 200)
    assert (found.headers, found.size, found.read(1, 2)) == (b"x\0\xe9", 4, b"od")
    found.forget()
    assert not list(tmp_path.iterdir())


def test_what_was_not_complete_never_will_be(tmp_path: Path) -> None:
    running = Kept(tmp_path, "fc-1", "ap-1")
    running.begin()
    running.append(b"half")
    running.rest()
    (tmp_path / "fc-2.json").write_text("{")
    (tmp_path / "fc-3.body").write_bytes(b"of nothing")
    (tmp_path / "fc-4.new").write_bytes(b"")
    (found,) = found_in(tmp_path)
    assert (found.call_id, found.state) == ("fc-1", BROKEN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fc-1.body", "fc-1.json"]


def test_the_oldest_go_first(tmp_path: Path) -> None:
    every = [complete(tmp_path, f"fc-{number}", b"x", over_at=1000.0 + number) for number in range(4)]
    assert outdated(every, lambda: 1003.0) == []
    assert outdated(every, lambda: 1001.5 + kept.KEPT_SECONDS) == every[1::-1]
    for result in every:
        result.size = kept.ALL_BYTES // 2
    assert outdated(every, lambda: 1003.0) == every[1::-1]
