"""Secrets: environment variables for containers that stand in no image."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from modal._object import Object, check_environment_name, check_object_name, environment_of, environment_to_send
from modal._variables import check_variables
from modal.exception import InvalidError

if TYPE_CHECKING:
    from modal._client import Client


class Secret(Object):
    """Secrets provide a dictionary of environment variables for images.

    Secrets are a secure way to add credentials and other sensitive information to the containers your
    functions run in.
    """

    _kind = "secret"
    _made_by = "from_name, from_dict, from_dotenv or from_local_environ"
    _values: Optional[Callable[[], dict[str, str]]] = None  # of an inline secret
    _name = ""
    _environment: Optional[str] = None
    _required_keys: list[str]
    _text = ""
    _owner = ""  # the app that an inline secret was made for

    @staticmethod
    def _inline(values: Callable[[], dict[str, str]], text: str) -> Secret:
        secret = Secret.__new__(Secret)
        secret._values = values
        secret._text = text
        return secret

    @staticmethod
    def from_dict(
        env_dict: dict[
            str, Union[str, None]
        ] = {},  # dict of entries to be inserted as environment variables in functions using the secret
    ) -> Secret:
        """Create a secret from a str-str dictionary. Values can also be `None`, which is ignored.

        ```python
        @app.function(secrets=[modal.Secret.from_dict({"FOO": "bar"})])
        def run():
            print(os.environ["FOO"])
        ```
        """
        if not isinstance(env_dict, dict):
            raise InvalidError(f"Secret.from_dict: a dict is needed, not {type(env_dict).__name__}.")
        return Secret._inline(check_variables(env_dict, "Secret.from_dict").copy, "from_dict")

    @staticmethod
    def from_local_environ(
        env_keys: list[str],  # list of local env vars to be included for remote execution
    ) -> Secret:
        """Create secrets from local environment variables automatically.

        Raises InvalidError where one of them is not set. In a container it is an empty secret.
        """
        from modal._context import is_local

        keys = _names(env_keys, "from_local_environ: env_keys")
        if not is_local():
            return Secret.from_dict({})
        missing = [key for key in keys if key not in os.environ]
        if missing:
            raise InvalidError(
                f"Secret.from_local_environ: {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set in this environment."
            )
        values = check_variables({key: os.environ[key] for key in keys}, "Secret.from_local_environ")
        return Secret._inline(values.copy, "from_local_environ")

    @staticmethod
    def from_dotenv(path: Optional[Union[str, os.PathLike[str]]] = None, *, filename: str = ".env") -> Secret:
        """Create secrets from a .env file automatically.

        Looks for the file in the current working directory and upwards; with `path` (say `__file__`), from there. It is
        read when the secret is first used: InvalidError where there is none, or python-dotenv is not installed. In a
        container it is an empty secret.
        """
        from modal._context import is_local

        if not is_local():
            return Secret.from_dict({})
        for given in (filename if path is None else path, filename):
            if not isinstance(given, (str, os.PathLike)):
                raise InvalidError(f"Secret.from_dotenv: a path is needed, not {given!r:.80}.")
        start = os.path.abspath(os.fspath(path)) if path is not None else os.getcwd()
        return Secret._inline(lambda: _read_dotenv(start, filename), "from_dotenv")

    @staticmethod
    def from_name(
        name: str,
        *,
        namespace: Any = None,
        environment_name: Optional[str] = None,
        required_keys: list[
            str
        ] = [],  # Optionally, a list of required environment variables (will be asserted server-side)
    ) -> Secret:
        """Reference a Secret by its name.

        When it is first used: NotFoundError where there is none, InvalidError where it lacks a key of `required_keys`.

        ```python
        secret = modal.Secret.from_name("my-secret")

        @app.function(secrets=[secret])
        def run():
           ...
        ```
        """
        secret = Secret.__new__(Secret)
        secret._name = check_object_name(name, "Secret")
        secret._environment = check_environment_name(environment_name)
        secret._required_keys = _names(required_keys, "from_name: required_keys")
        return secret

    @staticmethod
    def lookup(
        name: str,
        namespace: Any = None,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        required_keys: list[str] = [],
    ) -> Secret:
        """Deprecated: use `from_name`, and `hydrate` where the secret must exist at once."""
        from modal._deprecation import warn_deprecated

        warn_deprecated("Secret.lookup is deprecated. Use Secret.from_name instead, and .hydrate() if needed.")
        secret = Secret.from_name(name, environment_name=environment_name, required_keys=required_keys)
        secret.hydrate(client)
        return secret

    async def _load(self, client: Client) -> None:
        await self._load_for(client, "", self._environment)

    async def _load_for(self, client: Client, app_id: str, environment_name: Optional[str]) -> str:
        """The id for the use in one app: inline secrets belong to the app that they are made for."""
        from modal._protocol.messages.secret import ObjectId, SecretCreate, SecretLookup

        if self._object_id is not None and (self._values is None or (app_id and self._owner == app_id)):
            return self._object_id
        environment = environment_of(self._environment or environment_name)
        if self._values is None:
            answer = await client.request(SecretLookup(self._name, environment, self._required_keys), ObjectId)
        else:
            request = SecretCreate(self._values(), environment=environment, app_id=app_id)
            answer = await client.request(request, ObjectId)
            self._owner = app_id
        self._client = client
        self._object_id = answer.object_id
        return answer.object_id

    def __reduce__(self) -> Any:
        if self._object_id is None and self._name:
            return _restore_named, (self._name, environment_to_send(self._environment), self._required_keys)
        return super().__reduce__()

    def __repr__(self) -> str:
        if self._name:
            return f"modal.Secret.from_name({self._name!r})"
        return f"modal.Secret.{self._text}" if self._text else super().__repr__()


def _restore_named(name: str, environment: Optional[str], required_keys: list[str]) -> Secret:
    return Secret.from_name(name, environment_name=environment, required_keys=required_keys)


def _names(names: Any, where: str) -> list[str]:
    """A list of variables' names. Raises InvalidError."""
    if isinstance(names, str):
        raise InvalidError(f"Secret.{where} is a list: write [{names!r}].")
    if not hasattr(names, "__iter__"):
        raise InvalidError(f"Secret.{where} must be a list of strings, not {type(names).__name__}.")
    checked = list(names)
    for name in checked:
        if not isinstance(name, str):
            raise InvalidError(f"Secret.{where} must hold strings, not {name!r:.80}.")
    return checked


