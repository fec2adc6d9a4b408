"""Commands for files and stored objects as people type them: what they print, and how they end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = pytest.mark.acceptance

Step = tuple[str, int, str]  # a command's arguments separated by "|", its exit code, what its output has


def carry_out(platform: Platform, steps: list[Step], cwd: Path) -> None:
    """Each command in turn; empty words mean that it prints nothing."""
    wrong = []
    for command, code, words in steps:
        ran = platform.modal(*command.split("|"), cwd=cwd)
        if ran.code != code or words not in ran.text or "Traceback" in ran.text or (not words and ran.text):
            wrong.append(f"modal {command}: exit code {ran.code} (not {code}), without {words!r}: {ran.text}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory with what people have: blanks, letters of other languages, links, empty directories, modes."""
    top = tmp_path / "my dir"
    (top / "sub ü").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "a b.txt").write_text("a")
    (top / "a b.txt").chmod(0o600)
    (top / "sub ü/ünï ✓.txt").write_text("u")
    (top / "sub ü/inner").symlink_to("../a b.txt")
    (top / "outer").symlink_to("/etc/hosts")
    (top / "broken").symlink_to("nowhere")
    (tmp_path / "plain").write_text("plain")
    (tmp_path / "nothing").mkdir()
    os.mkfifo(tmp_path / "fifo")
    yield tmp_path


FILES: list[Step] = [
    ("volume|create|typed", 0, "Created volume 'typed' in environment 'main'."),
    ("volume|create|two words", 1, "Invalid Volume name: 'two words'"),
    ("volume|create|typed-9|--version|9", 1, "must be 1 or 2"),
    ("volume|put|typed|my dir", 0, "Uploaded my dir to '/my dir' in 'typed'"),
    ("volume|put|typed|my dir/", 1, "is in the volume already: use force=True (`--force`)"),
    ("volume|put|typed|my dir/|/other/", 0, "to '/other/my dir'"),
    ("volume|put|typed|./my dir|/exact", 0, "to '/exact'"),
    ("volume|put|typed|nothing|/e", 0, "0 files"),
    ("volume|put|typed|plain|/deep/er/f", 0, "1 file, 5 B"),
    ("volume|put|typed|plain|/ä ö/", 0, "to '/ä ö/plain'"),
    ("volume|put|typed|plain|/exact", 1, "'exact' is a directory in the volume"),
    ("volume|put|typed|plain|/exact|-f", 1, "'exact' is a directory in the volume"),
    ("volume|put|typed|my dir|/deep/er/f|-f", 1, "'deep/er/f' is a file in the volume"),
    ("volume|put|typed|plain|/deep/er/f/g", 1, "so nothing can be put below it"),
    ("volume|put|typed|plain|../x", 1, "leads out of the volume"),
    ("volume|put|typed|no such", 1, "There is no file or directory no such."),
    ("volume|put|typed|~/no such", 1, "There is no file or directory ~/no such."),
    ("volume|put|typed|fifo|/x", 1, "is no plain file"),
    ("volume|put|no-such|plain", 1, "create it with `modal volume create no-such`"),
    ("volume|ls|typed|my dir/", 0, "my dir/a b.txt\nmy dir/broken\nmy dir/empty\nmy dir/outer\nmy dir/sub ü\n"),
    ("volume|ls|typed|/my dir/sub ü", 0, "my dir/sub ü/inner\nmy dir/sub ü/ünï ✓.txt\n"),
    ("volume|ls|typed|my dir/a b.txt", 0, "my dir/a b.txt\n"),
    ("volume|ls|typed|e", 0, ""),
    ("volume|ls|typed|e|--json", 0, "[]\n"),
    ("volume|ls|typed|*.txt", 1, "No such file or directory in volume 'typed': '*.txt'"),
    ("volume|ls|typed|../..", 1, "leads out of the volume"),
    ("volume|cp|typed|deep/er/f|copy", 0, ""),
    ("volume|cp|typed|copy", 2, "At least a source and a destination"),
    ("volume|cp|typed|copy|deep/er/f|e", 0, ""),
    ("volume|ls|typed|e", 0, "e/copy\ne/f\n"),
    ("volume|cp|typed|copy|e/f|copy", 1, "'copy' is not a directory"),
    ("volume|cp|typed|copy|no/where", 1, "there is no directory 'no' to copy into"),
    ("volume|cp|typed|copy|copy", 1, "the same file"),
    ("volume|cp|typed|e|f", 1, "only files can be copied"),
    ("volume|rm|typed|e", 1, "rm -r"),
    ("volume|rm|typed|no such", 1, "No such file or directory"),
    ("volume|rename|typed|typed|-y", 0, "Renamed"),
    ("volume|rename|typed|two words|-y", 1, "Invalid Volume name"),
    ("volume|rename|no-such|other|-y", 1, "not found"),
    ("volume|delete|typed", 1, "Aborted."),
    ("volume|list|-e|no-such", 1, "Environment 'no-such' not found"),
    ("volume|frob", 2, "No such command 'frob'"),
    ("volume|put", 2, "Missing argument 'VOLUME_NAME'"),
]

