"""Which certificates there shall be, and seeing to it: on demand for hosts that are served, renewed in time."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intermodal.server.acme import backoff
from intermodal.server.acme.account import Account, Away, Rejected
from intermodal.server.acme.certificate_store import CertificateStore, is_over
from intermodal.server.acme.challenge import Challenges
from intermodal.server.acme.order import Attempt, Ended, Names, Order, Orders
from intermodal.server.acme.settings import DNS, AcmeSettings, is_public
from intermodal.server.gateway.limits import RateLimit
from intermodal.server.store.migrations import Refused
from intermodal.server.tls.certificate import Certificate

log = logging.getLogger("intermodal.acme")

LOOK = 15.0  # seconds between looks at what is to be renewed or tried again
AT_ONCE = 4  # orders that are at work
NEW_NAMES = (100 / 3600, 1800.0)  # names a second that visitors may have certificates made for; half an hour's at once
WAIT = 60.0  # seconds that a client's greeting waits for a certificate that is being made
WAITING = 500  # clients that wait at once
SHOWN = 20  # certificates in the status


class Issuance:
    """`open()` when the state directory is ours; `start()` when the server listens; `close()`."""

    def __init__(
        self,
        directory: Path,
        settings: AcmeSettings,
        served: Callable[[str], str],
        domain: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`served(host)` is the name by which a host is served now: itself, a `*.` name, or "". `domain`: the apps'."""
        # Another authority begins with nothing of the one before: certificates of a trial are not taken for real ones.
        place = directory / hashlib.sha256(settings.directory.encode()).hexdigest()[:16]
        self.settings = settings
        self.challenges = Challenges(settings.hook)
        self._served = served
        self._domain = domain
        self.clock = clock
        self._account = Account(place / "account.json", settings)
        self._orders = Orders(place / "orders")
        self._store = CertificateStore(place / "certificates")
        self._kept: dict[Names, list[Certificate]] = {}  # names that are always wanted -> who else shows theirs
        self._running: dict[Names, asyncio.Task[None]] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._budget = RateLimit(*NEW_NAMES)
        self._waiting = 0
        self._ending = threading.Event()

    # -- life
    def open(self) -> None:
        """Read what earlier lives have left."""
        self._store.open()
        self._orders.open()
        for order in self._orders.all():
            if order.failures:
                order.again = backoff.after_start(order.again, order.failed)
        for host in (self._domain, *self.settings.hosts):
            names = self._names(host)
            if names:
                self._kept.setdefault(names, [])

    async def run(self) -> None:
        """Look after them until it is cancelled."""
        while True:
            try:
                self.look()
            except OSError as error:
                log.warning("certificates cannot be looked at: %s", error)
            await asyncio.sleep(LOOK)

    def close(self) -> None:
        """Orders at work are gone on with by the next server."""
        self._ending.set()
        for task in self._running.values():
            task.cancel()

    # -- questions
    def find(self, host: str) -> Certificate | None:
        """What can be shown for a host at once: lower case."""
        found = self._store.find(host)
        return None if found is None or is_over(found, self.clock()) else found

    async def obtain(self, host: str) -> Certificate | None:
        """The same; made where it is served and has none. None: no certificate is to be had now."""
        found = self.find(host)
        if found is not None:
            return found
        names = self._names(host)
        if not names or self._waiting >= WAITING:
            return None
        known = self._store.get(names)
        if known is not None and self.clock() < self._store.renewal(names):
            return known  # it is new: whose clock is wrong is not to be known here
        if names not in self._running and not self._may_begin(names):
            return None
        self._waiting += 1
        try:
            await asyncio.wait([self._begin(names)], timeout=WAIT)
        finally:
            self._waiting -= 1
        return self.find(host)

    def keep(self, names: list[str], shown: Certificate) -> bool:
        """From now on `shown` has the certificate for these names, once there is one; whether there may be one."""
        wanted = tuple(sorted(names))
        if not all(is_public(name) for name in wanted):
            return False
        if any(name.startswith("*.") for name in wanted) and not self.settings.hook:
            return False
        self._kept.setdefault(wanted, []).append(shown)
        found = self._store.get(wanted)
        if found is not None:
            _take_over(shown, found)
        return True

    def look(self) -> None:
        """Begin what is due: what was never made, is to be renewed, or may be tried again."""
        now = self.clock()
        for names in {*self._kept, *self._store.all(), *(order.names for order in self._orders.all())}:
            certificate, order = self._store.get(names), self._orders.find(names)
            if certificate is not None and now < self._store.renewal(names):
                if order is not None and names not in self._running:
                    self._orders.drop(order)  # the server ended between the two
            elif names not in self._kept and not any(self._names(name) == names for name in names):
                self._let_go(names, certificate, order, now)
            elif names not in self._running and (order is None or order.again <= now):
                self._begin(names)

    def _let_go(self, names: Names, certificate: Certificate | None, order: Order | None, now: float) -> None:
        """Nobody is served by these names any more: a certificate is not renewed."""
        if order is not None and names not in self._running:
            self._orders.drop(order)
        if certificate is not None and is_over(certificate, now):
            self._store.drop(names)

    def _names(self, host: str) -> Names:
        """What the certificate for a host is for; nothing for hosts that are not served, or can have none."""
        if not is_public(host):
            return ()
        above = host.partition(".")[2]
        ours = host == self._domain or host in self.settings.hosts
        known = host if ours else self._served(host)
        if self.settings.hook and is_public(self._domain):
            if known and self._domain in (host, above):
                return tuple(sorted((f"*.{self._domain}", self._domain)))
            if known == f"*.{above}":
                return (known,)
        # Whoever visits could make up names below a `*.` one: these are never ordered one by one.
        return (host,) if known == host else ()

    def _may_begin(self, names: Names) -> bool:
        order = self._orders.find(names)
        if order is not None:
            return order.again <= self.clock()
        wait = self._budget.take()
        if wait:
            log.warning("no certificate for %s: too many names at once, the next in %.0f s", ", ".join(names), wait)
        return not wait

    # -- obtaining one
    def _begin(self, names: Names) -> asyncio.Task[None]:
        task = self._running.get(names)
        if task is None:
            task = self._running[names] = asyncio.get_running_loop().create_task(self._issue(names))
            task.add_done_callback(lambda _done: self._running.pop(names, None))
        return task

    async def _issue(self, names: Names) -> None:
        async with self._turn:
            order = self._orders.get(names)
            attempt = Attempt(
                order, self._orders.save, self._account, self.challenges, self._kinds(order), self._ending
            )
            try:
                pem = await _in_thread(attempt.run, f"acme {names[0]}")
                self._take(names, pem)
            except Ended:
                return
            except Away as error:
                self._fail(order, str(error), backoff.AWAY)
            except Rejected as error:
                self._fail(order, str(error), backoff.LIMITED if error.code == "rateLimited" else backoff.REJECTED)
            except Refused as error:
                self._fail(order, str(error), backoff.REJECTED)
            except OSError as error:
                self._fail(order, f"the state directory cannot be written: {error}", backoff.AWAY)
            except Exception as error:
                log.exception("an order failed")
                self._fail(order, f"{type(error).__name__}: {error}", backoff.REJECTED)
            else:
                self._orders.drop(order)

    def _kinds(self, order: Order) -> tuple[str, ...]:
        """Challenges to answer. After a failure the next one is tried."""
        if any(name.startswith("*.") for name in order.names):
            return (DNS,)
        kinds = self.settings.challenges
        if order.failures and not order.url and order.kind in kinds:
            at = kinds.index(order.kind) + 1
            kinds = kinds[at:] + kinds[:at]
        return kinds

    def _take(self, names: Names, pem: bytes) -> None:
        made = self._store.put(names, pem, self.clock())
        for shown in self._kept.get(names, ()):
            _take_over(shown, made)
        log.info("obtained the certificate for %s, valid until %s", ", ".join(names), made.expires)

    def _fail(self, order: Order, reason: str, kind: tuple[float, float]) -> None:
        order.failures += 1
        order.failed = self.clock()
        order.again = order.failed + backoff.pause(order.failures, kind, random.random())
        order.error = reason
        log.warning("%s", self._problem(order))
        try:
            self._orders.save(order)
        except OSError as error:
            log.warning("this cannot be written down: %s", error)

    # -- the status
    def describe(self) -> list[dict[str, Any]]:
        """What cannot be had, and what there is: the newest of these."""
        troubles = [order for order in self._orders.all() if order.failures]
        found = [
            {
                "path": "",
                "names": list(order.names),
                "expires": 0.0 if certificate is None else certificate.expires.timestamp(),
                "problem": self._problem(order),
                "help": "mend what the authority says; it is tried again by itself, and at the next start",
            }
            for order in troubles
            for certificate in [self._store.get(order.names)]
        ]
        told = {order.names for order in troubles}
        sound = [one for names, one in self._store.all().items() if names not in told]
        sound.sort(key=lambda one: one.begins, reverse=True)
        return [*found, *(one.describe() for one in sound)][:SHOWN]

    def _problem(self, order: Order) -> str:
        certificate = self._store.get(order.names)
        what = "no certificate yet for" if certificate is None else "no new certificate for"
        again = time.strftime("%Y-%m-%d %H:%M", time.gmtime(order.again))
        rest = (
            ""
            if certificate is None
            else f"; the one that expires on {certificate.expires:%Y-%m-%d %H:%M} UTC stays in use"
        )
        return f"{what} {', '.join(order.names)}: {order.error}; tried again at {again} UTC{rest}"


def _take_over(shown: Certificate, made: Certificate) -> None:
    try:
        shown.show(made.path)
    except (OSError, ValueError) as error:
        log.warning("the certificate %s cannot be used: %s", made.path, error)


async def _in_thread(what: Callable[[], bytes], name: str) -> bytes:
    """In a thread that does not hold up the process's end: what it does may stop anywhere."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()

    def finish(result: bytes | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            assert result is not None
            done.set_result(result)

    def work() -> None:
        result, error = None, None
        try:
            result = what()
        except Exception as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(finish, result, error)
        except RuntimeError:  # the loop has ended
            return

    threading.Thread(target=work, name=name, daemon=True).start()
    return await done
