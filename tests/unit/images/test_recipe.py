"""Recipes become instructions."""

from __future__ import annotations

from typing import Any

import pytest

from intermodal.worker.images import recipe
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import ImageConfig

BASE = {"kind": "debian_slim", "python_version": "3.11"}


def titles(*steps: dict[str, Any]) -> list[str]:
    return [one.title for one in recipe.parse([BASE, *steps])]


def test_each_step_reads_like_a_dockerfile() -> None:
    assert titles(
        {"kind": "pip_install", "packages": ["numpy", "torch <= 2.0"], "extra_options": "--no-deps"},
        {"kind": "apt_install", "packages": ["git"]},
        {"kind": "run", "commands": ["echo a", "echo b"]},
        {"kind": "env", "vars": {"A": "b c"}},
        {"kind": "workdir", "path": "/srv"},
        {"kind": "copy", "mount_id": "mo-1"},
        {"kind": "entrypoint", "args": ["/x"]},
    ) == [
        "FROM base",
        "RUN python -m pip install numpy 'torch <= 2.0' --no-deps",
        "RUN apt-get update && apt-get install -y git",
        "RUN echo a",
        "RUN echo b",
        "ENV A='b c'",
        "WORKDIR /srv",
        "COPY . /",
        'ENTRYPOINT ["/x"]',
    ]


def test_a_password_in_an_index_is_not_shown() -> None:
    step = {"kind": "pip_install", "packages": ["x"], "extra_index_url": "https://me:pw@index.example/simple"}
    assert titles(step)[1] == "RUN python -m pip install x --extra-index-url https://***@index.example/simple"


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "the recipe is empty"),
        ([{"kind": "run", "commands": ["x"]}], "must come first"),
        ([BASE, BASE], "must come first"),
        ([BASE, {"kind": "teleport"}], "no image step 'teleport'"),
        ([BASE, {"kind": "run", "commands": "x"}], "'commands' must be a list"),
        ([BASE, {"kind": "run", "commands": [1]}], "must hold strings"),
        ([BASE, {"kind": "env", "vars": {"A=B": "x"}}], "cannot be an environment variable"),
        ([BASE, {"kind": "env", "vars": {"A": 1}}], "cannot be an environment variable"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(steps: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(Fault, match=words) as caught:
        recipe.parse(steps)
    assert caught.value.code == Code.INVALID


def keys(*steps: dict[str, Any], secret_names: list[str] | None = None) -> list[str]:
    config, found, parent = ImageConfig(layers=[]), [], ""
    for one in recipe.parse([BASE, *steps]):
        if recipe.makes_layer(one):
            parent = recipe.key(parent, config, one, secret_names or [])
            found.append(parent)
        else:
            recipe.apply(config, one)
    return found


def test_equal_steps_have_equal_keys_and_what_decides_the_result_changes_them() -> None:
    run = {"kind": "run", "commands": ["make"]}
    plain = keys(run)
    assert keys(run) == plain
    assert keys({**run, "force": True, "gpu": ["T4"]}) == plain
    assert keys({"kind": "entrypoint", "args": ["x"]}, run) == plain
    different = [
        keys({"kind": "run", "commands": ["make all"]}),
        keys({"kind": "env", "vars": {"A": "1"}}, run),
        keys({"kind": "workdir", "path": "/srv"}, run),
        keys({"kind": "shell", "args": ["/bin/bash", "-c"]}, run),
        keys(run, secret_names=["TOKEN"]),
    ]
    assert len({one[-1] for one in different} | {plain[-1]}) == 6


def test_a_layer_below_decides_those_above() -> None:
    above = {"kind": "run", "commands": ["b"]}
    first = keys({"kind": "run", "commands": ["a"]}, above)
    second = keys({"kind": "run", "commands": ["A"]}, above)
    assert first[2] != second[2]


def test_a_relative_workdir_goes_on_from_the_last_one() -> None:
    config = ImageConfig(layers=[])
    for one in recipe.parse([BASE, {"kind": "workdir", "path": "/a"}, {"kind": "workdir", "path": "b/../c"}])[1:]:
        recipe.apply(config, one)
    assert config.workdir == "/a/c"
