"""Images: steps and recipes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import modal
from modal import Image
from modal._building import recipe_of
from modal.exception import InvalidError

LOCAL = f"{sys.version_info.major}.{sys.version_info.minor}"


def recipe(image: Image) -> list[dict[str, Any]]:
    return recipe_of(image, {}, {})


def test_a_chain_is_a_recipe() -> None:
    image = (
        Image.debian_slim()
        .apt_install("git", ["curl"])
        .pip_install("a", ["b==1", "torch <= 2.0"], index_url="https://index.test", pre=True, gpu="h100")
        .env({"A": "1"})
        .run_commands("one", ["two", "three"], force_build=True)
        .workdir("/app")
        .entrypoint([])
        .cmd(["python"])
        .shell(["/bin/bash", "-c"])
    )
    assert recipe(image) == [
        {"kind": "debian_slim", "python_version": LOCAL},
        {"kind": "apt_install", "packages": ["git", "curl"]},
        {
            "kind": "pip_install", "packages": ["a", "b==1", "torch <= 2.0"], "index_url": "https://index.test",
            "pre": True, "gpu": ["H100"],
        },
        {"kind": "env", "vars": {"A": "1"}},
        {"kind": "run", "commands": ["one", "two", "three"], "force": True},
        {"kind": "workdir", "path": "/app"},
        {"kind": "entrypoint", "args": []},
        {"kind": "cmd", "args": ["python"]},
        {"kind": "shell", "args": ["/bin/bash", "-c"]},
    ]  # fmt: skip


def test_images_do_not_change() -> None:
    base = Image.debian_slim("3.11")
    assert base.pip_install("x") is not base
    assert len(recipe(base)) == 1
    assert base.pip_install() is base
    assert recipe(base)[0]["python_version"] == "3.11"


def test_local_project_files_are_read_when_the_image_is_built(tmp_path: Path) -> None:
    requirements, project = tmp_path / "requirements.txt", tmp_path / "pyproject.toml"
    image = Image.debian_slim().pip_install_from_requirements(str(requirements), extra_options="--no-deps")
    with pytest.raises(InvalidError, match=r"requirements\.txt"):
        recipe(image)
    requirements.write_text("a\nb\n")
    assert recipe(image)[1] == {"kind": "pip_requirements", "extra_options": "--no-deps", "requirements": "a\nb\n"}
    project.write_text('[project]\ndependencies = ["x"]\n[project.optional-dependencies]\ntest = ["y"]\n')
    image = Image.debian_slim().pip_install_from_pyproject(str(project), ["test"])
    assert recipe(image)[1] == {"kind": "pip_install", "packages": ["x", "y"]}
    with pytest.raises(InvalidError, match="it has: test"):
        recipe(Image.debian_slim().pip_install_from_pyproject(str(project), ["docs"]))


WRONG = [
    (lambda i: i.pip_install("--pre"), "extra_options"),
    (lambda i: i.pip_install(3), "strings"),
    (lambda i: i.apt_install("a b"), "no name of a package"),
    (lambda i: i.apt_install("-y"), "no name of a package"),
    (lambda i: i.env({"A": 1}), "must be a string"),
    (lambda i: i.env(["A"]), "dict"),
    (lambda i: i.env({"A=B": "1"}), "name"),
    (lambda i: i.entrypoint("bash"), "list"),
    (lambda i: i.cmd("bash"), "list"),
    (lambda i: i.run_commands(["a", 1]), "strings"),
    (lambda i: i.add_local_file("a", "relative"), "absolute"),
    (lambda i: i.add_local_dir("a", "relative"), "absolute"),
    (lambda i: i.add_local_python_source("a/b.py"), "IMPORT|import"),
    (lambda i: i.pip_install_private_repos("github.com/a/b", git_user="u"), "GITHUB_TOKEN"),
    (
        lambda i: i.pip_install_private_repos(
            "https://github.com/a/b", git_user="u", secrets=[modal.Secret.from_dict({})]
        ),
        "github.com/",
    ),
    (lambda i: i.run_function("f"), "function"),
    (lambda i: Image.debian_slim("3.8"), "too old"),
    (lambda i: Image.debian_slim("311"), "no Python version"),
    (lambda i: Image.debian_slim(3.11), "string"),
    (lambda i: Image.from_registry("x", add_python="2.7"), "Python"),
    (lambda i: Image.from_registry("x", colour=1), "colour"),
    (lambda i: Image.from_dockerfile("x", context_mount=object()), "context_mount"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "text"), WRONG)
def test_wrong_steps_are_refused_where_they_are_written(make: Any, text: str) -> None:
    with pytest.raises(InvalidError, match=text):
        make(Image.debian_slim())


def test_files_that_name_conda_packages(tmp_path: Path) -> None:
    def fields(text: str, *packages: str) -> dict[str, Any]:
        path = tmp_path / "spec"
        path.write_text(text)
        image = Image.micromamba("3.11").micromamba_install(*packages, spec_file=str(path), channels=["c"])
        return recipe_of(image, {}, {})[-1]

    text = "name: x\nchannels:\n  - conda-forge\ndependencies:\n  - numpy=1.26  # why\n  - 'scipy>=1'\n"
    assert fields(text, "six") == {
        "kind": "micromamba_install",
        "packages": ["six", "numpy=1.26", "scipy>=1"],
        "channels": ["c", "conda-forge"],
    }
    assert fields("# list\nnumpy\n\nscipy >=1.0\n")["packages"] == ["numpy", "scipy >=1.0"]
    for wrong, why in (
        ("dependencies:\n- pip:\n  - x\n", "pip_install"),
        ("@EXPLICIT\n", "explicit"),
        ("#\n", "names no"),
    ):
        with pytest.raises(InvalidError, match=why):
            fields(wrong)
    assert Image.micromamba().micromamba_install() is not None


def test_no_build_step_after_files_that_are_added_at_start(tmp_path: Path) -> None:
    image = Image.debian_slim().add_local_file(tmp_path / "x", "/x").add_local_dir(tmp_path, "/y")
    assert [files.remote for files in image._mounted] == ["/x", "/y"]
    with pytest.raises(InvalidError, match="copy=True"):
        image.pip_install("x")
    copied = Image.debian_slim().add_local_file(tmp_path / "x", "/x", copy=True).pip_install("x")
    key = copied._steps()[1].files.key
    assert recipe_of(copied, {}, {key: ["mo-1", "mo-2"]})[1:] == [
        {"kind": "copy_parts", "mount_ids": ["mo-1", "mo-2"]},
        {"kind": "pip_install", "packages": ["x"]},
    ]


def test_older_methods_warn(tmp_path: Path) -> None:
    with pytest.warns(modal.exception.DeprecationError, match="add_local_file"):
        image = Image.debian_slim().copy_local_file(tmp_path / "x.txt", "./y.txt")
    assert image._steps()[1].files.remote == "/root/y.txt"


def test_secrets_in_steps() -> None:
    secret = modal.Secret.from_name("s")
    image = Image.debian_slim().run_commands("x", secrets=[secret])
    assert recipe_of(image, {id(secret): "st-1"}, {})[1]["secrets"] == ["st-1"]


def test_imports_swallows_locally() -> None:
    image = Image.debian_slim()
    with image.imports():
        import no_such_module  # noqa: F401
    with pytest.raises(ValueError, match="other"), image.imports():
        raise ValueError("other")
    assert image._import_error is None


def f() -> None: ...


def test_imports_of_the_container_s_own_image_raise(container: Any) -> None:
    image = Image.debian_slim()
    with image.imports():
        import no_such_module  # noqa: F401
    modal.App().function(image=Image.debian_slim())(f)
    derived = image.pip_install("x").add_local_file("a", "/a")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        modal.App(image=derived).function()(f)
    container.function.name = "another"
    modal.App().function(image=derived)(f)


@pytest.mark.parametrize("name", ["conda", "conda_install", "conda_update_from_environment", "copy_mount", "extend"])
def test_what_was_removed_says_what_to_use_instead(name: str) -> None:
    with pytest.raises(InvalidError, match=rf"Image\.{name} was removed\. Use "):
        getattr(Image.debian_slim(), name)("x")


def test_uv_methods_become_steps(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("six\n")
    image = Image.debian_slim().uv_pip_install(
        "numpy", requirements=[str(tmp_path / "requirements.txt")], uv_version="0.5.0", pre=True
    )
    assert recipe(image)[1] == {
        "kind": "uv_pip_install", "packages": ["numpy"], "requirements": ["six\n"], "uv_version": "0.5.0", "pre": True,
    }  # fmt: skip
    with pytest.raises(InvalidError, match="is an option, not a package"):
        Image.debian_slim().uv_pip_install("--pre")
    with pytest.raises(InvalidError, match="uv_version must be a version"):
        Image.debian_slim().uv_pip_install("x", uv_version="latest")
    project = Image.debian_slim().uv_sync(str(tmp_path), groups=["dev"])
    with pytest.raises(InvalidError, match=r"there is no file .*pyproject\.toml"):
        recipe(project)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert "frozen" not in recipe(project)[1]
    (tmp_path / "uv.lock").write_text("version = 1\n")
    assert recipe(project)[1] == {
        "kind": "uv_sync", "groups": ["dev"], "pyproject": "[project]\nname = 'x'\n", "lock": "version = 1\n",
        "frozen": True,
    }  # fmt: skip
    (tmp_path / "pyproject.toml").write_text("[tool.uv.workspace]\nmembers = ['a']\n")
    with pytest.raises(InvalidError, match="workspace"):
        recipe(project)


def test_poetry_projects_need_a_lock_file_unless_it_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text("[tool.poetry]\nname = 'x'\n")
    with pytest.raises(InvalidError, match="ignore_lockfile=True"):
        recipe(Image.debian_slim().poetry_install_from_file(str(path)))
    assert "lock" not in recipe(Image.debian_slim().poetry_install_from_file(str(path), ignore_lockfile=True))[1]
    (tmp_path / "poetry.lock").write_text("# lock\n")
    step = recipe(Image.debian_slim().poetry_install_from_file(str(path), with_=["docs"]))[1]
    assert (step["lock"], step["with"]) == ("# lock\n", ["docs"])
    path.write_text("[tool.other]\n")
    with pytest.raises(InvalidError, match=r"neither \[tool\.poetry\] nor"):
        recipe(Image.debian_slim().poetry_install_from_file(str(path)))
