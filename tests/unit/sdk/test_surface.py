"""Every documented name is there, with its parameters and its asynchronous face; importing it is cheap."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import modal
from modal import exception

HEAVY = {"asyncio", "dataclasses", "inspect", "cloudpickle", "click", "rich", "typing", "json", "logging", "ssl"}
PROGRAM_MAY_NOT = HEAVY - {"typing", "json"}


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has after `code`, apart from those that it starts with."""
    after = "import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    script = f"import sys; before = set(sys.modules)\n{code}\n{after}"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout)) - {"json", "json.decoder", "json.encoder", "json.scanner", "_json"}


def test_import_modal_loads_nothing_else() -> None:
    loaded = modules_after("import modal")
    assert not loaded & HEAVY
    assert {name for name in loaded if name.startswith("modal")} == {"modal"}


def test_a_plain_program_loads_no_event_loop_and_no_third_party_package() -> None:
    loaded = modules_after(
        "import modal\n"
        "app = modal.App('x', image=modal.Image.debian_slim().pip_install('a').apt_install('b'))\n"
        "def f(): pass\n"
        "f.__module__ = 'json'\n"
        "app.function(secrets=[modal.Secret.from_dict({})], cpu=1, retries=2, schedule=modal.Period(days=1))(f)\n"
    )
    assert not loaded & PROGRAM_MAY_NOT
    assert not [name for name in loaded if name.startswith(("modal.cli", "modal._output", "modal._sandbox"))]


@pytest.mark.parametrize("name", modal.__all__)
def test_every_exported_name_loads(name: str) -> None:
    assert getattr(modal, name) is getattr(modal, name)
    assert name in dir(modal)


def test_gone_names_say_what_took_their_place() -> None:
    with pytest.raises(AttributeError, match=r"modal\.App"):
        _ = modal.Stub
    with pytest.raises(AttributeError, match="nonsense"):
        _ = modal.nonsense


def test_submodules_load_as_attributes() -> None:
    assert modal.call_graph.InputStatus.SUCCESS == 1
    assert modal.functions.FunctionCall is modal.FunctionCall
    assert modal.volume.FileEntry("a", modal.volume.FileEntryType.FILE, 0, 1).path == "a"


def test_exception_tree() -> None:
    assert modal.Error is exception.Error
    assert issubclass(exception.FunctionTimeoutError, exception.TimeoutError)
    assert issubclass(exception.OutputExpiredError, TimeoutError)  # the builtin one, which programs catch
    assert issubclass(exception.ResourceExhaustedError, exception.RemoteError)
    for name in ("DeprecationError", "PendingDeprecationError", "ServerWarning"):
        assert issubclass(getattr(exception, name), UserWarning)
    assert not issubclass(exception.InputCancellation, Exception)
    assert not issubclass(exception.ModuleNotMountable, exception.Error)


def test_user_code_exception_shows_what_it_wraps() -> None:
    wrapped = exception.UserCodeException(Exception("ohno"))
    assert repr(wrapped) == "UserCodeException(Exception('ohno'))"
    assert repr(wrapped.exc) == "Exception('ohno')"


def test_both_faces_keep_the_signature() -> None:
    parameters = inspect.signature(modal.Function.update_autoscaler).parameters
    assert [p for p in parameters if p != "self"] == [
        "min_containers", "max_containers", "buffer_containers", "scaledown_window",
    ]  # fmt: skip
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != "self")
    assert modal.Function.remote.aio is not None
    assert inspect.signature(modal.Volume.listdir).parameters["recursive"].default is False


def test_what_is_planned_says_so_in_both_faces() -> None:
    with pytest.raises(NotImplementedError, match=r"Sandbox\.create"):
        modal.Sandbox.create("echo", "hi")


async def test_what_is_planned_says_so_in_asyncio() -> None:
    with pytest.raises(exception.InvalidError, match=r"Sandbox\.create"):
        await modal.Sandbox.create.aio("echo", "hi")


def test_tunnel_addresses() -> None:
    tunnel = modal.Tunnel("host.test", 443, "", 0)
    assert tunnel.url == "https://host.test"
    assert tunnel.tls_socket == ("host.test", 443)
    with pytest.raises(exception.InvalidError, match="unencrypted"):
        _ = tunnel.tcp_socket
    assert modal.Tunnel("h", 444, "u", 80).tcp_socket == ("u", 80)


def test_queue_partition_keys() -> None:
    assert modal.Queue.validate_partition_key(None) == b""
    assert modal.Queue.validate_partition_key("ä") == "ä".encode()
    for wrong in ("", "x" * 65, 3):
        with pytest.raises(exception.InvalidError, match="partition"):
            modal.Queue.validate_partition_key(wrong)


def test_version_is_the_distribution_s() -> None:
    from importlib.metadata import version

    assert modal.__version__ == version("intermodal")
