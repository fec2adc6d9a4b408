"""The cases of the Autobahn WebSocket test suite, run by kosoku (the suite's own runner is a program for Python 2)."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.integration.gateway.conftest import MakeRig, Rig
from tests.integration.gateway.test_websocket import echo

# Its cases read their data without closing the files.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
kosoku = pytest.importorskip("kosoku")

LARGE = [*(f"9.{group}.{case}" for group in (1, 2) for case in (4, 5, 6)), "9.3.*", "9.4.*"]
EXCLUDED = [
    *LARGE,  # messages of 4 to 16 MiB: the documented limit is 2 MiB, beyond which 1009 is the answer
    "12.*", "13.*",  # permessage-deflate, which is documented as not spoken
]  # fmt: skip


async def test_every_case_that_is_promised(make_rig: MakeRig) -> None:
    """Framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closing, and messages to 2 MiB in pieces."""
    rig: Rig = await make_rig(echo)
    try:
        results = await kosoku.run_fuzzingclient(url(rig), exclude_cases=EXCLUDED, concurrency=4)
    except kosoku.FailureError as error:
        pytest.fail("\n".join(str(result) for result in error.results if not result.passed))
    verdicts = Counter(str(result.behavior).rpartition(".")[2] for result in results)
    assert verdicts["OK"] >= 260
    assert set(verdicts) <= {"OK", "NON_STRICT", "INFORMATIONAL"}


async def test_what_is_not_promised_is_not_offered(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo)
    with pytest.raises(kosoku.FailureError) as failed:
        await kosoku.run_fuzzingclient(url(rig), cases=["12.1.1"])
    assert [str(result.behavior).rpartition(".")[2] for result in failed.value.results] == ["UNIMPLEMENTED"]


def url(rig: Rig) -> str:
    return f"ws://127.0.0.1:{rig.port}/_web/ecorp--shop-web/"
