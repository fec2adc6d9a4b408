"""Images: a chain of steps, described here, built on a worker when something needs the image."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Callable, Iterator, Optional, Sequence, Union

from modal._image_packages import PythonPackages, step_of, texts_of
from modal._image_removed import RemovedMethods
from modal._image_steps import Step, flatten
from modal._mounts import LocalDir, LocalFile, PythonSource
from modal._object import Object
from modal._secret import Secret, check_secrets
from modal._sync import synchronized
from modal.exception import InvalidError
from modal.file_pattern_matcher import AUTO_DOCKERIGNORE, NON_PYTHON_FILES
from modal.gpu import GPU_T, parse_gpus

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path, PurePosixPath

    from modal._bucket import CloudBucketMount
    from modal._client import Client
    from modal._mounts import FileSet
    from modal._network_file_system import NetworkFileSystem
    from modal._volume import Volume

_PYTHON_VERSION = re.compile(r"3\.(\d+)(?:\.\d+)?\Z")
OLDEST_PYTHON = 9  # minor version


def _python_version(version: Optional[str], method: str) -> str:
    """A version such as "3.11"; the local one where none is given. Raises InvalidError."""
    if version is None:
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    if not isinstance(version, str):
        raise InvalidError(f'Image.{method}: the Python version must be a string such as "3.11", not {version!r}.')
    match = _PYTHON_VERSION.match(version)
    if match is None:
        raise InvalidError(f'Image.{method}: {version!r} is no Python version. Use for instance "3.11".')
    if int(match.group(1)) < OLDEST_PYTHON:
        raise InvalidError(f"Image.{method}: Python {version} is too old: 3.{OLDEST_PYTHON} or newer is needed.")
    return version


class Image(PythonPackages, RemovedMethods, Object):
    """Base class for container images to run functions in.

    Do not construct this class directly; instead use one of its static factory methods,
    such as `modal.Image.debian_slim`, `modal.Image.from_registry`, or `modal.Image.micromamba`.
    """

    _kind = "image"
    _made_by = "debian_slim(), or another of its methods that begin an image"
    _base: Optional[Image] = None
    _step: Optional[Step] = None  # None: exists on the server under `_object_id`
    _mounted: tuple[FileSet, ...] = ()  # files that are added when a container starts
    _origin: Optional[Image] = None  # the image to which such files were added
    _import_error: Optional[ImportError] = None  # what `imports()` swallowed in a container

    # -- the chain
    @staticmethod
    def _from_step(step: Step, base: Optional[Image] = None) -> Image:
        image = Image.__new__(Image)
        image._base = base
        image._step = step
        return image

    def _then(self, step: Step) -> Image:
        if self._mounted:
            raise InvalidError(
                f"Image.{step.method} cannot follow add_local_file, add_local_dir or add_local_python_source: these "
                "add files when a container starts, after all build steps. Add local files last, or use copy=True "
                "to put them into the image at this point."
            )
        return Image._from_step(step, self)

    def _unchanged(self) -> Image:
        return self

    def _add_files(self, files: FileSet, copy: bool, method: str) -> Image:
        if copy:
            return self._then(Step("copy", {}, files=files, method=method))
        image = Image.__new__(Image)
        image._base = self._base
        image._step = self._step
        image._object_id = self._object_id if self._step is None else None
        image._origin = self
        image._mounted = (*self._mounted, files)
        return image

    def _steps(self) -> list[Step]:
        """First to last."""
        steps: list[Step] = []
        at: Optional[Image] = self
        while at is not None and at._step is not None:
            steps.append(at._step)
            at = at._base
        return steps[::-1]

    def _existing(self) -> str:
        """The id of the image that the chain begins with, "" where it begins with a base step."""
        at = self
        while at._base is not None:
            at = at._base
        return at._object_id or "" if at._step is None else ""

    async def _load(self, client: Client) -> None:
        from modal._building import build_one

        self._object_id = await build_one(client, self)

    @synchronized
    @staticmethod
    async def from_id(image_id: str, client: Optional[Client] = None) -> Image:
        """Construct an Image from an id and look up the Image result.

        The ID of an Image object can be accessed using `.object_id`.
        """
        from modal._client import Client
        from modal._protocol.messages.image import ImageBuilt, ImageGet

        given: Any = image_id
        if not isinstance(given, str) or not given.startswith("im-"):
            raise InvalidError(f'Image.from_id: {given!r} is no id of an image, such as "im-..." (see `.object_id`).')
        client = client or Client.current()
        built = await client.request(ImageGet(image_id), ImageBuilt)
        image = Image._from_object_id(built.image_id)
        image._client = client
        return image

    # -- bases
    @staticmethod
    def debian_slim(python_version: Optional[str] = None, force_build: bool = False) -> Image:
        """Default image: Debian with Python; the version of the local interpreter unless another is given."""
        version = _python_version(python_version, "debian_slim")
        return Image._from_step(Step("debian_slim", {"python_version": version}, force=force_build))

    @staticmethod
    def micromamba(
        python_version: Optional[str] = None,
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
    ) -> Image:
        """A Micromamba base image. Micromamba allows for fast building of small Conda-based containers."""
        version = _python_version(python_version, "micromamba")
        return Image._from_step(Step("micromamba", {"python_version": version}, force=force_build))

    @staticmethod
    def _registry(
        method: str,
        tag: Any,
        secret: Optional[Secret],
        setup_dockerfile_commands: Sequence[str],
        force_build: bool,
        add_python: Optional[str],
        options: dict[str, Any],
    ) -> Image:
        if options:
            raise InvalidError(f"Image.{method}: unknown option {next(iter(options))!r}.")
        if not isinstance(tag, str) or not tag:
            raise InvalidError(f'Image.{method}: the tag must be a string such as "ubuntu:22.04", not {tag!r}.')
        if secret is not None and not isinstance(secret, Secret):
            raise InvalidError(f"Image.{method}: secret must be a modal.Secret, not {type(secret).__name__}.")
        fields: dict[str, Any] = {
            "tag": tag,
            "access": {"from_aws_ecr": "aws", "from_gcp_artifact_registry": "gcp"}.get(method, ""),
            "setup": flatten(setup_dockerfile_commands, method, "setup_dockerfile_commands"),
            "add_python": "" if add_python is None else _python_version(add_python, method),
        }
        if fields["setup"]:
            from modal._image_dockerfile import check_commands

            check_commands(fields["setup"], method)
        secrets = [secret] if secret is not None else []
        return Image._from_step(Step("registry", fields, secrets=secrets, force=force_build, method=method))

    @staticmethod
    def from_registry(
        tag: str,
        secret: Optional[Secret] = None,
        *,
        setup_dockerfile_commands: list[str] = [],
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        add_python: Optional[str] = None,
        **kwargs: Any,
    ) -> Image:
        """Build a Modal Image from a public or private image registry, such as Docker Hub.

        The image must be built for linux/amd64; without `add_python` it must have `python` and `pip` on its PATH.
        """
        arguments = (setup_dockerfile_commands, force_build, add_python, kwargs)
        return Image._registry("from_registry", tag, secret, *arguments)

    @staticmethod
    def from_gcp_artifact_registry(
        tag: str,
        secret: Optional[Secret] = None,
        *,
        setup_dockerfile_commands: list[str] = [],
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        add_python: Optional[str] = None,
        **kwargs: Any,
    ) -> Image:
        """Build a Modal image from a private image in Google Cloud Platform (GCP) Artifact Registry.

        The secret must have SERVICE_ACCOUNT_JSON.
        """
        arguments = (setup_dockerfile_commands, force_build, add_python, kwargs)
        return Image._registry("from_gcp_artifact_registry", tag, secret, *arguments)

    @staticmethod
    def from_aws_ecr(
        tag: str,
        secret: Optional[Secret] = None,
        *,
        setup_dockerfile_commands: list[str] = [],
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        add_python: Optional[str] = None,
        **kwargs: Any,
    ) -> Image:
        """Build a Modal image from a private image in AWS Elastic Container Registry (ECR).

        The secret must have AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION.
        """
        arguments = (setup_dockerfile_commands, force_build, add_python, kwargs)
        return Image._registry("from_aws_ecr", tag, secret, *arguments)

    @staticmethod
    def from_dockerfile(
        path: Union[str, Path],  # Filepath to Dockerfile.
        *,
        context_mount: Any = None,  # Deprecated: the context is now inferred
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        context_dir: Optional[Union[Path, str]] = None,  # Context for relative COPY commands
        secrets: Sequence[Secret] = [],
        gpu: GPU_T = None,
        add_python: Optional[str] = None,
        ignore: Union[Sequence[str], Callable[[Path], bool]] = AUTO_DOCKERIGNORE,
    ) -> Image:
        """Build a Modal image from a local Dockerfile.

        If your Dockerfile does not have Python installed, you can use the `add_python` parameter
        to specify a version of Python to add to the image.
        """
        method = "from_dockerfile"
        _refuse_context_mount(context_mount, method)
        from modal._image_dockerfile import DockerfileStep

        step = DockerfileStep(
            "dockerfile",
            method,
            path=str(path),
            context_dir="" if context_dir is None else str(context_dir),
            ignore=ignore,
            fields={"add_python": "" if add_python is None else _python_version(add_python, method)},
            secrets=check_secrets(secrets, f"Image.{method}"),
            gpus=parse_gpus(gpu),
            force=force_build,
        )
        return Image._from_step(step)

    # -- the rest of the system
    def apt_install(
        self,
        *packages: Union[str, list[str]],  # A list of packages, e.g. ["ssh", "libpq-dev"]
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        secrets: Sequence[Secret] = [],
        gpu: GPU_T = None,
    ) -> Image:
        """Install a list of Debian packages using `apt`.

        ```python
        image = modal.Image.debian_slim().apt_install("git")
        ```
        """
        wanted = flatten(packages, "apt_install", "packages")
        if not wanted:
            return self
        for package in wanted:
            if not package.strip() or package.startswith("-") or any(space in package.strip() for space in " \t\n;&|"):
                raise InvalidError(f"Image.apt_install: {package!r} is no name of a package. Give each one by itself.")
        return self._then(step_of("apt_install", {"packages": wanted}, secrets, gpu, force_build))

    def run_commands(
        self,
        *commands: Union[str, list[str]],
        secrets: Sequence[Secret] = [],
        gpu: GPU_T = None,
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
    ) -> Image:
        """Extend an image with a list of shell commands to run."""
        wanted = flatten(commands, "run_commands", "commands")
        if not wanted:
            return self
        return self._then(step_of("run", {"commands": wanted}, secrets, gpu, force_build, "run_commands"))

    def dockerfile_commands(
        self,
        *dockerfile_commands: Union[str, list[str]],
        context_files: dict[str, str] = {},
        secrets: Sequence[Secret] = [],
        gpu: GPU_T = None,
        context_mount: Any = None,  # Deprecated: the context is now inferred
        context_dir: Optional[Union[Path, str]] = None,  # Context for relative COPY commands
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        ignore: Union[Sequence[str], Callable[[Path], bool]] = AUTO_DOCKERIGNORE,
    ) -> Image:
        """Extend an image with arbitrary Dockerfile-like commands."""
        method = "dockerfile_commands"
        _refuse_context_mount(context_mount, method)
        lines = flatten(dockerfile_commands, method, "commands")
        if not lines:
            return self
        from modal._image_dockerfile import DockerfileStep

        step = DockerfileStep(
            method,
            method,
            commands=lines,
            context_dir="" if context_dir is None else str(context_dir),
            context_files=context_files,
            ignore=ignore,
            secrets=check_secrets(secrets, f"Image.{method}"),
            gpus=parse_gpus(gpu),
            force=force_build,
        )
        return self._then(step)

    def run_function(
        self,
        raw_f: Callable[..., Any],
        *,
        secrets: Sequence[Secret] = (),  # Optional Modal Secret objects with environment variables for the container
        gpu: Union[GPU_T, list[GPU_T]] = None,  # Requested GPU or or list of acceptable GPUs( e.g. ["A10", "A100"])
        volumes: dict[Union[str, PurePosixPath], Union[Volume, CloudBucketMount]] = {},  # Volume mount paths
        network_file_systems: dict[Union[str, PurePosixPath], NetworkFileSystem] = {},  # NFS mount paths
        cpu: Optional[float] = None,  # How many CPU cores to request. This is a soft limit.
        memory: Optional[int] = None,  # How much memory to request, in MiB. This is a soft limit.
        timeout: Optional[int] = 60 * 60,  # Maximum execution time of the function in seconds.
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        cloud: Optional[str] = None,  # Cloud provider to run the function on. Possible values are aws, gcp, oci, auto.
        region: Optional[Union[str, Sequence[str]]] = None,  # Region or regions to run the function on.
        args: Sequence[Any] = (),  # Positional arguments to the function.
        kwargs: dict[str, Any] = {},  # Keyword arguments to the function.
        include_source: Optional[bool] = None,
    ) -> Image:
        """Run user-defined function `raw_f` as an image build step.

        After it finishes execution, a snapshot of the resulting container file system is saved as an image.
        """
        from modal._build_function import FunctionStep, check_function
        from modal._options import check_mounts, check_timeout, resources_of

        check_function(raw_f)
        if include_source is not None and not isinstance(include_source, bool):
            raise InvalidError(f"Image.run_function: include_source must be True or False, not {include_source!r}.")
        for what, value in (("cpu", cpu), ("memory", memory)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise InvalidError(f"Image.run_function: {what} must be a number, not {value!r}.")
        resources = resources_of(cpu, memory, gpu, None)
        settings = {
            "cpu": resources.cpu_request,
            "memory": resources.memory_request,
            "timeout": check_timeout(timeout),
        }
        step = FunctionStep(
            raw_f,
            args,
            kwargs,
            mounts=check_mounts(volumes, network_file_systems),
            settings={name: value for name, value in settings.items() if value},
            include_source=include_source is not False,
            secrets=check_secrets(secrets, "Image.run_function"),
            gpus=parse_gpus(gpu),
            force=force_build,
        )
        return self._then(step)

    # -- settings
    def env(self, vars: dict[str, str]) -> Image:
        """Sets the environment variables in an Image.

        ```python
        image = modal.Image.debian_slim().env({"HF_HUB_ENABLE_HF_TRANSFER": "1"})
        ```
        """
        if not isinstance(vars, dict):
            raise InvalidError(f"Image.env: a dict is needed, not {type(vars).__name__}.")
        entries: dict[Any, Any] = vars
        for key, value in entries.items():
            if not isinstance(key, str) or not key or "=" in key:
                raise InvalidError(f"Image.env: {key!r} cannot be the name of an environment variable.")
            if not isinstance(value, str):
                raise InvalidError(f"Image.env: the value of {key!r} must be a string, not {type(value).__name__}.")
        return self._then(Step("env", {"vars": dict(entries)}))

    def workdir(self, path: Union[str, PurePosixPath]) -> Image:
        """Set the working directory for subsequent image build steps and function execution."""
        from pathlib import PurePath

        given: Any = path
        if not isinstance(given, (str, PurePath)) or not given:
            raise InvalidError(f"Image.workdir: a path is needed, not {given!r}.")
        return self._then(Step("workdir", {"path": str(path)}))

    def entrypoint(
        self,
        entrypoint_commands: list[str],
    ) -> Image:
        """Set the entrypoint for the image."""
        return self._then(Step("entrypoint", {"args": texts_of(entrypoint_commands, "entrypoint")}))

    def cmd(self, cmd: list[str]) -> Image:
        """Set the default entrypoint argument (`CMD`) for the image."""
        return self._then(Step("cmd", {"args": texts_of(cmd, "cmd")}))

    def shell(
        self,
        shell_commands: list[str],
    ) -> Image:
        """Overwrite default shell for the image."""
        args = texts_of(shell_commands, "shell")
        if not args:
            raise InvalidError('Image.shell: the list is empty. Use for instance ["/bin/bash", "-c"].')
        return self._then(Step("shell", {"args": args}))

    # -- local files
    def add_local_file(self, local_path: Union[str, Path], remote_path: str, *, copy: bool = False) -> Image:
        """Adds a local file to the image at `remote_path` within the container.

        By default (`copy=False`), the files are added to containers on startup and are not built into the actual
        Image. Set `copy=True` to copy the file into an Image layer at build time instead; that is required if
        you want to run additional build steps after this one.
        """
        return self._add_files(LocalFile(local_path, remote_path), copy, "add_local_file")

    def add_local_dir(
        self,
        local_path: Union[str, Path],
        remote_path: str,
        *,
        copy: bool = False,
        # Predicate filter function for file exclusion, which should accept a filepath and return `True` for exclusion.
        # Defaults to excluding no files. If a Sequence is provided, it will be converted to a FilePatternMatcher.
        # Which follows dockerignore syntax.
        ignore: Union[Sequence[str], Callable[[Path], bool]] = [],
    ) -> Image:
        """Adds a local directory's content to the image at `remote_path` within the container.

        By default (`copy=False`), the files are added to containers on startup and are not built into the actual
        Image. Set `copy=True` to copy the files into an Image layer at build time instead.
        """
        return self._add_files(LocalDir(local_path, remote_path, ignore), copy, "add_local_dir")

    def add_local_python_source(
        self,
        *modules: str,
        copy: bool = False,
        ignore: Union[Sequence[str], Callable[[Path], bool]] = NON_PYTHON_FILES,
    ) -> Image:
        """Adds locally available Python packages/modules to containers, below /root, where they can be imported.

        By default only includes `.py`-files in the source modules. Set the `ignore` argument to a list of patterns
        or a callable to override this behavior. Dot-prefixed entries and bytecode are never included.
        """
        names = flatten(modules, "add_local_python_source", "modules")
        for name in names:
            if not name or "/" in name or name.endswith(".py"):
                raise InvalidError(
                    f"Image.add_local_python_source: {name!r} is no module name. Give the name as in `import NAME`; "
                    "for a path use add_local_file or add_local_dir."
                )
        if not names:
            return self
        return self._add_files(PythonSource(names, ignore), copy, "add_local_python_source")

    def copy_local_file(self, local_path: Union[str, Path], remote_path: Union[str, PurePosixPath] = "./") -> Image:
        """Deprecated: use `add_local_file(..., copy=True)`."""
        from modal._deprecation import warn_definition

        warn_definition("Image.copy_local_file is deprecated. Use Image.add_local_file(..., copy=True) instead.")
        place = str(remote_path)
        if place.startswith("."):
            place = f"/root/{place}"
        return self.add_local_file(local_path, place, copy=True)

    def copy_local_dir(
        self,
        local_path: Union[str, Path],
        remote_path: Union[str, PurePosixPath] = ".",
        ignore: Union[Sequence[str], Callable[[Path], bool]] = [],
    ) -> Image:
        """Deprecated: use `add_local_dir(..., copy=True)`."""
        from modal._deprecation import warn_definition

        warn_definition("Image.copy_local_dir is deprecated. Use Image.add_local_dir(..., copy=True) instead.")
        place = str(remote_path)
        if place.startswith("."):
            place = f"/root/{place}"
        return self.add_local_dir(local_path, place, copy=True, ignore=ignore)

    # -- in containers
    def imports(self) -> AbstractContextManager[None]:
        """Used to import packages in global scope that are only available when running remotely.

        By using this context manager you can avoid an `ImportError` due to not having certain packages installed
        locally. In a container of this image the error is raised all the same.

        ```python
        with image.imports():
            import torch
        ```
        """
        from contextlib import contextmanager

        return contextmanager(self._imports)()

    def _imports(self) -> Iterator[None]:
        from modal import _context

        try:
            yield
        except ImportError as error:
            # Which image this container runs shows only when its function is registered: `raise_import_error`.
            if _context.spec is not None:
                self._import_error = error

    def _raise_import_error(self) -> None:
        """In a container of this image: raise what `imports()` of it, or of an image below it, swallowed."""
        at: Optional[Image] = self
        while at is not None:
            if at._import_error is not None:
                raise at._import_error
            at = at._origin or at._base

    def __reduce__(self) -> Any:
        return _restore_image, (self._object_id,)

    def __repr__(self) -> str:
        return f"modal.Image({self._object_id or ' > '.join(step.method for step in self._steps())})"


def _restore_image(object_id: Optional[str]) -> Image:
    """What an image becomes in another process: itself where it was built, else one that only `imports()` needs."""
    return Image._from_object_id(object_id) if object_id else Image.debian_slim()


def _refuse_context_mount(context_mount: Any, method: str) -> None:
    if context_mount is not None:
        raise InvalidError(f"Image.{method}: context_mount is gone; the context is inferred. Use context_dir instead.")
