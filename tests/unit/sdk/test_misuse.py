"""What a program gets wrong is said where it is written, by the documented exception, and with what to do next."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import modal
from modal._volume_upload import VolumeUpload
from modal.exception import DeprecationError, InvalidError

App, Image, Volume, Queue, Secret = modal.App, modal.Image, modal.Volume, modal.Queue, modal.Secret
Bucket, Network = modal.CloudBucketMount, modal.NetworkFileSystem
base = Image.debian_slim("3.11")
volume, queue, network = Volume.from_name("v"), Queue.from_name("q"), Network.from_name("n")


def function(**options: Any) -> Any:
    return App("x").function(serialized=True, name="f", **options)(lambda: 1)


def batch() -> VolumeUpload:
    return VolumeUpload(False)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a new Dict": (lambda: modal.Dict({"a": 1}), r"use modal.Dict.from_name\(name, create_if_missing=True\), or eph"),
    "a new Secret": (lambda: Secret(), "modal.Secret is not made by calling it: use modal.Secret.from_name, from_dict"),
    "a new Image": (lambda: Image(), r"use modal.Image.debian_slim\(\)"),
    "a secret's value": (lambda: Secret.from_dict({"A": b"x"}), "value of 'A' must be a string or None, not bytes"),
    "a secret of no text": (lambda: Secret.from_dict({"A": "\udcff"}), "value of 'A' has bytes that are no UTF-8"),
    "a secret's key": (lambda: Secret.from_dict({"\udcff": "x"}), "cannot be the name of an environment variable"),
    "a secret's size": (lambda: Secret.from_dict({"A": "ü" * 65_535}), "larger than the 128 KiB that Linux lets a var"),
    "a dotenv path": (lambda: Secret.from_dotenv(3), "from_dotenv: a path is needed, not 3"),
    "a dotenv name": (lambda: Secret.from_dotenv(filename=None), "from_dotenv: a path is needed, not None"),
    "no client": (lambda: queue.hydrate("x"), "hydrate takes a modal.Client, or nothing, not str"),
    "secrets as a dict": (lambda: function(secrets={"A": "b"}), r"write secrets=\[modal\.Secret\.from_dict"),
    "secrets as a number": (lambda: function(secrets=5), "must be a list of modal.Secret objects, not int"),
    "required keys": (lambda: Secret.from_name("x", required_keys=None), "must be a list of strings, not NoneType"),
    "a required key": (lambda: Secret.from_name("x", required_keys=[1]), "must hold strings, not 1"),
    "no local variables": (lambda: Secret.from_local_environ(None), "must be a list of strings, not NoneType"),
    "a name that is no text": (lambda: Volume.from_name(1), "must be a string, not int"),
    "a long name": (lambda: Volume.from_name("x" * 64), "shorter than 64"),
    "an environment that is no text": (lambda: Volume.from_name("x", environment_name=1), "environment_name must be"),
    "an environment of a secret": (lambda: Secret.from_name("x", environment_name=1), "environment_name must be"),
    "a file system's version": (lambda: Volume.from_name("x", version="2"), "must be 1 or 2"),
    "a path that is no text": (lambda: volume.listdir(None), "is a string, not NoneType"),
    "one source to copy": (lambda: volume.copy_files("x", "y"), r"write \['x'\]"),
    "no remote path": (lambda: batch().put_file("/etc/hosts", None), "is a string, not NoneType"),
    "an empty remote path": (lambda: batch().put_file("/etc/hosts", ""), "has no name"),
    "a mode as text": (lambda: batch().put_file(io.BytesIO(), "/x", mode="0600"), "such as 0o644"),
    "a text file": (lambda: batch().put_file(io.StringIO("x"), "/x"), "must be binary"),
    "a directory as a file": (lambda: batch().put_file("/etc", "/x"), "Use put_directory"),
    "a file as a directory": (lambda: batch().put_directory("/etc/hosts", "/x"), "Use put_file"),
    "a path instead of a file": (lambda: network.write_file("/x", "/etc/hosts"), "use add_local_file"),
    "a timeout as text": (lambda: queue.get(timeout="1"), "must be a number of seconds"),
    "a negative timeout": (lambda: queue.get(timeout=-1), "not negative"),
    "a time to live as text": (lambda: queue.put(1, partition_ttl="5"), "above 0 and at most 86400"),
    "a time to live of nothing": (lambda: queue.put(1, partition_ttl=0), "above 0 and at most 86400"),
    "one object for put_many": (lambda: queue.put_many(3), "use put for one"),
    "a partition without a name": (lambda: queue.put(1, partition=""), "1 to 64 bytes"),
    "a number of items as text": (lambda: queue.get_many("2"), "must be a number of items"),
    "a variable with a NUL": (lambda: Secret.from_dict({"A": "x\0"}), "NUL"),
    "a variable that is a number": (lambda: Secret.from_dict({"A": 1}), "must be a string or None, not int"),
    "one required key": (lambda: Secret.from_name("x", required_keys="A"), r"write \['A'\]"),
    "a bucket by its ARN": (lambda: Bucket("arn:aws:s3:::b"), "not an ARN"),
    "a bucket's secret by name": (lambda: Bucket("b", secret="x"), "must be a modal.Secret, not str"),
    "a flag as text": (lambda: Bucket("b", read_only="yes"), "True or False"),
    "an endpoint without a scheme": (lambda: Bucket("b", "x.y"), "begin with https://"),
    "an endpoint that is no text": (lambda: Bucket("b", 3), "must be a string, not int"),
    "a prefix without a slash": (lambda: Bucket("b", key_prefix="x"), "end with a slash: 'x/'"),
    "a list of volumes": (lambda: function(volumes=[volume]), "must be a dict"),
    "a relative mount": (lambda: function(volumes={"data": volume}), "must be absolute"),
    "a mount at no path": (lambda: function(volumes={"/data\0": volume}), "NUL"),
    "a mount over the program": (lambda: function(volumes={"/root": volume}), "nothing can be mounted at /root"),
    "a mount over the kernel's files": (lambda: function(volumes={"/proc/x": volume}), "mounted at /proc/x"),
    "a mount over the system": (lambda: function(volumes={"/usr/bin/": volume}), "nothing can be mounted at /usr/bin"),
    "a mount over the platform's files": (lambda: function(volumes={"/.intermodal": volume}), "Choose another path"),
    "two mounts at one place": (lambda: function(volumes={"/x": volume, "/x/": volume}), "two things"),
    "a volume by its name": (lambda: function(volumes={"/x": "v"}), "is no Volume or CloudBucketMount"),
    "a secret alone": (lambda: function(secrets=Secret.from_dict({})), r"write secrets=\[secret\]"),
    "an image by its name": (lambda: function(image="python:3.11"), "must be a modal.Image"),
    "a version as a number": (lambda: Image.debian_slim(3.11), "must be a string such as"),
    "an old version": (lambda: Image.debian_slim("3.8"), "too old"),
    "pip's options as a list": (lambda: base.pip_install("six", extra_options=["--pre"]), "extra_options must be"),
    "an index that is no text": (lambda: base.pip_install("six", index_url=3), "index_url must be a string"),
    "an option as a package": (lambda: base.pip_install("--pre"), "extra_options='--pre'"),
    "two packages in one": (lambda: base.apt_install("git curl"), "by itself"),
    "no working directory": (lambda: base.workdir(None), "a path is needed, not None"),
    "an empty shell": (lambda: base.shell([]), "/bin/bash"),
    "a command line": (lambda: base.entrypoint("x"), "a list of strings"),
    "arguments that are none": (lambda: base.run_function(function, args=3), "args must be a list"),
    "keywords that are none": (lambda: base.run_function(function, kwargs=[1]), "kwargs must be a dict"),
    "an image's id that is none": (lambda: Image.from_id(3), "is no id of an image"),
    "an empty id": (lambda: Image.from_id(""), "is no id of an image"),
    "a build step after files": (lambda: base.add_local_file("x", "/x").run_commands("y"), "copy=True"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said(what: str) -> None:
    call, words = WRONG[what]
    with pytest.raises(InvalidError, match=words):
        call()


def test_patterns_that_are_none() -> None:
    for ignore in (3, "*.py", [3]):
        with pytest.raises(ValueError, match="ignore= must be a list of patterns"):
            base.add_local_dir("x", "/x", ignore=ignore)  # type: ignore[arg-type]
    base.add_local_dir("x", "/x", ignore=(pattern for pattern in ("a", "b")))  # type: ignore[arg-type]


def test_a_context_manager_without_with() -> None:
    for manager in (Volume.ephemeral(), modal.Dict.ephemeral(), volume.batch_upload()):
        with pytest.raises(AttributeError, match="use what `with"):
            manager.put_file("a", "b")


def test_an_upload_that_is_over_takes_no_more() -> None:
    upload = batch()
    with pytest.raises(StopIteration):
        upload._send(None, "").send(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match="begin another batch_upload"):
        upload.put_file(io.BytesIO(b"late"), "/x")
    with pytest.raises(InvalidError, match="begin another batch_upload"):
        upload.put_directory("/etc", "/x")


@pytest.mark.parametrize("kind", [Volume, Network, modal.Dict, Queue, Secret])
def test_lookup_warns(kind: Any) -> None:
    with pytest.raises(DeprecationError, match=f"{kind.__name__}.from_name"), warnings.catch_warnings():
        warnings.simplefilter("error")
        kind.lookup("name")
