"""Dockerfiles, carried out in real containers on images of a real registry."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from intermodal.files import Files
from intermodal.worker.images import BuildFailed
from modal._image_dockerfile import DockerfileStep
from modal._mounts import container_mode
from modal._protocol.messages.file import FileEntry
from modal._protocol.messages.image import ImageConfig
from modal.exception import InvalidError
from tests.oci.registry_server import why_no_registry

from .conftest import Builder

pytestmark = [pytest.mark.containers, pytest.mark.skipif(bool(why_no_registry()), reason=why_no_registry())]


class Project:
    """A directory with a Dockerfile, built as `Image.from_dockerfile` has it."""

    def __init__(self, root: Path, builder: Builder, base: str) -> None:
        self.root = root
        self.builder = builder
        self.base = base
        self.secrets: list[str] = []
        root.mkdir()

    def file(self, name: str, text: str | bytes, mode: int = 0o644) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)

    async def build(self, text: str, name: str = "Dockerfile", **more: Any) -> ImageConfig:
        self.file(name, text.replace("BASE:", self.base).replace("BASE", self.base))
        step = DockerfileStep(
            "dockerfile", "from_dockerfile", path=str(self.root / name), context_dir=str(self.root), **more
        )
        return await self.carry_out(step)

    async def commands(self, *lines: str, **more: Any) -> ImageConfig:
        step = DockerfileStep(
            "dockerfile_commands", "dockerfile_commands", commands=lines, context_dir=str(self.root), **more
        )
        return await self.carry_out(step, {"kind": "registry", "tag": self.base})

    async def carry_out(self, step: DockerfileStep, *before: dict[str, Any]) -> ImageConfig:
        mounts = {files.key: [await self._upload(list(files.find()))] for files in step.file_sets}
        (recipe,) = step.render({}, mounts)
        if self.secrets:
            recipe["secrets"] = self.secrets
        self.builder.entries.clear()
        base, *rest = [*before, recipe]
        return await self.builder.build(*rest, base=base)

    async def _upload(self, found: list[Any]) -> str:
        store, entries = Files(self.builder.home), []
        for one in {item.remote: item for item in found}.values():
            if one.link:
                entries.append(FileEntry(one.remote, "", 0, 0o777, one.link))
                continue
            data = Path(one.local).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            store.put(digest, data)
            entries.append(FileEntry(one.remote, digest, len(data), container_mode(os.stat(one.local).st_mode)))
        name = hashlib.sha256(repr(entries).encode()).hexdigest()[:20]
        await self.builder.images.mount(f"mo-{name}", entries)
        return f"mo-{name}"


@pytest.fixture
def project(lent: Builder, debian: str, tmp_path: Path) -> Project:
    return Project(tmp_path / "project", lent, debian)


async def test_settings_variables_and_commands(project: Project) -> None:
    config = await project.build(
        """ARG IMAGE=BASE
ARG VERSION=1.0
FROM ${IMAGE}
ARG VERSION
ARG EXTRA=${VERSION}-extra
ENV APP_HOME=/opt/app PATH_COPY=$PATH
ENV GREETING hello  world
ENV DEFAULTED=${MISSING:-fallback} ONLY="${APP_HOME:+set}"
LABEL org.example.version="$VERSION" maintainer='someone'
MAINTAINER Somebody
EXPOSE 8080/tcp
STOPSIGNAL SIGINT
VOLUME ["/data"]
HEALTHCHECK --interval=5s CMD true
WORKDIR $APP_HOME
WORKDIR sub
RUN pwd && echo "$VERSION|$EXTRA|$GREETING|$DEFAULTED|$ONLY" && ls -d /data
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN [[ -n $BASH_VERSION ]] && echo bash
RUN ["/bin/echo", "exec $VERSION"]
RUN <<EOF
echo one
echo two
EOF
RUN <<EOF
#!/usr/bin/env python3
print("a script in", __import__("os").getcwd())
EOF
RUN cat <<A && echo after
in $APP_HOME
A
ENTRYPOINT ["/entry", "--flag"]
CMD serve --port 1
"""
    )
    assert project.builder.printed.splitlines()[-10:] == [
        *("/opt/app/sub", "1.0|1.0-extra|hello  world|fallback|set", "/data", "bash", "exec $VERSION"),
        *("one", "two", "a script in /opt/app/sub", "in /opt/app", "after"),
    ]
    assert config.workdir == "/opt/app/sub"
    assert config.entrypoint == ["/entry", "--flag"]
    assert config.cmd == ["/bin/bash", "-o", "pipefail", "-c", "serve --port 1"]
    assert config.env["GREETING"] == "hello  world"
    assert "VERSION" not in config.env
    assert config.python == "/usr/local/bin/python"
    assert project.builder.started[:2] == ["=> Step 0: FROM ${IMAGE}", "=> Step 1: ARG VERSION"]


async def test_copy_and_add(project: Project) -> None:
    project.file("app/main.py", "print('main')")
    project.file("app/run.sh", "#!/bin/sh\n", 0o755)
    project.file("app/sub/deep.txt", "deep")
    project.file("app/.hidden", "hidden")
    project.file("a.cfg", "a\n")
    project.file("b.cfg", "b\n")
    project.file("space name.txt", "spaces\n")
    (project.root / "app/link").symlink_to("main.py")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("inside/file")
        info.size, info.uid = 4, 5
        tar.addfile(info, io.BytesIO(b"tar\n"))
    project.file("data.tar.gz", packed.getvalue())
    await project.build(
        r"""FROM BASE
