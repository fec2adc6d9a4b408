"""What registries are asked for and what their answers mean."""

from __future__ import annotations

import datetime
import json

import pytest

from intermodal.worker.images.failures import StepError
from intermodal.worker.images.registry_access import login_for
from intermodal.worker.images.registry_ecr import signed
from intermodal.worker.images.registry_manifest import choose, describe
from intermodal.worker.images.registry_reference import is_insecure, parse_reference, registries_conf
from intermodal.worker.images.registry_transport import Login, explained

SUM = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("huanjason/scikit-learn", "docker.io/huanjason/scikit-learn:latest"),
        ("docker.io/python:3.11", "docker.io/library/python:3.11"),
        ("nvcr.io/nvidia/pytorch:22.12-py3", "nvcr.io/nvidia/pytorch:22.12-py3"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("localhost/app:v1", "localhost/app:v1"),
        (f"ghcr.io/a/b:tag@{SUM}", f"ghcr.io/a/b@{SUM}"),
        ("000000000000.dkr.ecr.us-east-1.amazonaws.com/repo:v", "000000000000.dkr.ecr.us-east-1.amazonaws.com/repo:v"),
        ("docker://quay.io/a/b", "quay.io/a/b:latest"),
    ],
)
def test_names_follow_dockers_rules(text: str, whole: str) -> None:
    assert str(parse_reference(text)) == whole


@pytest.mark.parametrize(
    "text", ["", "Upper/Case", "a b", "x:", "x:bad tag", "a//b", "x@sha256:12", "ho_st:1/x:y", "-x"]
)
def test_what_names_no_image(text: str) -> None:
    with pytest.raises(StepError, match="names no image"):
        parse_reference(text)


def test_which_registries_need_no_certificate() -> None:
    assert is_insecure("localhost:5000", {})
    assert is_insecure("127.0.0.1", {})
    assert is_insecure("[::1]:5000", {})
    assert not is_insecure("docker.io", {})
    assert not is_insecure("10.0.0.1:5000", {})
    assert is_insecure("10.0.0.1:5000", {"INTERMODAL_INSECURE_REGISTRIES": "x, 10.0.0.1:5000"})
    assert is_insecure("reg.lan:5000", {"INTERMODAL_INSECURE_REGISTRIES": "reg.lan"})


def test_mirrors_are_told_to_skopeo() -> None:
    import tomllib

    assert registries_conf({}) == ""
    text = registries_conf({"INTERMODAL_REGISTRY_MIRRORS": "docker.io=localhost:5000/hub,quay.io=m.example"})
    first, second = tomllib.loads(text)["registry"]
    assert first["prefix"] == "docker.io"
    assert first["mirror"] == [{"location": "localhost:5000/hub", "insecure": True}]
    assert second["mirror"] == [{"location": "m.example", "insecure": False}]
    with pytest.raises(StepError, match="INTERMODAL_REGISTRY_MIRRORS"):
        registries_conf({"INTERMODAL_REGISTRY_MIRRORS": "nonsense"})


def test_the_manifest_for_a_machine_is_chosen() -> None:
    entries = [
        {"digest": SUM.replace("a", "b"), "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
        {"digest": SUM, "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": SUM.replace("a", "c"), "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    assert choose({"schemaVersion": 2, "manifests": entries}, "x", "amd64") == SUM
    with pytest.raises(StepError, match="not built for linux/riscv64; it has linux/arm64/v8, linux/amd64"):
        choose({"manifests": entries}, "x", "riscv64")
    assert choose({"schemaVersion": 2, "layers": []}, "x", "amd64") == ""
    with pytest.raises(StepError, match="gave up in 2017"):
        choose({"schemaVersion": 1}, "x", "amd64")


def test_manifest_and_configuration_together() -> None:
    layer = {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": SUM, "size": 5}
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=b=c", "EMPTY="], "Entrypoint": None, "Cmd": ["x"], "User": "app", "OnBuild": ["RUN x"]},
        "rootfs": {"diff_ids": [SUM]},
    }
    found = describe({"layers": [layer]}, config, "x", "amd64")
    assert found.config.env["A"] == "b=c"
    assert found.config.env["EMPTY"] == ""
    assert found.config.env["PATH"].startswith("/usr/local/sbin")
    assert (found.config.cmd, found.config.entrypoint, found.config.user) == (["x"], [], "app")
    assert found.onbuild == ["RUN x"]
    for change, why in (
        ({"architecture": "arm64"}, "built for linux/arm64"),
        ({"rootfs": {"diff_ids": []}}, "do not fit together"),
        ({"os": "windows"}, "built for windows"),
    ):
        with pytest.raises(StepError, match=why):
            describe({"layers": [layer]}, {**config, **change}, "x", "amd64")
    with pytest.raises(StepError, match="only sha256"):
        describe({"layers": [{**layer, "digest": "../../etc"}]}, config, "x", "amd64")
    with pytest.raises(StepError, match="no file system"):
        describe({"layers": [{**layer, "mediaType": "application/wasm"}]}, config, "x", "amd64")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('level=fatal msg="x: manifest unknown: manifest unknown"', "there is no image docker.io/library/a:latest"),
        ('msg="requested access to the resource is denied"', "private, or there is no such image"),
        ('msg="dial tcp: lookup r: no such host"', "cannot be reached"),
        ('msg="http: server gave HTTP response to HTTPS client"', "INTERMODAL_INSECURE_REGISTRIES"),
        ('msg="toomanyrequests: You have reached your pull rate limit"', "too many requests"),
        ('msg="write x: no space left on device"', "no space is left"),
        ('msg="something new"', "could not be fetched: something new"),
        ("", "could not be fetched"),
    ],
)
def test_what_skopeo_says_becomes_advice(said: str, why: str) -> None:
    assert why in explained(said, parse_reference("a"), False).reason


async def test_secrets_become_logins() -> None:
    reference = parse_reference("ghcr.io/a/b")
    assert await login_for("", reference, {}) is None
    assert await login_for("", reference, {"REGISTRY_USERNAME": "u", "REGISTRY_PASSWORD": "p"}) == Login("u", "p")
    assert "p" not in repr(Login("u", "p")).replace("Login", "")
    key = json.dumps({"private_key": "k", "client_email": "e"})
    assert await login_for("gcp", reference, {"SERVICE_ACCOUNT_JSON": key}) == Login("_json_key", key)
    for access, secret, why in (
        ("", {"REGISTRY_USERNAME": "u"}, "lacks REGISTRY_PASSWORD"),
        ("gcp", {}, "lacks SERVICE_ACCOUNT_JSON"),
        ("gcp", {"SERVICE_ACCOUNT_JSON": "{}"}, "no key of a service account"),
        ("gcp", {"SERVICE_ACCOUNT_JSON": "nonsense"}, "is no JSON"),
        ("aws", {}, "is private"),
        ("aws", {"AWS_ACCESS_KEY_ID": "x"}, "lacks AWS_SECRET_ACCESS_KEY"),
        ("aws", {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}, "lacks AWS_REGION"),
    ):
        with pytest.raises(StepError, match=why):
            await login_for(access, reference, secret)


def test_the_signature_is_amazons() -> None:
    """The example `post-vanilla` of Amazon's test suite for signature version 4."""
    secret = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
    now = datetime.datetime(2015, 8, 30, 12, 36, 0, tzinfo=datetime.UTC)
    headers = signed("https://example.amazonaws.com", {}, b"", secret, "us-east-1", now, "service")
    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        "SignedHeaders=host;x-amz-date, "
        "Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
    )
