"""Dockerfiles on the client's side: they are read and checked here, and the local files that they copy are found.

Only files that `COPY`, `ADD` and `RUN --mount=type=bind` name are sent, less what `.dockerignore` leaves out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Iterator, Optional, Sequence, Union

from modal._image_projects import read_text
from modal._image_steps import Step
from modal._mounts import FileSet, Found, _ignore_key, _matches
from modal._protocol.dockerfile import DockerfileError, Instruction, arguments, pairs, parse
from modal._protocol.dockerfile_words import WordError, expand, split
from modal.exception import InvalidError
from modal.file_pattern_matcher import AUTO_DOCKERIGNORE, FilePatternMatcher, _AbstractPatternMatcher, as_matcher

if TYPE_CHECKING:
    from pathlib import Path

    from modal._secret import Secret

CONTEXT = "/context"  # where a context's files lie in the set that goes up
URLS = ("http://", "https://", "git@", "git://")


class DockerfileStep(Step):
    """`dockerfile` or `dockerfile_commands`. The text is read when it is first needed, so that a program can be
    imported where the file is not."""

    def __init__(
        self,
        kind: str,
        method: str,
        *,
        path: str = "",
        commands: Sequence[str] = (),
        context_dir: str = "",
        context_files: Optional[dict[str, str]] = None,
        ignore: Any = AUTO_DOCKERIGNORE,
        fields: Optional[dict[str, Any]] = None,
        secrets: Sequence[Secret] = (),
        gpus: Sequence[str] = (),
        force: bool = False,
    ) -> None:
        super().__init__(kind, fields or {}, secrets=secrets, gpus=gpus, force=force, method=method)
        self._path = os.path.abspath(os.path.expanduser(path)) if path else ""
        self._commands = list(commands)
        self._context_dir = os.path.abspath(os.path.expanduser(context_dir or "."))
        self._context_files = dict(context_files or {})
        self._ignore = ignore
        self._read: Optional[str] = None
        self._sources: Optional[list[str]] = None
        if not path:
            self._check()  # it is all there: say what is wrong where it is written

    @property
    def text(self) -> str:
        if self._read is None:
            self._read = _read(self._path, self.method) if self._path else "\n".join(self._commands) + "\n"
        return self._read

    @property
    def file_sets(self) -> list[FileSet]:
        sources = self._check()
        if not sources:
            return []
        if self.files is None:
            ignore = _ignore_of(self._ignore, self._path, self._context_dir)
            where = os.path.basename(self._path) or self.method
            self.files = Context(
                self._context_dir, sources, ignore, self._context_files, f"Image.{self.method} ({where})"
            )
        return [self.files]

    def _check(self) -> list[str]:
        """The local files that the text names. Raises InvalidError."""
        if self._sources is None:
            try:
                self._sources = _sources(self.text, whole=bool(self._path))
            except DockerfileError as error:
                where = self._path or "the commands"
                raise InvalidError(f"Image.{self.method}: {where}, {error}.") from None
        return self._sources

    def _own(self, mount_ids: dict[Any, list[str]]) -> dict[str, Any]:
        self._check()
        own = {"text": self.text, **super()._own(mount_ids)}
        if self._path:
            own["name"] = os.path.basename(self._path)
        return own


def _read(path: str, method: str) -> str:
    if os.path.isdir(path):
        raise InvalidError(f"Image.{method}: {path} is a directory; give the path of the Dockerfile in it.")
    return read_text(path, method)


def _ignore_of(ignore: Any, path: str, context_dir: str) -> _AbstractPatternMatcher:
    """The matcher of `ignore=`; by default Docker's rule: the Dockerfile's own ignore file, else the context's."""
    if ignore is not AUTO_DOCKERIGNORE:
        return as_matcher(ignore)
    for candidate in (f"{path}.dockerignore" if path else "", os.path.join(context_dir, ".dockerignore")):
        if candidate and os.path.isfile(candidate):
            return FilePatternMatcher.from_file(candidate)
    return FilePatternMatcher()


