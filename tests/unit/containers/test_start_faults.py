"""What runtimes say, as users read it."""

from __future__ import annotations

import pytest

from intermodal.worker.containers.start_faults import explain


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "executable file `/usr/bin/x` not found in $PATH: No such file or directory",
            "/usr/bin/x is not in the image",
        ),
        ('exec: "x": executable file not found in $PATH', "x is not in the image"),
        ("open executable: Permission denied", "may not be executed"),
        ("mount `/state/volumes/mounts/ta-1/0/root-0` to `etc/passwd`: Not a directory", "mounted at /etc/passwd:"),
        ("chdir `/etc/passwd`: Not a directory", "the working directory /etc/passwd: not a directory in the image"),
        ("open `/s/containers/ta-1x/root/etc/resolv.conf`: Not a directory", "open /etc/resolv.conf of the image: Not"),
        ("something else", "something else"),
    ],
)
def test_what_is_told(said: str, told: str) -> None:
    assert told in explain(said)
    assert "/state/" not in explain(said)