RUN echo 'user:x:55:77::/srv/user:/bin/sh' >> /etc/passwd && echo 'team:x:77:' >> /etc/group
WORKDIR /srv
COPY app ./
COPY app /all/app/
COPY *.cfg conf/
COPY a.cfg renamed
COPY --chown=user:team --chmod=640 b.cfg /owned/
COPY ["space name.txt", "/with space/"]
ADD data.tar.gz /unpacked/
COPY data.tar.gz /unpacked/
COPY <<one <<-"two" /texts/
value $UNKNOWN ${UNKNOWN:-none}
one
	raw $UNKNOWN
	two
COPY a.cfg /lib/by-link
RUN ls -A /srv /all/app /srv/conf && readlink /srv/link && stat -c '%U:%G %a' /owned/b.cfg && test -x run.sh
RUN cat renamed /with\ space/* /unpacked/inside/file; stat -c %u /unpacked/inside/file; ls /unpacked; cat /texts/*
RUN readlink /lib && cat /usr/lib/by-link
"""
    )
    text = project.builder.printed
    assert "/all/app:\n.hidden\nlink\nmain.py\nrun.sh\nsub\n" in text
    assert "/srv/conf:\na.cfg\nb.cfg\n" in text
    assert "\nmain.py\nuser:team 640\n" in text
    assert "a\nspaces\ntar\n5\ndata.tar.gz\ninside\nvalue  none\nraw $UNKNOWN\n" in text
    assert text.endswith("usr/lib\na\n")


async def test_stages_and_mounts(project: Project) -> None:
    project.file("src/code.c", "source\n")
    project.builder.secrets["st-x"] = {"TOKEN": "token-value-1"}
    project.secrets = ["st-x"]
    config = await project.build(
        r"""FROM BASE AS Builder
WORKDIR /build
RUN --mount=type=bind,source=src,target=/mnt/src cp /mnt/src/code.c . && echo built > result && chown 7:8 result
RUN --mount=type=cache,target=/cache,id=test echo cached > /cache/file

FROM BASE AS never
RUN echo this must not run && exit 1

FROM builder AS tested
ONBUILD RUN echo triggered
RUN test -f result

FROM scratch AS files
COPY --from=Builder /build/result /out/

FROM tested
COPY --from=files /out /out
COPY --from=0 /build/code.c /code.c
COPY --from=BASE /etc/hostname /name
RUN --mount=type=cache,target=/cache,id=test --mount=type=tmpfs,target=/scratch \
    --mount=type=secret,id=TOKEN --mount=type=secret,id=TOKEN,env=FROM_ENV,required=true \
    cat /cache/file /out/result /code.c && stat -c %u:%g /out/result && touch /scratch/x \
    && sha256sum < /run/secrets/TOKEN && test -n "$FROM_ENV" && echo "$FROM_ENV"
RUN ls /cache /scratch /run/secrets 2>&1 | grep -c file || true
RUN --network=none test -s /name && ls /sys/class/net
"""
    )
    lines = project.builder.printed.splitlines()
    assert "this must not run" not in project.builder.printed
    digest = hashlib.sha256(b"token-value-1").hexdigest()
    expected = ["triggered", "cached", "built", "source", "7:8", f"{digest}  -", "***", "3", "lo"]
    assert lines[-9:] == expected
    for layer in project.builder.images.layer_paths(config)[1:]:
        for path in layer.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert b"token-value-1" not in path.read_bytes()
    # Nothing changed: nothing is built again.
    await project.build((project.root / "Dockerfile").read_text())
    assert project.builder.printed == ""


async def test_the_user_of_run_lines(project: Project) -> None:
    await project.build(
        r"""FROM BASE
RUN echo 'app:x:1234:1234::/srv/app:/bin/sh' >> /etc/passwd && echo 'app:x:1234:' >> /etc/group \
    && echo 'more:x:99:app' >> /etc/group && mkdir -p /srv/app && chown app:app /srv/app
USER app
WORKDIR /srv/app/things
RUN id -u && id -g && id -G && echo $HOME && touch mine && stat -c %U . && ! touch /etc/x 2>/dev/null && echo refused
USER 4321:55
RUN id -u && id -g
USER root
RUN id -u
"""
    )
    assert project.builder.printed.split()[-10:] == [
        *("1234", "1234", "1234", "99", "/srv/app", "app", "refused", "4321", "55", "0"),
    ]


async def test_only_what_changed_is_built_again(project: Project) -> None:
    text = "FROM BASE\nCOPY one /one\nRUN echo first\nCOPY two /two\nRUN echo second\n"
    for name in ("one", "two", "three"):
        project.file(name, name)
    await project.build(text)
    assert project.builder.printed.endswith("first\nsecond\n")
    project.file("three", "changed")
    await project.build(text + "# a comment\n")
    assert project.builder.printed == ""
    project.file("two", "changed")
    await project.build(text)
    assert project.builder.printed == "second\n"


async def test_ignore_files(project: Project) -> None:
    for name in ("keep.txt", "drop.log", "sub/drop.log", "sub/keep.log"):
        project.file(name, name)
    project.file(".dockerignore", "# comment\n**/*.log\n!sub/keep.log\nDockerfile*\nOther*\n.dockerignore\n")
    text = "FROM BASE\nCOPY . /all\nRUN cd /all && find . -type f | sort\n"
    await project.build(text)
    assert project.builder.printed.endswith("./keep.txt\n./sub/keep.log\n")
    project.file("Other.dockerignore", "keep.txt\nOther*\nDockerfile\n.dockerignore\nsub\n")
    await project.build(text, "Other")
    assert project.builder.printed == "./drop.log\n"
    with pytest.raises(BuildFailed, match=r"line 2 .*there is no 'drop.log' .*\.dockerignore leaves it out"):
        await project.build("FROM BASE\nCOPY drop.log /x\n")