def _read_dotenv(start: str, filename: str) -> dict[str, str]:
    """The variables of the first file of that name from `start` upwards. Raises InvalidError."""
    try:
        from dotenv import dotenv_values
    except ImportError:
        raise InvalidError(
            "Secret.from_dotenv needs the package python-dotenv: install it with `pip install python-dotenv`."
        ) from None
    directory = start if os.path.isdir(start) else os.path.dirname(start)
    while True:
        candidate = os.path.join(directory, filename)
        if os.path.isfile(candidate):
            try:
                found = dotenv_values(candidate)
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidError(f"Secret.from_dotenv: {candidate} cannot be read: {error}.") from None
            return check_variables(found, f"Secret.from_dotenv ({candidate})")
        above = os.path.dirname(directory)
        if above == directory:
            raise InvalidError(f"Secret.from_dotenv: there is no file {filename} in {start} or any directory above.")
        directory = above


def check_secrets(secrets: Any, where: str) -> list[Secret]:
    """What is given as `secrets=`. Raises InvalidError."""
    if isinstance(secrets, Secret):
        raise InvalidError(f"{where}: secrets must be a list: write secrets=[secret].")
    if isinstance(secrets, dict):
        raise InvalidError(f"{where}: secrets must be a list: write secrets=[modal.Secret.from_dict({{...}})].")
    if secrets is not None and not hasattr(secrets, "__iter__"):
        raise InvalidError(f"{where}: secrets must be a list of modal.Secret objects, not {type(secrets).__name__}.")
    checked = list(secrets or ())
    for secret in checked:
        if not isinstance(secret, Secret):
            raise InvalidError(f"{where}: secrets must be modal.Secret objects, not {type(secret).__name__}.")
    return checked
