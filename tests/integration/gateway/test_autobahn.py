"""The cases of the Autobahn WebSocket test suite, run by kosoku (the suite's own runner is a program for Python 2).

In a process of its own: kosoku puts stand-ins for old modules where everybody would find them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections import Counter
from typing import Any

import pytest

from tests.integration.gateway.conftest import MakeRig, Rig
from tests.integration.gateway.test_websocket import echo

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("kosoku") is None, reason="kosoku has no build for this machine"
)

LARGE = [*(f"9.{group}.{case}" for group in (1, 2) for case in (4, 5, 6)), "9.3.*", "9.4.*"]
EXCLUDED = [
    *LARGE,  # messages of 4 to 16 MiB: the documented limit is 2 MiB, beyond which 1009 is the answer
    "12.*", "13.*",  # permessage-deflate, which is documented as not spoken
]  # fmt: skip

CLIENT = """
import asyncio, json, os, sys
import kosoku

async def main():
    try:
        results = await kosoku.run_fuzzingclient(sys.argv[1], **json.loads(sys.argv[2]))
    except kosoku.FailureError as error:
        results = error.results
    told = [[str(one.behavior).rpartition(".")[2], bool(one.passed), str(one)] for one in results]
    print("RESULTS " + json.dumps(told), flush=True)
    os._exit(0)  # what is native in it may abort while it is taken down

asyncio.run(main())
"""


async def run(rig: Rig, **options: Any) -> list[tuple[str, bool, str]]:
    """(verdict, whether it passed, description) of each case."""
    url = f"ws://127.0.0.1:{rig.port}/_web/ecorp--shop-web/"
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "ignore", "-c", CLIENT, url, json.dumps(options)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await client.communicate()
    assert client.returncode == 0, err.decode()
    told = next(line for line in out.decode().splitlines() if line.startswith("RESULTS "))
    return [tuple(one) for one in json.loads(told[len("RESULTS ") :])]


async def test_every_case_that_is_promised(make_rig: MakeRig) -> None:
    """Framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closing, and messages to 2 MiB in pieces."""
    results = await run(await make_rig(echo), exclude_cases=EXCLUDED, concurrency=4)
    failed = [description for _verdict, passed, description in results if not passed]
    assert not failed, "\n".join(failed)
    verdicts = Counter(verdict for verdict, _passed, _description in results)
    assert verdicts["OK"] >= 260
    assert set(verdicts) <= {"OK", "NON_STRICT", "INFORMATIONAL"}


async def test_what_is_not_promised_is_not_offered(make_rig: MakeRig) -> None:
    results = await run(await make_rig(echo), cases=["12.1.1"])
    assert [verdict for verdict, _passed, _description in results] == ["UNIMPLEMENTED"]
