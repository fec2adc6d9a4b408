"""Apps: functions and classes that run and are deployed together."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, Optional, Sequence, Union

from modal import _context
from modal._definition import Definition
from modal._image import Image
from modal._object import check_object_name, environment_of
from modal._options import check_mounts, check_options
from modal._partial import PartialFunction, as_partial, require_parentheses
from modal._secret import Secret, check_secrets
from modal._sync import synchronized, synchronized_context
from modal.exception import ExecutionError, InvalidError

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from typing_extensions import Self

    from modal._bucket import CloudBucketMount
    from modal._client import Client
    from modal._cls import Cls
    from modal._function import Function
    from modal._network_file_system import NetworkFileSystem
    from modal._proxy import Proxy
    from modal._retries import Retries
    from modal._volume import Volume
    from modal.gpu import GPU_T
    from modal.schedule import Schedule

_APP_ID = re.compile(r"ap-[A-Za-z0-9]{22}\Z")


class LocalEntrypoint:
    """A function that `modal run` calls in this process, with the app running around it."""

    def __init__(self, raw_f: Callable[..., Any], app: App, name: str) -> None:
        self.raw_f = raw_f
        self.app = app
        self.name = name
        self.__name__ = getattr(raw_f, "__name__", name)
        self.__doc__ = raw_f.__doc__
        self.__module__ = raw_f.__module__
        self.__wrapped__ = raw_f

    def get_raw_f(self) -> Callable[..., Any]:
        """The user's function."""
        return self.raw_f

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.raw_f(*args, **kwargs)

    def __repr__(self) -> str:
        return f"modal.LocalEntrypoint({self.name!r})"


def check_app_name(name: str) -> str:
    """Raise InvalidError unless an app may have this name on the server."""
    check_object_name(name, "App")
    if _APP_ID.match(name):
        raise InvalidError(f"Invalid App name: {name!r} looks like the id of an app.")
    return name


