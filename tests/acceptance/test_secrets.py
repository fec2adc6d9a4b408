"""Secrets and environments through the real command line; what a secret holds is found nowhere but in its container."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.conftest import PATIENCE, Platform, ProgramFinder, until

pytestmark = pytest.mark.acceptance

MARKER = "mark-ed-va-lue"


def test_is_local_decides_what_a_secret_holds(platform: Platform, program: ProgramFinder) -> None:
    ran = platform.modal("run", program("guide/secrets__j1"), env={"LOCAL_FOO": "bar"})
    assert ran.code == 0, ran.text
    assert ran.lines() == ["bar"]


def test_from_dotenv(platform: Platform, program: ProgramFinder, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# who\nUSERNAME=ada\n")
    path = program("guide/secrets__j2")
    path.write_text(path.read_text() + "\nimport os\n")  # the page leaves the import out
    ran = platform.modal("run", path, cwd=tmp_path)
    assert ran.code == 0, ran.text
    assert ran.lines() == ["ada"]
    (tmp_path / ".env").unlink()
    missing = platform.modal("run", path, cwd=tmp_path)
    assert missing.code == 1
    assert ".env" in missing.text


ORDER = """
import os, modal
app = modal.App("order")
named = modal.Secret.from_name("order-secret", required_keys=["A", "MODAL_IS_REMOTE"])
inline = modal.Secret.from_dict({"A": "inline", "NONE": None})

@app.function(secrets=[named, inline], image=modal.Image.debian_slim().env({"A": "image", "IMAGE": "kept"}))
def first():
    return [os.environ.get(name) for name in ("A", "B", "NONE", "IMAGE", "MODAL_IS_REMOTE", "MODAL_TASK_ID")]

@app.function(secrets=[inline, named])
def second():
    return os.environ["A"]

@app.local_entrypoint()
def main():
    *values, remote, task = first.remote()
    print(values, remote, task[:3], second.remote())
"""


def test_later_secrets_win_and_reserved_variables_stay(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "order.py"
    path.write_text(ORDER)
    none = platform.modal("run", path)
    assert none.code == 1
    assert "modal secret create order-secret" in none.text
    assert platform.modal("secret", "create", "order-secret", "A=named", "B=b").code == 0
    lacking = platform.modal("run", path)
    assert lacking.code == 1
    assert "Secret 'order-secret' is missing key(s): MODAL_IS_REMOTE" in lacking.text
    again = platform.modal("secret", "create", "order-secret", "A=x")
    assert again.code == 1
    assert "--force" in again.text
    made = platform.modal("secret", "create", "--force", "order-secret", "A=named", "B=b", "MODAL_IS_REMOTE=0")
    assert made.code == 0, made.text
    ran = platform.modal("run", path)
    assert ran.code == 0, ran.text
    assert ran.lines() == ["['inline', 'b', None, 'kept'] 1 ta- named"]
    assert platform.modal("secret", "delete", "order-secret", "--yes").code == 0
    assert platform.modal("secret", "delete", "order-secret", "--yes").code == 1


LEAK = """
import os, sys, modal
app = modal.App("leak")
secret = modal.Secret.from_name("leak-secret")
local = modal.Secret.from_local_environ(["LOCAL_MARK"])
image = modal.Image.debian_slim().run_commands("test -n \\"$TOP\\" && echo built", secrets=[secret])

@app.function(secrets=[secret, local], image=image)
def f():
    assert os.environ["TOP"] == os.environ["LOCAL_MARK"]
    print("ready", flush=True)
    modal.Queue.from_name("leak-gate", create_if_missing=True).get()
    raise ValueError("it fails")

@app.local_entrypoint()
def main():
    f.remote()
