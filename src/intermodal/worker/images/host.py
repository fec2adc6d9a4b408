"""The operator's settings on this machine that builds and containers must share.

Where a site has its own package index, proxy, mirror or certificates, this machine is set up for
them: pip's configuration, the proxy variables, apt's sources, the CA bundle. The same settings go
into every container, so that what works here works there.
"""

from __future__ import annotations

import configparser
import functools
import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from intermodal.worker import site
from intermodal.worker.containers.launch import Bind

INSIDE = "/.intermodal/host"  # where files of this machine appear in containers

CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS")
OTHER_CA_VARIABLES = (  # passed on where they are set, but not invented
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "HTTPLIB2_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "NIX_SSL_CERT_FILE",
)
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
ANCHORS = ("/usr/local/share/ca-certificates", "/etc/pki/ca-trust/source/anchors")  # the operator's own CAs
PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
PIP_SETTINGS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "cert",
    "client-cert",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
    "prefer-binary",
    "only-binary",
    "no-binary",
    "constraint",
    "disable-pip-version-check",
)
UV_VARIABLES = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX_STRATEGY",
    "UV_NO_INDEX",
    "UV_INSECURE_HOST",
    "UV_HTTP_TIMEOUT",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    "UV_OFFLINE",
)


@dataclass
class HostSettings:
    """What was found on this machine."""

    pip: dict[str, str] = field(default_factory=dict)  # pip's options by name: "index-url"
    uv: dict[str, str] = field(default_factory=dict)  # UV_… variables that the operator set
    proxies: dict[str, str] = field(default_factory=dict)
    certificates: dict[str, Path] = field(default_factory=dict)  # variable -> bundle on this machine
    anchors: list[Path] = field(default_factory=list)  # the operator's own CA certificates
    files: list[Path] = field(default_factory=list)  # directories and files that pip's settings name
    added: dict[str, str] = field(default_factory=dict)  # what the operator wants every container to have

    def environment(self) -> dict[str, str]:
        """The variables for a container. What the image and the user set goes before them."""
        env = {**self.proxies}
        for name, value in self.pip.items():
            if name not in ("cert", "client-cert"):
                env["PIP_" + name.upper().replace("-", "_")] = value
        if "client-cert" in self.pip:
            env["PIP_CLIENT_CERT"] = self.pip["client-cert"]
        env.update(self._uv_environment())
        inside = self._certificate_paths()
        env.update({name: inside[bundle] for name, bundle in self.certificates.items()})
        env.update(self.added)
        return env

    def binds(self) -> list[Bind]:
        """The files of this machine that those variables name."""
        binds = [Bind(bundle, target) for bundle, target in self._certificate_paths().items()]
        return binds + [Bind(path, str(path)) for path in self.files]

    def index_urls(self) -> tuple[str, list[str]]:
        """pip's index ("" = the usual one) and extra indexes."""
        return self.pip.get("index-url", ""), self.pip.get("extra-index-url", "").split()

    def without_constraints(self) -> HostSettings:
        """The same for what has versions of its own already."""
        return replace(self, pip={name: value for name, value in self.pip.items() if name != "constraint"})

    def find_links(self) -> list[str]:
        return self.pip.get("find-links", "").split()

    def _certificate_paths(self) -> dict[Path, str]:
        """Where each bundle appears in containers.

        Not at its own path: `update-ca-certificates` replaces /etc/ssl/certs/ca-certificates.crt by
        rename, which a mount there would make fail.
        """
        bundles = list(dict.fromkeys(self.certificates.values()))
        return {bundle: f"{INSIDE}/certificates-{number}.crt" for number, bundle in enumerate(bundles)}

    def _uv_environment(self) -> dict[str, str]:
        """The same indexes for uv, which does not read pip's settings."""
        env: dict[str, str] = {}
        index, extra = self.index_urls()
        if index:
            env["UV_DEFAULT_INDEX"] = index
        if extra:
            env["UV_INDEX"] = " ".join(extra)
            env["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip's rule: the best version of all indexes
        if self.find_links():
            env["UV_FIND_LINKS"] = ",".join(self.find_links())
        if self.pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
            env["UV_NO_INDEX"] = "1"
        if self.pip.get("trusted-host"):
            env["UV_INSECURE_HOST"] = self.pip["trusted-host"]
        timeout = self.pip.get("timeout") or self.pip.get("default-timeout")
        if timeout:
            env["UV_HTTP_TIMEOUT"] = timeout
        return {**env, **self.uv}


def host_settings(environ: Mapping[str, str] | None = None, configs: list[Path] | None = None) -> HostSettings:
    """Read this machine's settings. `environ` and `configs` (pip's files) stand in for the real ones in tests."""
    environ = os.environ if environ is None else environ
    found = HostSettings(pip=_pip_settings(environ, _pip_files(environ) if configs is None else configs))
    found.uv = {name: environ[name] for name in UV_VARIABLES if environ.get(name)}
    for name in PROXY_VARIABLES:
        for spelling in (name, name.upper()):
            if environ.get(spelling):
                found.proxies[spelling] = environ[spelling]
    found.anchors = [path for root in ANCHORS for path in sorted(Path(root).glob("**/*.crt"))]
    found.certificates = _certificates(environ, found)
    found.files = _local_files(found)
    found.added = site.variables(environ)
    return found


@functools.cache
def own_settings() -> HostSettings:
    """This machine's settings as they were when this process first asked."""
    return host_settings()


def host_environment() -> tuple[dict[str, str], list[Bind]]:
    """Variables and binds for every container of this machine. The user's and the image's own variables win."""
    settings = own_settings()
    return settings.environment(), settings.binds()


def _pip_files(environ: Mapping[str, str]) -> list[Path]:
    """pip's configuration files, least important first."""
    home = Path(environ.get("HOME") or "~").expanduser()
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    system = [Path(root) / "pip/pip.conf" for root in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":") if root]
    files = [*system, Path("/etc/pip.conf"), home / ".pip/pip.conf", config / "pip/pip.conf"]
    files.append(Path(sys.prefix) / "pip.conf")
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    return [*files, Path(chosen)] if chosen else files


