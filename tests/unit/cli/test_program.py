"""References to programs, and how programs are imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from modal.cli.failures import report
from modal.cli.program import ProgramError, Reference, import_program, parse_reference


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), dict(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in [name for name in sys.modules if name not in modules]:
        del sys.modules[name]


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def test_forms() -> None:
    write("a.py", "")
    assert parse_reference("a.py", False) == Reference("a.py", "", False)
    assert parse_reference("a.py::f", False) == Reference("a.py", "f", False)
    assert parse_reference("a.py::app.f", False) == Reference("a.py", "app.f", False)
    assert parse_reference("pkg.mod::f", True) == Reference("pkg.mod", "f", True)


@pytest.mark.parametrize(
    ("text", "module", "says"),
    [
        ("a.py::", False, "after '::'"),
        ("::f", False, "before '::'"),
        ("missing", False, "No such file"),
        ("dir/mod.py", True, "-m dir.mod"),
    ],
)
def test_wrong_references(text: str, module: bool, says: str) -> None:
    with pytest.raises(click.UsageError, match=says):
        parse_reference(text, module)


def test_a_module_without_m_still_works_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    write("pkg/mod.py", "x = 1")
    assert parse_reference("pkg.mod::f", False) == Reference("pkg.mod", "f", True)
    assert "`-m pkg.mod::f`" in capsys.readouterr().err


def test_a_file_is_imported_under_its_own_name_with_its_folder_first(here: Path) -> None:
    write("sub/helper_of_it.py", "value = 41")
    write("sub/my_program.py", "import helper_of_it\nvalue = helper_of_it.value + 1\nname = __name__")
    module = import_program(parse_reference("sub/my_program.py", False))
    assert (module.name, module.value) == ("my_program", 42)
    assert sys.modules["my_program"] is module
    assert sys.path[0] == str(here / "sub")


def test_a_module_is_imported_as_part_of_its_package(here: Path) -> None:
    write("pkg_a/__init__.py", "")
    write("pkg_a/other.py", "value = 1")
    write("pkg_a/main.py", "from .other import value\nname = __name__")
    assert import_program(parse_reference("pkg_a.main", True)).name == "pkg_a.main"


def test_missing_files_and_modules() -> None:
    write("program.py", "")
    with pytest.raises(click.UsageError, match=r"'program\.py'"):
        import_program(parse_reference("progam.py", False))
    with pytest.raises(click.UsageError, match="No module named 'nowhere'"):
        import_program(parse_reference("nowhere.mod", True))
    Path("folder.py").mkdir()
    with pytest.raises(click.UsageError, match="directory"):
        import_program(parse_reference("folder.py", False))


@pytest.mark.parametrize("name", ["modal.py", "intermodal.py"])
def test_a_program_called_modal_is_refused(name: str) -> None:
    write(name, "")
    with pytest.raises(click.UsageError, match="rename"):
        import_program(parse_reference(name, False))


def test_a_program_that_hides_a_module_of_pythons_own(capsys: pytest.CaptureFixture[str]) -> None:
    """It may run as well as under `python`; where it does not, its name is the likely reason."""

    def said(text: str) -> str:
        write("colorsys.py", text)
        with pytest.raises(ProgramError) as caught:
            import_program(parse_reference("colorsys.py", False))
        assert report(caught.value) == 1
        return capsys.readouterr().err

    assert "rename colorsys.py" in " ".join(said("import colorsys\ncolorsys.rgb_to_hls").split())
    assert "rename" not in said("import no_such_module")  # that is another matter
    report(AttributeError("of some library"))
    assert "rename colorsys.py" in " ".join(capsys.readouterr().err.split())
    write("fine.py", "")
    import_program(parse_reference("fine.py", False))
    report(AttributeError("of some library"))
    assert "MODAL_TRACEBACK" in capsys.readouterr().err


def shown(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    write("broken.py", text)
    with pytest.raises(ProgramError) as caught:
        import_program(parse_reference("broken.py", False))
    assert "broken" not in sys.modules
    assert report(caught.value) == 1
    return capsys.readouterr().err


def test_a_syntax_error_shows_the_place(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    err = shown("x = 1\ndef f(:\n", capsys)
    assert f'File "{here}/broken.py", line 2' in err
    assert "SyntaxError" in err
    assert "modal/cli" not in err


def test_an_error_at_import_shows_the_users_frames_alone(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    err = shown("def f():\n    return 1 / 0\n\nf()\n", capsys)
    assert f'File "{here}/broken.py", line 2, in f' in err
    assert "ZeroDivisionError" in err
    assert "modal/cli" not in err
    assert "importlib" not in err


def test_modal_traceback_shows_every_frame(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_TRACEBACK", "1")
    assert "modal/cli/program.py" in shown("1 / 0\n", capsys)


def test_a_missing_package_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    err = shown("import surely_not_installed\n", capsys)
    assert "'surely_not_installed' is not installed where this command runs" in err


def test_a_relative_import_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert "-m package.module" in shown("from .other import x\n", capsys)


def test_our_own_errors_are_one_sentence_with_the_place(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    err = shown("from modal.exception import InvalidError\nraise InvalidError('say it otherwise')\n", capsys)
    assert err.splitlines() == [
        f'  File "{here}/broken.py", line 2, in <module>',
        "    raise InvalidError('say it otherwise')",
        "Error: say it otherwise",
    ]