DOWN: list[Step] = [
    ("volume|get|typed|my dir|down", 0, "Downloaded 3 files"),
    ("volume|get|typed|nothing|down2", 1, "No such file or directory"),
    ("volume|get|typed|empty-one|down2", 0, "Downloaded 0 files"),
    ("volume|get|typed|my dir/a b.txt|new/deep/file", 0, "Downloaded 1 file (1 B) to new/deep/file"),
    ("volume|get|typed|my dir/a b.txt|into/", 0, "Downloaded 1 file"),
    ("volume|get|typed|my dir/a b.txt", 0, "to ."),
    ("volume|get|typed|my dir/a b.txt|plain", 1, "plain exists already: use --force"),
    ("volume|get|typed|my dir|plain", 1, "plain is a file, and a directory is needed there"),
    ("volume|get|typed|my dir|-", 1, "only files can be read"),
    ("volume|get|typed|my dir/sub ü/ünï ✓.txt|-", 0, "u"),
    ("volume|get|typed|**", 1, "No such file or directory"),
    ("volume|rm|-r|typed|/", 0, ""),
    ("volume|ls|typed", 0, ""),
    ("volume|delete|-y|typed", 0, "Deleted"),
]


def test_volumes(platform: Platform, tree: Path) -> None:
    carry_out(platform, FILES, tree)
    assert platform.modal("volume", "put", "typed", tree / "nothing", "/empty-one").code == 0
    listed = json.loads(platform.modal("volume", "ls", "typed", "my dir", "--json").out)
    assert {row["Filename"]: (row["Type"], row["Size"]) for row in listed} == {
        "my dir/a b.txt": ("file", "1 B"),
        "my dir/broken": ("link", "7 B"),
        "my dir/empty": ("dir", "0 B"),
        "my dir/outer": ("file", f"{Path('/etc/hosts').stat().st_size} B"),
        "my dir/sub ü": ("dir", "0 B"),
    }
    carry_out(platform, DOWN, tree)
    assert (tree / "down/a b.txt").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tree / "down").iterdir()) == ["a b.txt", "broken", "empty", "outer", "sub ü"]
    assert os.readlink(tree / "down/sub ü/inner") == "../a b.txt"
    assert os.readlink(tree / "down/broken") == "nowhere"
    assert list((tree / "down2").iterdir()) == []  # what is empty is made all the same
    assert (tree / "into/a b.txt").read_text() == (tree / "a b.txt").read_text() == "a"


