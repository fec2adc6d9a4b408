"""Local files on their way into containers: which ones, where they go, and what is in them by hash.

A set of local files is described when the program is read (`LocalFile`, `LocalDir`, `PythonSource`) and looked
at when it is needed, so that a program can be imported where the files are not: in its own containers.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Callable, Iterator, NamedTuple, Optional, Sequence, Union

from modal.exception import InvalidError, ModuleNotMountable
from modal.file_pattern_matcher import _AbstractPatternMatcher, as_matcher

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath

SOURCE_DIR = "/root"  # where the user's own code lies in a container


class Found(NamedTuple):
    """One local file and its place in the container."""

    remote: str  # absolute
    local: str
    link: str = ""  # target of a link that leads nowhere here
    directory: bool = False  # an empty one


class FileSet:
    """Some local files. Equal `key`s mean the same files."""

    key: tuple[Any, ...]

    def find(self) -> Iterator[Found]:
        """The files as they are now. Raises InvalidError, ModuleNotMountable."""
        raise NotImplementedError

    @property
    def description(self) -> str:
        """For people: the local path, mostly."""
        raise NotImplementedError

    def roots(self) -> list[str]:
        """Local files and directories that decide what is in the set: to be watched for changes."""
        raise NotImplementedError


def remote_path(path: Union[str, PurePosixPath], what: str) -> str:
    """An absolute path in a container, normalised. Raises InvalidError."""
    text = str(path)
    if "\0" in text:
        raise InvalidError(f"{what}: the remote path {text!r} has a NUL character, which no path may have.")
    if not text.startswith("/"):
        raise InvalidError(f"{what}: the remote path {text!r} must be absolute (begin with /).")
    return "/" + os.path.normpath(text).replace(os.sep, "/").strip("/")


class LocalFile(FileSet):
    """One file, to stand at exactly `remote` (or in it under its own name, when `remote` ends with /)."""

    def __init__(self, local: Union[str, Path], remote: Union[str, PurePosixPath]) -> None:
        self.local = os.path.abspath(os.path.expanduser(str(local)))
        self.remote = remote_path(remote, "add_local_file")
        if str(remote).endswith("/"):
            self.remote = f"{self.remote.rstrip('/')}/{os.path.basename(self.local)}"
        self.key = ("file", self.local, self.remote)

    def find(self) -> Iterator[Found]:
        if os.path.isdir(self.local):
            raise InvalidError(f"add_local_file: {self.local} is a directory. Use add_local_dir.")
        if not os.path.isfile(self.local):
            raise InvalidError(f"add_local_file: there is no file {self.local}.")
        yield Found(self.remote, self.local)

    @property
    def description(self) -> str:
        return self.local

    def roots(self) -> list[str]:
        return [self.local]


class LocalDir(FileSet):
    """A directory's content, except what `ignore` matches (relative to the directory)."""

    def __init__(
        self,
        local: Union[str, Path],
        remote: Union[str, PurePosixPath],
        ignore: Union[Sequence[str], Callable[[Path], Any]] = (),
    ) -> None:
        self.local = os.path.abspath(os.path.expanduser(str(local)))
        self.remote = remote_path(remote, "add_local_dir")
        self.ignore = as_matcher(ignore)
        self.key = ("dir", self.local, self.remote, _ignore_key(ignore))

    def find(self) -> Iterator[Found]:
        if os.path.isfile(self.local):
            raise InvalidError(f"add_local_dir: {self.local} is a file. Use add_local_file.")
        if not os.path.isdir(self.local):
            raise InvalidError(f"add_local_dir: there is no directory {self.local}.")
        yield from walk(self.local, self.remote, self.ignore)

    @property
    def description(self) -> str:
        return self.local

    def roots(self) -> list[str]:
        return [self.local]


def _ignore_key(ignore: Any) -> Any:
    if isinstance(ignore, (list, tuple)):
        return tuple(ignore)
    return repr(ignore) if type(ignore).__name__ == "FilePatternMatcher" else id(ignore)


class PythonSource(FileSet):
    """Modules or packages by name, below /root, without bytecode and hidden files."""

    def __init__(self, modules: Sequence[str], ignore: Union[Sequence[str], Callable[[Path], Any]]) -> None:
        self.modules = tuple(modules)
        self.ignore = as_matcher(ignore)
        self.key = ("python", self.modules, _ignore_key(ignore))

    def find(self) -> Iterator[Found]:
        for module in self.modules:
            yield from find_module_files(module, self.ignore)

    @property
    def description(self) -> str:
        return f"PythonPackage:{','.join(self.modules)}"

    def roots(self) -> list[str]:
        return [root for module in self.modules for root in _module_roots(module)]


