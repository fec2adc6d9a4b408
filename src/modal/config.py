"""Settings: from `MODAL_*` variables, else the active profile of `~/.modal.toml`, else the default.

A `.modal.toml` has one section a profile:

    [default]
    token_id = "ak-12345..."
    token_secret = "as-12345..."
    active = true

Settings (the variable is `MODAL_` and the name in capitals):

    token_id, token_secret   the token, where the server asks for one
    server_url               the server: "unix:/path", "tcp:host:port" or "https://host"; none: the embedded one
    environment              default environment
    loglevel                 of the client's own log; default WARNING
    log_pattern              format of the client's own log
    logs_timeout             seconds to wait for logs when an app ends; default 10
    force_build              build every image layer again, and keep the result
    ignore_cache             build every image layer again, and leave the cache as it is
    image_builder_version    what the bases of images contain; none: the workspace's version (docs/images.md)
    traceback                show all frames of errors
    build_validation         "error", "warning" or "ignore" when local files change during a build

Two more are variables only: MODAL_CONFIG_PATH (the file) and MODAL_PROFILE (the section).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from modal.exception import InvalidError

if TYPE_CHECKING:
    import logging

FALSE_SPELLINGS = ("", "0", "false", "no", "off")
BUILD_VALIDATIONS = ("error", "warning", "ignore")


def _boolean(value: Any) -> bool:
    return value.strip().lower() not in FALSE_SPELLINGS if isinstance(value, str) else bool(value)


def _text(value: Any) -> str:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise ValueError("a string is needed, in quotes")


def _seconds(value: Any) -> float:
    return float(value)


def _build_validation(value: Any) -> str:
    text = str(value).lower()
    if text not in BUILD_VALIDATIONS:
        raise ValueError(f"expected one of {', '.join(BUILD_VALIDATIONS)}")
    return text


class _Setting(NamedTuple):
    default: Any = None
    convert: Callable[[Any], Any] = _text


_SETTINGS = {
    "loglevel": _Setting("WARNING", lambda value: str(value).upper()),
    "log_pattern": _Setting("[modal-client] %(asctime)s %(message)s"),
    "logs_timeout": _Setting(10.0, _seconds),
    "token_id": _Setting(),
    "token_secret": _Setting(),
    "server_url": _Setting(),
    "environment": _Setting(),
    "force_build": _Setting(False, _boolean),
    "ignore_cache": _Setting(False, _boolean),
    "traceback": _Setting(False, _boolean),
    "image_builder_version": _Setting(),
    "build_validation": _Setting("error", _build_validation),
}


def config_path() -> str:
    """The file with the profiles: MODAL_CONFIG_PATH, else ~/.modal.toml."""
    return os.path.expanduser(os.environ.get("MODAL_CONFIG_PATH") or "~/.modal.toml")


def parse_toml(text: str, path: str) -> dict[str, Any]:
    """The content of a TOML file. Raises InvalidError."""
    import importlib

    library: Any = None
    for name in ("tomllib", "tomli"):  # the first is part of Python from 3.11 on
        try:
            library = importlib.import_module(name)
            break
        except ImportError:
            continue
    if library is None:
        raise InvalidError(f"Reading {path} needs the package `tomli` on this version of Python.")
    try:
        parsed: dict[str, Any] = library.loads(text)
    except library.TOMLDecodeError as error:
        raise InvalidError(f"{path} is no valid TOML file: {error}.") from None
    return parsed


def _parse(text: str, path: str) -> dict[str, dict[str, Any]]:
    parsed = parse_toml(text, path)
    wrong = [name for name, section in parsed.items() if not isinstance(section, dict)]
    if wrong:
        raise InvalidError(f"{path}: {wrong[0]!r} must stand in a section, such as [default].")
    return parsed


_cached: Optional[tuple[Any, dict[str, dict[str, Any]]]] = None  # what the file was when it was read, its content


def read_profiles() -> dict[str, dict[str, Any]]:
    """All profiles by name, as the file says now. Raises InvalidError where the file is none of ours."""
    global _cached
    path = config_path()
    try:
        status = os.stat(path)
    except OSError:
        return {}
    stamp = (path, status.st_mtime_ns, status.st_size, status.st_ino)
    if _cached is None or _cached[0] != stamp:
        try:
            with open(path, encoding="utf-8") as file:
                content = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidError(f"{path} cannot be read: {error}.") from None
        _cached = (stamp, _parse(content, path))
    return _cached[1]


def _write_profiles(profiles: dict[str, dict[str, Any]]) -> None:
    """Replace the file in one step; only its owner may read it, for it holds tokens."""
    import tomli_w

    path = os.path.realpath(config_path())
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise InvalidError(
            f"{path} cannot be written: {error.strerror}. MODAL_CONFIG_PATH names another file."
        ) from None
    try:
        with open(descriptor, "wb") as file:
            tomli_w.dump(profiles, file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def active_profile() -> str:
    """The profile in force: MODAL_PROFILE, else the active one of the file, else "default".

    Raises InvalidError where several are active, or where there are several and none is.
    """
    named = os.environ.get("MODAL_PROFILE")
    if named:
        return named
    profiles = read_profiles()
    active = [name for name, settings in profiles.items() if _boolean(settings.get("active", False))]
    if len(active) > 1:
        raise InvalidError(
            f"{config_path()} has {len(active)} active profiles ({', '.join(active)}). "
            "Choose one with `modal profile activate PROFILE`."
        )
    if active:
        return active[0]
    if "default" in profiles or not profiles:
        return "default"
    if len(profiles) == 1:
        return next(iter(profiles))
    raise InvalidError(
        f"{config_path()} has several profiles ({', '.join(profiles)}) and none is active. "
        "Choose one with `modal profile activate PROFILE` or MODAL_PROFILE."
    )


def config_profiles() -> list[str]:
    """List the available modal profiles in the .modal.toml file."""
    return list(read_profiles())


def config_set_active_profile(env: str) -> None:
    """Set the user's active modal profile by writing it to the `.modal.toml` file."""
    if env not in read_profiles():
        known = ", ".join(config_profiles()) or "none"
        raise InvalidError(f"{config_path()} has no profile {env!r} (it has: {known}).")
    store_profile(env, {}, activate=True)


