"""Deletes a tenant's concepts and erases them from storage, database and engines.

A deleted version is gone for callers at once. Its files stay while an accepted job needs them, and for GRACE
seconds, in which a request that was being resolved becomes a job. Then the sweep of any ingress, or the command
line, erases them. Everything may be repeated, so a process that is killed leaves nothing behind for good.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from sqlalchemy import delete, select

from infra.erasure import erase_versions, hashes_of
from infra.errors import DamagedData, NotFound, UserError
from infra.registry import Registry
from serving.engine_client import EngineClient, EngineLost
from serving.jobs.database import Database, Job
from serving.jobs.jobs import UNFINISHED
from serving.jobs.pins import PinStore
from serving.jobs.tenant_tables import ConceptShare, Erasure
from serving.requests import request_of
from serving.tenants.audit import concept_subject, note
from serving.tenants.namespaces import split_name

log = logging.getLogger(__name__)
GRACE = 120.0  # seconds; a request is resolved and checked in less, or refused
INTERVAL = 5.0  # seconds between two sweeps


class Erasures:
    """What is to be erased from one registry. Thread-safe; several processes may share the database."""

    def __init__(self, database: Database, registry: Registry | None) -> None:
        self._database, self._session, self._registry = database, database.sessions, registry

    def ask(self, concept: str, versions: Sequence[int], actor: str | None = None) -> None:
        """Delete versions of a concept (its name in the registry): hidden at once, erased when possible.

        Args:
            actor: who does it, for the audit log; None: it is part of another action there.
        """
        assert self._registry is not None
        hashes = {number: self._hashes(concept, number) for number in versions}
        with self._session.begin() as session:
            for number in versions:
                session.merge(
                    Erasure(concept=concept, version=number, hashes=hashes[number], asked_at=time.time())
                )
            if actor is not None:
                owner = split_name(concept)[0] or ""
                note(session, actor, "concept.delete", owner, concept_subject(concept))
        for number in versions:
            try:
                self._registry.remove(f"{concept}@{number}")
            except NotFound:  # another process was faster
                continue
        if self._registry.numbers(concept, "versions") == self._registry.numbers(concept, "removed"):
            with self._session.begin() as session:
                session.execute(delete(ConceptShare).where(ConceptShare.concept == concept))
        PinStore(self._database).forget(concept, versions)

    def _hashes(self, concept: str, number: int) -> list[str]:
        assert self._registry is not None
        try:
            return sorted(hashes_of(self._registry.load(concept, number)))
        except (NotFound, DamagedData):  # its files cannot be told; they may be another version's
            return []

    def pending(self, prefix: str = "") -> list[Erasure]:
        """The versions that are being erased, of concepts whose names in the registry begin so."""
        with self._session() as session:
            query = select(Erasure).where(Erasure.concept.startswith(prefix, autoescape=True))
            return list(session.scalars(query.order_by(Erasure.asked_at)))

    def due(self, grace: float = GRACE) -> list[Erasure]:
        """Those of them that no unfinished job needs."""
        old = [row for row in self.pending() if row.asked_at <= time.time() - grace]
        if not old:
            return []
        needed: set[str] = set()
        with self._session() as session:
            for job in session.scalars(select(Job).where(Job.state.in_(UNFINISHED))):
                try:
                    needed |= {file.sha256 for file in request_of(job).version_files}
                except DamagedData:  # it will fail
                    continue
        return [row for row in old if needed.isdisjoint(row.hashes)]

    def erase(self, rows: Sequence[Erasure]) -> None:
        """Erase versions from the storage. They stay pending until `done`."""
        if rows and self._registry is not None:
            hashes = {sha256 for row in rows for sha256 in row.hashes}
            erase_versions(self._registry, [(row.concept, row.version) for row in rows], hashes)

    def done(self, rows: Sequence[Erasure]) -> None:
        """Record that versions are erased everywhere."""
        for row in rows:
            PinStore(self._database).forget(row.concept, [row.version])  # of a pin that was under way
        with self._session.begin() as session:
            for row in rows:
                session.execute(
                    delete(Erasure).where(Erasure.concept == row.concept, Erasure.version == row.version)
                )


class Eraser:
    """Erases what is due, in storage and engines, until cancelled; runs beside the dispatcher.

    Args:
        tenants: completes the erasure of tenants; called in a thread after each sweep.
    """

    def __init__(
        self, erasures: Erasures, engine: EngineClient, tenants: Callable[[], None] = lambda: None
    ) -> None:
        self._erasures, self._engine, self._tenants = erasures, engine, tenants

    async def run(self) -> None:
        """Sweep repeatedly."""
        while True:
            try:
                await self.sweep()
            except (EngineLost, TimeoutError, UserError) as error:
                log.warning("erased concepts may still be in storage or engines: %s", error)
            except Exception:  # the database is unreachable for a moment
                log.exception("the sweep of erased concepts failed")
            await asyncio.sleep(INTERVAL)

    async def sweep(self, grace: float = GRACE) -> None:
        """Erase what is due. Raises EngineLost if no engine answers; then the engines are asked again."""
        rows = await asyncio.to_thread(self._erasures.due, grace)
        if rows:
            await asyncio.to_thread(self._erasures.erase, rows)
            hashes = sorted({sha256 for row in rows for sha256 in row.hashes})
            if await self._engine.forget(hashes):
                await asyncio.to_thread(self._erasures.done, rows)
        await asyncio.to_thread(self._tenants)