NETWORK: list[Step] = [
    ("nfs|create|typed", 0, "Created network file system 'typed' in environment 'main'."),
    ("nfs|put|typed|my dir", 0, "Uploaded my dir to '/my dir'"),
    ("nfs|put|typed|plain|/x/", 0, "to '/x/plain'"),
    ("nfs|put|typed|plain|/x", 1, "'x' is a directory"),
    ("nfs|put|typed|plain|/x/plain/y", 1, "only directories may be on the way"),
    ("nfs|put|typed|plain|/same/same", 0, "to '/same/same'"),
    ("nfs|get|typed|same|same", 0, "Downloaded 1 file"),  # a directory that holds one file of its own name
    ("nfs|rm|-r|typed|same", 0, ""),
    ("nfs|put|typed|no such", 1, "There is no file or directory no such."),
    ("nfs|ls|typed|my dir", 0, "a b.txt\nbroken\nempty\nouter\nsub ü\n"),
    ("nfs|ls|typed|x/plain", 0, "plain\n"),
    ("nfs|ls|typed|**/*.txt", 0, "/my dir/a b.txt\n/my dir/sub ü/ünï ✓.txt\n"),
    ("nfs|ls|typed|no such", 1, "No such file or directory in the network file system"),
    ("nfs|get|typed|**/*.txt|globbed", 0, "Downloaded 2 files"),
    ("nfs|get|typed|**/*.txt|-", 0, "au"),
    ("nfs|get|typed|*.zip|globbed", 1, "Nothing matches '*.zip'."),
    ("nfs|get|typed|**|dump", 0, "Downloaded 4 files"),
    ("nfs|get|typed|my dir|-", 1, "only files can be read"),
    ("nfs|rm|typed|my dir", 1, "rm -r"),
    ("nfs|rm|-r|typed|my dir", 0, ""),
    ("nfs|rm|typed|x/plain", 0, ""),
    ("nfs|ls|typed", 0, "x\n"),
    ("nfs|ls|no-such", 1, "create it with `modal nfs create no-such`"),
    ("nfs|delete|typed", 1, "Aborted."),
    ("nfs|delete|-y|typed", 0, "Deleted"),
]


def test_network_file_systems(platform: Platform, tree: Path) -> None:
    carry_out(platform, NETWORK, tree)
    assert (tree / "globbed/my dir/sub ü/ünï ✓.txt").read_text() == "u"
    assert (tree / "dump/my dir/empty").is_dir()
    assert (tree / "dump/x/plain").read_text() == (tree / "same/same").read_text() == "plain"


FILL = """
import sys, types, modal
far = types.ModuleType("far_away")
exec("class Thing: pass", far.__dict__)
far.Thing.__module__ = "far_away"
d = modal.Dict.from_name("typed", create_if_missing=True)
class Odd:
    def __repr__(self):
        raise ValueError("odd")
d.update({"a": "text", 1: [1, 2], "ü": b"x"})
d["odd"] = Odd()
sys.modules["far_away"] = far
d.update({"far": far.Thing(), "half": "\\ud800", "nan": float("nan"), far.Thing(): "its key"})
q = modal.Queue.from_name("typed", create_if_missing=True)
q.put_many([1, "two", {"three": 3}])
q.put("part", partition="p")
q.put(Odd(), partition="odd")
q.put_many([far.Thing(), "\\ud800", "last"], partition="far")
"""