"""


def holding(platform: Platform) -> list[str]:
    """Files of the state directory in which the marker stands."""
    found = subprocess.run(["grep", "-rlaF", MARKER, platform.home], capture_output=True, text=True, check=False)
    return found.stdout.splitlines()


def test_a_secret_s_value_is_nowhere_to_be_found(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "leak.py"
    path.write_text(LEAK)
    created = subprocess.run(
        platform.command("modal", "secret", "create", "leak-secret", "TOP=-"),
        input=MARKER, env=platform.env, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert created.returncode == 0, created.stderr
    assert MARKER not in created.stdout
    process = platform.start("modal", "run", path, env={"LOCAL_MARK": MARKER, "MODAL_TRACEBACK": "1"})
    assert process.stdout is not None
    lines = []
    while not lines or "ready" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    # While it runs, its own configuration has the value, for nobody but the worker's user.
    for name in holding(platform):
        assert os.path.basename(name) == "config.json", name
        mode = stat.S_IMODE(os.stat(name).st_mode)
        folder = stat.S_IMODE(os.stat(platform.home / "crun").st_mode)
        assert mode == 0o600 or (platform.home / "crun" in Path(name).parents and folder == 0o700), (name, oct(mode))
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert MARKER not in listed
    assert platform.python("import modal; modal.Queue.from_name('leak-gate').put(1)").code == 0
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "ValueError: it fails" in out + err
    assert MARKER not in "".join(lines) + out + err
    for command in (["secret", "list", "--json"], ["app", "list", "--json"], ["app", "logs", "leak.py"]):
        assert MARKER not in platform.modal(*command).text
    assert MARKER not in json.dumps(platform.status())
    assert MARKER not in platform.intermodal("doctor").text
    until(lambda: holding(platform) == [])  # the container's directory is being removed
    assert platform.modal("secret", "delete", "leak-secret", "-y").code == 0


RENAMED = """
import os, subprocess, sys, modal
app = modal.App("renamed")
READ = "import modal; print(modal.Dict.from_name('renamed-dict')['k'])"

@app.function(min_containers=1)
def f():
    d = modal.Dict.from_name("renamed-dict", create_if_missing=True)
    d.put("k", os.environ["MODAL_TASK_ID"], skip_if_exists=True)
    modal.Secret.from_name("renamed-secret").hydrate()
    child = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True)
    return modal.Function.from_name("renamed", "g").remote(), child.stdout.strip()

@app.function()
def g():
    return modal.Dict.from_name("renamed-dict")["k"]
"""
CALL = "import modal; print(*modal.Function.from_name('renamed', 'f', environment_name={0!r}).remote())"


def test_containers_find_their_environment_after_it_was_renamed(platform: Platform, tmp_path: Path) -> None:
    modal = platform.modal
    (tmp_path / "renamed.py").write_text(RENAMED)
    assert modal("environment", "create", "before").code == 0
    assert modal("secret", "create", "renamed-secret", "A=1", "-e", "before").code == 0
    deployed = modal("deploy", "-e", "before", tmp_path / "renamed.py")
    assert deployed.code == 0, deployed.text

    def call(environment: str) -> str:
        ran = platform.python(CALL.format(environment))
        assert ran.code == 0, ran.text
        by_g, by_child = ran.out.split()
        assert by_g == by_child, ran.out
        return by_g

    first = call("before")
    assert modal("environment", "update", "before", "--set-name", "after").code == 0
    assert modal("environment", "create", "before").code == 0  # the name is free, and another one's
    assert call("after") == first
    assert "not found in environment 'before'" in modal("dict", "get", "renamed-dict", "k", "-e", "before").text
    for name in ("before", "after"):
        assert modal("environment", "delete", name, "--confirm").code == 0


SERVES = """
import modal
app = modal.App("serves")

@app.function()
@modal.wsgi_app()
def web():
    def answer(environ, start):
        start("200 OK", [])
        return [b"served"]
    return answer
"""
ASK = """
import http.client, sys, urllib.parse, modal
found = modal.Function.from_name("serves", "web", environment_name="serving").get_web_url()
for url in (found, *sys.argv[1:]):
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", place.port)
    connection.request("GET", "/", headers={"Host": place.netloc})
    print(url, connection.getresponse().status)
