"""Fetches manifests and layers from registries with skopeo, which knows their protocols, logins and mirrors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from intermodal.worker.images.failures import DiskFull, StepError
from intermodal.worker.images.registry_reference import (
    INSECURE_SETTING,
    MIRRORS_SETTING,
    Reference,
    is_insecure,
    registries_conf,
)

TRIES = 2  # more, after a failure of the network
ANSWER_SECONDS = 90  # for a manifest
POLICY = Path("/etc/containers/policy.json")  # which signatures the operator asks for


class Unauthorized(StepError):
    """The registry wants other credentials, or hides that there is no such image."""


@dataclass(frozen=True)
class Login:
    """Whom to be at one registry. Never printed."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Login(…)"


class Transport:
    """The way to one image. Credentials go to skopeo by a file in memory that has no name."""

    def __init__(self, reference: Reference, login: Login | None) -> None:
        self.reference = reference
        self._login = login

    async def manifest(self, digest: str = "") -> bytes:
        """The manifest of the tag, or the one with this digest. Raises StepError."""
        return await self._say("inspect", "--raw", *self._tls("--tls-verify"), self._url(digest))

    async def config(self, digest: str = "") -> bytes:
        """The image's configuration. Raises StepError."""
        return await self._say("inspect", "--config", "--raw", *self._tls("--tls-verify"), self._url(digest))

    @contextlib.asynccontextmanager
    async def copying(self, digest: str, layout: Path, blobs: Path) -> AsyncIterator[asyncio.Task[None]]:
        """Copy the image into an OCI layout whose layers go to `blobs`; those that are there are not fetched.

        The task ends with the copy, and raises StepError where that fails. It is ended with the block.
        """
        words = ["copy", "--quiet", "--dest-shared-blob-dir", str(blobs), *self._tls("--src-tls-verify")]
        task = asyncio.create_task(self._copy([*words, self._url(digest), f"oci:{layout}:image"]))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _copy(self, words: list[str]) -> None:
        await self._say(*words)

    def _url(self, digest: str) -> str:
        return f"docker://{self.reference.at(digest) if digest else self.reference}"

    def _tls(self, option: str) -> list[str]:
        return [f"{option}=false"] if is_insecure(self.reference.host) else []

    async def _say(self, verb: str, *words: str) -> bytes:
        skopeo = shutil.which("skopeo")
        if skopeo is None:
            raise StepError("skopeo, which fetches images from registries, is not installed: apt-get install skopeo")
        options = [] if POLICY.exists() else ["--insecure-policy"]
        if verb == "inspect":
            options.append(f"--command-timeout={ANSWER_SECONDS}s")
        with contextlib.ExitStack() as stack:
            env = {**os.environ}
            passed = []
            mirrors = registries_conf()
            if mirrors:
                passed.append(stack.enter_context(_in_memory("registries", mirrors)))
                options.append(f"--registries-conf=/proc/self/fd/{passed[-1]}")
            arguments = [skopeo, *options, verb, "--retry-times", str(TRIES)]
            if self._login is not None:  # else the operator's own logins on this machine count
                passed.append(stack.enter_context(_in_memory("auth", _authfile(self.reference.host, self._login))))
                arguments += ["--authfile", f"/proc/self/fd/{passed[-1]}"]
            code, out, err = await _run([*arguments, *words], env, passed)
        if code != 0:
            raise explained(err, self.reference, self._login is not None)
        return out


def _authfile(host: str, login: Login) -> str:
    pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    return json.dumps({"auths": {host: {"auth": pair}}})


@contextlib.contextmanager
def _in_memory(name: str, text: str) -> Iterator[int]:
    fd = os.memfd_create(f"intermodal-{name}", os.MFD_CLOEXEC)
    try:
        os.write(fd, text.encode())
        yield fd
    finally:
        os.close(fd)


async def _run(arguments: list[str], env: dict[str, str], passed: list[int]) -> tuple[int, bytes, str]:
    """Run skopeo so that it ends with us."""
    guard = shutil.which("setpriv")
    process = await asyncio.create_subprocess_exec(
        *([guard, "--pdeathsig", "KILL"] if guard else []),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        pass_fds=passed,
        start_new_session=True,
    )
    try:
        out, err = await process.communicate()
        return process.returncode or 0, out, err.decode(errors="replace")
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def explained(said: str, reference: Reference, logged_in: bool) -> StepError:
    """What skopeo said, as an error that tells what to do."""
    text = said.strip()
    matches = re.findall(r'msg="((?:[^"\\]|\\.)*)"', text)
    last = matches[-1].replace('\\"', '"') if matches else text[-500:]

    def has(pattern: str) -> bool:
        return re.search(pattern, text, re.I) is not None

    host = reference.host
    if has(r"no space left on device|disk quota exceeded"):
        return DiskFull()
    if has(r"toomanyrequests|too many requests"):
        return StepError(f"{host} refuses more downloads for now (too many requests): log in with secret=, or wait")
    if has(r"unauthorized|authentication required|access to the resource is denied|\bdenied\b|403 \(?Forbidden"):
        if logged_in:
            return Unauthorized(f"{host} does not let the given credentials read {reference}: check the secret")
        return Unauthorized(
            f"{host} does not show {reference} to everybody: it is private, or there is no such image. "
            "For a private one pass secret= with REGISTRY_USERNAME and REGISTRY_PASSWORD"
        )
    if has(r"manifest unknown|name unknown|\bnot found\b|404"):
        return StepError(f"there is no image {reference}: check its name and tag")
    if has(r"HTTP response to HTTPS client|x509|certificate"):
        return StepError(
            f"{host} cannot prove who it is ({last}). Have its certificate authority on the worker's machine, "
            f"or name it in {INSECURE_SETTING}"
        )
    if has(
        r"no such host|connection refused|i/o timeout|server misbehaving|unreachable|deadline exceeded|TLS handshake"
    ):
        return StepError(
            f"{host} cannot be reached ({last}): is the network there? {MIRRORS_SETTING} names mirrors, "
            "https_proxy a proxy"
        )
    return StepError(f"{reference} could not be fetched: {last}")