def store_profile(profile: str, settings: dict[str, Any], *, activate: bool = False) -> None:
    """Write settings of one profile to the file (None removes one), and make it the active one where asked."""
    profiles = {name: dict(section) for name, section in read_profiles().items()}
    section = profiles.setdefault(profile, {})
    for key, value in settings.items():
        if value is None:
            section.pop(key, None)
        else:
            section[key] = value
    if activate:
        for name, other in profiles.items():
            other.pop("active", None)
            if name == profile:
                other["active"] = True
    _write_profiles(profiles)


class Config:
    """Singleton that holds configuration used by Modal internally."""

    def __init__(self) -> None:
        pass

    def get(self, key: str, profile: Optional[str] = None, use_env: bool = True) -> Any:
        """Looks up a configuration value.

        Will check (in decreasing order of priority):

        1. Any environment variable of the form MODAL_FOO_BAR (when use_env is True)
        2. Settings in the user's .toml configuration file
        3. The default value of the setting

        Raises KeyError for a setting that does not exist, InvalidError for a value that fits no setting.
        """
        setting = _SETTINGS[key]
        variable = f"MODAL_{key.upper()}"
        if use_env and os.environ.get(variable, "") != "":
            return self._convert(setting, os.environ[variable], variable)
        profiles = read_profiles()
        section = profiles.get(profile or active_profile(), {}) if profiles else {}
        if key in section and section[key] != "":
            return self._convert(setting, section[key], f"{key} in {config_path()}")
        return setting.default

    @staticmethod
    def _convert(setting: _Setting, value: Any, where: str) -> Any:
        try:
            return setting.convert(value)
        except (ValueError, TypeError) as error:
            shown = "this" if "secret" in where.lower() else repr(value)
            raise InvalidError(f"{where}: {shown} is no valid value: {error}.") from None

    def override_locally(self, key: str, value: str) -> None:
        """Override a setting in this process by overriding the environment variable for the setting.

        Does NOT write back to settings file etc. Child processes see it too.
        """
        if key not in _SETTINGS:
            raise KeyError(key)
        os.environ[f"MODAL_{key.upper()}"] = value

    def __getitem__(self, key: str) -> Any:
        return self.get(key)

    def to_dict(self) -> dict[str, Any]:
        """All settings with their values in force."""
        return {key: self.get(key) for key in _SETTINGS}

    def __repr__(self) -> str:
        hidden = {"token_secret"}
        shown = {key: "***" if key in hidden and value else value for key, value in self.to_dict().items()}
        return f"Config({shown!r})"


config = Config()
_logger: Optional[logging.Logger] = None


def logger() -> logging.Logger:
    """The client's own log, set up by `loglevel` and `log_pattern` when it is first used."""
    global _logger
    if _logger is None:
        import logging

        made = logging.getLogger("modal-client")
        if not made.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter(config.get("log_pattern"), datefmt="%Y-%m-%dT%H:%M:%S%z"))
            made.addHandler(handler)
            made.propagate = False
        level = config.get("loglevel")
        if not isinstance(logging.getLevelName(level), int):
            raise InvalidError(f"loglevel {level!r} is unknown: use DEBUG, INFO, WARNING, ERROR or CRITICAL.")
        made.setLevel(level)
        _logger = made
    return _logger
