"""Stores pinned adapters, and makes every engine pin them.

Pins are in the job database, so they outlive engines and ingresses and reach engines that start later.
Every ingress sends the whole list to all engines, at each change and every few seconds. Each change
increments the list's revision, so an ingress with an older list cannot undo a newer one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from infra.errors import Conflict, UserError
from infra.registry import parse_ref
from infra.storage.stored import Damaged, convert
from serving.engine_client import EngineClient, EngineLost
from serving.jobs.database import Database, Pin
from serving.requests import FoundationInfo
from serving.schemas import AdapterUsed, LoraPath

log = logging.getLogger(__name__)
INTERVAL = 2.0  # seconds between two reports to the engines
ERASED = "erased"  # stands for the names of erased concepts
ENGINES_TIMEOUT = 30.0  # seconds for the engines to answer


class PinStore:
    """The pins in a database, separate for each foundation (fingerprint), because adapters fit only one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def wanted(self, foundation: str) -> tuple[int, list[AdapterUsed]]:
        """(revision, pinned adapters, oldest first)."""
        with self._database.sessions() as session:
            rows = list(
                session.scalars(select(Pin).where(Pin.foundation == foundation).order_by(Pin.revision))
            )
        pinned = (used(row) for row in rows if row.pinned)
        return max((row.revision for row in rows), default=0), [use for use in pinned if use is not None]

    def named(self, foundation: str, name: str, path: LoraPath | None) -> list[AdapterUsed]:
        """The pinned adapters of `concept@version` (path None: both paths), even if removed since."""
        concept, version = parse_ref(name)
        with self._database.sessions() as session:
            rows = session.scalars(
                select(Pin)
                .where(
                    Pin.foundation == foundation,
                    Pin.concept == concept,
                    Pin.version == version,
                    Pin.pinned,
                    *([] if path is None else [Pin.path == path]),
                )
                .order_by(Pin.revision)
            )
            return [use for use in map(used, rows) if use is not None]

    def pin(self, foundation: str, uses: Sequence[AdapterUsed], slots: Mapping[str, int]) -> None:
        """Pin all of these or none; no effect on those already pinned.

        Args:
            slots: number of slots of each path in an engine. Raises Conflict if none would stay for others.
        """
        with self._database.exclusive() as session:
            for use in uses:
                same = (Pin.foundation == foundation, Pin.path == use.path, Pin.pinned)
                pinned = set(session.scalars(select(Pin.sha256).where(*same)))
                if use.sha256 in pinned:
                    continue
                if len(pinned) + 1 >= slots[use.path]:
                    raise Conflict(
                        f"{len(pinned)} of {slots[use.path]} {use.path} slots are pinned, and one must stay free for "
                        "other adapters; unpin one first, or start with more slots.",
                        code="slots_pinned",
                    )
                self._write(session, foundation, use, pinned=True)

    def unpin(self, foundation: str, uses: Sequence[AdapterUsed]) -> None:
        """Unpin these; no effect on those not pinned."""
        with self._database.exclusive() as session:
            for use in uses:
                row = session.get(Pin, (foundation, use.path, use.sha256))
                if row is not None and row.pinned:
                    self._write(session, foundation, use, pinned=False)

    def forget(self, concept: str, versions: Collection[int]) -> None:
        """Remove all trace of versions that are being erased, for every foundation.

        A row without a name takes their place, so that the revision still grows.
        """
        with self._database.exclusive() as session:
            erased = (Pin.concept == concept, Pin.version.in_(versions))
            for foundation, path in session.execute(select(Pin.foundation, Pin.path).where(*erased)).all():
                nameless = convert(
                    AdapterUsed, {"concept": ERASED, "version": 1, "path": path, "sha256": "0" * 64}
                )
                self._write(session, foundation, nameless, pinned=False)
            session.execute(delete(Pin).where(*erased))

    def _write(self, session: Session, foundation: str, use: AdapterUsed, *, pinned: bool) -> None:
        last = session.scalar(select(func.max(Pin.revision)).where(Pin.foundation == foundation)) or 0
        session.execute(delete(Pin).where(Pin.foundation == foundation, Pin.pinned.is_(False)))
        session.merge(
            Pin(
                foundation=foundation,
                path=use.path,
                sha256=use.sha256,
                concept=use.concept,
                version=use.version,
                pinned=pinned,
                revision=last + 1,
            )
        )


def used(row: Pin) -> AdapterUsed | None:
    """The adapter of a row; None, with an error in the log, if the row is damaged."""
    told = {name: getattr(row, name) for name in ("concept", "version", "path", "sha256")}
    try:
        return convert(AdapterUsed, told)
    except Damaged as error:
        log.error("the adapter of pin revision %d is damaged and not pinned (%s)", row.revision, error)
        return None


class PinSender:
    """Sends the pins to the engines until cancelled; runs beside the dispatcher.

    Args:
        info: returns what is served; raises Unavailable if no engine answers.
    """

    def __init__(
        self, store: PinStore, engine: EngineClient, info: Callable[[], Awaitable[FoundationInfo]]
    ) -> None:
        self._store, self._engine, self._info = store, engine, info

    async def run(self) -> None:
        """Send the pins repeatedly."""
        while True:
            try:
                await self.send()
            except (EngineLost, TimeoutError, UserError):
                log.info("no engine takes the pins")
            except Exception:  # the database is unreachable for a moment
                log.exception("the pins cannot be read")
            await asyncio.sleep(INTERVAL)

    async def send(self) -> int:
        """Make every engine pin exactly the stored pins; returns the number of engines.

        Raises EngineLost, TimeoutError, and Unavailable if no engine answers.
        """
        info = await self._info()
        revision, uses = await asyncio.to_thread(self._store.wanted, info.fingerprint)
        async with asyncio.timeout(ENGINES_TIMEOUT):
            return await self._engine.set_pins(revision, uses)