def _pip_settings(environ: Mapping[str, str], files: list[Path]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for path in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip on this machine complains about it; containers are better off without
        for section in ("global", "download", "install"):
            if parser.has_section(section):
                for name, value in parser.items(section):
                    settings[name.replace("_", "-").lower()] = value
    for name in PIP_SETTINGS:
        chosen = environ.get("PIP_" + name.upper().replace("-", "_"))
        if chosen:
            settings[name] = chosen
    return {name: " ".join(settings[name].split()) for name in PIP_SETTINGS if settings.get(name, "").strip()}


def _certificates(environ: Mapping[str, str], found: HostSettings) -> dict[str, Path]:
    """Which variable names which bundle. Nothing where this machine has no certificates of its own."""
    chosen: dict[str, Path] = {}
    for name in (*CA_VARIABLES, *OTHER_CA_VARIABLES):
        value = environ.get(name, "")
        if value and os.path.isfile(value):
            chosen[name] = Path(os.path.realpath(value))
    if "PIP_CERT" not in chosen and os.path.isfile(found.pip.get("cert", "")):
        chosen["PIP_CERT"] = Path(os.path.realpath(found.pip["cert"]))
    default = next((chosen[name] for name in CA_VARIABLES if name in chosen), None)
    if default is None and found.anchors:
        default = next((Path(os.path.realpath(path)) for path in BUNDLES if os.path.isfile(path)), None)
    if default is not None:
        for name in CA_VARIABLES:
            chosen.setdefault(name, default)
    return chosen


def _local_files(found: HostSettings) -> list[Path]:
    """Local directories and files that containers need to see at the same path, outermost alone."""
    named: list[Path] = []
    index, extra = found.index_urls()
    uv_urls = [found.uv.get(name, "") for name in UV_VARIABLES if "INDEX" in name or "LINKS" in name]
    for text in [
        index,
        *extra,
        *found.find_links(),
        *(part for value in uv_urls for part in re.split(r"[\s,]+", value)),
    ]:
        path = local_path(text)
        if path is not None and path.exists():
            # The pages of a "simple" index commonly lead to files beside it.
            named.append(path.parent if path.name == "simple" and len(path.parts) > 3 else path)
    for name in ("constraint", "client-cert"):
        named += [
            Path(word) for word in found.pip.get(name, "").split() if os.path.isabs(word) and os.path.exists(word)
        ]
    outer = [path for path in dict.fromkeys(named) if path != Path("/")]
    return [path for path in outer if not any(other in path.parents for other in outer)]


def local_path(location: str) -> Path | None:
    """The path that a file:// URL or an absolute path names, None for anything else."""
    if location.startswith("file://"):
        return Path(urllib.parse.unquote(urllib.parse.urlparse(location).path))
    return Path(location) if location.startswith("/") else None


def apt_proxy_options() -> list[str]:
    """apt's own proxy settings of this machine, as lines of an apt.conf."""
    try:
        dump = subprocess.run(
            ["apt-config", "dump"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # no apt here: nothing to share
    return [line for line in dump.splitlines() if re.match(r"Acquire::https?::[Pp]roxy[: ]", line)]
