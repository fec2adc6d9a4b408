"""Carries out Dockerfiles: stages one after another as they are needed, each instruction a layer or a setting.

The language is read by `modal._protocol.dockerfile`; what an instruction does to files is in
`kinds/dockerfile.py` and `dockerfile_copy.py`.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field

from intermodal.worker.images.composing import Composing, become, copied
from intermodal.worker.images.dockerfile_copy import Tree
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.image_users import account
from intermodal.worker.images.kinds.kind import Fields, Instruction
from intermodal.worker.images.registry_access import login_for
from intermodal.worker.images.registry_manifest import DEFAULT_PATH, architecture
from intermodal.worker.images.registry_reference import parse_reference
from intermodal.worker.images.view import View
from intermodal.worker.images.workshop import DEFAULT_SHELL
from modal._protocol import dockerfile as language
from modal._protocol.dockerfile import Dockerfile, DockerfileError
from modal._protocol.dockerfile_words import WordError, expand, split
from modal._protocol.messages.image import ImageConfig

CONTEXT = "context"  # where a context's files lie in the set that came up
PLATFORM_ARGUMENTS = ("TARGETPLATFORM", "TARGETOS", "TARGETARCH", "BUILDPLATFORM", "BUILDOS", "BUILDARCH")
VARIANTS = ("TARGETVARIANT", "BUILDVARIANT")  # which amd64 and arm64 do not have
_GIT = re.compile(r"git@|git://|ssh://|https?://[^#?]+\.git(#.*)?\Z")
NO_EFFECT = ("EXPOSE", "HEALTHCHECK", "LABEL", "MAINTAINER", "STOPSIGNAL")


@dataclass
class Stage:
    """One FROM with what follows it."""

    first: language.Instruction
    image: str
    name: str
    instructions: list[language.Instruction] = field(default_factory=list)
    result: Standing | None = None


@dataclass
class Standing:
    """An image in the making."""

    config: ImageConfig
    arguments: dict[str, str] = field(default_factory=dict)
    onbuild: list[str] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        return {**self.arguments, **self.config.env}


class Execution:
    """One Dockerfile, or some of its commands, on one worker."""

    def __init__(self, composing: Composing, dockerfile: Dockerfile, name: str, mounts: list[str]) -> None:
        self._composing = composing
        self._dockerfile = dockerfile
        self._name = name  # for people
        workshop = composing.builder.workshop
        paths = [workshop.mounts.path(mount) for mount in mounts]
        for path in paths:
            if not path.is_dir():
                raise StepError(f"the files {path.name} are not on this worker: run the program again to upload them")
        self._context = Tree(paths, CONTEXT)
        self._context_paths = paths
        self._globals: dict[str, str] = _platform()
        self._stages: list[Stage] = []
        self._images: dict[str, Standing] = {}  # that COPY --from names
        self._number = composing.instruction.number

    async def whole(self) -> Standing:
        """Carry out all that the last stage needs. Raises StepError."""
        for one in self._dockerfile.instructions:
            if one.keyword == "FROM":
                image, name = language.from_parts(one)
                self._stages.append(Stage(one, image, name))
            elif self._stages:
                self._stages[-1].instructions.append(one)
            else:
                self._declare_global(one)
        if not self._stages:
            raise StepError(f"{self._name} has no FROM")
        return await self._stage(len(self._stages) - 1)

    async def on(self, config: ImageConfig) -> None:
        """Carry out the commands on an image, in place. Raises StepError."""
        standing = Standing(config)
        for one in self._dockerfile.instructions:
            await self._carry_out(one, standing, 0)

    # -- stages
    async def _stage(self, number: int) -> Standing:
        stage = self._stages[number]
        if stage.result is None:
            standing = await self._from(stage, number)
            triggers, standing.onbuild = standing.onbuild, []
            self._announce(stage.first.title())
            for trigger in triggers:
                for one in language.parse(f"{trigger}\n").instructions:
                    await self._carry_out(one._replace(line=stage.first.line), standing, number)
            for one in stage.instructions:
                await self._carry_out(one, standing, number)
            stage.result = standing
        return Standing(copied(stage.result.config), {}, list(stage.result.onbuild))

    async def _from(self, stage: Stage, number: int) -> Standing:
        try:
            image = expand(stage.image, self._globals, self._dockerfile.escape)
            platform = expand(stage.first.flag("platform"), self._globals, self._dockerfile.escape)
            if platform and platform != self._globals["TARGETPLATFORM"]:
                raise StepError(f"images are built for {self._globals['TARGETPLATFORM']} here, not for {platform}")
            if not image:
                raise StepError(
                    f"the name of the image, {stage.image!r}, is empty: ARG before FROM can give it a value"
                )
            return await self._image(image, number)
        except (StepError, WordError) as error:
            raise self._located(stage.first, error) from None

    async def _image(self, image: str, before: int) -> Standing:
        """The stage or the registry's image of this name."""
        for number, stage in enumerate(self._stages[:before]):
            if stage.name and stage.name == image.lower():
                return await self._stage(number)
        if any(stage.name == image.lower() for stage in self._stages[before:]):
            raise StepError(f"the stage {image!r} stands further down: a stage can use those before it")
        if image == "scratch":
            standing = Standing(ImageConfig(layers=[], env={"PATH": DEFAULT_PATH}))
            await self._put(standing, "empty", {}, "FROM scratch")
            return standing
        if image not in self._images:
            composing = self._composing
            reference = parse_reference(image)
            secrets = composing.secrets
            given = {key: value for key, value in secrets.items() if key.startswith("REGISTRY_")}
            login = await login_for("", reference, given) if len(given) == 2 else None
            scope = ",".join(sorted(composing.instruction.secret_ids)) if login else ""
            registry = composing.builder.registry
            base = await registry.pull(reference, login, scope, composing.emit, composing.rebuild)
            self._images[image] = Standing(base.config, {}, base.onbuild)
        known = self._images[image]
        return Standing(copied(known.config), {}, list(known.onbuild))

    async def _source(self, name: str, before: int) -> Standing:
        """What `--from` names: a stage by name or number, or an image."""
        if name.isdigit() and int(name) < before:
            return await self._stage(int(name))
        return await self._image(name, before)

    # -- instructions
    async def _carry_out(self, one: language.Instruction, standing: Standing, number: int) -> None:
        self._announce(one.title())
        try:
            await getattr(self, f"_{one.keyword.lower()}", self._setting)(one, standing, number)
        except StepError as error:
            raise self._located(one, error) from None
        except (WordError, DockerfileError) as error:
            raise self._located(one, StepError(str(error))) from None

    async def _setting(self, one: language.Instruction, standing: Standing, number: int) -> None:
        config, text = standing.config, one.text
        if one.keyword == "ENV":
            values = {name: self._expand(value, standing) for name, value in language.pairs(one, self._escape)}
            config.env = {**config.env, **values}
        elif one.keyword == "ARG":
            self._declare(one, standing.arguments, standing.config.env)
        elif one.keyword == "USER":
            config.user = self._expand(text, standing)
            account(config.user, self._composing.paths(config))
        elif one.keyword == "SHELL":
            config.shell = list(one.words or [])
        elif one.keyword == "CMD":
            config.cmd = self._command(one, standing)
        elif one.keyword == "ENTRYPOINT":
            config.entrypoint, config.cmd = self._command(one, standing), []
        elif one.keyword == "ONBUILD":
            standing.onbuild.append(text)
        elif one.keyword not in NO_EFFECT:
            raise StepError(f"{one.keyword} is not supported here")

    async def _workdir(self, one: language.Instruction, standing: Standing, number: int) -> None:
        config = standing.config
        path = self._expand(one.text.strip(), standing)
        config.workdir = posixpath.normpath(posixpath.join(config.workdir or "/", path))
        await self._directory(config.workdir, standing)

    async def _volume(self, one: language.Instruction, standing: Standing, number: int) -> None:
        for path in one.words if one.words is not None else split(one.text, self._escape):
            await self._directory(posixpath.join("/", self._expand(path, standing)), standing)

    async def _directory(self, path: str, standing: Standing) -> None:
        view = View(self._composing.paths(standing.config))
        node = view.lookup(view.resolve(path))
        if node is None or not node.is_directory:
            await self._put(standing, "directory", {"path": path, "user": standing.config.user}, f"WORKDIR {path}")

    async def _run(self, one: language.Instruction, standing: Standing, number: int) -> None:
        network = one.flag("network", "default")
        if network not in ("default", "none"):
            raise StepError(f"RUN --network={network} is not supported here; default and none are")
        shell = standing.config.shell or DEFAULT_SHELL
        fields: Fields = {"arguments": standing.arguments, "user": standing.config.user, "network": network}
        script = ""
        if one.words is not None:
            fields["argv"] = one.words
        elif len(one.heredocs) == 1 and len(split(one.text, self._escape)) == 1:
            script = one.heredocs[0].body
            fields["argv"] = [*shell, script] if not script.startswith("#!") else []
        else:
            parts = "".join(f"\n{heredoc.body}{heredoc.name}" for heredoc in one.heredocs)
            fields["argv"] = [*shell, one.text + parts]
        if not fields["argv"]:
            fields["script"] = script
        mounts = [await self._mount(value, standing, number) for key, value in one.flags if key == "mount"]
        if mounts:
            fields["mounts"] = [{key: value for key, value in mount.items() if key != "layers"} for mount in mounts]
        await self._put(standing, "dockerfile_run", fields, one.title(), {"mounts": mounts}, secrets=True)

    async def _mount(self, text: str, standing: Standing, number: int) -> Fields:
        """One --mount: its options, and for files of an image or the context where they are."""
        options = dict(part.partition("=")[::2] for part in self._expand(text, standing).split(","))
        for short, name in (("src", "source"), ("dst", "target"), ("destination", "target"), ("ro", "readonly")):
            if short in options:
                options.setdefault(name, options.pop(short))
        kind = options.setdefault("type", "bind")
        if kind not in ("bind", "cache", "secret", "tmpfs"):
            raise StepError(f"RUN --mount=type={kind} is not supported here; bind, cache, secret and tmpfs are")
        target = options.get("target", "")
        if target:
            options["target"] = posixpath.normpath(posixpath.join(standing.config.workdir or "/", target))
        elif kind != "secret":
            raise StepError(f"RUN --mount={text} needs target=")
        mount: Fields = dict(options)
        if kind == "bind" or (kind == "cache" and "from" in options):
            name = options.get("from", "")
            source = [options.get("source", ".")]
            if name:
                other = await self._source(name, number)
                mount["layers"] = self._composing.paths(other.config)
                mount["content"] = other.config.layers
            else:
                mount["layers"] = self._context_paths
                mount["content"] = self._context.signature(source)
        return mount

    async def _copy(self, one: language.Instruction, standing: Standing, number: int) -> None:
        words = one.words if one.words is not None else split(one.text, self._escape)
        *sources, destination = [self._expand(word, standing) for word in words]
        texts = [
            {
                "name": heredoc.name,
                "data": expand(heredoc.body, standing.variables, self._escape, quotes=False)
                if heredoc.expand
                else heredoc.body,
            }
            for heredoc in one.heredocs
        ]
        if texts:
            sources = [source for source, word in zip(sources, words, strict=False) if "<<" not in word]
        urls = [source for source in sources if source.startswith(("http://", "https://"))]
        if one.keyword == "ADD" and any(_GIT.match(source) for source in sources):
            raise StepError("ADD of a git repository is not supported here: use RUN git clone")
        ending = "/" if destination.endswith(("/", "/.")) or destination == "." else ""
        full = posixpath.normpath(posixpath.join(standing.config.workdir or "/", destination)) + ending
        fields: Fields = {"destination": full.replace("//", "/")}
        for name in ("chown", "chmod"):
            value = self._expand(one.flag(name), standing)
            if value:
                fields[name] = value
        exclude = [self._expand(value, standing) for key, value in one.flags if key == "exclude"]
        if exclude:
            fields["exclude"] = exclude
        if _is_on(one, "parents"):
            fields["parents"] = True
        local = [source for source in sources if source not in urls] if one.keyword == "ADD" else sources
        supplies: Fields = {"layers": self._context_paths, "root": CONTEXT}
        name = self._expand(one.flag("from"), standing)
        if name:
            other = await self._source(name, number)
            supplies = {"layers": self._composing.paths(other.config), "root": ""}
            fields["content"] = other.config.layers
        elif local:
            fields["content"] = self._context.signature(local)
        if local:
            fields["sources"] = local
        if texts:
            fields["texts"] = texts
        if one.keyword == "ADD":
            fields["extract"] = _is_on(one, "unpack", True)
            if urls:
                fields["urls"] = urls
                fields["checksum"] = self._expand(one.flag("checksum"), standing)
                fields["unpack_urls"] = _is_on(one, "unpack")
                downloads = ImageConfig(layers=[])
                await self._composing.put("debian_slim", {"python_version": "3.11"}, config=downloads)
                supplies["downloader"] = downloads
        await self._put(standing, "dockerfile_copy", fields, one.title(), supplies)

    _add = _copy

    # -- pieces
    @property
    def _escape(self) -> str:
        return self._dockerfile.escape

    def _expand(self, text: str, standing: Standing) -> str:
        return expand(text, standing.variables, self._escape)

    def _command(self, one: language.Instruction, standing: Standing) -> list[str]:
        if one.words is not None:
            return list(one.words)
        return [*(standing.config.shell or DEFAULT_SHELL), one.text] if one.text else []

    def _declare(self, one: language.Instruction, into: dict[str, str], env: dict[str, str]) -> None:
        """ARG: its default, else the value that an ARG before the first FROM has given."""
        for name, default in language.arguments(one, self._escape):
            if default is not None:
                into[name] = expand(default, {**self._globals, **into, **env}, self._escape)
            elif name in self._globals:
                into[name] = self._globals[name]

    def _announce(self, title: str) -> None:
        self._composing.emit("start", f"=> Step {self._number}: {title}")
        self._number += 1

    def _declare_global(self, one: language.Instruction) -> None:
        try:
            self._declare(one, self._globals, {})
        except (WordError, DockerfileError) as error:
            raise self._located(one, error) from None

    def _located(self, one: language.Instruction, error: Exception) -> StepError:
        reason = error.reason if isinstance(error, StepError) else str(error)
        last = error.last_lines if isinstance(error, StepError) else []
        title = one.title()
        shown = title if len(title) <= 160 else f"{title[:157]}..."
        return StepError(f"{self._name}, line {one.line} ({shown}): {reason}", last)

    async def _put(
        self,
        standing: Standing,
        kind: str,
        fields: Fields,
        title: str,
        supplies: Fields | None = None,
        secrets: bool = False,
    ) -> None:
        composing = self._composing
        origin = composing.instruction
        gpu = origin.gpu if kind == "dockerfile_run" else []
        one = Instruction(origin.number, kind, title, fields, [], origin.force, gpu, supplies or {})
        values = composing.secrets if secrets else {}
        await composing.builder.put(one, standing.config, values, composing.emit, composing.rebuild)


