"""Sets of local files, as a server that starts anew finds them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from intermodal.files import Files
from intermodal.home import Home
from intermodal.server.services.mounts import Mounts
from intermodal.server.store.store import Store
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.file import FileEntry


async def test_a_set_from_before_is_known_as_long_as_its_files_are_there(tmp_path: Path) -> None:
    files = Files(Home(tmp_path))
    content = b"some"
    digest = hashlib.sha256(content).hexdigest()
    files.put(digest, content)
    store = await Store.open(tmp_path / "store.sqlite")
    try:
        entries = [FileEntry("/a", digest, len(content)), FileEntry("/b", "", 0, link="a")]
        mount_id = await Mounts(store.images, files).put(entries)
        after = Mounts(store.images, Files(Home(tmp_path)))
        assert await after.missing([mount_id, "mo-none"]) == ["mo-none"]
        await after.make_durable([mount_id])
        files.path(digest).unlink()
        again = Mounts(store.images, Files(Home(tmp_path)))
        assert await again.missing([mount_id]) == [mount_id]
        with pytest.raises(Fault) as caught:
            await again.make_durable([mount_id])
        assert caught.value.code == Code.NOT_FOUND
    finally:
        await store.close()
