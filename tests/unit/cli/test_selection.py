"""Which function `modal run` means where several could be meant."""

from __future__ import annotations

import types

import click
import pytest

import modal
from modal.cli.program import Reference
from modal.cli.selection import choose


def two_apps() -> types.ModuleType:
    module = types.ModuleType("several")
    for variable in ("x", "y"):
        app = modal.App(variable)

        @app.function(serialized=True, name="f")
        def f() -> None:
            pass

        @app.function(serialized=True, name=f"only_{variable}")
        def only() -> None:
            pass

        setattr(module, variable, app)
    return module


def test_names_that_several_apps_have_are_told_apart() -> None:
    module = two_apps()
    with pytest.raises(click.UsageError, match="has 4 functions; choose one") as caught:
        choose(module, Reference("several.py", "", False))
    names = [line.rpartition("::")[2] for line in caught.value.message.splitlines()[1:]]
    assert names == ["x.f", "only_x", "y.f", "only_y"]
    for name in names:
        assert choose(module, Reference("several.py", name, False)).name == name.rpartition(".")[2]
    assert choose(module, Reference("several.py", "y.f", False)).app.name == "y"