STORED: list[Step] = [
    ("dict|create|typed", 0, "'typed' is ready"),
    ("dict|create|typed", 0, "'typed' is ready"),
    ("dict|create|two words", 1, "Invalid Dict name"),
    ("dict", 2, "Usage: modal dict [OPTIONS] COMMAND [ARGS]...\n\n  Manage `modal.Dict` objects"),
    ("dict|get|typed|a", 0, "text\n"),
    ("dict|get|typed|1", 1, "There is no key '1' in the Dict 'typed'."),
    ("dict|get|typed|ü", 0, "b'x'\n"),
    ("dict|get|typed|odd", 0, "<Odd, which cannot be shown: ValueError>"),
    ("dict|get|typed|far", 1, "it needs the module 'far_away', which is not installed"),
    ("dict|get|typed|half", 0, "\\ud800\n"),
    ("dict|items|typed|-a", 0, "<it cannot be deserialized here: it needs the module 'far_away'"),
    ("dict|items|typed|-a|--json", 0, '"Value": "its key"'),
    ("dict|items|typed|-a|--json", 0, '"Key": "far",\n    "Value": "<it cannot be deserialized here'),
    ("dict|items|typed|-a|--json", 0, '"Key": "nan",\n    "Value": "nan"'),
    ("dict|items|typed|-a|--json|-r", 0, '"Value": "nan"'),
    ("dict|items|typed|0", 0, "..."),
    ("dict|items|typed|1", 0, "..."),
    ("dict|items|typed|--all", 0, "<Odd, which cannot be shown: ValueError>"),
    ("dict|items|typed|-r", 0, "'text'"),
    ("dict|items|typed|many", 2, "Invalid value for '[N]'"),
    ("dict|items|no-such", 1, "create it with `modal dict create no-such`"),
    ("dict|clear|typed", 1, "Aborted."),
    ("dict|clear|-y|typed", 0, "Cleared"),
    ("dict|items|typed|--json", 0, "[]\n"),
    ("dict|delete|-y|typed", 0, "Deleted"),
    ("dict|delete|-y|typed", 1, "not found"),
    ("queue|create|typed", 0, "'typed' is ready"),
    ("queue|len|typed", 0, "3\n"),
    ("queue|len|typed|-p|p", 0, "1\n"),
    ("queue|peek|typed|9|-p|far", 0, "it needs the module 'far_away', which is not installed in this environment>\n"),
    ("queue|peek|typed|9|-p|far", 0, ">\n\\ud800\nlast\n"),
    ("queue|peek|typed|-p|", 1, "must have 1 to 64 bytes, not 0"),
    ("queue|clear|typed|-y|-p|far", 0, "Cleared partition 'far'"),
    ("queue|len|typed|--total", 0, "5\n"),
    ("queue|len|typed|-t|-p|p", 2, "Give either --partition or --total."),
    ("queue|peek|typed", 0, "1\n"),
    ("queue|peek|typed|9", 0, "1\ntwo\n{'three': 3}\n"),
    ("queue|peek|typed|-p|odd", 0, "<Odd, which cannot be shown: ValueError>"),
    ("queue|peek|typed|5|-p|none", 0, ""),
    ("queue|peek|typed|0", 2, "not in the range"),
    ("queue|clear|typed|-y|-a|-p|p", 2, "Give either --partition or --all."),
    ("queue|clear|typed|-y|-p|p", 0, "Cleared partition 'p'"),
    ("queue|clear|typed|-y", 0, "Cleared the default partition"),
    ("queue|len|typed|-t", 0, "1\n"),
    ("queue|clear|typed|-y|--all", 0, "Cleared all partitions"),
    ("queue|len|typed|-t", 0, "0\n"),
    ("queue|delete|-y|typed", 0, "Deleted"),
    ("queue|len|typed", 1, "create it with `modal queue create typed`"),
]


def test_dicts_and_queues(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "fill.py").write_text(FILL)
    fill = platform.start_python(tmp_path / "fill.py")
    out, err = fill.communicate()
    assert fill.returncode == 0, out + err
    carry_out(platform, STORED, tmp_path)


