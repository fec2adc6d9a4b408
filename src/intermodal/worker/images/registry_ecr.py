"""Amazon ECR's GetAuthorizationToken: a signed question whose answer is a login for the registry."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping

ENDPOINT_SETTING = "AWS_ENDPOINT_URL_ECR"  # as for Amazon's own tools: another address of the service
ANSWER_SECONDS = 30.0

_HOST = re.compile(r"(\d{12})\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(amazonaws\.com(?:\.cn)?|on\.aws)\Z")
_TARGET = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"


class EcrError(Exception):
    """No token: the text says why and what to do."""


def authorization_token(
    host: str, secret: Mapping[str, str], environ: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """User name and password for the registry at `host`. Blocking. Raises EcrError."""
    environ = os.environ if environ is None else environ
    match = _HOST.match(host)
    region = secret.get("AWS_REGION") or secret.get("AWS_DEFAULT_REGION") or (match[2] if match else "")
    if not region:
        raise EcrError(f"the secret lacks AWS_REGION, and {host} does not tell the region")
    suffix = match[3] if match else "amazonaws.com"
    endpoint = environ.get(ENDPOINT_SETTING) or f"https://api.ecr.{region}.{suffix}"
    body = json.dumps({"registryIds": [match[1]]} if match else {}).encode()
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": _TARGET}
    now = datetime.datetime.now(datetime.UTC)
    request = urllib.request.Request(  # noqa: S310 - the operator's or Amazon's own address
        endpoint.rstrip("/") + "/", body, signed(endpoint, headers, body, secret, region, now), method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
            data = json.loads(answer.read())["authorizationData"][0]["authorizationToken"]
    except urllib.error.HTTPError as error:
        raise EcrError(_refusal(error, host)) from None
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise EcrError(f"{endpoint} gave no token for {host}: {error}") from None
    username, _, password = base64.b64decode(data).decode().partition(":")
    return username, password


def _refusal(error: urllib.error.HTTPError, host: str) -> str:
    try:
        said = json.loads(error.read())
        kind = str(said.get("__type", "")).rpartition("#")[2]
        text = f"{kind}: {said.get('message') or said.get('Message') or ''}".strip(": ")
    except (ValueError, OSError, AttributeError):
        text = f"HTTP {error.code}"
    return (
        f"Amazon refuses a token for {host} ({text}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION "
        "of the secret, and that their user may ecr:GetAuthorizationToken"
    )


def signed(
    endpoint: str,
    headers: Mapping[str, str],
    body: bytes,
    secret: Mapping[str, str],
    region: str,
    now: datetime.datetime,
    service: str = "ecr",
) -> dict[str, str]:
    """The headers of a POST to `/` with Amazon's signature (version 4)."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    all_headers = {**headers, "Host": endpoint.partition("://")[2].partition("/")[0], "X-Amz-Date": stamp}
    if secret.get("AWS_SESSION_TOKEN"):
        all_headers["X-Amz-Security-Token"] = secret["AWS_SESSION_TOKEN"]
    lines = sorted((name.lower(), " ".join(value.split())) for name, value in all_headers.items())
    names = ";".join(name for name, _ in lines)
    canonical = "\n".join(
        ["POST", "/", "", *(f"{name}:{value}" for name, value in lines), "", names, hashlib.sha256(body).hexdigest()]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"Credential={secret['AWS_ACCESS_KEY_ID']}/{scope}"
    all_headers["Authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
    return all_headers
