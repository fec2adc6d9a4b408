"""Images of what people have: odd names, quotes, settings, requirements that name others, branches of one chain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = pytest.mark.acceptance

PROGRAM = r"""
import json, modal, os, subprocess
from pathlib import Path

here = Path(__file__).parent
base = modal.Image.debian_slim("3.11")
branch = base.run_commands("echo base > /b")
IMAGES = {
    "quotes": base.run_commands(
        "echo \"it's\" 'a \"b\"' > /one",
        ["printf '%s\n' 'x y' \"$((1+1))\" > /two", "cat <<'E' > /three\n$X\n\ttab\nE"],
        "cd /tmp && pwd > /four", "pwd > /five; echo ü✓ > /ü.txt && false || echo ok >> /five",
    ),
    "settings": base.env({"A": "x y", "B": "$A", "C": "ü\"'", "EMPTY": ""}).run_commands('echo "[$A][$B][$C]" > /seen')
        .env({"A": "over"}).workdir("/work dir/ü").run_commands("pwd > where"),
    "files": base.add_local_dir("a dir", "/copied", copy=True).run_commands("/copied/run.sh > /ran")
        .add_local_dir(here / "a dir", "/late/nested/").add_local_file("a dir/run.sh", "/late/"),
    "requirements": base.pip_install_from_requirements("req ü.txt")
        .pip_install("no-such-package ; python_version < '3'", ["toml >=0.10, <1"]),
    "project": base.pip_install_from_pyproject("pyproject.toml", optional_dependencies=["two words"]),
    "one": branch.run_commands("echo one >> /b"),
    "two": branch.run_commands("echo two >> /b").add_local_file("a dir/run.sh", "/r", copy=True)
        .run_commands("/r >> /b"),
    "shell": base.shell(["/bin/bash", "-euo", "pipefail", "-c"]).run_commands("echo $- > /s; [[ a == a ]]")
        .entrypoint([]).cmd(["ignored"]),
}
COMMANDS = {
    "quotes": "cd /; cat one two three four five ü.txt",
    "settings": "cat /seen; pwd; cat where;"
        "echo \"$A|$B|$C|$UNI|$QUOTED|$EXPORTED|$LINES_OF|${EMPTY-unset}|${NOTHING-unset}\"",
    "files": "cat /ran; /late/nested/run.sh;"
        "cat '/copied/inner' '/late/nested/sub ü/ä b.txt'; readlink /copied/broken; ls /late;"
        "cd /; ls -d copied/empty/er /late/nested/empty/er",
    "requirements": "pip list --format freeze | grep -i '^six=\\|^toml='",
    "project": "pip list --format freeze | grep -i '^six=\\|^toml='",
    "one": "cat /b", "two": "cat /b", "shell": "cat /s",
}
app = modal.App("image-corners")

def shown(command):
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout

for name, image in IMAGES.items():
    secrets = [modal.Secret.from_dotenv(str(here))] if name == "settings" else []
    app.function(image=image, name=name, serialized=True, secrets=secrets)(shown)

@app.local_entrypoint()
def main():
    found = {name: app.registered_functions[name].remote(command).split("\n") for name, command in COMMANDS.items()}
    print("found", json.dumps(found))