KEPT: list[Step] = [
    ("secret|create|typed|A=1|B=x=y z|C=", 0, "with the keys 'A', 'B', 'C'"),
    ("secret|create|typed|A=1", 1, "use --force"),
    ("secret|create|typed|A=2|--force", 0, "with the keys 'A'"),
    ("secret|create|other", 2, "Missing argument 'KEYVALUES...'"),
    ("secret|create|other|novalue", 2, "'novalue' is no KEY=VALUE item."),
    ("secret|create|other|A=1|A=2", 2, "The key 'A' is given twice."),
    ("secret|create|two words|A=1", 1, "Invalid Secret name"),
    ("secret|create||A=1", 1, "Invalid Secret name"),
    ("secret|create|other|A=-", 2, "Nothing came on stdin for A. Write `A=` for an empty value."),
    ("secret|create|other|A=-|B=-", 2, "Only one thing can be read from stdin"),
    ("secret|create|other|--from-json|-|B=-", 2, "Only one thing can be read from stdin"),
    ("secret|create|other|A=\udcff", 1, "bytes that are no UTF-8 text"),
    ("secret|create|other|A B=1|1A=|a-b.c=x|ü=y", 0, "with the keys 'A B', '1A', 'a-b.c', 'ü'"),
    ("secret|create|other|--force|--from-dotenv|good.env", 0, "with the keys 'A', 'URL', 'JSON', 'LINES'"),
    ("secret|create|other|--force|--from-dotenv|bad.env", 2, "Line 2: the value of B begins with a quote that"),
    ("secret|create|other|--force|--from-dotenv|no.env", 2, "'no.env' cannot be read"),
    ("secret|create|other|--force|--from-json|number.json", 2, "the value of 'N' is no string"),
    ("secret|create|other|--force|--from-json|good.env", 2, "is no JSON"),
    ("secret|delete|-y|other", 0, "Deleted"),
    ("secret|delete|typed", 1, "Aborted."),
    ("secret|delete|-y|typed", 0, "Deleted"),
    ("secret|delete|-y|typed", 1, "not found"),
    ("environment|create|typed", 0, "Environment created: typed"),
    ("environment|create|typed", 1, "already"),
    ("environment|create|two words", 1, "Invalid Environment name"),
    ("environment|update|typed|--set-name|typed-2", 0, "Environment updated: typed-2"),
    ("environment|update|typed|--set-name|typed-3", 1, "Environment 'typed' not found"),
    ("environment|update|typed-2|--set-web-suffix|a_b!", 1, "cannot be a web suffix"),
    ("environment|update|typed-2|--set-web-suffix|", 1, "would be the same"),
    ("environment|update|typed-2", 2, "Nothing to change"),
    ("environment|update|typed-2|--set-name|", 2, "--set-name must not be empty"),
    ("environment|update|typed-2|--set-name|main", 1, "already"),
    ("volume|create|--env=typed-2|storage", 0, "in environment 'typed-2'"),
    ("volume|list|-e|typed-2", 0, "storage"),
    ("volume|ls|storage", 1, "not found in environment 'main'"),
    ("config|set-environment|no-such", 1, "There is no environment 'no-such'"),
    ("environment|delete|typed-2", 1, "Aborted."),
    ("environment|delete|typed-2|--confirm", 0, "Environment deleted: typed-2"),
    ("volume|list|-e|typed-2", 1, "not found"),
    ("environment|create|typed-2", 0, "created"),
    ("volume|list|-e|typed-2|--json", 0, "[]\n"),  # what it had went with it
    ("environment|delete|typed-2|--confirm", 0, "deleted"),
    ("environment|delete|main|--confirm", 1, "cannot be deleted"),
]


def test_secrets_and_environments(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "good.env").write_text("\ufeff" + GOOD_ENV)
    (tmp_path / "bad.env").write_text("A=1\nB='no end\n")
    (tmp_path / "number.json").write_text('{"A": "1", "N": 2}')
    carry_out(platform, KEPT, tmp_path)


GOOD_ENV = r"""# a comment
export A="it's"
URL=http://host/#part   # what follows is none
JSON={"k": "a  b"}
LINES="one
two"
"""

HOLDS = """
import os, modal
app = modal.App("holds")

@app.function(secrets=[modal.Secret.from_name("holds")])
def f():
    return [os.environ[name] for name in ("A", "URL", "JSON", "LINES")]

@app.local_entrypoint()
def main():
    print(f.remote())
"""


def test_values_arrive_as_they_stand_in_a_file(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "good.env").write_text(GOOD_ENV)
    (tmp_path / "holds.py").write_text(HOLDS)
    made = platform.modal("secret", "create", "holds", "--from-dotenv", tmp_path / "good.env")
    assert made.code == 0, made.text
    ran = platform.modal("run", tmp_path / "holds.py")
    assert ran.lines() == [str(["it's", "http://host/#part", '{"k": "a  b"}', "one\ntwo"])], ran.text
    assert platform.modal("secret", "delete", "holds", "-y").code == 0
