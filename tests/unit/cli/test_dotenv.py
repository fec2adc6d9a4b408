"""`.env` files of `modal secret create`, compared with what python-dotenv makes of them."""

from __future__ import annotations

import io

import pytest

from modal.cli.dotenv import parse

dotenv = pytest.importorskip("dotenv")

FILE = r"""# of the application
export A=1
B="double \"q\" \n nl \$x \\n"
C='single \' \n $x'
D=it's fine
E={"k": "v", "n": 1}
URL=http://host/path#fragment?a=b
G=a   b
H=a\b
  I  =   spaced
J= # a comment
K=v # comment
L=
M="more
lines"
N='of
them' # comment
O=é☃😀
P=a=b=c==
'Q R'=quoted
S=`cmd` $(cmd)
T="x"# comment
U=${A}${A:-no}${NOT_SET_ANYWHERE:-default} $A {A}
V.w-x=y
A=again
W=${A}
export=word
"""


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_as_python_dotenv(ends: str) -> None:
    text = FILE.replace("spaced\n", "spaced  \t\n").replace("\n", ends)
    wanted = dict(dotenv.dotenv_values(stream=io.StringIO(text, newline="")))
    assert len(wanted) == 23
    assert parse(text) == wanted
    assert parse("\ufeff" + text) == wanted


@pytest.mark.parametrize("text", ["", "\n\n", "# only", "A=", "A=''", "A=#x", "A=x#", "A=b \\# c", 'A=""', "A=\x0b"])
def test_short_ones(text: str) -> None:
    assert parse(text) == dict(dotenv.dotenv_values(stream=io.StringIO(text)))


def test_variables_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "here")
    assert parse("A=${HERE}\nHERE=file\nB=${HERE}") == {"A": "here", "HERE": "file", "B": "file"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\nKEYONLY\n", "Line 2 is no KEY=VALUE line"),
        ("A=1\r\n\r\nkey: hunter2\n", "Line 3 is no KEY=VALUE line"),
        ('{"A": "hunter2"}', "Line 1 is no KEY=VALUE line"),
        ("=hunter2", "Line 1 is no"),
        ("A=1\nPASSWORD='hunter2", "Line 2: the value of PASSWORD begins with a quote that nothing closes"),
        ('A="hunter2\n\n', "Line 1: the value of A begins"),
        ('A="hunter2"3', "Line 1: there is more behind the closing quote of the value of A"),
        ("A=hun${TER_IS_NOT_SET}2", r"Line 1: \$\{TER_IS_NOT_SET\} is a variable that is not set"),
    ],
)
def test_what_cannot_be_read_is_said_without_the_value(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse(text)
    assert "hunter2" not in str(caught.value)
