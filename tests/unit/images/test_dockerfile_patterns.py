"""The flags of COPY: patterns and permissions."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.worker.images.dockerfile_patterns import Excluded, mode_change
from intermodal.worker.images.failures import StepError


@pytest.mark.parametrize(
    ("pattern", "path", "out"),
    [
        ("*.md", "a.md", True),
        ("*.md", "sub/a.md", False),
        ("**/*.md", "a.md", True),
        ("**/*.md", "sub/deep/a.md", True),
        ("sub/**", "sub/deep/x", True),
        ("./sub", "sub", True),
        ("a?[0-9]", "ab7", True),
        ("a[^0-9]", "a7", False),
    ],
)
def test_patterns(pattern: str, path: str, out: bool) -> None:
    assert Excluded([pattern])(path) is out
    assert not Excluded([])(path)


clause = st.builds(
    "{}{}{}".format,
    st.sampled_from(["u", "g", "o", "a", "ug", "go"]),
    st.sampled_from("+-="),
    st.text("rwxX", max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(clause, min_size=1, max_size=3).map(",".join), st.integers(0, 0o777), st.booleans())
def test_modes_in_words_are_those_of_chmod(text: str, before: int, is_directory: bool) -> None:
    path = Path(f"/tmp/intermodal-mode-{os.getpid()}")
    path.mkdir() if is_directory else path.touch()
    try:
        path.chmod(before)
        subprocess.run(["chmod", text, str(path)], check=True)
        assert mode_change(text)(before, is_directory) == stat.S_IMODE(path.stat().st_mode)
    finally:
        path.rmdir() if is_directory else path.unlink()


def test_octal_modes_and_nonsense() -> None:
    assert mode_change("0640")(0o777, False) == 0o640
    assert mode_change("640")(0o777, True) == 0o751
    for text in ("rwx", "u", "999", "u=rwq"):
        with pytest.raises(StepError, match="must be octal"):
            mode_change(text)
