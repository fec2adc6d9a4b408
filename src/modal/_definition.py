"""What an app knows of a function or class that was declared with it, and how the server is told."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from modal._callables import is_async, is_generator, parameter_names, required_parameters
from modal._options import Options
from modal._partial import PartialFunction
from modal._protocol.messages.function import FunctionSpec, MethodSpec, VolumeMount
from modal._source import Source, is_interactive_module, source_of
from modal.exception import DeprecationError, ExecutionError, InvalidError

if TYPE_CHECKING:
    from modal._app import App
    from modal._image import Image
    from modal._mounts import FileSet
    from modal._secret import Secret

MAX_SERIALIZED = 7 << 20  # bytes of a pickled function; more would not fit into one message


class Resolved(NamedTuple):
    """Ids of what a definition refers to."""

    image_id: str
    mount_ids: list[str]
    secret_ids: list[str]
    volumes: list[VolumeMount]
    proxy_id: str


class Definition:
    """One function, or one class with its methods."""

    def __init__(self, app: App, tag: str, partial: PartialFunction, options: Options, serialized: bool) -> None:
        self.app = app
        self.tag = tag
        self.partial = partial
        self.options = options
        self.serialized = serialized or is_interactive_module(partial.raw.__module__)
        self.methods: dict[str, PartialFunction] = {}  # of a class, in the order of their definition
        self.class_parameters: list[list[Any]] = []  # as in FunctionSpec

    @property
    def raw(self) -> Any:
        """The user's function or class."""
        return self.partial.raw

    @property
    def is_class(self) -> bool:
        return isinstance(self.raw, type)

    # -- what it takes, with the app's defaults
    def image(self, app: App) -> Image:
        """The image in force when `app` (which may have included the definition's own) runs it."""
        return self.options.image or self.app._own_image() or app.image

    def secrets(self) -> list[Secret]:
        return [*self.app._secrets, *self.options.secrets]

    def volumes(self) -> dict[str, Any]:
        return {**self.app._volumes, **self.options.volumes}

    def source(self) -> Source:
        """Where containers find it. Raises InvalidError."""
        if self.serialized:
            # its module need not be importable there, but what it imports from its own package must be
            source = Source("serialized", "", None)
            module = sys.modules.get(self.raw.__module__)
            if module is None or not getattr(module, "__file__", None):
                return source
            return source._replace(files=source_of(self.raw.__module__).files)
        return source_of(self.raw.__module__)

    def source_files(self) -> Optional[FileSet]:
        """The files that the definition brings by itself, None where include_source is off."""
        wanted = self.options.include_source
        if wanted is None:
            wanted = self.app._include_source
        return None if wanted is False else self.source().files

    # -- how the server is told
    def spec(self, resolved: Resolved) -> FunctionSpec:
        """Everything the server must know. Raises InvalidError, SerializationError."""
        options, partial = self.options, self.partial
        source = self.source()
        concurrency = partial.concurrency or (options.concurrent_max, 0)
        batch_size, batch_wait = partial.batching or (0, 0)
        for method in self.methods.values():
            if method.batching:
                batch_size, batch_wait = method.batching
        autoscaler = options.autoscaler
        return FunctionSpec(
            name=self.tag,
            module=source.module,
            qualname=self.raw.__qualname__,
            source=source.kind,
            serialized=self._serialize() if self.serialized else b"",
            is_generator=not self.is_class and partial.is_generator,
            is_async=not self.is_class and self._is_async(),
            is_class=self.is_class,
            methods=self.method_specs(),
            class_parameters=self.class_parameters,
            image_id=resolved.image_id,
            mount_ids=resolved.mount_ids,
            secret_ids=resolved.secret_ids,
            volumes=resolved.volumes,
            resources=options.resources,
            autoscaler=autoscaler,
            retry=options.retry,
            timeout=options.timeout,
            concurrent_max=concurrency[0],
            concurrent_target=concurrency[1],
            batch_size=batch_size,
            batch_wait_ms=batch_wait,
            max_inputs=options.max_inputs,
            schedule=options.schedule._to_spec() if options.schedule is not None else None,
            web=partial.web,
            restrict_modal_access=options.restrict_modal_access,
            block_network=options.block_network,
            enable_memory_snapshot=options.enable_memory_snapshot,
            cloud=options.cloud,
            regions=options.regions,
            proxy_id=resolved.proxy_id,
            i6pn=options.i6pn,
            experimental_options=options.experimental_options,
        )

    def method_specs(self) -> list[MethodSpec]:
        return [method.method_spec(name) for name, method in self.methods.items()]

    def _is_async(self) -> bool:
        return is_async(self.raw)

    def _serialize(self) -> bytes:
        import cloudpickle

        module = sys.modules.get(self.raw.__module__)
        by_value = module is not None and self.raw.__module__ != "__main__"
        if by_value:
            cloudpickle.register_pickle_by_value(module)
        try:
            with warnings.catch_warnings():
                # To pickle a method by its name is to look it up on the class, which is no call of the user's.
                warnings.simplefilter("ignore", DeprecationError)
                data: bytes = cloudpickle.dumps(self.raw)
        except Exception as error:
            from modal.exception import SerializationError

            raise SerializationError(
                f"{self.tag} cannot be serialized: {error}. Something that it refers to cannot be pickled; "
                "create it inside the function instead."
            ) from error
        finally:
            if by_value:
                cloudpickle.unregister_pickle_by_value(module)
        if len(data) > MAX_SERIALIZED:
            raise InvalidError(
                f"{self.tag} is {len(data) / (1 << 20):.1f} MiB when serialized, with all that it refers to; at most "
                f"{MAX_SERIALIZED >> 20} MiB can be sent. Pass large data as arguments or put it into the image."
            )
        return data

    def check(self) -> None:
        """Raise InvalidError for what cannot be a function or method of an app."""
        raw, options = self.raw, self.options
        if not self.serialized and "<locals>" in raw.__qualname__:
            kind = "cls" if self.is_class else "function"
            made = not self.is_class and getattr(raw, "__closure__", None)
            hint = " If another decorator has made it, let that one use functools.wraps." if made else ""
            raise InvalidError(
                f"{raw.__qualname__}: @app.{kind}() must be used in global scope, where containers can import it, "
                f"unless `serialized=True` is set.{hint}"
            )
        if self.is_class:
            return
        web = self.partial.web
        check_web_function(self.tag, self.partial, own_parameters=0)
        if options.schedule is not None:
            if web is not None:
                raise InvalidError(f"{self.tag}: a web endpoint cannot have a schedule.")
            needed = required_parameters(raw)
            if needed:
                raise InvalidError(
                    f"{self.tag} has a schedule, so nobody gives it arguments: {needed[0]!r} needs a default."
                )
        if options.retry is not None and options.retry.max_retries and is_generator(raw):
            from modal._deprecation import warn_definition

            warn_definition(f"{self.tag}: retries on generator functions are deprecated.")


def check_web_function(name: str, partial: PartialFunction, own_parameters: int) -> None:
    """Raise InvalidError where a function that makes a web app, or starts a server, takes parameters."""
    if partial.web is None or partial.web.kind == "endpoint":
        return
    names = parameter_names(partial.raw)[own_parameters:]
    if names:
        raise InvalidError(
            f"{name}: a function that returns a web app or starts a web server takes no parameters "
            f"(it has {', '.join(names)}); use modal.parameter on a class instead."
        )


def not_running(tag: str, what: str, definition: Optional[Definition]) -> ExecutionError:
    """The error for a call of something whose app does not run, or began to run without it."""
    if definition is not None and definition.app._running:
        return ExecutionError(
            f"{what} {tag!r} was added to its app when that was running already, so there are no containers for it. "
            "Define it in global scope, or before `app.run()`."
        )
    return ExecutionError(
        f"{what} {tag!r} cannot be called remotely yet: its app is not running. Call it inside `with app.run():`, "
        "from a local entrypoint under `modal run`, or from a container; or deploy the app and use "
        f"`modal.{what}.from_name(app_name, {tag!r})`."
    )
