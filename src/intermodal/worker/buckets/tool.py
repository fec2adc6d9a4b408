"""How `rclone` is told what to mount. Credentials go through its environment, never through its command line.

Without a cache of rclone's own a file is uploaded while it is written and whole when it is closed: `close` says whether
that worked, and nothing is left to be uploaded when the container ends. In exchange files are written from their
beginning to their end, and appending is refused, as the documentation has it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

from intermodal.worker.containers.launch import StartFailed
from modal._protocol.messages.function import VolumeMount

ENDPOINT_SETTING = "INTERMODAL_S3_ENDPOINT"  # of the operator's: for mounts that name no endpoint
REMOTE = "bucket"  # rclone's name for it
FRESH_SECONDS = 5  # how old a listing may be
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# rclone from 1.63 on signs a header that Google changes on its way, and expects checksums of parts as AWS has them.
_GOOGLE = {"USE_ACCEPT_ENCODING_GZIP": "false", "USE_MULTIPART_ETAG": "false"}
_PASSED_ON = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
_BUCKET = re.compile(r"[a-z0-9A-Z][a-zA-Z0-9._-]{1,254}")
_REASONS = (
    (r"SignatureDoesNotMatch|InvalidAccessKeyId|InvalidToken|ExpiredToken|AccessDenied|Forbidden|status code: 403",
     "the credentials in its secret are wrong, have expired or may not read this bucket"),
    (r"NoSuchBucket|directory not found|status code: 404", "there is no bucket of this name there"),
    (r"no such host|connection refused|timeout|unreachable|deadline exceeded|connection reset",
     "its endpoint does not answer"),
    (r"x509|certificate", "the certificate of its endpoint is not trusted here (SSL_CERT_FILE adds an authority)"),
)  # fmt: skip


def find() -> str:
    """The program. Raises StartFailed that says how to get it."""
    program = shutil.which("rclone", path=_SEARCH)
    if program is None or not os.path.exists("/dev/fuse") or shutil.which("fusermount3", path=_SEARCH) is None:
        raise StartFailed(
            "a modal.CloudBucketMount needs rclone and FUSE on the worker's machine: `apt-get install -y rclone fuse3`"
        )
    return program


def command(program: str, mount: VolumeMount, directory: str) -> list[str]:
    """To mount it at `directory`. Raises StartFailed where a name cannot be one."""
    bucket, prefix = str(mount.options.get("bucket", "")), str(mount.options.get("prefix", ""))
    if not _BUCKET.fullmatch(bucket):
        raise StartFailed(f"{bucket!r} cannot be the name of a bucket (at {mount.path}): give its name, not its ARN")
    words = [
        program, "mount", f"{REMOTE}:{bucket}/{prefix}", directory,
        "--allow-other", "--vfs-cache-mode", "off", "--use-server-modtime", "--dir-cache-time", f"{FRESH_SECONDS}s",
        "--attr-timeout", "1s", "--retries", "1", "--low-level-retries", "3", "--contimeout", "5s", "--timeout", "60s",
        "--log-level", "ERROR", "--log-format", "", "--use-mmap",
    ]  # fmt: skip
    return [*words, "--read-only"] if mount.read_only else words


def probe(program: str, mount: VolumeMount) -> list[str]:
    """To ask for keys that hardly exist: what the store answers is on stderr, the last of its words in XML."""
    return [
        program, "lsf", f"{REMOTE}:{mount.options.get('bucket', '')}/.intermodal/no-such-key/",
        "--dump", "responses", "--retries", "1", "--low-level-retries", "2", "--contimeout", "5s", "--timeout", "20s",
        "--log-format", "",
    ]  # fmt: skip


def refusal(said: str) -> str:
    """What of a probe's words is a refusal; "" where the bucket can be listed."""
    if "<ListBucketResult" in said:
        return ""
    code = re.search(r"<Code>([^<]*)</Code>(?:\s*<Message>([^<]*)</Message>)?", said)
    if code is not None:
        return f"{code[1]}: {code[2] or ''}"
    errors = [line for line in said.splitlines() if line.startswith(("ERROR", "Failed", "NOTICE", "caused by"))]
    return "\n".join(errors) or said[-400:]


def environment(mount: VolumeMount, secret: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """For the process; `own` is the worker's. Raises StartFailed where the secret lacks something."""
    options = mount.options
    if options.get("role"):
        raise StartFailed(
            f"the bucket mount at {mount.path} asks for the role {options['role']!r} (oidc_auth_role_arn): this server "
            "issues no identity tokens that AWS could check. Use a secret with AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    endpoint = str(options.get("endpoint", "")) or own.get(ENDPOINT_SETTING, "")
    settings = {
        "TYPE": "s3",
        "PROVIDER": _provider(endpoint),
        "ENDPOINT": endpoint,
        "REGION": secret.get("AWS_REGION", "") or secret.get("AWS_DEFAULT_REGION", ""),
        "NO_CHECK_BUCKET": "true",
        "NO_HEAD": "true",  # one request less for each upload, which carries a checksum anyhow
        "CHUNK_SIZE": "16Mi",  # files of up to 150 GiB
        "REQUESTER_PAYS": "true" if options.get("requester_pays") else "",
        **(_GOOGLE if ".googleapis.com" in endpoint else {}),
        **_credentials(mount, secret),
    }
    env = {name: own[name] for name in _PASSED_ON if own.get(name)}
    env.update(PATH=_SEARCH, HOME="/nonexistent", RCLONE_CONFIG="/dev/null", AWS_EC2_METADATA_DISABLED="true")
    env.update({f"RCLONE_CONFIG_{REMOTE.upper()}_{name}": value for name, value in settings.items() if value})
    return env


def _provider(endpoint: str) -> str:
    if not endpoint:
        return "AWS"
    return "Cloudflare" if ".r2.cloudflarestorage.com" in endpoint else "Other"


def _credentials(mount: VolumeMount, secret: Mapping[str, str]) -> dict[str, str]:
    if not mount.object_id:
        return {}  # a public bucket
    for key, value in (
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("GOOGLE_ACCESS_KEY_ID", "GOOGLE_ACCESS_KEY_SECRET"),
    ):
        if secret.get(key) and secret.get(value):
            found = {"ACCESS_KEY_ID": secret[key], "SECRET_ACCESS_KEY": secret[value]}
            return {**found, "SESSION_TOKEN": secret.get("AWS_SESSION_TOKEN", "")}
    raise StartFailed(
        f"the secret of the bucket mount at {mount.path} must have AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or "
        f"GOOGLE_ACCESS_KEY_ID and GOOGLE_ACCESS_KEY_SECRET); it has {', '.join(sorted(secret)) or 'nothing'}"
    )


def explain(mount: VolumeMount, log: str, otherwise: str) -> str:
    """Why a mount does not work, from what rclone has said."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = " ".join(lines[-4:])[-400:]
    for pattern, reason in _REASONS:
        if re.search(pattern, log, re.IGNORECASE):
            otherwise = reason
            break
    told = f" (rclone: {said})" if said else ""
    bucket: Any = mount.options.get("bucket", "")
    return f"the bucket {bucket!r} cannot be mounted at {mount.path}: {otherwise}{told}"