def _module_roots(module: str) -> list[str]:
    """A package's directories, or a module's file. Raises ModuleNotMountable."""
    import importlib.util

    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise ModuleNotMountable(f"{module} cannot be found: {error}.") from None
    if spec is None:
        raise ModuleNotMountable(
            f"{module} has no spec: there is no module of that name on this machine's import path. "
            "add_local_python_source takes names of modules as in `import NAME`."
        )
    if spec.submodule_search_locations is not None:
        return [os.path.abspath(path) for path in spec.submodule_search_locations]
    if spec.origin is None or not os.path.isfile(spec.origin):
        raise ModuleNotMountable(f"{module} is built in or has no file: it cannot be added to an image.")
    return [os.path.abspath(spec.origin)]


def find_module_files(module: str, ignore: _AbstractPatternMatcher) -> Iterator[Found]:
    """The files of one package or module, at their place below /root."""
    place = f"{SOURCE_DIR}/{module.replace('.', '/')}"
    for root in _module_roots(module):
        if os.path.isdir(root):
            yield from walk(root, place, ignore, python=True)
        else:
            suffix = os.path.splitext(root)[1]
            if not _matches(ignore, os.path.basename(root), root):
                yield Found(place + suffix, root)
    parent = module
    while "." in parent:  # a module of a package needs the packages above it
        parent = parent.rpartition(".")[0]
        for root in _module_roots(parent):
            above = os.path.join(root, "__init__.py")
            if os.path.isfile(above):
                yield Found(f"{SOURCE_DIR}/{parent.replace('.', '/')}/__init__.py", above)


def _matches(ignore: _AbstractPatternMatcher, relative: str, full: str) -> bool:
    """Whether `ignore` matches. A predicate that looks at the file itself gets the full path instead."""
    try:
        return ignore._matches_name(relative)
    except OSError:
        from pathlib import Path

        return ignore(Path(full))


def walk(root: str, remote: str, ignore: _AbstractPatternMatcher, *, python: bool = False) -> Iterator[Found]:
    """All files and empty directories below `root`, sorted. Links are followed; one that leads nowhere stays a link.

    `python` leaves out hidden entries, bytecode and empty directories.
    """
    base = remote.rstrip("/")
    prune = ignore.can_prune()

    entries = _scan(root)
    if not entries and base and not python:
        yield Found(base, root, directory=True)
    way = [("", iter(entries), _identity(root))]  # directories can be nested deeper than Python's calls
    while way:
        prefix, rest, _ = way[-1]
        for entry in rest:
            if python and (entry.name.startswith(".") or entry.name == "__pycache__" or entry.name.endswith(".pyc")):
                continue
            relative = prefix + entry.name
            if entry.is_dir():
                here = _identity(entry.path)
                if (prune and _matches(ignore, relative, entry.path)) or any(here == above for _, _, above in way):
                    continue  # or a link to a directory above itself
                entries = _scan(entry.path)
                if entries:
                    way.append((relative + "/", iter(entries), here))
                    break
                if not python and not _matches(ignore, relative, entry.path):
                    yield Found(f"{base}/{relative}", entry.path, directory=True)
                continue
            if entry.is_file():
                if not _matches(ignore, relative, entry.path):
                    yield Found(f"{base}/{relative}", entry.path)
            elif entry.is_symlink() and not _matches(ignore, relative, entry.path):
                yield Found(f"{base}/{relative}", entry.path, os.readlink(entry.path))
        else:
            way.pop()


def _scan(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        raise InvalidError(f"{directory} cannot be read: no permission. Leave it out with `ignore=`.") from None


def _identity(directory: str) -> tuple[int, int]:
    status = os.stat(directory)
    return status.st_dev, status.st_ino


class Stamp(NamedTuple):
    """What tells that a file has changed, without reading it."""

    mtime: int  # nanoseconds
    size: int  # bytes
    inode: int
    ctime: int  # nanoseconds
    mode: int


def stamp_of(path: str) -> Optional[Stamp]:
    """None where there is no such file any more."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns, status.st_mode)


def container_mode(mode: int) -> int:
    """The permission bits in the container: those of the owner decide, whatever the local umask was."""
    return 0o755 if mode & stat.S_IXUSR else 0o644