class App:
    """A Modal App is a group of functions and classes that are deployed together.

    ```python
    import modal

    app = modal.App()

    @app.function(
        secrets=[modal.Secret.from_name("some_secret")],
        schedule=modal.Period(days=1),
    )
    def foo():
        pass
    ```
    """

    def __init__(
        self,
        name: Optional[str] = None,
        *,
        image: Optional[Image] = None,  # default image for all functions (default is `modal.Image.debian_slim()`)
        secrets: Sequence[Secret] = [],  # default secrets for all functions
        volumes: dict[Union[str, PurePosixPath], Volume] = {},  # default volumes for all functions
        include_source: Optional[bool] = None,
    ) -> None:
        """Construct a new app, optionally with default image, secrets, or volumes."""
        if name is not None and not isinstance(name, str):
            raise InvalidError(f"The name of an App must be a string, not {type(name).__name__}.")
        if image is not None and not isinstance(image, Image):
            raise InvalidError(f"App: image must be a modal.Image, not {type(image).__name__}.")
        self._name = name
        self._description = name
        self._image = image
        self._default_image: Optional[Image] = None
        self._secrets = check_secrets(secrets, "App")
        self._volumes = check_mounts(volumes) if volumes else {}
        self._include_source = include_source
        self._functions: dict[str, Function[Any]] = {}
        self._classes: dict[str, Cls] = {}
        self._entrypoints: dict[str, LocalEntrypoint] = {}
        self._app_id: Optional[str] = None
        self._client: Optional[Client] = None
        self._running = False
        self._interactive = False

    # -- what it is
    @property
    def name(self) -> Optional[str]:
        """The user-provided name of the App."""
        return self._name

    @property
    def is_interactive(self) -> bool:
        """Whether the current app for the app is running in interactive mode."""
        return self._interactive

    @property
    def app_id(self) -> Optional[str]:
        """Return the app_id of a running or stopped app."""
        spec = _context.spec
        if self._app_id is None and spec is not None and self._name in (None, spec.app_name):
            return spec.app_id
        return self._app_id

    @property
    def description(self) -> Optional[str]:
        """The App's `name`, if available, or a fallback descriptive identifier."""
        return self._description or self._name or _fallback_description()

    def set_description(self, description: str) -> None:
        """Set what people see as the app's name where it has none."""
        self._description = description

    @property
    def image(self) -> Image:
        """The image of functions that have none of their own."""
        if self._image is not None:
            return self._image
        if self._default_image is None:
            self._default_image = Image.debian_slim()
        return self._default_image

    @image.setter
    def image(self, value: Image) -> None:
        if not isinstance(value, Image):
            raise InvalidError(f"App.image must be a modal.Image, not {type(value).__name__}.")
        self._image = value

    def _own_image(self) -> Optional[Image]:
        return self._image

    @property
    def registered_functions(self) -> dict[str, Function[Any]]:
        """All modal.Function objects registered on the app."""
        return dict(self._functions)

    @property
    def registered_classes(self) -> dict[str, Cls]:
        """All modal.Cls objects registered on the app."""
        return dict(self._classes)

    @property
    def registered_entrypoints(self) -> dict[str, LocalEntrypoint]:
        """All local CLI entrypoints registered on the app."""
        return dict(self._entrypoints)

    @property
    def registered_web_endpoints(self) -> list[str]:
        """Names of web endpoint (ie. webhook) functions registered on the app."""
        names = [tag for tag, function in self._functions.items() if function._is_web]
        for tag, cls in self._classes.items():
            definition = cls._definition
            methods = definition.methods.items() if definition is not None else ()
            names.extend(f"{tag}.{name}" for name, method in methods if method.web is not None)
        return names

    def _definitions(self) -> list[Definition]:
        """Of all functions and classes."""
        every: list[Any] = [*self._functions.values(), *self._classes.values()]
        return [one._definition for one in every if one._definition is not None]

    # -- declaring
    def local_entrypoint(
        self, _warn_parentheses_missing: Any = None, *, name: Optional[str] = None
    ) -> Callable[[Callable[..., Any]], LocalEntrypoint]:
        """Decorate a function to be used as a CLI entrypoint for a Modal App.

        ```python
        @app.local_entrypoint()
        def main():
            some_modal_function.remote()
        ```

        You can call the function using `modal run` directly from the CLI: `modal run app_module.py`. Arguments of
        type `str`, `int`, `float`, `bool` and `datetime.datetime` become its options.
        """
        require_parentheses("app.local_entrypoint", _warn_parentheses_missing)
        if name is not None and not isinstance(name, str):
            raise InvalidError(f"app.local_entrypoint: name must be a string, not {type(name).__name__}.")

        def wrap(raw_f: Callable[..., Any]) -> LocalEntrypoint:
            given: Any = raw_f
            if not callable(given) or isinstance(given, (type, PartialFunction)):
                raise InvalidError("@app.local_entrypoint() goes on a plain function.")
            tag = name if name is not None else raw_f.__qualname__
            known = self._entrypoints.get(tag)
            if known is not None and known.raw_f.__code__.co_filename != raw_f.__code__.co_filename:
                raise InvalidError(f"The app has a local entrypoint {tag!r} already. Give one of them another name.")
            entrypoint = self._entrypoints[tag] = LocalEntrypoint(raw_f, self, tag)
            return entrypoint

        return wrap

    def function(
        self,
        _warn_parentheses_missing: Any = None,
        *,
        image: Optional[Image] = None,  # The image to run as the container for the function
        schedule: Optional[Schedule] = None,  # An optional Modal Schedule for the function
        secrets: Sequence[Secret] = (),  # Optional Modal Secret objects with environment variables for the container
        # GPU request as string ("any", "T4", ...), object (`modal.GPU.A100()`, ...), or a list of either
        gpu: Union[GPU_T, list[GPU_T]] = None,
        serialized: bool = False,  # Whether to send the function over using cloudpickle.
        # Mountpoints for Modal NetworkFileSystems
        network_file_systems: dict[Union[str, PurePosixPath], NetworkFileSystem] = {},
        # Mount points for Modal Volumes & CloudBucketMounts
        volumes: dict[Union[str, PurePosixPath], Union[Volume, CloudBucketMount]] = {},
        # Specify, in fractional CPU cores, how many CPU cores to request.
        # Or, pass (request, limit) to additionally specify a hard limit in fractional CPU cores.
        # CPU throttling will prevent a container from exceeding its specified limit.
        cpu: Optional[Union[float, tuple[float, float]]] = None,
        # Specify, in MiB, a memory request which is the minimum memory required.
        # Or, pass (request, limit) to additionally specify a hard limit in MiB.
        memory: Optional[Union[int, tuple[int, int]]] = None,
        ephemeral_disk: Optional[int] = None,  # Specify, in MiB, the ephemeral disk size for the Function.
        min_containers: Optional[int] = None,  # Minimum number of containers to keep warm, even when Function is idle.
        max_containers: Optional[int] = None,  # Limit on the number of containers that can be concurrently running.
        buffer_containers: Optional[int] = None,  # Number of additional idle containers to maintain under active load.
        scaledown_window: Optional[int] = None,  # Max time (in seconds) a container can remain idle while scaling down.
        proxy: Optional[Proxy] = None,  # Reference to a Modal Proxy to use in front of this function.
        retries: Optional[Union[int, Retries]] = None,  # Number of times to retry each input in case of failure.
        timeout: Optional[int] = None,  # Maximum execution time of the function in seconds.
        name: Optional[str] = None,  # Sets the Modal name of the function within the app
        # Set this to True if it's a non-generator function returning a [sync/async] generator object
        is_generator: Optional[bool] = None,
        cloud: Optional[str] = None,  # Cloud provider to run the function on. Possible values are aws, gcp, oci, auto.
        region: Optional[Union[str, Sequence[str]]] = None,  # Region or regions to run the function on.
        enable_memory_snapshot: bool = False,  # Enable memory checkpointing for faster cold starts.
        block_network: bool = False,  # Whether to block network access
        restrict_modal_access: bool = False,  # Whether to allow this function access to other Modal resources
        # Maximum number of inputs a container should handle before shutting down.
        # With `max_inputs = 1`, containers will be single-use.
        max_inputs: Optional[int] = None,
        i6pn: Optional[bool] = None,  # Whether to enable IPv6 container networking within the region.
        # Whether the function's home package should be included in the image - defaults to True
        include_source: Optional[bool] = None,  # When `False`, don't automatically add the App source to the container.
        experimental_options: Optional[dict[str, Any]] = None,
        # Parameters below here are experimental. Use with caution!
        _experimental_scheduler_placement: Any = None,  # Experimental controls over fine-grained scheduling (alpha).
        _experimental_proxy_ip: Optional[str] = None,  # IP address of proxy
        _experimental_custom_scaling_factor: Optional[float] = None,  # Custom scaling factor
        _experimental_enable_gpu_snapshot: bool = False,  # Experimentally enable GPU memory snapshots.
        # Parameters below here are deprecated. Please update your code as suggested
        keep_warm: Optional[int] = None,  # Replaced with `min_containers`
        concurrency_limit: Optional[int] = None,  # Replaced with `max_containers`
        container_idle_timeout: Optional[int] = None,  # Replaced with `scaledown_window`
        allow_concurrent_inputs: Optional[int] = None,  # Replaced with the `@modal.concurrent` decorator
        _experimental_buffer_containers: Optional[int] = None,  # Now stable API with `buffer_containers`
        allow_cross_region_volumes: Optional[bool] = None,  # Always True on the Modal backend now
    ) -> Callable[[Any], Function[Any]]:
        """Decorator to register a new Modal Function with this App."""
        given = {key: value for key, value in locals().items() if key != "self"}
        require_parentheses("app.function", _warn_parentheses_missing)
        options = check_options(given)
        if name is not None:
            if not serialized:
                raise InvalidError("@app.function: name= needs serialized=True; otherwise a function has its own name.")
            check_object_name(name, "Function")

        def wrap(target: Any) -> Function[Any]:
            from modal._function import Function

            if isinstance(target, Function):
                raise InvalidError("@app.function() is there already: one is enough.")
            if isinstance(target, (staticmethod, classmethod)):
                raise InvalidError("@app.function() cannot go on a static or class method. Use a plain function.")
            partial = as_partial(target)
            if isinstance(partial.raw, type):
                raise InvalidError("@app.function() cannot go on a class. Use @app.cls() instead.")
            if not callable(partial.raw):
                raise InvalidError(f"@app.function() goes on a function, not on {type(target).__name__}.")
            if partial.is_method or partial.is_hook:
                raise InvalidError(
                    f"{partial.__name__}: @modal.method(), @modal.enter() and @modal.exit() belong to methods of a "
                    "class with @app.cls(), not to a function with @app.function()."
                )
            if is_generator is not None:
                partial.generator = is_generator
            tag = name or _function_tag(partial)
            definition = Definition(self, tag, partial, options, serialized)
            definition.check()
            return self._add_function(Function._of(definition))

        return wrap

    def cls(
        self,
        _warn_parentheses_missing: Optional[bool] = None,
        *,
        image: Optional[Image] = None,  # The image to run as the container for the function
        secrets: Sequence[Secret] = (),  # Optional Modal Secret objects with environment variables for the container
        # GPU request as string ("any", "T4", ...), object (`modal.GPU.A100()`, ...), or a list of either
        gpu: Union[GPU_T, list[GPU_T]] = None,
        serialized: bool = False,  # Whether to send the function over using cloudpickle.
        # Mountpoints for Modal NetworkFileSystems
        network_file_systems: dict[Union[str, PurePosixPath], NetworkFileSystem] = {},
        # Mount points for Modal Volumes & CloudBucketMounts
        volumes: dict[Union[str, PurePosixPath], Union[Volume, CloudBucketMount]] = {},
        # Specify, in fractional CPU cores, how many CPU cores to request.
        # Or, pass (request, limit) to additionally specify a hard limit in fractional CPU cores.
        # CPU throttling will prevent a container from exceeding its specified limit.
        cpu: Optional[Union[float, tuple[float, float]]] = None,
        # Specify, in MiB, a memory request which is the minimum memory required.
        # Or, pass (request, limit) to additionally specify a hard limit in MiB.
        memory: Optional[Union[int, tuple[int, int]]] = None,
        ephemeral_disk: Optional[int] = None,  # Specify, in MiB, the ephemeral disk size for the Function.
        min_containers: Optional[int] = None,  # Minimum number of containers to keep warm, even when Function is idle.
        max_containers: Optional[int] = None,  # Limit on the number of containers that can be concurrently running.
        buffer_containers: Optional[int] = None,  # Number of additional idle containers to maintain under active load.
        scaledown_window: Optional[int] = None,  # Max time (in seconds) a container can remain idle while scaling down.
        proxy: Optional[Proxy] = None,  # Reference to a Modal Proxy to use in front of this function.
        retries: Optional[Union[int, Retries]] = None,  # Number of times to retry each input in case of failure.
        timeout: Optional[int] = None,  # Maximum execution time of the function in seconds.
        cloud: Optional[str] = None,  # Cloud provider to run the function on. Possible values are aws, gcp, oci, auto.
        region: Optional[Union[str, Sequence[str]]] = None,  # Region or regions to run the function on.
        enable_memory_snapshot: bool = False,  # Enable memory checkpointing for faster cold starts.
        block_network: bool = False,  # Whether to block network access
        restrict_modal_access: bool = False,  # Whether to allow this class access to other Modal resources
        # Limits the number of inputs a container handles before shutting down.
        # Use `max_inputs = 1` for single-use containers.
        max_inputs: Optional[int] = None,
        include_source: Optional[bool] = None,  # When `False`, don't automatically add the App source to the container.
        experimental_options: Optional[dict[str, Any]] = None,
        # Parameters below here are experimental. Use with caution!
        _experimental_scheduler_placement: Any = None,  # Experimental controls over fine-grained scheduling (alpha).
        _experimental_proxy_ip: Optional[str] = None,  # IP address of proxy
        _experimental_custom_scaling_factor: Optional[float] = None,  # Custom scaling factor
        _experimental_enable_gpu_snapshot: bool = False,  # Experimentally enable GPU memory snapshots.
        # Parameters below here are deprecated. Please update your code as suggested
        keep_warm: Optional[int] = None,  # Replaced with `min_containers`
        concurrency_limit: Optional[int] = None,  # Replaced with `max_containers`
        container_idle_timeout: Optional[int] = None,  # Replaced with `scaledown_window`
        allow_concurrent_inputs: Optional[int] = None,  # Replaced with the `@modal.concurrent` decorator
        _experimental_buffer_containers: Optional[int] = None,  # Now stable API with `buffer_containers`
        allow_cross_region_volumes: Optional[bool] = None,  # Always True on the Modal backend now
    ) -> Callable[[Any], Any]:
        """Decorator to register a new Modal Cls with this App."""
        given = {key: value for key, value in locals().items() if key != "self"}
        require_parentheses("app.cls", _warn_parentheses_missing)
        options = check_options(given)

        def wrap(target: Any) -> Any:
            from modal._cls_definition import define_class

            cls = define_class(self, target, options, serialized)
            definition = cls._definition
            assert definition is not None
            self._warn_collision(definition)
            self._classes[definition.tag] = cls
            self._raise_import_error(definition)
            return cls

        return wrap

    def _add_function(self, function: Function[Any]) -> Function[Any]:
        definition = function._definition
        assert definition is not None
        self._warn_collision(definition)
        self._functions[definition.tag] = function
        self._raise_import_error(definition)
        return function

    def _raise_import_error(self, definition: Definition) -> None:
        """In a container of this very function: what `image.imports()` swallowed is an error."""
        if _context.spec is not None and _context.spec.function.name == definition.tag:
            definition.image(self)._raise_import_error()

    def _warn_collision(self, definition: Definition) -> None:
        known = self._functions.get(definition.tag) or self._classes.get(definition.tag)
        if known is None or known._definition is None or known._definition is definition:
            return
        old, new = known._definition.raw, definition.raw
        if (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__):
            return  # defined again: a notebook's cell, a module that was loaded anew
        from modal._deprecation import warn_user

        warn_user(
            f"The app has two functions named {definition.tag!r}, in {old.__module__} and {new.__module__}: the second "
            "takes the place of the first. Give one of them another name."
        )
        self._functions.pop(definition.tag, None)
        self._classes.pop(definition.tag, None)

    def include(self, /, other_app: App) -> Self:
        """Include another App's objects in this one.

        Useful for splitting up Modal Apps across different self-contained files.

        ```python
        app_a.include(app_b)
        ```
        """
        if not isinstance(other_app, App):
            raise InvalidError(f"App.include takes another App, not {type(other_app).__name__}.")
        for tag, function in other_app._functions.items():
            if function._definition is not None:
                self._warn_collision(function._definition)
            self._functions[tag] = function
        for tag, cls in other_app._classes.items():
            if cls._definition is not None:
                self._warn_collision(cls._definition)
            self._classes[tag] = cls
        return self

    # -- running
    @synchronized
    @staticmethod
    async def lookup(
        name: str,
        *,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        create_if_missing: bool = False,
    ) -> App:
        """Look up an App with a given name, creating a new App if necessary.

        Note that Apps created through this method will be in a deployed state, but they will not have any
        associated Functions or Classes. This method is mainly useful for creating an App to associate with a Sandbox.
        """
        from modal._client import Client
        from modal._protocol.messages.app import AppInfo, AppLookup

        check_app_name(name)
        client = client or Client.current()
        request = AppLookup(name, environment_of(environment_name), create_if_missing)
        info = await client.request(request, AppInfo)
        app = App(name)
        app._app_id = info.app_id
        app._client = client
        return app

    @synchronized_context
    async def run(
        self,
        *,
        client: Optional[Client] = None,
        detach: bool = False,
        interactive: bool = False,
        environment_name: Optional[str] = None,
    ) -> AsyncIterator[App]:
        """Context manager that runs an ephemeral app on Modal.

        Use this as the main entry point for your Modal application. All calls to Modal Functions should be made within
        the scope of this context manager, and they will correspond to the current App.

        ```python
        if __name__ == "__main__":
            with app.run():
                some_modal_function.remote()
        ```

        To see logs and progress, use `with modal.enable_output():` around it.
        """
        from modal._client import Client
        from modal._running import Run

        if self._running:
            raise InvalidError(
                "This app is running already: `modal run` or an `app.run()` around this one has started it. Call its "
                "functions as they are, or make another modal.App."
            )
        if _context.spec is not None and _context.current_input_id() is None:
            raise ExecutionError(
                "app.run() was reached while a container imported this module, so every container would start the app "
                'again. Protect it with `if __name__ == "__main__":` or put it into a function.'
            )
        if interactive:
            from modal._planned import not_yet

            raise not_yet("app.run(interactive=True)")
        running = Run(self, client or Client.current(), detach)
        await running.start(environment_name)
        try:
            yield self
        except BaseException as error:
            await running.end(error)
            raise
        await running.end()

    @synchronized
    async def deploy(
        self,
        *,
        name: Optional[str] = None,  # Name for the deployment, overriding any set on the App
        environment_name: Optional[str] = None,  # Environment to deploy the App in
        tag: str = "",  # Optional metadata that will be visible in the deployment history
        client: Optional[Client] = None,  # Alternate client to use for RPCs
    ) -> Self:
        """Deploy the App so that it is available persistently.

        Deployed Apps will be available for lookup or web-based invocations until they are stopped. Unlike with
        `App.run`, this method will return as soon as the deployment completes.
        """
        from modal._client import Client
        from modal._running import deploy_app

        chosen = name or self._name
        if not chosen:
            raise InvalidError(
                'A deployment needs a name: give one to the App, as in modal.App("my-app"), or say deploy(name=...).'
            )
        check_app_name(chosen)
        await deploy_app(self, client or Client.current(), chosen, environment_name, tag)
        return self

    def __reduce__(self) -> Any:
        return _restore_app, (self._name, self._description, self._app_id)

    def __repr__(self) -> str:
        return f"modal.App({self._name!r})" if self._name else f"modal.App({self.description!r})"


def _restore_app(name: Optional[str], description: Optional[str], app_id: Optional[str]) -> App:
    """An app that came along with a pickled function: known by its name and id, without its functions."""
    app = App(name)
    app._description = description
    app._app_id = app_id
    return app


def _fallback_description() -> Optional[str]:
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.basename(main) if main else None


def _function_tag(partial: PartialFunction) -> str:
    """The name of a function within its app. Raises InvalidError for methods."""
    qualname = partial.__qualname__
    if not qualname:
        raise InvalidError("@app.function() needs a function with a name.")
    _outer, inside, rest = qualname.rpartition("<locals>.")
    local = rest if inside else qualname
    if "." in local:
        raise InvalidError(
            f"{qualname}: @app.function() cannot go on a method. Put @app.cls() on the class and @modal.method() on "
            "the method."
        )
    return local
