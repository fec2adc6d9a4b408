"""The features that Dockerfiles of well-known projects use, each in a small case of its own.

Web services, databases, compilers and notebooks were looked through for what they make use of; the cases are ours.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from intermodal.worker.images import BuildFailed
from modal.exception import InvalidError
from tests.oci.registry_server import why_no_registry

from .test_dockerfiles import Project, project

pytestmark = [pytest.mark.containers, pytest.mark.skipif(bool(why_no_registry()), reason=why_no_registry())]
__all__ = ["project"]


class Case(NamedTuple):
    name: str
    text: str
    printed: list[str]  # the last lines


CASES = [
    Case(
        "platforms and versions by arguments",
        """# syntax=docker/dockerfile:1.7-labs
# check=skip=all;error=true
ARG SUITE=BASE
FROM --platform=$BUILDPLATFORM ${SUITE} AS build
ARG TARGETOS TARGETARCH TARGETVARIANT
ARG VERSION=1.2.3
ENV SHORT=${VERSION%.*} MAJOR=${VERSION%%.*} PATCH=${VERSION##*.} DASHED=${VERSION//./-}
RUN echo "$TARGETOS/$([ -n "$TARGETARCH" ] && echo arch)/$TARGETVARIANT" $SHORT $MAJOR $PATCH $DASHED
""",
        ["linux/arch/ 1.2 1 3 1-2-3"],
    ),
    Case(
        "long RUN lines with comments and blank lines inside",
        """FROM BASE
RUN set -eu; \\
# why this is done
    echo one; \\
    # and this

    \\
    echo two \\
    && echo three
RUN echo "a \\
b"  'c'
""",
        ["one", "two", "three", "a b c"],
    ),
    Case(
        "windows line endings, a byte order mark and small letters",
        "\ufefffrom BASE as x\r\nenv A=1\r\nrun echo $A \\\r\n  && echo two\r\n",
        ["1", "two"],
    ),
    Case(
        "another escape character",
        """# escape=`
FROM BASE
ENV A=`$HOME B="say `"hi`""
RUN echo "$A" "$B" `
    done
""",
        ['$HOME say "hi" done'],
    ),
    Case(
        "labels and variables in every old and quoted form",
        """FROM BASE
LABEL org.opencontainers.image.title="a \\"quoted\\" title" \\
      org.opencontainers.image.url=https://example.org \\
      "com.example.key"='single quoted'
ENV OLD form with  spaces
ENV A="b c" D=e\\ f G='$h'
ENV PATH=/extra/bin:$PATH
STOPSIGNAL SIGQUIT
EXPOSE 80 443/udp 8000-8010
HEALTHCHECK --interval=30s --timeout=3s --retries=5 CMD curl -f http://localhost/ || exit 1
HEALTHCHECK NONE
VOLUME /one /two
RUN echo "$OLD|$A|$D|$G|${PATH%%:*}"; ls -d /one /two
""",
        ["form with  spaces|b c|e f|$h|/extra/bin", "/one", "/two"],
    ),
    Case(
        "stages by name, number and image, and one that only copies",
        """FROM BASE AS deps
RUN mkdir -p /out/lib && echo deps > /out/lib/d
FROM deps AS build-env
RUN echo built > /out/b
FROM scratch AS export
COPY --from=build-env --link /out /
FROM BASE
COPY --link --from=export / /got/
COPY --from=0 --chown=12:34 /out/lib /numbered
COPY --from=deps ["/out/lib/d", "/listed/d"]
RUN find /got -type f | sort; stat -c %u:%g /numbered/d; cat /listed/d
""",
        ["/got/b", "/got/lib/d", "12:34", "deps"],
    ),
    Case(
        "directories that are kept, names that are left out, modes in words",
        """FROM BASE
COPY --parents src/**/*.py src/./pkg/data /parents/
COPY --exclude=*.md --exclude=**/cache src /some/
COPY --chmod=u=rwX,go=rX src/pkg /modes
COPY --chmod=a+x src/main.py /modes/run
RUN cd /parents && find . -type f | sort; cd /some && find . -type f | sort; stat -c %a /modes /modes/a.py /modes/run
""",
        [
            *("./pkg/data/d.txt", "./src/main.py", "./src/pkg/a.py"),
            *("./main.py", "./pkg/a.py", "./pkg/data/d.txt"),
            *("755", "644", "755"),
        ],
    ),
    Case(
        "wildcards, several sources and directories that end with a slash",
        """FROM BASE
WORKDIR /srv/
COPY src/main.p? src/*.md docs/
WORKDIR docs
COPY src/pkg/[a-b].py .
RUN pwd; ls
""",
        ["/srv/docs", "NOTES.md", "a.py", "main.py"],
    ),
    Case(
        "shells, lists and heredocs",
        """FROM BASE
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN false | true || echo pipefail
RUN ["python3", "-c", "print('a list')"]
COPY --chmod=755 <<'EOF' /usr/local/bin/hello
#!/bin/sh
echo "hello $1"
EOF
RUN hello world
RUN <<-one cat && cat <<two
	first
	one
second
two
RUN <<EOF
set -e
if true; then
  echo "a whole script"
fi
EOF
""",
        ["pipefail", "a list", "hello world", "first", "second", "a whole script"],
    ),
    Case(
        "caches, files of other stages and of the context only while a line runs",
        """FROM BASE AS tool
RUN echo tool > /tool
FROM BASE
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked,id=corpus-$TARGETARCH \\
    --mount=type=bind,from=tool,source=/tool,target=/mnt/tool \\
    --mount=type=bind,source=src/main.py,target=main.py,readonly \\
    --mount=target=/whole \\
    --mount=type=tmpfs,target=/scratch,size=1m \\
    cat /mnt/tool main.py && ls /whole/src && touch /scratch/x /root/.cache/pip/y
RUN --mount=type=secret,id=none,required=false test ! -e /run/secrets/none && ls /mnt 2>/dev/null | wc -l
""",
        ["tool", "main", "NOTES.md", "main.py", "pkg", "0"],
    ),
    Case(
        "users by number, and a home for them",
        """FROM BASE
RUN echo 'app:x:1500:1500::/home/app:/bin/sh' >> /etc/passwd && echo 'app:x:1500:' >> /etc/group
ARG UID=1500
USER ${UID}:${UID}
WORKDIR /home/app
COPY --chown=app:app src/main.py .
RUN id -u; id -g; stat -c %U main.py; echo $HOME
USER root
""",
        ["1500", "1500", "app", "/home/app"],
    ),
    Case(
        "triggers for those who build upon it",
        """FROM BASE AS onbuild
ONBUILD ARG GREETING=hello
ONBUILD COPY src/main.py /app/
ONBUILD RUN echo $GREETING && ls /app
FROM onbuild
RUN echo after
""",
        ["hello", "main.py", "after"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_a_feature(project: Project, case: Case) -> None:
    for name, text in (
        *(("src/main.py", "main\n"), ("src/pkg/a.py", "a\n"), ("src/pkg/data/d.txt", "d\n")),
        *(("src/NOTES.md", "n\n"), ("src/pkg/cache/c.txt", "c\n")),
    ):
        project.file(name, text)
    await project.build(case.text)
    assert project.builder.printed.splitlines()[-len(case.printed) :] == case.printed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("FROM BASE\nRUN --mount=type=ssh git clone x\n", r"line 2.*type=ssh is not supported"),
        ("FROM BASE\nRUN --security=insecure x\n", r"line 2.*--security is not supported"),
        ("FROM BASE\nRUN --network=host x\n", r"line 2.*--network=host is not supported.*default and none"),
        ("FROM BASE\nADD https://github.com/x/y.git#main /src\n", r"line 2.*git repository.*git clone"),
        ("FROM --platform=windows/amd64 BASE\n", r"line 1.*not for windows/amd64"),
        ("FROM BASE\nCOPY --chmod=rwx src /x\n", r"line 2.*--chmod=rwx must be octal.*u=rwX"),
        ("FROM BASE\nCOPY --parents=maybe Dockerfile /x\n", r"line 2.*--parents=maybe must be true or false"),
        ("FROM BASE\nENV A=1\n\nRUN <<EOF\necho\n", r"line 4.*heredoc <<EOF has no end"),
        ("FROM BASE\nINCLUDE other\n", r"line 2.*unknown instruction 'INCLUDE'"),
    ],
)
async def test_what_is_not_supported_says_so_with_its_line(project: Project, text: str, why: str) -> None:
    with pytest.raises((BuildFailed, InvalidError), match=why):
        await project.build(text)
