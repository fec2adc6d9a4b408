"""What the operator adds to every container."""

from __future__ import annotations

from pathlib import Path

import pytest

from intermodal.worker.site import SiteError, hosts, hosts_lines, variables


def test_variables_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("# mirrors\n\nHF_ENDPOINT=http://hub.example\nexport A='x y'\nB=\"q=1\"\nEMPTY=\n")
    found = variables({"INTERMODAL_CONTAINER_ENV": str(path)})
    assert found == {"HF_ENDPOINT": "http://hub.example", "A": "x y", "B": "q=1", "EMPTY": ""}
    assert variables({}) == {}


@pytest.mark.parametrize("line", ["no equals", "1A=x", "=x", "A B=x"])
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "env"
    path.write_text(f"OK=1\n{line}\n")
    with pytest.raises(SiteError, match=f"line 2 of {path}"):
        variables({"INTERMODAL_CONTAINER_ENV": str(path)})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SiteError, match="/nonexistent/env cannot be read: No such file"):
        variables({"INTERMODAL_CONTAINER_ENV": "/nonexistent/env"})


def test_hosts() -> None:
    found = hosts({"INTERMODAL_CONTAINER_HOSTS": "a.example=10.0.0.5, b=host-gateway c=fd00::1"})
    assert found == {"a.example": "10.0.0.5", "b": "host-gateway", "c": "fd00::1"}
    assert hosts_lines(found, "10.1.0.1") == "10.0.0.5\ta.example\n10.1.0.1\tb\nfd00::1\tc\n"
    assert hosts_lines(found, "") == "10.0.0.5\ta.example\nfd00::1\tc\n"


@pytest.mark.parametrize("word", ["a", "a=", "a=b.example", "-a=10.0.0.1", "a b=10.0.0.1", "a=10.0.0.1\tx"])
def test_a_wrong_host_is_named(word: str) -> None:
    with pytest.raises(SiteError, match=r"NAME=ADDRESS"):
        hosts({"INTERMODAL_CONTAINER_HOSTS": word})
