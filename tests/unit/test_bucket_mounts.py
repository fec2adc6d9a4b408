"""What rclone is told, what is refused before, and what it means when it refuses."""

from __future__ import annotations

from typing import Any

import pytest

import modal
from intermodal.worker.buckets import tool
from intermodal.worker.containers.launch import StartFailed
from modal import exception
from modal._protocol.messages.function import VolumeMount

AWS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hidden"}


def mount(read_only: bool = False, secret: str = "st-1", **options: Any) -> VolumeMount:
    return VolumeMount("/b", "bucket", secret, read_only, {"bucket": "my-bucket", **options})


def settings(one: VolumeMount, secret: dict[str, str], own: dict[str, str] | None = None) -> dict[str, str]:
    found = tool.environment(one, secret, own or {})
    start = "RCLONE_CONFIG_BUCKET_"
    return {name.removeprefix(start): value for name, value in found.items() if name.startswith(start)}


def test_credentials_are_in_the_environment_alone() -> None:
    words = tool.command("rclone", mount(prefix="path/to/"), "/somewhere")
    assert "bucket:my-bucket/path/to/" in words
    assert "--read-only" not in words
    assert "--read-only" in tool.command("rclone", mount(read_only=True), "/somewhere")
    assert not any("hidden" in word for word in [*words, *tool.probe("rclone", mount())])
    made = settings(mount(), {**AWS, "AWS_REGION": "eu-west-1", "AWS_SESSION_TOKEN": "session"})
    assert made["PROVIDER"] == "AWS"
    assert (made["ACCESS_KEY_ID"], made["SECRET_ACCESS_KEY"], made["SESSION_TOKEN"]) == ("id", "hidden", "session")
    assert made["REGION"] == "eu-west-1"
    assert "REQUESTER_PAYS" not in made
    assert settings(mount(requester_pays=True), AWS)["REQUESTER_PAYS"] == "true"


def test_nothing_of_the_worker_s_own_reaches_it() -> None:
    own = {"AWS_SECRET_ACCESS_KEY": "the worker's", "AWS_CA_BUNDLE": "/x", "HTTPS_PROXY": "http://proxy", "PATH": "/x"}
    env = tool.environment(mount(secret=""), {}, own)
    assert "the worker's" not in env.values()
    assert "AWS_CA_BUNDLE" not in env
    assert env["HTTPS_PROXY"] == "http://proxy"
    assert "RCLONE_CONFIG_BUCKET_ACCESS_KEY_ID" not in env  # a public bucket


def test_other_stores() -> None:
    r2 = settings(mount(endpoint="https://abc.r2.cloudflarestorage.com"), AWS)
    assert (r2["PROVIDER"], r2["ENDPOINT"]) == ("Cloudflare", "https://abc.r2.cloudflarestorage.com")
    google = {"GOOGLE_ACCESS_KEY_ID": "g", "GOOGLE_ACCESS_KEY_SECRET": "s"}
    gcs = settings(mount(endpoint="https://storage.googleapis.com"), google)
    assert (gcs["ACCESS_KEY_ID"], gcs["SECRET_ACCESS_KEY"], gcs["PROVIDER"]) == ("g", "s", "Other")
    assert gcs["USE_ACCEPT_ENCODING_GZIP"] == "false"
    assert "USE_ACCEPT_ENCODING_GZIP" not in r2
    site = settings(mount(), AWS, {tool.ENDPOINT_SETTING: "http://10.0.0.5:9000"})
    assert site["ENDPOINT"] == "http://10.0.0.5:9000"


@pytest.mark.parametrize(
    ("one", "secret", "says"),
    [
        (mount(), {"AWS_ACCESS_KEY_ID": "id"}, "must have AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (mount(role="arn:aws:iam::1:role/r"), {}, "oidc_auth_role_arn"),
    ],
)
def test_what_lacks_something(one: VolumeMount, secret: dict[str, str], says: str) -> None:
    with pytest.raises(StartFailed, match=says) as refused:
        tool.environment(one, secret, {})
    assert "/b" in str(refused.value)


def test_a_bucket_s_name_leads_nowhere_else() -> None:
    for name in ("", "../x", "a:b", "a/b", "arn:aws:s3:::x", "-x"):
        with pytest.raises(StartFailed, match="name of a bucket"):
            tool.command("rclone", VolumeMount("/b", "bucket", "", False, {"bucket": name}), "/somewhere")


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("<Error><Code>NoSuchBucket</Code><Message>It is not there</Message></Error>", "no bucket of this name"),
        ("<Error><Code>SignatureDoesNotMatch</Code><Message>m</Message></Error>", "credentials"),
        ("<Error><Code>AccessDenied</Code></Error>", "may not read this bucket"),
        ("Failed to lsf: dial tcp 127.0.0.1:9: connect: connection refused", "does not answer"),
        ("Failed to lsf: x509: certificate signed by unknown authority", "SSL_CERT_FILE"),
        ("Failed to lsf: something new", "something new"),
    ],
)
def test_refusals_are_explained(said: str, means: str) -> None:
    refused = tool.refusal(f"DEBUG : HTTP RESPONSE\n{said}\nDEBUG : 2 go routines active\n")
    text = tool.explain(mount(), refused, "it cannot be listed")
    assert means in text
    assert "'my-bucket' cannot be mounted at /b" in text
    assert tool.refusal("…<ListBucketResult><Name>b</Name></ListBucketResult>…\nERROR : : directory not found") == ""


def test_bad_arguments() -> None:
    secret = modal.Secret.from_dict({})
    for make, says in (
        (lambda: modal.CloudBucketMount("arn:aws:s3:::b"), "not the name of a bucket"),
        (lambda: modal.CloudBucketMount(""), "not the name of a bucket"),
        (lambda: modal.CloudBucketMount("b", "s3.example.com"), "https://"),
        (lambda: modal.CloudBucketMount("b", key_prefix="no/slash"), "slash"),
        (lambda: modal.CloudBucketMount("b", requester_pays=True), "secret"),
        (lambda: modal.CloudBucketMount("b", secret=secret, oidc_auth_role_arn="arn"), "either"),
    ):
        with pytest.raises(exception.InvalidError, match=says):
            make()
