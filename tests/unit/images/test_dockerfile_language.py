"""The Dockerfile language: read as Docker reads it, never with a crash, errors with the number of their line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modal._protocol.dockerfile import (
    FLAGS,
    HEREDOCS,
    KEYWORDS,
    Dockerfile,
    DockerfileError,
    Heredoc,
    Instruction,
    arguments,
    from_parts,
    pairs,
    parse,
    render,
)
from modal._protocol.dockerfile_words import WordError, expand, split


def one(text: str) -> Instruction:
    (instruction,) = parse(text).instructions
    return instruction


LINES = [
    "# syntax=docker/dockerfile:1",
    "",
    "# a comment",
    "from python:3.11 as Base",
    "RUN apt-get update \\",
    "    # within a command",
    "",
    " && apt-get install -y \\  ",
    "      git \\\\",
    "  ENV A=1 \\",
    "      B=2",
    "RUN echo 'a # no comment'",
]


def test_lines_comments_and_continuations() -> None:
    text = "\n".join(LINES)
    parsed = parse(text)
    assert parsed.syntax == "docker/dockerfile:1"
    assert [(i.line, i.keyword) for i in parsed.instructions] == [(4, "FROM"), (5, "RUN"), (10, "ENV"), (12, "RUN")]
    assert from_parts(parsed.instructions[0]) == ("python:3.11", "base")
    assert parsed.instructions[1].text == "apt-get update  && apt-get install -y       git \\\\"
    assert pairs(parsed.instructions[2]) == [("A", "1"), ("B", "2")]
    assert parsed.instructions[3].text == "echo 'a # no comment'"


def test_the_escape_directive() -> None:
    parsed = parse("# escape=`\nFROM x\nRUN dir C:\\ `\n  /s\nCOPY a` b C:\\dir\\\n")
    assert parsed.escape == "`"
    assert parsed.instructions[1].text == "dir C:\\   /s"
    assert split(parsed.instructions[2].text, "`") == ["a` b", "C:\\dir\\"]
    assert parse("FROM x\n# escape=`\nRUN a \\\n b\n").escape == "\\"  # too late: a comment
    assert parse("\r\nFROM x\r\nRUN a \\\r\n b\r\n").instructions[1].text == "a  b"


def test_heredocs() -> None:
    run = one("RUN <<EOF\necho one\n  echo two \\\nEOF\n")
    assert run.heredocs == [Heredoc("EOF", "echo one\n  echo two \\\n", True, False)]
    copy = one("COPY <<-'A' <<\"B\" /there/\n\tx $y\n\tA\nb\nB\n")
    assert copy.heredocs == [Heredoc("A", "x $y\n", False, True), Heredoc("B", "b\n", False, False)]
    assert one("RUN cat <<EOF > /x && true\nin\nEOF").heredocs[0].body == "in\n"
    assert one('RUN echo $((1 << 2)) && echo "<<EOF"').heredocs == []
    assert one('RUN ["echo", "<<EOF"]').heredocs == []
    with pytest.raises(DockerfileError, match="line 2: the heredoc <<EOF has no end"):
        parse("FROM x\nRUN <<EOF\necho\n")


def test_lists_and_flags() -> None:
    assert one('CMD ["a", "b c"]').words == ["a", "b c"]
    assert one("CMD ['a']").words is None  # no JSON: a command for the shell
    assert one("RUN [ -f /x ] && true").words is None
    copy = one("COPY --from=build --chown=1:2 --link a b")
    assert copy.flags == [("from", "build"), ("chown", "1:2"), ("link", "")]
    assert copy.text == "a b"
    assert copy.title() == "COPY --from=build --chown=1:2 --link a b"
    run = one("RUN --mount=type=cache,target=/c --mount=type=secret,id=x --network=none make --jobs 2")
    assert [value for key, value in run.flags if key == "mount"] == ["type=cache,target=/c", "type=secret,id=x"]
    assert run.text == "make --jobs 2"


def test_pairs_and_arguments() -> None:
    assert pairs(one("ENV PATH /a b:$PATH")) == [("PATH", "/a b:$PATH")]
    assert pairs(one("ENV A=\"x y\" B='$z' C=a\\ b D=")) == [("A", '"x y"'), ("B", "'$z'"), ("C", "a\\ b"), ("D", "")]
    assert pairs(one('LABEL "com.example"="x"')) == [('"com.example"', '"x"')]
    assert arguments(one("ARG A B=2 C=")) == [("A", None), ("B", "2"), ("C", "")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("FROM x\nRUNN make", r"line 2: unknown instruction 'RUNN'; did you mean RUN\?"),
        ("FROM", "line 1: FROM needs at least one argument"),
        ("FROM a b", "FROM must be: FROM image"),
        ("FROM a AS 1x", "cannot be the name of a stage"),
        ("FROM x\n\nCOPY a", "line 3: COPY needs a source and a destination"),
        ("COPY --chwon=1 a b", "COPY --chwon is not supported here"),
        ("COPY --from a b", "--from needs a value"),
        ("ENV A", "ENV must have the form"),
        ("ENV A=1 B", "'B' lacks its value"),
        ("ENV =1 B=2", "lacks a name"),
        ('ENV A="x', "has no end"),
        ("SHELL /bin/sh", "SHELL must be a list in JSON"),
        ("ARG 1x=2", "is no name of a variable"),
        ("USER a b", "USER takes one argument"),
        ("ONBUILD FROM x", "ONBUILD FROM is not allowed"),
        ("ONBUILD NONSENSE x", "unknown instruction 'NONSENSE'"),
        ("# escape=x\nFROM a", "line 1: escape must be"),
        ("# escape=`\n# escape=`\nFROM a", "twice"),
        ("RUN --security=insecure x", "RUN --security is not supported here"),
        ("COPY ${A b /x", r"\$\{ has no \}"),
    ],
)
def test_mistakes_have_line_numbers(text: str, why: str) -> None:
    with pytest.raises(DockerfileError, match=why):
        parse(text)


VARIABLES = {"A": "value", "EMPTY": "", "P": "/usr/lib/x.tar.gz", "N": "2"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$A-${A}-$B", "value-value-"),
        ("$Ax ${A}x", " valuex"),
        ("'$A' \"$A\" \\$A", "$A value $A"),
        ('"a\\"b\\n" \'c\\d\'', 'a"b\\n c\\d'),
        ("${B:-def} ${EMPTY:-def} ${EMPTY-def} ${A:-def}", "def def  value"),
        ("${A:+yes} ${EMPTY:+yes} ${EMPTY+yes} ${B+yes}", "yes  yes "),
        ("${B:-${A}/x}", "value/x"),
        ("${P#*/} ${P##*/} ${P%.*} ${P%%.*}", "usr/lib/x.tar.gz x.tar.gz /usr/lib/x.tar /usr/lib/x"),
        ("${P/usr/opt} ${P//\\//-}", "/opt/lib/x.tar.gz -usr-lib-x.tar.gz"),
        ("cost 5$ $", "cost 5$ $"),
        ("a\\ b", "a b"),
    ],
)
def test_variables(text: str, result: str) -> None:
    assert expand(text, VARIABLES) == result


def test_variables_that_must_be_set() -> None:
    with pytest.raises(WordError, match="B: give it"):
        expand("${B:?give it}", VARIABLES)
    with pytest.raises(WordError, match="no modifier"):
        expand("${A^^}", VARIABLES)
    assert expand("\"$A\" 'x' \\$A \\n", VARIABLES, quotes=False) == "\"value\" 'x' $A \\n"


@settings(max_examples=400, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("FROMRUNCOPY ADENV\n\\\"'$<>{}[]=#`-:/,.é\t01a"), max_size=120)
    | st.text(max_size=60)
)
def test_the_parser_never_crashes(text: str) -> None:
    try:
        parsed = parse(text)
    except DockerfileError as error:
        assert str(error)
        assert error.line <= text.count("\n") + 1
        return
    for instruction in parsed.instructions:
        assert instruction.title()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab$ {}\\\"':-+?#%/\t1_", max_size=40))
def test_words_never_crash(text: str) -> None:
    for act in (lambda: split(text), lambda: expand(text, {"a": "x", "b": "", "_": "/y"})):
        try:
            act()
        except WordError as error:
            assert str(error)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="abc=/.,'\"\\$ é", min_size=1, max_size=12), min_size=1, max_size=5))
def test_quoted_words_come_back(words: list[str]) -> None:
    def quote(word: str) -> str:
        return '"' + "".join("\\" + c if c in '\\"$' else c for c in word) + '"'

    line = " ".join(quote(word) for word in words)
    assert [expand(word, {}) for word in split(line)] == words


PLAIN = st.text(alphabet="abcXYZ019_./-:", min_size=1, max_size=10).filter(lambda text: not text.startswith("-"))
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    keyword = draw(st.sampled_from([one for one in KEYWORDS if one != "ONBUILD"]))
    words, heredocs, flags = None, [], []
    if keyword in FLAGS and draw(st.booleans()):
        name = draw(st.sampled_from(FLAGS[keyword]))
        flags = [(name, "" if name == "link" else draw(PLAIN))]
    if keyword == "FROM":
        text = draw(PLAIN) + draw(st.sampled_from(["", " AS stage"]))
    elif keyword in ("ENV", "LABEL"):
        text = " ".join(f"{name}={draw(PLAIN)}" for name in draw(st.lists(NAMES, min_size=1, max_size=3)))
    elif keyword == "ARG":
        text = draw(NAMES) + draw(st.sampled_from(["", "=", "=x"]))
    elif keyword == "SHELL":
        words = draw(st.lists(PLAIN, min_size=1, max_size=3))
        text = str(words).replace("'", '"')
    else:
        count = {"USER": 1, "STOPSIGNAL": 1, "ADD": 2, "COPY": 2}.get(keyword, draw(st.integers(1, 3)))
        text = " ".join(draw(PLAIN) for _ in range(count))
    if keyword in HEREDOCS and draw(st.booleans()):
        body = "".join(f"{line}\n" for line in draw(st.lists(st.text(alphabet="ab $#\\", max_size=8), max_size=3)))
        heredocs = [Heredoc("END", body, True, False)]
        text = f"<<END {text}"
    return Instruction(0, keyword, flags, text, words, heredocs)


@settings(max_examples=300, deadline=None)
@given(st.lists(instructions(), min_size=1, max_size=6))
def test_what_is_rendered_reads_the_same(made: list[Instruction]) -> None:
    parsed = parse(render(Dockerfile(made)))
    assert [one._replace(line=0) for one in parsed.instructions] == made
    assert render(parsed) == render(Dockerfile(made))
