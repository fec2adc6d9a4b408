"""Programs with dicts and queues, through the real command line and in containers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform, ProgramFinder
from tests.acceptance.site import served

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(
    "name", ["dicts-and-queues__1", "dicts-and-queues__2", "dicts-and-queues__3", "dicts-and-queues__j1"]
)
def test_guide_program(platform: Platform, program: ProgramFinder, name: str) -> None:
    platform.modal("queue", "delete", "my-persisted-queue", "--yes")  # the programs leave items in it
    ran = platform.modal("run", program(f"guide/{name}"))
    assert ran.code == 0, ran.text


@pytest.fixture
def site(platform: Platform) -> Iterator[str]:
    """Three pages that link to each other, where containers can reach them."""

    with served(platform, b'<html><a href="/">home</a> <a href="/one">1</a> <a href="/two">2</a></html>') as url:
        yield url


def test_the_crawler(platform: Platform, program: ProgramFinder, site: str) -> None:
    path = program("guide/dicts-and-queues__4")
    path.write_text(path.read_text().replace("https://www.wikipedia.org/", site))
    ran = platform.modal("run", path)
    assert ran.code == 0, ran.text
    assert "Crawled 3 URLs" in ran.text
    assert ran.text.count(", with 3 links") == 3


SHARED = """
import queue, modal
app = modal.App("shared-state")
named = modal.Dict.from_name("shared-dict", create_if_missing=True)

@app.function(min_containers=2, max_containers=2)
def work(q: modal.Queue, out: modal.Queue, number: int) -> modal.Dict:
    # Consumers in two containers: each item reaches one of them.
    while (item := q.get(timeout=30)) is not None:
        out.put((number, item), partition="done")
        named[f"item-{item}"] = {"by": number, "large": b"x" * 300_000 if item == 7 else b""}
    return named

@app.local_entrypoint()
def main():
    with modal.Queue.ephemeral() as q, modal.Queue.ephemeral() as out:
        calls = [work.spawn(q, out, number) for number in range(2)]
        q.put_many(list(range(100)))
        got = sorted(item for number, item in (out.get(timeout=60, partition="done") for _ in range(100)))
        assert got == list(range(100)), got
        q.put_many([None, None])
        dicts = [call.get() for call in calls]
    assert all(d.object_id == named.hydrate().object_id for d in dicts)
    assert len(dicts[0]) == 100
    assert len(named["item-7"]["large"]) == 300_000
    assert named.pop("item-3")["by"] in (0, 1)
    print("entries", len(named), "left", q.object_id[:3])
"""


def test_objects_are_shared_between_containers_and_the_program(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "shared.py"
    path.write_text(SHARED)
    ran = platform.modal("run", path)
    assert ran.code == 0, ran.text
    assert ran.lines() == ["entries 99 left qu-"]
    listed = json.loads(platform.modal("dict", "list", "--json").out)
    assert {"Name": "shared-dict", "Entries": 99} in [{key: row[key] for key in ("Name", "Entries")} for row in listed]
    assert platform.modal("dict", "delete", "shared-dict", "--yes").code == 0


def test_a_restricted_function_reaches_no_queue(platform: Platform, program: ProgramFinder) -> None:
    path = program("guide/running-untrusted-code-in-functions__j1")
    path.write_text(
        path.read_text() + "\n@app.local_entrypoint()\ndef main():\n"
        "    with modal.Queue.ephemeral() as q:\n        q.put(1)\n"
        "        print(restricted_function.remote(q), q.len())\n"
    )
    ran = platform.modal("run", path)
    assert ran.code == 0, ran.text
    (line,) = ran.lines()
    assert line.startswith("Access denied: ")
    assert line.endswith(" 1")


def test_dict_commands(platform: Platform) -> None:
    modal = platform.modal
    for _ in range(2):
        assert modal("dict", "create", "cli-dict").code == 0
    filled = platform.run("timeit", "-n1", "-r1", "-s", "import modal", FILL_DICT)
    assert filled.code == 0, filled.text
    assert modal("dict", "get", "cli-dict", "a").out == "1\n"
    assert modal("dict", "get", "cli-dict", "b").out == "two\n"
    missing = modal("dict", "get", "cli-dict", "nothing")
    assert (missing.code, missing.err) == (1, "Error: There is no key 'nothing' in the Dict 'cli-dict'.\n")
    assert json.loads(modal("dict", "items", "cli-dict", "--json").out) == [
        {"Key": "a", "Value": 1},
        {"Key": "b", "Value": "two"},
        {"Key": "c", "Value": [3]},
    ]
    assert "'two'" in modal("dict", "items", "cli-dict", "--repr").out
    short = modal("dict", "items", "cli-dict", "1").out
    assert "..." in short
    assert "two" not in short
    assert "..." not in modal("dict", "items", "cli-dict", "1", "--all").out
    refused = modal("dict", "clear", "cli-dict")  # nobody can answer the question
    assert refused.code == 1
    assert modal("dict", "clear", "cli-dict", "-y").code == 0
    assert json.loads(modal("dict", "items", "cli-dict", "--json").out) == []
    assert modal("dict", "delete", "cli-dict", "-y").code == 0
    gone = modal("dict", "get", "cli-dict", "a")
    assert gone.code == 1
    assert "modal dict create cli-dict" in gone.err


FILL_DICT = "modal.Dict.from_name('cli-dict').update(a=1, b='two', c=[3])"
FILL_QUEUE = "q = modal.Queue.from_name('cli-queue'); q.put_many([1, 'two']); q.put(3, partition='p')"


def test_queue_commands(platform: Platform) -> None:
    modal = platform.modal
    for _ in range(2):
        assert modal("queue", "create", "cli-queue").code == 0
    filled = platform.run("timeit", "-n1", "-r1", "-s", "import modal", FILL_QUEUE)
    assert filled.code == 0, filled.text
    assert modal("queue", "len", "cli-queue").out == "2\n"
    assert modal("queue", "len", "cli-queue", "--partition", "p").out == "1\n"
    assert modal("queue", "len", "cli-queue", "--total").out == "3\n"
    assert modal("queue", "peek", "cli-queue").out == "1\n"
    assert modal("queue", "peek", "cli-queue", "5").out == "1\ntwo\n"
    assert modal("queue", "peek", "cli-queue", "-p", "p").out == "3\n"
    (row,) = [row for row in json.loads(modal("queue", "list", "--json").out) if row["Name"] == "cli-queue"]
    assert (row["Partitions"], row["Total size"]) == (2, 3)
    assert modal("queue", "clear", "cli-queue", "-y").code == 0
    assert modal("queue", "len", "cli-queue", "--total").out == "1\n"
    assert modal("queue", "clear", "cli-queue", "--all", "-y").code == 0
    assert modal("queue", "len", "cli-queue", "--total").out == "0\n"
    both = modal("queue", "len", "cli-queue", "-p", "p", "-t")
    assert (both.code, "Give either --partition or --total." in both.err) == (2, True)
    assert modal("queue", "delete", "cli-queue", "-y").code == 0
    assert modal("queue", "delete", "cli-queue", "-y").code == 1
