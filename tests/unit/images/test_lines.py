"""What a build step prints, on its way to the log."""

from __future__ import annotations

from intermodal.worker.images.commands import Lines


def collect(pieces: list[tuple[int, bytes]], hide: list[str] | None = None) -> tuple[list[str], list[str]]:
    heard: list[str] = []
    lines = Lines(heard.append, hide or [])
    for pipe, data in pieces:
        lines.feed(pipe, data)
    lines.finish()
    return heard, list(lines.last)


def test_lines_are_never_torn_nor_mixed() -> None:
    heard, last = collect([(1, b"one"), (2, b"error\nmo"), (1, b" two\nthree\nfo"), (2, b"re\n"), (1, b"ur")])
    assert heard == ["error\n", "one two\nthree\n", "more\n", "four\n"]
    assert last == ["error", "one two", "three", "more", "four"]


def test_a_character_may_come_in_two_parts() -> None:
    assert collect([(1, "é".encode()[:1]), (1, "é".encode()[1:] + b"\n\xff\n")])[0] == ["é\n\ufffd\n"]


def test_of_a_progress_bar_its_end_is_kept() -> None:
    assert collect([(1, b"10%\r50%\r100%\r\nnext\r\n")])[0] == ["100%\nnext\n"]


def test_secrets_are_hidden_also_when_they_arrive_in_parts() -> None:
    heard, last = collect([(1, b"token ses"), (1, b"ame-open\n"), (1, b"no\n")], ["sesame-open", "no"])
    assert heard == ["token ***\n", "no\n"]
    assert last == ["token ***", "no"]


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    heard, _last = collect([(1, b"x" * 50_000)] * 4)
    assert [len(text) for text in heard] == [100_001, 100_001]


def test_only_the_last_lines_are_kept() -> None:
    _heard, last = collect([(1, b"".join(b"%d\n\n" % number for number in range(100)))])
    assert last == [str(number) for number in range(70, 100)]