def _sources(text: str, whole: bool) -> list[str]:
    """What the instructions take from the context, with the variables that are known here. Raises DockerfileError."""
    dockerfile = parse(text)
    if not dockerfile.instructions:
        raise DockerfileError(0, "there is no instruction in it")
    _check_order(dockerfile.instructions, whole)
    known: dict[str, str] = {}
    found: list[str] = []
    for one in dockerfile.instructions:
        if one.keyword == "ONBUILD":
            one = parse(f"{one.text}\n").instructions[0]._replace(line=one.line)
        _remember(one, known, dockerfile.escape)
        for source in _named(one, dockerfile.escape):
            value = _expanded(source, known, dockerfile.escape)
            if value is None:
                value = "."  # decided by a variable of the image: anything may be meant
            if "**" in value:  # only COPY --parents gives it a meaning; the worker has it
                value = value[: value.index("**")].rpartition("/")[0] or "."
            if not value.startswith(URLS):
                found.append(_inside(value, source, one.line))
    return list(dict.fromkeys(found))


def _check_order(instructions: Sequence[Instruction], whole: bool) -> None:
    first = next((one for one in instructions if one.keyword != "ARG"), None)
    if whole:
        if first is None or first.keyword != "FROM":
            number = first.line if first is not None else 0
            raise DockerfileError(number, "a Dockerfile begins with FROM (only ARG may stand before it)")
        return
    for one in instructions:
        if one.keyword == "FROM":
            raise DockerfileError(one.line, "FROM has no place here: the image is the base. Use Image.from_dockerfile")


def _named(one: Instruction, escape: str) -> Iterator[str]:
    """The sources of an instruction that lie in the context, as they are written."""
    if one.keyword == "RUN":
        for key, value in one.flags:
            options = dict(part.partition("=")[::2] for part in value.split(","))
            if key == "mount" and options.get("type", "bind") == "bind" and "from" not in options:
                yield options.get("source") or options.get("src") or "."
        return
    if one.keyword not in ("ADD", "COPY") or one.flag("from"):
        return
    words = one.words if one.words is not None else split(one.text, escape)
    heredocs = {f"{heredoc.name}" for heredoc in one.heredocs}
    for word in words[:-1]:
        if not (heredocs and word.lstrip("0123456789").startswith("<<")):
            yield word


def _remember(one: Instruction, known: dict[str, str], escape: str) -> None:
    """Take in the variables that an instruction sets, as far as they are known without the base image."""
    if one.keyword == "ARG":
        for name, default in arguments(one, escape):
            value = None if default is None else _expanded(default, known, escape)
            if value is not None:
                known[name] = value
    elif one.keyword == "ENV":
        for name, text in pairs(one, escape):
            value = _expanded(text, known, escape)
            if value is None:
                known.pop(name, None)
            else:
                known[name] = value


class _Strict(dict[str, str]):
    """Variables of which every one that is asked for must be known."""

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            raise KeyError(key)
        return self[key]


def _expanded(text: str, known: dict[str, str], escape: str) -> Optional[str]:
    """None where a variable is not known here."""
    try:
        return expand(text, _Strict(known), escape)
    except (KeyError, WordError):
        return None  # the worker knows, or says what is wrong


def _inside(value: str, shown: str, line: int) -> str:
    relative = os.path.normpath(value.lstrip("/") or ".").replace(os.sep, "/")
    if relative == ".." or relative.startswith("../"):
        raise DockerfileError(line, f"{shown!r} leads out of the build context: copy it there, or give context_dir=")
    return relative