def _is_on(one: language.Instruction, name: str, default: bool = False) -> bool:
    """Whether a flag without a value, or with true or false, is set. Raises StepError."""
    for key, value in one.flags:
        if key == name:
            if value.lower() not in ("", "true", "1", "false", "0"):
                raise StepError(f"--{name}={value} must be true or false")
            return value.lower() in ("", "true", "1")
    return default


def execution(composing: Composing, name: str) -> Execution:
    """The execution of a step that has a Dockerfile's `text`. Raises StepError."""
    try:
        parsed = language.parse(composing.fields["text"])
    except DockerfileError as error:
        raise StepError(f"{name}, {error}") from None
    return Execution(composing, parsed, name, list(composing.fields.get("mount_ids") or []))


async def carry_out(composing: Composing, text: str, name: str) -> None:
    """Carry out commands that copy nothing from here, on the image so far. Raises StepError."""
    try:
        parsed = language.parse(text)
    except DockerfileError as error:
        raise StepError(f"{name}, {error}") from None
    await Execution(composing, parsed, name, []).on(composing.config)


def take(composing: Composing, standing: Standing) -> None:
    """Make the step's image what the Dockerfile has made."""
    become(composing.config, standing.config)


def _platform() -> dict[str, str]:
    arch = architecture()
    whole = f"linux/{arch}"
    known = dict(zip(PLATFORM_ARGUMENTS, (whole, "linux", arch, whole, "linux", arch), strict=True))
    return {**known, **dict.fromkeys(VARIANTS, "")}