"""


def test_another_web_suffix_moves_what_is_served(platform: Platform, tmp_path: Path) -> None:
    modal = platform.modal
    (tmp_path / "serves.py").write_text(SERVES)
    (tmp_path / "ask.py").write_text(ASK)

    def asked(*old: str) -> list[tuple[str, str]]:
        process = platform.start_python(tmp_path / "ask.py", *old)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        return [(url, status) for url, status in (line.split() for line in out.splitlines())]

    assert modal("environment", "create", "serving").code == 0
    assert modal("deploy", "-e", "serving", tmp_path / "serves.py").code == 0
    ((before, status),) = asked()
    assert (status, "-serving--" in before) == ("200", True)
    assert modal("environment", "update", "serving", "--set-web-suffix", "other").code == 0
    after = before.replace("-serving--", "-other--")
    assert asked(before) == [(after, "200"), (before, "404")]
    assert modal("environment", "delete", "serving", "--confirm").code == 0


WHERE = """
import modal
app = modal.App("where")
d = modal.Dict.from_name("where-dict", create_if_missing=True)

@app.function(secrets=[modal.Secret.from_name("where-secret")])
def f():
    import os
    other = modal.Dict.from_name("where-dict", environment_name="main").get("k")
    return os.environ["W"], os.environ["MODAL_ENVIRONMENT"], d.get("k"), other

@app.local_entrypoint()
def main():
    d["k"] = "here"
    print(*f.remote())
"""


def test_environments(platform: Platform, tmp_path: Path) -> None:
    modal = platform.modal
    path = tmp_path / "where.py"
    path.write_text(WHERE)
    assert modal("environment", "create", "dev").code == 0
    assert modal("environment", "update", "dev", "--set-name", "staging", "--set-web-suffix", "stg").code == 0
    rows = json.loads(modal("environment", "list", "--json").out)
    assert {"name": "staging", "web suffix": "stg", "active": False} in rows
    same = modal("environment", "update", "staging", "--set-web-suffix", "")
    assert (same.code, "'main' has the web suffix ''" in same.text) == (1, True)
    assert modal("environment", "create", "Stg").code == 0  # its suffix is another one
    suffixes = [row["web suffix"] for row in json.loads(modal("environment", "list", "--json").out)]
    assert sorted(suffixes) == ["", "stg", "stg-2"]
    assert modal("environment", "delete", "Stg", "--confirm").code == 0
    assert modal("secret", "create", "where-secret", "W=main").code == 0
    assert modal("secret", "create", "where-secret", "W=staging", "--env", "staging").code == 0
    assert modal("run", path).lines() == ["main main here here"]
    changed = modal("dict", "get", "where-dict", "k")
    assert changed.out == "here\n"
    by_option = modal("run", "--env", "staging", path)
    assert by_option.code == 0, by_option.text
    assert by_option.lines() == ["staging staging here here"]
    by_variable = modal("run", path, env={"MODAL_ENVIRONMENT": "staging"})
    assert by_variable.lines() == ["staging staging here here"]
    assert modal("config", "set-environment", "staging").code == 0
    by_profile = modal("run", path)
    assert by_profile.lines() == ["staging staging here here"]
    assert modal("config", "set-environment", "main").code == 0
    unknown = modal("run", "--env", "nowhere", path)
    assert unknown.code == 1
    assert "'nowhere' not found" in unknown.text
    assert modal("environment", "delete", "staging", "--confirm").code == 0
    assert "'staging' not found" in modal("secret", "list", "--env", "staging").text
    assert json.loads(modal("dict", "items", "where-dict", "--json").out) == [{"Key": "k", "Value": "here"}]
    refused = modal("environment", "delete", "main", "--confirm")
    assert (refused.code, "default environment" in refused.text) == (1, True)
    assert modal("secret", "delete", "where-secret", "-y").code == 0
    assert modal("dict", "delete", "where-dict", "-y").code == 0
