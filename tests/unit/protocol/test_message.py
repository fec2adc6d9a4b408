"""Messages: every registered one survives the wire; nothing else does."""

from __future__ import annotations

import json
from enum import IntEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modal._protocol.errors import ProtocolError
from modal._protocol.message import Message, Record, decode, from_json, to_json
from modal._protocol.messages.call import CallFailure, Invoke, Outputs, pack_failure, unpack_failure
from modal._protocol.messages.container import ContainerTimings
from modal._protocol.messages.function import Resources
from modal._protocol.messages.wire import Credit, Hello
from tests.unit.protocol.wires import any_message, every_message, json_values, records


@pytest.mark.parametrize("cls", every_message, ids=lambda cls: cls.__name__)
@given(data=st.data())
@settings(max_examples=15)
def test_every_message_survives_the_wire(cls: type[Message], data: st.DataObject) -> None:
    message = data.draw(records(cls))
    header, body = message.encode()
    json.loads(header)
    again = decode(cls.TYPE, header, body)
    assert again == message
    assert again.encode() == (header, body)


@given(any_message, st.data())
def test_damage_is_a_protocol_error(message: Message, data: st.DataObject) -> None:
    header, body = message.encode()
    damaged = bytearray(header + body)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    try:
        decode(message.TYPE, bytes(damaged[:cut]), bytes(damaged[cut:]))
    except ProtocolError:
        pass


@given(st.sampled_from(every_message), json_values, st.binary(max_size=50))
def test_any_json_is_a_message_or_a_protocol_error(cls: type[Message], value: object, body: bytes) -> None:
    try:
        decode(cls.TYPE, json.dumps(value).encode(), body)
    except ProtocolError:
        pass


@given(st.sampled_from(every_message), st.lists(json_values, max_size=12), st.binary(max_size=50))
def test_any_array_is_a_message_or_a_protocol_error(cls: type[Message], values: list[object], body: bytes) -> None:
    try:
        message = decode(cls.TYPE, json.dumps(values).encode(), body)
    except ProtocolError:
        return
    message.encode()  # what was let in can be passed on


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 500_000,
        b'["a",' + b"[" * 3000,
        b'{"a":' * 100_000,
        b"[" * 3000 + b"]" * 3000,
        b"[" + b"9" * 900_000 + b"]",
        b"[" + b"9" * 4000 + b"]",
        b"[" + b"9" * 30 + b"]",
        b"[1e999999999]",
        b"[]]",
        b"[1] 2",
        b" [1]",
        b"[1",
        b"\xff\xfe",
        b'["\\ud800',
        b"nan",
        b"x",
        b"",
        b"1",
        b"null",
    ],
)
def test_hostile_headers_are_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(Credit.TYPE, header, b"")


def test_numbers_are_64_bits() -> None:
    for value in (-(1 << 63), (1 << 63) - 1):
        assert decode(Credit.TYPE, *Credit(value).encode()).size == value  # type: ignore[attr-defined]
    for value in (-(1 << 63) - 1, 1 << 63):
        with pytest.raises(ProtocolError, match="int"):
            decode(Credit.TYPE, *Credit(value).encode())


def test_lengths_must_fit_the_body() -> None:
    for header, body in [
        (b'["c","f",4]', b"xxx"),
        (b'["c","f",-1]', b"xxx"),
        (b'["c","f",true]', b"xxx"),
        (b'["c","f",2]', b"xxx"),
        (b'["c","f",2.0]', b"xx"),
    ]:
        with pytest.raises(ProtocolError):
            decode(Invoke.TYPE, header, body)
    with pytest.raises(ProtocolError):
        decode(Outputs.TYPE, b"[[0],[0],[1,9999999]]", b"x")


def test_an_older_peer_sends_less_and_a_newer_one_more() -> None:
    assert decode(Invoke.TYPE, b'["c","f",1]', b"x") == Invoke("c", "f", b"x")
    assert decode(Invoke.TYPE, b'["c","f",1,"","","",[],{"new":1},2]', b"x++") == Invoke("c", "f", b"x")
    assert decode(Hello.TYPE, b'["client",1,1]', b"") == Hello("client", 1, 1)
    with pytest.raises(ProtocolError, match="version_max is missing"):
        decode(Hello.TYPE, b'["client",1]', b"")


def test_defaults_are_not_shared() -> None:
    first = decode(Outputs.TYPE, b"[[0],[0],[1]]", b"x")
    first.blobs.append("b")  # type: ignore[attr-defined]
    assert decode(Outputs.TYPE, b"[[0],[0],[1]]", b"x").blobs == []  # type: ignore[attr-defined]
    assert Outputs([0], [0], [b"x"]).blobs == []


def test_an_unknown_type_names_the_reason() -> None:
    with pytest.raises(ProtocolError, match="another version"):
        decode(65535, b"[]", b"")


def test_the_text_of_an_error_is_short() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(Hello.TYPE, json.dumps(["client", "x" * 100_000, 1]).encode(), b"")
    assert len(str(caught.value)) < 200


def test_numbers_that_json_has_no_name_for() -> None:
    marks = {"inf": float("inf"), "minus": float("-inf")}
    assert decode(ContainerTimings.TYPE, *ContainerTimings(marks).encode()) == ContainerTimings(marks)


class _Number(IntEnum):
    SEVEN = 7


def test_kinds_of_integers_become_integers() -> None:
    assert Credit(_Number.SEVEN).encode() == Credit(7).encode()
    assert Credit(True).encode() == Credit(1).encode()
    assert decode(Outputs.TYPE, *Outputs([_Number.SEVEN], [0], [b""]).encode()).indexes == [7]  # type: ignore[attr-defined]


def test_a_field_of_the_wrong_type_is_not_sent() -> None:
    with pytest.raises(TypeError):
        Hello(5, 1, 1).encode()  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ContainerTimings({"a": object()}).encode()  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        Invoke("c", "f", 5).encode()  # type: ignore[arg-type]


def test_records_as_json() -> None:
    resources = Resources(cpu_request=2.0, gpu=["A100"])
    assert from_json(Resources, json.loads(json.dumps(to_json(resources)))) == resources
    with pytest.raises(ProtocolError):
        from_json(Resources, {"cpu": 2})


def test_a_message_type_is_given_once() -> None:
    with pytest.raises(TypeError, match="belongs to Hello"):

        class Other(Message, type=Hello.TYPE):
            pass


def test_a_record_that_extends_another_has_its_fields_too() -> None:
    assert Resources().cpu_request == 0.125  # compiles the base first

    class Larger(Resources):
        sockets: int = 2

    assert Larger(cpu_request=1.0, sockets=4).sockets == 4
    assert Larger().cpu_request == 0.125
    assert issubclass(Larger, Record)


@given(st.text(max_size=50), st.binary(max_size=50))
def test_a_failure_as_a_value(text: str, pickled: bytes) -> None:
    failure = CallFailure("user", "ValueError", text, pickled=pickled)
    assert unpack_failure(pack_failure(failure)) == failure


@given(st.binary(max_size=60))
def test_any_value_is_a_failure_or_a_protocol_error(value: bytes) -> None:
    try:
        unpack_failure(value)
    except ProtocolError:
        pass
