"""Answers to questions for names below localhost."""

from __future__ import annotations

import struct

import pytest

from intermodal.worker.network import local_names

A, AAAA = 1, 28


def question(name: str, kind: int = A, flags: int = 0x0100, count: int = 1, more: bytes = b"") -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    head = struct.pack(">HHHHHH", 7, flags, count, 0, 0, 1 if more else 0)
    return head + labels + b"\0" + struct.pack(">HH", kind, 1) + more


def test_a_name_below_localhost_is_the_loopback_address() -> None:
    for name in ("me--app-f.localhost", "x.tunnel.localhost", "X.LocalHost"):
        asked = question(name, more=b"\0\0\x29\x04\xd0\0\0\0\0\0\0")  # with EDNS, as some clients ask
        found = local_names.answer(asked)
        assert found is not None
        ident, flags, questions, answers, _authorities, additional = struct.unpack_from(">HHHHHH", found)
        assert (ident, flags & 0x800F, questions, answers, additional) == (7, 0x8000, 1, 1, 0)
        assert found.endswith(bytes([0, 4, 127, 0, 0, 1]))


def test_there_is_no_other_kind_of_address() -> None:
    found = local_names.answer(question("x.localhost", AAAA))
    assert found is not None
    assert struct.unpack_from(">HHHHHH", found)[1] & 0x800F == 0x8000  # no error: the name exists
    assert struct.unpack_from(">HHHHHH", found)[3] == 0


@pytest.mark.parametrize("name", ["example.com", "localhost.example", "xlocalhost"])
def test_other_names_are_refused_so_that_the_asker_goes_on(name: str) -> None:
    found = local_names.answer(question(name))
    assert found is not None
    assert struct.unpack_from(">HHHHHH", found)[1] & 0x800F == 0x8005


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        question("x.localhost", flags=0x8100),
        question("x.localhost", count=2),
        question("x.localhost")[:-3],
    ],
)
def test_what_is_no_question_gets_no_answer(data: bytes) -> None:
    assert local_names.answer(data) is None


def test_the_rules_find_the_name_behind_every_length() -> None:
    rules = local_names.rules("own", "10.0.0.1:5353").splitlines()
    for label in ("x", "a" * 63, "0123456789abcdef.tunnel"):
        packet = bytes(8) + question(f"{label}.localhost")
        at = packet.index(local_names.LAST_LABEL)
        assert sum(f"@th,{at * 8},88 0x{local_names.LAST_LABEL.hex()} " in rule for rule in rules) == 1
