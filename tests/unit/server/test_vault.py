"""The key of secrets: another one, and a server that dies in the middle of it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from intermodal.server.services.secrets import Secrets
from intermodal.server.services.vault import Vault
from intermodal.server.services.vault_keys import KeyFile
from intermodal.server.store.environments import Environment
from intermodal.server.store.store import Store
from modal._protocol.errors import Fault

MAIN = Environment("en-1", "main", "", True)


def secrets_of(store: Store, folder: Path) -> Secrets:
    return Secrets(store.secrets, Vault(KeyFile(folder / "secrets.key")))


async def test_rotation(store: Store, tmp_path: Path) -> None:
    secrets = secrets_of(store, tmp_path)
    named = await secrets.create(MAIN, "named", {"A": "1"}, False)
    inline = await secrets.create_inline(MAIN, {"B": "2"})
    old_key = (tmp_path / "secrets.key").read_bytes()
    old = {id: row.content for id, row in (await store.secrets.get([named, inline])).items()}
    for _ in range(2):
        assert await secrets.rotate_key() == 2
        assert await secrets.merged([named, inline]) == {"A": "1", "B": "2"}
    key = (tmp_path / "secrets.key").read_bytes()
    assert old_key not in (key, key[:32])
    assert stat.S_IMODE((tmp_path / "secrets.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.glob("*secrets*")) == ["secrets.key"]
    new = {id: row.content for id, row in (await store.secrets.get([named, inline])).items()}
    assert all(old[id] != new[id] for id in old)
    again = secrets_of(store, tmp_path)
    assert await again.merged([named, inline]) == {"A": "1", "B": "2"}
    assert await again.create_inline(MAIN, {"B": "2"}) == inline  # images that name it stay cached
    (tmp_path / "secrets.key").write_bytes(old_key)
    with pytest.raises(Fault, match="is not the key"):
        await secrets_of(store, tmp_path).merged([named])


@pytest.mark.parametrize("moment", ["before the transaction", "after the transaction"])
async def test_a_server_that_dies_in_the_middle(store: Store, tmp_path: Path, moment: str) -> None:
    secrets = secrets_of(store, tmp_path)
    before = await secrets.create(MAIN, "before", {"A": "1"}, False)
    vault = secrets._vault
    vault.begin_rotation()
    if moment == "after the transaction":
        await store.secrets.reseal(vault.reseal)
    meanwhile = await secrets.create(MAIN, "meanwhile", {"B": "2"}, False)
    next_one = secrets_of(store, tmp_path)
    assert await next_one.merged([before, meanwhile]) == {"A": "1", "B": "2"}
    await next_one.open()
    assert not next_one._vault.rotating
    assert await secrets_of(store, tmp_path).merged([before, meanwhile]) == {"A": "1", "B": "2"}
    assert sorted(path.name for path in tmp_path.glob("*secrets*")) == ["secrets.key"]


async def test_a_secret_that_cannot_be_opened_stops_no_rotation(store: Store, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    lost = await secrets_of(store, tmp_path / "other").create(MAIN, "lost", {"A": "1"}, False)
    secrets = secrets_of(store, tmp_path)
    kept = await secrets.create(MAIN, "kept", {"B": "2"}, False)
    await secrets.rotate_key()
    assert await secrets.merged([kept]) == {"B": "2"}
    with pytest.raises(Fault, match="cannot be decrypted"):
        await secrets.merged([lost])


def test_a_damaged_key_file_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "secrets.key").write_bytes(b"short")
    with pytest.raises(Fault, match="5 bytes and is no key"):
        Vault(KeyFile(tmp_path / "secrets.key")).seal("st-1", {})