"""

DOTENV = """# a comment
UNI="ü✓ x"
QUOTED='a "b" $HOME'
export EXPORTED=1
LINES_OF="l1 l2"
EMPTY=
NOTHING
"""


def test_corners(platform: Platform, tmp_path: Path) -> None:
    tree = tmp_path / "a dir"
    (tree / "sub ü").mkdir(parents=True)
    (tree / "sub ü/ä b.txt").write_text("ünï\n")
    (tree / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "empty/er").mkdir(parents=True)
    (tree / "inner").symlink_to("sub ü/ä b.txt")
    (tree / "broken").symlink_to("nowhere")
    (tmp_path / "more").mkdir()
    (tmp_path / "req ü.txt").write_text("# ü\n-r more/base.txt\n-c limits.txt\ntoml\n", encoding="utf-8")
    (tmp_path / "more/base.txt").write_text("six")
    (tmp_path / "limits.txt").write_text("six==1.16.0\n")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "1"\ndependencies = ["six>=1.10"]\n'
        '[project.optional-dependencies]\n"two words" = ["toml"]\nnot-asked = ["no-such-package-anywhere"]\n'
    )
    (tmp_path / ".env").write_text(DOTENV, encoding="utf-8")
    (tmp_path / "corners.py").write_text(PROGRAM, encoding="utf-8")
    ran = platform.modal("run", "corners.py", cwd=tmp_path)
    assert ran.code == 0, ran.text
    [line] = [line for line in ran.out.splitlines() if line.startswith("found ")]
    found = {name: lines[:-1] for name, lines in json.loads(line.removeprefix("found ")).items()}
    assert found["quotes"] == ['it\'s a "b"', "x y", "2", "$X", "\ttab", "/tmp", "/", "ok", "ü✓"]
    assert found["settings"] == [
        "[x y][$A][ü\"']",
        "/work dir/ü",
        "/work dir/ü",
        'over|$A|ü"\'|ü✓ x|a "b" $HOME|1|l1 l2||unset',
    ]
    assert found["files"] == [
        "ran",
        "ran",
        "ünï",
        "ünï",
        "nowhere",
        "nested",
        "run.sh",
        "/late/nested/empty/er",
        "copied/empty/er",
    ]
    assert "six==1.16.0" in found["requirements"]
    assert [row.partition("=")[0] for row in found["requirements"]] == ["six", "toml"]
    assert [row.partition("=")[0] for row in found["project"]] == ["six", "toml"]
    assert (found["one"], found["two"]) == (["base", "one"], ["base", "two", "ran"])
    assert "e" in found["shell"][0] and "u" in found["shell"][0] and "B" in found["shell"][0]


STARTS = r"""
import modal
app = modal.App("no-start")
base = modal.Image.debian_slim("3.11")
volume = modal.Volume.from_name("no-start", create_if_missing=True)
keys = modal.Secret.from_dict({"A": "1"})
bucket = modal.CloudBucketMount("bb", bucket_endpoint_url="http://127.0.0.1:1", secret=keys)
CASES = {
    "mount": {"volumes": {"/etc/passwd": volume}},
    "workdir": {"image": base.workdir("/etc/passwd")},
    "python": {"image": base.run_commands("rm -f /usr/bin/python3*")},
    "entrypoint": {"image": base.entrypoint(["/no/such"])},
    "file": {"image": base.add_local_file(__file__, "/usr/bin/python3.11")},
    "etc": {"image": base.add_local_file(__file__, "/etc")},
    "bucket": {"volumes": {"/v": bucket}},
}
for name, options in CASES.items():
    app.function(name=name, serialized=True, **options)(lambda: 1)

@app.local_entrypoint()
def main():
    for name in CASES:
        try:
            app.registered_functions[name].remote()
        except Exception as error:
            print("case", name, type(error).__name__, error)
"""


def test_a_container_that_cannot_start_says_why(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "no_start.py").write_text(STARTS)
    ran = platform.modal("run", "no_start.py", cwd=tmp_path)
    assert ran.code == 0, ran.text
    told = {line.split()[1]: line for line in ran.out.splitlines() if line.startswith("case ")}
    for name, words in {
        "mount": "nothing can be mounted at /etc/passwd: there is a file in the image",
        "workdir": "the working directory /etc/passwd: not a directory in the image",
        "python": "/usr/local/bin/python is not in the image",
        "entrypoint": "/no/such is not in the image",
        "file": "its program may not be executed: a file was put in its place",
        "etc": "/etc",
        "bucket": "must have AWS_ACCESS_KEY_ID",
    }.items():
        assert words in told[name], ran.text
        assert str(platform.home) not in told[name]  # of no use to who reads it
    assert platform.modal("volume", "delete", "-y", "no-start").code == 0


MISTAKES = {
    "add_local_python_source('no_such_module')": "no_such_module has no spec",
    "add_local_file('/no/such', '/x')": "add_local_file: there is no file /no/such",
    "pip_install_from_requirements('no-such.txt')": "there is no file no-such.txt",
    "dockerfile_commands('COPY nothing /x')": "there is no 'nothing' where files are copied from",
}


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes_are_one_sentence(platform: Platform, tmp_path: Path, call: str) -> None:
    source = f"import modal\napp = modal.App('mistake', image=modal.Image.debian_slim('3.11').{call})\n"
    (tmp_path / "mistake.py").write_text(source + "@app.function()\ndef f():\n    pass\n")
    ran = platform.modal("run", "-q", "mistake.py", cwd=tmp_path)
    assert ran.code == 1
    assert f"Error: {MISTAKES[call]}" in ran.err or MISTAKES[call] in ran.err
    assert "Traceback" not in ran.err
    assert "Unexpected" not in ran.err