async def test_commands_on_an_image(project: Project) -> None:
    project.file("local.txt", "local\n")
    project.file("elsewhere/named.txt", "named\n")
    config = await project.commands(
        "ENV A=1 B=${A}",
        "COPY local.txt given.txt /files/",
        "RUN cat /files/* && echo \\",
        "  continued",
        "WORKDIR /w",
        'ENTRYPOINT ["/x"]',
        context_files={"/given.txt": str(project.root / "elsewhere/named.txt")},
    )
    assert project.builder.printed.endswith("named\nlocal\ncontinued\n")
    assert (config.env["A"], config.env["B"], config.workdir, config.entrypoint) == ("1", "", "/w", ["/x"])


LATER = "FROM BASE\nCOPY --from=later /a /b\nFROM BASE AS later\nRUN true\nFROM BASE\nCOPY --from=0 /b /b"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "FROM BASE\nRUN echo broken && exit 3\n",
            r"Dockerfile, line 2 \(RUN echo broken && exit 3\): .*exit code 3(.|\n)*broken",
        ),
        ("FROM BASE\n\nCOPY missing /x\n", r"line 3 .*there is no 'missing'"),
        (LATER, "further down"),
        ("FROM BASE-nothing\n", r"line 1 .*there is no image"),
        ("FROM BASE\nUSER nobody-knows\n", r"line 2 .*no user 'nobody-knows'"),
        ("FROM BASE\nENV A=${B:?must be set}\n", r"line 2 .*B: must be set"),
        ("FROM $NOTHING\n", r"line 1 .*is empty"),
        ("FROM --platform=linux/s390x BASE\n", "not for linux/s390x"),
        ("FROM BASE\nRUN --mount=type=ssh true\n", r"line 2 .*type=ssh is not supported"),
        ("FROM BASE\nCOPY --chmod=rwx Dockerfile /x\n", r"line 2 .*must be octal"),
        ("FROM scratch\nCOPY Dockerfile /x\n", r"no `python` on its PATH"),
        ("FROM BASE\nADD git@host:x.git /x\n", r"line 2 .*git repository"),
    ],
)
async def test_what_fails_says_where(project: Project, text: str, why: str) -> None:
    with pytest.raises(BuildFailed, match=why):
        await project.build(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("RUN true\n", r"Dockerfile, line 1: a Dockerfile begins with FROM"),
        ("FROM BASE\nRUNN true\n", r"line 2: unknown instruction 'RUNN'; did you mean RUN"),
        ("FROM BASE\nCOPY ../up /x\n", r"line 2: '../up' leads out of the build context"),
        ("", "there is no instruction"),
        ("FROM BASE\nCOPY outside /x\n", "is a link that leads out of the build context"),
    ],
)
async def test_what_is_refused_before_anything_is_sent(project: Project, text: str, why: str) -> None:
    (project.root / "outside").symlink_to("/etc/hostname")
    with pytest.raises(InvalidError, match=why):
        await project.build(text)


async def test_links_of_a_context_do_not_lead_out(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside-of-it"
    outside.mkdir()
    project.file("tree/real/x", "x")
    (project.root / "tree/way").symlink_to(outside)
    project.file("more/way/file", "escaped")
    with pytest.raises(BuildFailed, match="a link that the same instruction has copied"):
        await project.build("FROM BASE\nCOPY tree more /dest/\n")
    assert list(outside.iterdir()) == []
