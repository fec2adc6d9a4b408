"""Programs that mount buckets, against a real S3 server that checks signatures."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform, until
from tests.object_store import BUCKET, ObjectStore
from tests.ports import free_port

pytestmark = [pytest.mark.acceptance, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    assert shutil.which("rclone"), "scripts/setup --dev installs rclone"
    made = ObjectStore(tmp_path_factory.mktemp("s3") / "log")
    made.start()
    yield made
    made.stop()


HEAD = """
import errno, hashlib, os, shutil, subprocess, time, modal
app = modal.App("buckets")
secret = modal.Secret.from_local_environ(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def bucket(**options):
    return modal.CloudBucketMount({bucket!r}, bucket_endpoint_url={url!r}, secret=secret, **options)
"""

EVERYTHING = (
    HEAD
    + """
@app.function(volumes={{"/all": bucket(), "/part": bucket(key_prefix="path/to/dir/"), "/ro": bucket(read_only=True)}})
def use():
    assert sorted(os.listdir("/all")) == ["a.txt", "path"], os.listdir("/all")
    assert os.listdir("/part") == ["b.txt"]
    assert open("/part/b.txt").read() == "below"
    assert open("/ro/a.txt").read() == "hello"
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ

    with open("/all/new.txt", "w") as file:
        file.write("written")
    assert open("/all/new.txt").read() == "written"
    os.makedirs("/all/deep/er")
    data = os.urandom(1 << 20) * 40
    with open("/tmp/large", "wb") as file:
        file.write(data)
    shutil.copyfile("/tmp/large", "/all/deep/er/large")
    digest = hashlib.sha256()
    with open("/all/deep/er/large", "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    assert digest.digest() == hashlib.sha256(data).digest()
    os.remove("/all/a.txt")
    for refused in (lambda: open("/ro/x", "w"), lambda: os.remove("/ro/path/to/dir/b.txt")):
        try:
            refused()
        except OSError as error:
            assert error.errno == errno.EROFS, error
        else:
            raise AssertionError("a read-only mount was written to")
    try:
        with open("/part/b.txt", "a") as file:  # as the documentation has it: no appending
            file.write("more")
    except OSError:
        pass
    else:
        raise AssertionError("appending was accepted")
    # More than is documented: modes are ignored instead of refused, and files can be renamed (a copy in the store).
    assert semantics() == ["done", "done", "done", "done", "EIO", "EIO", "EPERM", "EPERM"], semantics()
    assert open("/all/renamed").read() == "modes"
    assert os.stat("/all/elsewhere/er/large").st_size == len(data)
    os.rename("/all/elsewhere", "/all/deep")
    return len(data)

def semantics():
    said = []
    with open("/all/modes", "w") as file:
        file.write("modes")
    def trial(work):
        try:
            work()
        except OSError as error:
            said.append(errno.errorcode[error.errno])
        else:
            said.append("done")
    trial(lambda: os.chmod("/all/modes", 0o600))
    trial(lambda: shutil.copymode("/tmp/large", "/all/modes"))
    trial(lambda: os.rename("/all/modes", "/all/renamed"))
    trial(lambda: os.rename("/all/deep", "/all/elsewhere"))
    trial(lambda: os.symlink("new.txt", "/all/link"))
    trial(lambda: os.link("/all/new.txt", "/all/hard"))
    trial(lambda: os.truncate("/all/new.txt", 3))
    trial(lambda: open("/all/new.txt", "r+").close())
    return said

@app.local_entrypoint()
def main():
    print("used", use.remote())
"""
)


def write(path: Path, text: str, store: ObjectStore, **changes: str) -> Path:
    path.write_text(text.format(**{"bucket": BUCKET, "url": store.url, **changes}))
    return path


def keys_of(store: ObjectStore) -> dict[str, str]:
    """For the environment of the command line."""
    return {"AWS_ACCESS_KEY_ID": store.key_id, "AWS_SECRET_ACCESS_KEY": store.key}


def rclones(platform: Platform) -> list[str]:
    """Command lines of the platform's mounts."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in found if "rclone mount" in line and f"{platform.home}/" in line]


BUILD = (
    HEAD
    + """
def fetch():
    open("/model", "w").write(open("/weights/build.txt").read())
    open("/weights/from-the-build", "w").write("written")
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ

image = modal.Image.debian_slim().run_function(fetch, volumes={{"/weights": bucket()}}).run_commands("cat /model")
if modal.is_local():
    with modal.enable_output():
        image.hydrate()
"""
)


def test_a_function_that_runs_in_a_build_has_its_bucket(platform: Platform, store: ObjectStore, tmp_path: Path) -> None:
    store.s3.put_object(Bucket=BUCKET, Key="build.txt", Body=b"weights of a model")
    ran = platform.modal("run", write(tmp_path / "build.py", BUILD, store), env=keys_of(store))
    assert "weights of a model" in ran.text
    assert store.s3.get_object(Bucket=BUCKET, Key="from-the-build")["Body"].read() == b"written"
    for key in ("build.txt", "from-the-build"):
        store.s3.delete_object(Bucket=BUCKET, Key=key)
    until(lambda: rclones(platform) == [])


def test_a_bucket_as_a_directory(platform: Platform, store: ObjectStore, tmp_path: Path) -> None:
    store.s3.put_object(Bucket=BUCKET, Key="a.txt", Body=b"hello")
    store.s3.put_object(Bucket=BUCKET, Key="path/to/dir/b.txt", Body=b"below")
    ran = platform.modal("run", write(tmp_path / "everything.py", EVERYTHING, store), env=keys_of(store))
    assert ran.code == 0, ran.text
    assert ran.lines() == ["used 41943040"]
    keys = {one["Key"]: one["Size"] for one in store.s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert keys["new.txt"] == 7
    assert keys["deep/er/large"] == 40 << 20
    assert "a.txt" not in keys
    until(lambda: rclones(platform) == [] == os.listdir(platform.home / "buckets"))


MANY = (
    HEAD
    + """
@app.function(volumes={{"/b": bucket(key_prefix="many/")}})
def count():
    began = time.time()
    names = os.listdir("/b")
    sizes = sum(entry.stat().st_size for entry in os.scandir("/b"))
    return len(names), sizes, time.time() - began

@app.local_entrypoint()
def main():
    names, sizes, seconds = count.remote()
    print(names, sizes)
"""
)


KEYS = 10_000 if os.environ.get("INTERMODAL_SOAK") else 2_500  # S3 lists 1,000 at a time; to put them takes a minute


def test_many_keys(platform: Platform, store: ObjectStore, tmp_path: Path) -> None:
    def put(part: int) -> None:
        s3 = store.s3
        for number in range(part, KEYS, 8):
            s3.put_object(Bucket=BUCKET, Key=f"many/{number:05}", Body=b"x")

    threads = [threading.Thread(target=put, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ran = platform.modal("run", write(tmp_path / "many.py", MANY, store), env=keys_of(store))
    assert ran.code == 0, ran.text
    assert ran.lines() == [f"{KEYS} {KEYS}"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"key": "wrong"}, "credentials"),
        ({"bucket": "no-such-bucket"}, "no bucket of this name"),
        ({"url": "http://127.0.0.1:9"}, "does not answer"),
    ],
    ids=["credentials", "bucket", "endpoint"],
)
def test_what_cannot_be_mounted(
    platform: Platform, store: ObjectStore, tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    env = {**keys_of(store), **({"AWS_SECRET_ACCESS_KEY": "wrong"} if "key" in changes else {})}
    ran = platform.modal("run", write(tmp_path / "wrong.py", MANY, store, **changes), env=env)
    assert ran.code == 1
    assert says in ran.text, ran.text
    assert "/b" in ran.text
    assert store.key not in ran.text
    until(lambda: rclones(platform) == [])


def test_credentials_stand_on_no_command_line_and_in_no_file(
    platform: Platform, store: ObjectStore, tmp_path: Path
) -> None:
    text = HEAD + (
        '@app.function(volumes={{"/b": bucket()}}, timeout=600)\ndef wait():\n'
        "    print('mounted', flush=True)\n    time.sleep(600)\n"
    )
    process = platform.start("modal", "run", "-q", write(tmp_path / "wait.py", text, store), env=keys_of(store))
    assert process.stdout is not None
    while "mounted" not in process.stdout.readline():
        assert process.poll() is None
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert len(rclones(platform)) == 1
    assert store.key not in lines
    found = subprocess.run(["grep", "-rlaF", store.key, platform.home], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    process.terminate()
    process.communicate(timeout=200)
    until(lambda: rclones(platform) == [])


class Front:
    """The way to a store, which can be cut and opened again at the same address."""

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self._connections: list[socket.socket] = []
        self.port = free_port()  # which nobody gets while the way is cut
        self.open()

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        for one in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._connections.clear()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _address = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._behind))
            self._connections += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_a_server_that_goes_away_and_comes_back(platform: Platform, store: ObjectStore, tmp_path: Path) -> None:
    front = Front(store.port)
    store.s3.put_object(Bucket=BUCKET, Key="away/one", Body=b"1")
    text = (
        HEAD
        + """
@app.function(volumes={{"/b": bucket(key_prefix="away/")}}, max_containers=1)
def use(name, content):
    try:
        if content:
            with open(f"/b/{{name}}", "w") as file:
                file.write(content)
        return open(f"/b/{{name}}").read()
    except OSError as error:
        return type(error).__name__

@app.local_entrypoint()
def main():
    import sys
    print(use.remote("one", ""), flush=True)
    for line in sys.stdin:
        print(use.remote(*line.strip("\\n").split("=")), flush=True)
"""
    )
    program = tmp_path / "away.py"
    program.write_text(text.format(bucket=BUCKET, url=f"http://127.0.0.1:{front.port}"))
    process = subprocess.Popen(
        platform.command("modal", "run", "-q", str(program)),
        env={**platform.env, **keys_of(store)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(name: str, content: str = "") -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{name}={content}\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    try:
        assert process.stdout.readline().strip() == "1"
        front.cut()
        assert ask("one") == "OSError"
        assert ask("two", "lost") == "OSError"  # whoever writes is told: nothing is kept for later
        front.open()
        assert ask("one") == "1"
        assert ask("two", "written") == "written"
        process.stdin.close()
        assert process.wait(200) == 0
        process.stdout.close()
        assert store.s3.get_object(Bucket=BUCKET, Key="away/two")["Body"].read() == b"written"
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        front.cut()


def test_mounts_end_when_worker_and_container_were_killed(
    own_platform: Platform, store: ObjectStore, tmp_path: Path
) -> None:
    platform = own_platform
    assert platform.intermodal("up").code == 0
    text = HEAD + (
        '@app.function(volumes={{"/b": bucket()}}, timeout=600)\ndef wait():\n'
        "    print('mounted', flush=True)\n    time.sleep(600)\n"
    )
    process = platform.start("modal", "run", "-q", write(tmp_path / "wait.py", text, store), env=keys_of(store))
    assert process.stdout is not None
    while "mounted" not in process.stdout.readline():
        assert process.poll() is None
    assert len(rclones(platform)) == 1
    status = platform.status()
    os.kill(status["local_worker"]["pid"], 9)
    process.terminate()
    process.communicate(timeout=200)
    assert platform.intermodal("down").code == 0
    until(lambda: rclones(platform) == [])
