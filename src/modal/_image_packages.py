"""The methods of images that install Python packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Sequence, Union

from modal._image_projects import poetry_project, pyproject_dependencies, uv_project
from modal._image_steps import Step, flatten
from modal._requirements import recipe_fields
from modal._secret import Secret, check_secrets
from modal.exception import InvalidError
from modal.gpu import GPU_T, parse_gpus

if TYPE_CHECKING:
    from modal._image import Image


def texts_of(values: Sequence[str], method: str) -> list[str]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise InvalidError(f"Image.{method}: a list of strings is needed, not {values!r}.")
    return list(values)


def _index_options(
    find_links: Optional[str], index_url: Optional[str], extra_index_url: Optional[str], pre: bool, extra_options: str
) -> dict[str, Any]:
    """The options of pip that are set, under the names of the recipe. Raises InvalidError."""
    texts = {"find_links": find_links, "index_url": index_url, "extra_index_url": extra_index_url}
    for name, value in {**texts, "extra_options": extra_options}.items():
        if value is not None and not isinstance(value, str):
            raise InvalidError(f"Image: {name} must be a string, as on pip's command line, not {value!r}.")
    options = {
        "find_links": find_links,
        "index_url": index_url,
        "extra_index_url": extra_index_url,
        "pre": bool(pre),
        "extra_options": extra_options,
    }
    return {name: value for name, value in options.items() if value}


def step_of(
    kind: str,
    fields: dict[str, Any],
    secrets: Sequence[Secret],
    gpu: Any,
    force: bool,
    method: str = "",
) -> Step:
    name = method or kind
    checked = check_secrets(secrets, f"Image.{name}")
    return Step(kind, fields, secrets=checked, gpus=parse_gpus(gpu), force=force, method=name)


def check_packages(packages: Sequence[str], method: str) -> None:
    """Raises InvalidError for what cannot be the name of a package."""
    for package in packages:
        if package.lstrip().startswith("-"):
            raise InvalidError(
                f"Image.{method}: {package!r} is an option, not a package. Use extra_options={package!r}."
            )
        if not package.strip():
            raise InvalidError(f"Image.{method}: a package name is empty.")


def version_of(text: Any, method: str) -> str:
    if not isinstance(text, str) or not text[:1].isdigit():
        raise InvalidError(f"Image.{method}: uv_version must be a version such as '0.5.0', not {text!r}.")
    return text


class PythonPackages:
    """A part of `Image`."""

    def _then(self, step: Step) -> Image:
        raise NotImplementedError

    def _unchanged(self) -> Image:
        raise NotImplementedError

    def pip_install(
        self,
        *packages: Union[str, list[str]],  # A list of Python packages, eg. ["numpy", "matplotlib>=3.5.0"]
        find_links: Optional[str] = None,  # Passes -f (--find-links) pip install
        index_url: Optional[str] = None,  # Passes -i (--index-url) to pip install
        extra_index_url: Optional[str] = None,  # Passes --extra-index-url to pip install
        pre: bool = False,  # Passes --pre (allow pre-releases) to pip install
        extra_options: str = "",  # Additional options to pass to pip install, e.g. "--no-build-isolation --no-clean"
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        secrets: Sequence[Secret] = [],
        gpu: GPU_T = None,
    ) -> Image:
        """Install a list of Python packages using pip.

        ```python
        image = modal.Image.debian_slim().pip_install("click", "httpx~=0.23.3")
        ```
        """
        wanted = flatten(packages, "pip_install", "packages")
        if not wanted:
            return self._unchanged()
        check_packages(wanted, "pip_install")
        fields = {
            "packages": wanted,
            **_index_options(find_links, index_url, extra_index_url, pre, extra_options),
        }
        return self._then(step_of("pip_install", fields, secrets, gpu, force_build))

    def pip_install_private_repos(
        self,
        *repositories: str,
        git_user: str,
        find_links: Optional[str] = None,  # Passes -f (--find-links) pip install
        index_url: Optional[str] = None,  # Passes -i (--index-url) to pip install
        extra_index_url: Optional[str] = None,  # Passes --extra-index-url to pip install
        pre: bool = False,  # Passes --pre (allow pre-releases) to pip install
        extra_options: str = "",  # Additional options to pass to pip install, e.g. "--no-build-isolation --no-clean"
        gpu: GPU_T = None,
        secrets: Sequence[Secret] = [],
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
    ) -> Image:
        """Install a list of Python packages from private git repositories using pip.

        This method currently supports Github and Gitlab only: provide a `modal.Secret` that has GITHUB_TOKEN
        or GITLAB_TOKEN.
        """
        method = "pip_install_private_repos"
        if not check_secrets(secrets, f"Image.{method}"):
            raise InvalidError(f"Image.{method}: a secret with GITHUB_TOKEN or GITLAB_TOKEN is needed.")
        wanted = flatten(repositories, method, "repositories")
        for repository in wanted:
            if not repository.startswith(("github.com/", "gitlab.com/")):
                raise InvalidError(
                    f"Image.{method}: {repository!r} is no repository: it must begin with github.com/ or gitlab.com/ "
                    "(without https://)."
                )
        if not wanted:
            return self._unchanged()
        options = _index_options(find_links, index_url, extra_index_url, pre, extra_options)
        fields = {"repositories": wanted, "git_user": git_user, **options}
        return self._then(step_of("pip_private_repos", fields, secrets, gpu, force_build, method))

    def pip_install_from_requirements(
        self,
        requirements_txt: str,  # Path to a requirements.txt file.
        find_links: Optional[str] = None,  # Passes -f (--find-links) pip install
        *,
        index_url: Optional[str] = None,  # Passes -i (--index-url) to pip install
        extra_index_url: Optional[str] = None,  # Passes --extra-index-url to pip install
        pre: bool = False,  # Passes --pre (allow pre-releases) to pip install
        extra_options: str = "",  # Additional options to pass to pip install, e.g. "--no-build-isolation --no-clean"
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        secrets: Sequence[Secret] = [],
        gpu: GPU_T = None,
    ) -> Image:
        """Install a list of Python packages from a local `requirements.txt` file.

        Files that it names by `-r` and `-c`, relative to itself, go with it.
        """
        method, path = "pip_install_from_requirements", str(requirements_txt)
        options = _index_options(find_links, index_url, extra_index_url, pre, extra_options)
        step = step_of("pip_requirements", options, secrets, gpu, force_build, method)
        step.late = lambda: recipe_fields([path], method, one=True)
        return self._then(step)

    def pip_install_from_pyproject(
        self,
        pyproject_toml: str,
        optional_dependencies: list[str] = [],
        *,
        find_links: Optional[str] = None,  # Passes -f (--find-links) pip install
        index_url: Optional[str] = None,  # Passes -i (--index-url) to pip install
        extra_index_url: Optional[str] = None,  # Passes --extra-index-url to pip install
        pre: bool = False,  # Passes --pre (allow pre-releases) to pip install
        extra_options: str = "",  # Additional options to pass to pip install, e.g. "--no-build-isolation --no-clean"
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        secrets: Sequence[Secret] = [],
        gpu: GPU_T = None,
    ) -> Image:
        """Install dependencies specified by a local `pyproject.toml` file.

        `optional_dependencies` is a list of the keys of the optional-dependencies section(s) of the file
        (e.g. test, doc, experiment, etc). When provided, all of the packages in each listed section are
        installed as well.
        """
        method, path = "pip_install_from_pyproject", str(pyproject_toml)
        extras = texts_of(optional_dependencies, method)
        options = _index_options(find_links, index_url, extra_index_url, pre, extra_options)
        step = step_of("pip_install", options, secrets, gpu, force_build, method)
        step.late = lambda: {"packages": pyproject_dependencies(path, extras)}
        return self._then(step)

    def poetry_install_from_file(
        self,
        poetry_pyproject_toml: str,
        poetry_lockfile: Optional[str] = None,  # Path to lockfile. If not provided, uses poetry.lock in same directory.
        *,
        ignore_lockfile: bool = False,  # If set to True, do not use poetry.lock, even when present
        # If set to True, use old installer. See https://github.com/python-poetry/poetry/issues/3336
        old_installer: bool = False,
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        # Selected optional dependency groups to install (See https://python-poetry.org/docs/cli/#install)
        with_: list[str] = [],
        # Selected optional dependency groups to exclude (See https://python-poetry.org/docs/cli/#install)
        without: list[str] = [],
        only: list[str] = [],  # Only install dependency groups specifed in this list.
        secrets: Sequence[Secret] = [],
        gpu: GPU_T = None,
    ) -> Image:
        """Install poetry *dependencies* specified by a local `pyproject.toml` file.

        If not provided as argument the path to the lockfile is inferred. However, the file has to exist,
        unless `ignore_lockfile` is set to `True`. The root project itself is not installed.
        """
        method, path = "poetry_install_from_file", str(poetry_pyproject_toml)
        groups = {"with": with_, "without": without, "only": only}
        fields: dict[str, Any] = {name: texts_of(value, method) for name, value in groups.items() if value}
        if old_installer:
            fields["old_installer"] = True
        step = step_of("poetry", fields, secrets, gpu, force_build, method)
        lock = None if ignore_lockfile else poetry_lockfile
        step.late = lambda: poetry_project(path, lock, ignore_lockfile)
        return self._then(step)

    def uv_pip_install(
        self,
        *packages: Union[str, list[str]],  # A list of Python packages, eg. ["numpy", "matplotlib>=3.5.0"]
        requirements: Optional[list[str]] = None,  # Paths of requirements.txt files, passed with `-r`
        find_links: Optional[str] = None,  # Passes --find-links to uv pip install
        index_url: Optional[str] = None,  # Passes --default-index to uv pip install
        extra_index_url: Optional[str] = None,  # Passes --index to uv pip install
        pre: bool = False,  # Allow pre-releases
        extra_options: str = "",  # Additional options to pass to uv pip install, e.g. "--no-build-isolation"
        uv_version: Optional[str] = None,  # uv version to use
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        secrets: Sequence[Secret] = [],
        gpu: GPU_T = None,
    ) -> Image:
        """Install a list of Python packages using uv pip install.

        ```python
        image = modal.Image.debian_slim().uv_pip_install("torch==2.7.1", "numpy")
        ```
        """
        method = "uv_pip_install"
        wanted = flatten(packages, method, "packages")
        paths = flatten([requirements] if requirements else [], method, "requirements")
        if not wanted and not paths:
            return self._unchanged()
        check_packages(wanted, method)
        fields = {
            "packages": wanted,
            **_index_options(find_links, index_url, extra_index_url, pre, extra_options),
        }
        if uv_version is not None:
            fields["uv_version"] = version_of(uv_version, method)
        step = step_of(method, fields, secrets, gpu, force_build)
        if paths:
            step.late = lambda: recipe_fields(paths, method)
        return self._then(step)

    def uv_sync(
        self,
        uv_project_dir: str = "./",  # Path to local uv managed project
        *,
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        groups: Optional[list[str]] = None,  # Dependency groups to install
        extras: Optional[list[str]] = None,  # Optional dependencies to install
        frozen: bool = True,  # If True, then we run `uv sync --frozen` when a uv.lock file is present
        extra_options: str = "",  # Extra options to pass to `uv sync`
        uv_version: Optional[str] = None,  # uv version to use
        secrets: Sequence[Secret] = [],
        gpu: GPU_T = None,
    ) -> Image:
        """Creates a virtual environment with the dependencies of a uv managed project, with `uv sync`.

        The project's `pyproject.toml` and `uv.lock` count, relative to the current working directory. The project
        itself is not installed: add its source with `add_local_python_source` or the like afterwards.

        ```python
        image = modal.Image.debian_slim().uv_sync()
        ```
        """
        method, place = "uv_sync", str(uv_project_dir)
        fields: dict[str, Any] = {}
        for name, value in (("groups", groups), ("extras", extras)):
            if value:
                fields[name] = texts_of(value, method)
        if extra_options:
            fields["extra_options"] = extra_options
        if uv_version is not None:
            fields["uv_version"] = version_of(uv_version, method)
        step = step_of(method, fields, secrets, gpu, force_build)
        step.late = lambda: uv_project(place, frozen)
        return self._then(step)

    def micromamba_install(
        self,
        # A list of Python packages, eg. ["numpy", "matplotlib>=3.5.0"]
        *packages: Union[str, list[str]],
        # A local path to a file containing package specifications
        spec_file: Optional[str] = None,
        # A list of Conda channels, eg. ["conda-forge", "nvidia"].
        channels: list[str] = [],
        force_build: bool = False,  # Ignore cached builds, similar to 'docker build --no-cache'
        secrets: Sequence[Secret] = [],
        gpu: GPU_T = None,
    ) -> Image:
        """Install a list of additional packages using micromamba."""
        method = "micromamba_install"
        wanted = flatten(packages, method, "packages")
        if not wanted and spec_file is None:
            return self._unchanged()
        names = texts_of(channels, method)
        step = step_of(method, {"packages": wanted, "channels": names}, secrets, gpu, force_build)
        if spec_file is not None:
            from modal._image_conda import conda_request

            step.late = lambda: conda_request(str(spec_file), wanted, names)
        return self._then(step)
