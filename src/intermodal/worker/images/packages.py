"""The command that installs Python packages in a build step: `uv` where its result is pip's, else `pip`.

pip does it where the step has an option or a requirements line that uv lacks, where the image or this machine
configures pip in a way that uv does not read, and where uv fails (docs/images.md has the rule for users).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intermodal.worker.images.failures import StepError
from intermodal.worker.images.host import HostSettings
from intermodal.worker.images.view import View

# Options of pip that `uv pip install` has with the same meaning, and whether a value follows.
_UV_OPTIONS = {
    "--no-deps": False,
    "--upgrade": False,
    "-U": False,
    "--force-reinstall": False,
    "--no-build-isolation": False,
    "--no-binary": True,
    "--only-binary": True,
    "--require-hashes": False,
    "--index-url": True,
    "-i": True,
    "--extra-index-url": True,
    "--find-links": True,
    "-f": True,
    "-c": True,
    "--constraint": True,
    "--no-index": False,
    "--pre": False,
    "--index-strategy": True,
    "--prerelease": True,
    "--no-cache": False,
    "--target": True,
    "-t": True,
    "--prefix": True,
    "--torch-backend": True,
    "--resolution": True,
    "--no-build": False,
    "--no-sources": False,
    "-q": False,
}
_PIP_ALONE = {"--no-cache-dir": "--no-cache", "--prefer-binary": "", "--no-warn-script-location": "", "--quiet": "-q"}
_UV_LINES = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-binary", "--only-binary", "-e")


_PIP_FILES = ("etc/pip.conf", "etc/xdg/pip/pip.conf", "root/.pip/pip.conf", "root/.config/pip/pip.conf")
_HARMLESS = frozenset(  # variables of pip's that do not decide what is installed
    (
        "PIP_CACHE_DIR",
        "PIP_CERT",
        "PIP_DEFAULT_TIMEOUT",
        "PIP_DISABLE_PIP_VERSION_CHECK",
        "PIP_NO_CACHE_DIR",
        "PIP_NO_COLOR",
        "PIP_NO_INPUT",
        "PIP_PROGRESS_BAR",
        "PIP_RETRIES",
        "PIP_ROOT_USER_ACTION",
        "PIP_TIMEOUT",
    )
)


@dataclass(frozen=True)
class Installer:
    """Where the tools are, as the container sees them."""

    python: str  # the image's interpreter
    uv: str  # "" = not at hand, or its result would not be pip's


def pip_is_configured(env: dict[str, str], view: View) -> bool:
    """Whether the image tells pip what to do in a way that uv does not read: by variables or a pip.conf."""
    if any(name.startswith("PIP_") and name not in _HARMLESS and value for name, value in env.items()):
        return True
    return any(view.lookup(view.resolve(name)) is not None for name in _PIP_FILES)


def uv_binary() -> Path | None:
    """The uv that was installed with the platform."""
    try:
        import uv

        return Path(uv.find_uv_bin()).resolve()
    except (ImportError, FileNotFoundError):
        return None


def install_command(
    fields: dict[str, Any], tools: Installer, host: HostSettings, requirements: str = "", constraints: str = ""
) -> list[str]:
    """The command for a pip_install or pip_requirements step; the two files by their paths in the container."""
    try:
        extra = shlex.split(str(fields.get("extra_options") or ""))
    except ValueError as error:
        raise StepError(f"extra_options {fields['extra_options']!r} is not a list of options: {error}") from None
    what = ["-r", requirements] if requirements else list(fields["packages"])
    if constraints:
        extra += ["-c", constraints]
    for_uv = _for_uv(extra)
    texts = f"{fields.get('requirements') or ''}\n{fields.get('constraints') or ''}"
    if tools.uv and for_uv is not None and _uv_reads(texts) and _host_suits(host):
        separator = [] if requirements else ["--"]
        return [*uv_base(tools), *uv_indexes(fields, host, for_uv), *for_uv, *separator, *what]
    return [tools.python, "-m", "pip", "install", *_pip_indexes(fields), *extra, *what]


def uv_command(
    fields: dict[str, Any], tools: Installer, host: HostSettings, requirements: list[str], constraints: str = ""
) -> list[str]:
    """The command for a uv_pip_install step: uv's own words throughout."""
    try:
        extra = shlex.split(str(fields.get("extra_options") or ""))
    except ValueError as error:
        raise StepError(f"extra_options {fields['extra_options']!r} is not a list of options: {error}") from None
    files = [word for path in requirements for word in ("-r", path)]
    files += ["-c", constraints] if constraints else []
    packages = list(fields.get("packages") or [])
    separator = ["--"] if packages else []
    return [*uv_base(tools), *uv_indexes(fields, host, extra), *extra, *files, *separator, *packages]


def uv_base(tools: Installer) -> list[str]:
    return [tools.uv, "pip", "install", "--python", tools.python, "--break-system-packages", "--compile-bytecode"]


def _host_suits(host: HostSettings) -> bool:
    """Whether uv can be told all that this machine tells pip."""
    return not any(host.pip.get(name) for name in ("prefer-binary", "only-binary", "no-binary"))


def _for_uv(extra: list[str]) -> list[str] | None:
    """pip's options as uv's; None where uv cannot take them."""
    options: list[str] = []
    words = iter(extra)
    for word in words:
        name, equals, _value = word.partition("=")
        if word in _PIP_ALONE:
            options += [_PIP_ALONE[word]] if _PIP_ALONE[word] else []
        elif word == "--pre":
            options += ["--prerelease", "allow"]
        elif name in _UV_OPTIONS:
            options.append(word)
            if _UV_OPTIONS[name] and not equals:
                value = next(words, None)
                if value is None:
                    return None
                options.append(value)
        elif not word.startswith("-"):
            options.append(word)  # one more package
        else:
            return None
    return options


def _uv_reads(requirements: str) -> bool:
    """Whether uv understands the option lines of a requirements text."""
    for line in requirements.replace("\\\n", " ").splitlines():
        words = line.split()
        if words and words[0].startswith("-") and words[0].partition("=")[0] not in _UV_LINES:
            return False
    return True


def uv_indexes(fields: dict[str, Any], host: HostSettings, given: list[str]) -> list[str]:
    """The step's indexes, and this machine's as pip would add them. `given` are options that stand beside them."""
    index, extra = host.index_urls()
    index = str(fields.get("index_url") or index or host.uv.get("UV_DEFAULT_INDEX") or host.uv.get("UV_INDEX_URL", ""))
    own = fields.get("extra_index_url") or []
    extra = [*([own] if isinstance(own, str) else own), *extra]
    links = fields.get("find_links") or []
    links = [*([links] if isinstance(links, str) else links), *host.find_links()]
    options = ["--default-index", index] if index else []
    for url in extra:
        options += ["--index", url]
    for place in links:
        options += ["--find-links", place]
    for path in host.pip.get("constraint", "").split():
        options += ["--constraint", path]
    if extra and not any(word.startswith("--index-strategy") for word in given):
        options += ["--index-strategy", "unsafe-best-match"]  # pip's rule: the best version of all indexes
    if fields.get("pre"):
        options += ["--prerelease", "allow"]
    return options


def _pip_indexes(fields: dict[str, Any]) -> list[str]:
    """The step's own options; this machine's are in the environment."""
    options = ["--index-url", str(fields["index_url"])] if fields.get("index_url") else []
    for name, option in (("extra_index_url", "--extra-index-url"), ("find_links", "--find-links")):
        value = fields.get(name) or []
        for url in [value] if isinstance(value, str) else value:
            options += [option, url]
    return [*options, "--pre"] if fields.get("pre") else options
