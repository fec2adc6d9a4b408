"""A runtime that is killed while it brings a container up: nobody's mistake, so the start is tried again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from intermodal.worker.containers import Containers, Launch, StartFailed
from intermodal.worker.containers.containers import START_PAUSES
from intermodal.worker.containers.launch import Bind
from tests.integration.containers.conftest import finish

pytestmark = pytest.mark.containers

TRIES = len(START_PAUSES) + 1

# Runs in the middle of a start, as a child of the runtime: whom it kills, and how often, is told in files.
HOOK = """#!/bin/sh
cd "$1"
echo once >>starts
[ "$(wc -l <starts)" -gt "$(cat times)" ] && exit 0
state=$(cat)
case $(cat whom) in
  runtime) kill -9 $PPID;;
  monitor) read -r stat </proc/$PPID/stat; set -- $stat; kill -9 $4; kill -9 $PPID;;
  first) pid=${state#*'"pid":'}; kill -9 "${pid%%[!0-9 ]*}"; exit 0;;  # what becomes the container's first process
esac
sleep 1000
"""


@pytest.fixture
def killing(tmp_path: Path, launch: Callable[..., Launch]) -> Callable[..., Launch]:
    """A launch whose first starts are ended in their middle."""

    def make(whom: str, times: int, *argv: str, **fields: object) -> Launch:
        place = tmp_path / "hook"
        place.mkdir()
        (place / "whom").write_text(whom)
        (place / "times").write_text(str(times))
        script = place / "hook.sh"
        script.write_text(HOOK)
        script.chmod(0o755)
        hooks = {"createRuntime": [{"path": str(script), "args": ["hook", str(place)]}]}
        return launch(*argv, hooks=hooks, **fields)

    return make


def starts(tmp_path: Path) -> int:
    return len((tmp_path / "hook" / "starts").read_text().splitlines())


@pytest.mark.parametrize("whom", ["runtime", "monitor", "first"])
async def test_it_is_started_again(containers: Containers, killing: Callable[..., Launch], tmp_path: Path, whom: str):
    """With all that its directory holds for it: sockets of the caller's, a network, a disk."""
    one = killing(whom, 1, "sh", "-c", "cat /given/note; echo $HOSTNAME >/written; exit 7")
    given = one.directory / "run"
    given.mkdir(parents=True)
    (given / "note").write_text("kept\n")
    one.binds.append(Bind(given, "/given"))
    ran = await finish(await containers.start(one))
    assert (ran.exit.code, ran.exit.reason, ran.out, ran.err) == (7, "exited", "kept\n", "")
    assert starts(tmp_path) == 2
    assert list(containers.home.containers.iterdir()) == []
    assert not list((containers.home.path / "crun").iterdir())


async def test_an_end_that_comes_every_time_is_told(
    containers: Containers, killing: Callable[..., Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("intermodal.worker.containers.containers.START_PAUSES", (0.0,) * (TRIES - 1))
    with pytest.raises(StartFailed, match=rf"was ended by SIGKILL .*{TRIES} times in a row: find out"):
        await containers.start(killing("runtime", 100, "true"))
    assert starts(tmp_path) == TRIES
    assert list(containers.home.containers.iterdir()) == []


async def test_what_the_container_may_not_have_is_not_tried_again(containers: Containers, launch, caplog):
    """The runtime says so itself."""
    with pytest.raises(StartFailed, match="no/such/program"):
        await containers.start(launch("/no/such/program"))
    assert "tried again" not in caplog.text
