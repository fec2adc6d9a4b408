"""Registries of this machine for tests, with the base of the tests in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.oci.bases import SETTINGS, base_layer, lend_unpacked
from tests.oci.layouts import Layout
from tests.oci.registry_server import RegistryServer


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    server = RegistryServer(tmp_path_factory.mktemp("registry") / "open")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    server = RegistryServer(tmp_path_factory.mktemp("registry") / "private", private=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def debian(registry: RegistryServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base in the registry, as an image with Python; its name there."""
    layout = Layout(tmp_path_factory.mktemp("debian") / "layout")
    layout.image("base", [base_layer()], SETTINGS)
    registry.push(layout.path, "base", "library/debian-python:3.11")
    return f"{registry.host}/library/debian-python:3.11"


@pytest.fixture
def lent(builder: Any) -> Any:
    """A builder that has the base's layer already."""
    lend_unpacked(builder.home)
    return builder