class Context(FileSet):
    """The files of a build context that a Dockerfile takes, below `/context`. Links stay links."""

    def __init__(
        self,
        directory: str,
        sources: Sequence[str],
        ignore: Union[_AbstractPatternMatcher, Callable[[Path], Any]],
        extra: dict[str, str],
        method: str,
    ) -> None:
        self.local = directory
        self._sources = list(sources)
        self._ignore = as_matcher(ignore)
        self._extra = {name.lstrip("/"): os.path.abspath(os.path.expanduser(str(at))) for name, at in extra.items()}
        self._method = method
        self.key = ("context", directory, tuple(sources), _ignore_key(ignore), tuple(sorted(self._extra.items())))

    @property
    def description(self) -> str:
        return self.local

    def roots(self) -> list[str]:
        return [self.local, *self._extra.values()]

    def find(self) -> Iterator[Found]:
        if not os.path.isdir(self.local):
            raise InvalidError(f"{self._method}: there is no context directory {self.local}.")
        for name, local in self._extra.items():
            if not os.path.isfile(local):
                raise InvalidError(f"{self._method}: context_files names {local}, which is no file.")
            yield Found(f"{CONTEXT}/{name}", local)
        for source in self._sources:
            for relative in self._matching(source):
                yield from self._below(relative)

    def _matching(self, source: str) -> Iterator[str]:
        """The paths that a source names. One that names nothing is for the worker to complain of: it knows the line."""
        if not any(character in source for character in "*?["):
            if os.path.lexists(os.path.join(self.local, source)):
                yield source
            return
        import glob

        for path in sorted(glob.glob(os.path.join(glob.escape(self.local), source.replace("[^", "[!")))):
            yield os.path.relpath(path, self.local).replace(os.sep, "/")
        # Docker's patterns match names that begin with a dot, too.
        parent, _, last = source.rpartition("/")
        if last[:1] in ("*", "?"):
            pattern = os.path.join(glob.escape(self.local), parent, f".{last}" if last[:1] == "*" else f".{last[1:]}")
            for path in sorted(glob.glob(pattern)):
                yield os.path.relpath(path, self.local).replace(os.sep, "/")

    def _below(self, relative: str) -> Iterator[Found]:
        full = os.path.join(self.local, relative)
        real, root = os.path.realpath(full), os.path.realpath(self.local)
        if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
            raise InvalidError(f"{self._method}: {full} is a link that leads out of the build context, to {real}.")
        if os.path.isdir(full):
            yield from self._walk("" if relative == "." else relative)
        elif os.path.isfile(full) and not _matches(self._ignore, relative, full):
            yield Found(f"{CONTEXT}/{relative}", full)

    def _walk(self, relative: str) -> Iterator[Found]:
        """What is in a directory, and below it; the directory itself where it is empty."""
        prune = self._ignore.can_prune()
        way = [relative]
        while way:
            place = way.pop()
            directory = os.path.join(self.local, place)
            entries = _entries(directory)
            if not entries and place and not _matches(self._ignore, place, directory):
                yield Found(f"{CONTEXT}/{place}", directory, directory=True)
            for entry in entries:
                name = f"{place}/{entry.name}" if place else entry.name
                if entry.is_symlink():
                    if not _matches(self._ignore, name, entry.path):
                        yield Found(f"{CONTEXT}/{name}", entry.path, os.readlink(entry.path))
                elif entry.is_dir():
                    if not (prune and _matches(self._ignore, name, entry.path)):
                        way.append(name)
                elif entry.is_file() and not _matches(self._ignore, name, entry.path):
                    yield Found(f"{CONTEXT}/{name}", entry.path)


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(directory), key=lambda entry: entry.name)
    except PermissionError:
        raise InvalidError(f"{directory} cannot be read: no permission. Leave it out with `ignore=`.") from None


def check_commands(lines: Sequence[str], method: str) -> None:
    """Raise InvalidError unless the lines are Dockerfile commands that take nothing from a context."""
    try:
        found = _sources("\n".join(lines) + "\n", whole=False)
    except DockerfileError as error:
        raise InvalidError(f"Image.{method}: setup_dockerfile_commands, {error}.") from None
    if found:
        raise InvalidError(
            f"Image.{method}: setup_dockerfile_commands cannot copy local files ({found[0]}). Use dockerfile_commands."
        )
