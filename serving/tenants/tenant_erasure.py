"""Erases everything of a tenant: keys, jobs, videos, concepts, usage, limits; and last its name.

It goes in steps that may all be repeated, so whoever is killed, the next sweep of any ingress goes on. From the
first step on the tenant's keys are refused. Two things stay: the audit log, which has ids alone, and the
tenant's name where others typed it, in the shares of their own concepts.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from sqlalchemy import delete, func, select

from infra.errors import NotFound, UserError
from infra.registry import Registry
from infra.storage import Storage
from serving.jobs.database import Database, Delivery, Flow, Job, Rate
from serving.jobs.dispatcher import result_key
from serving.jobs.jobs import FINAL, IllegalTransition, JobStore
from serving.jobs.tenant_tables import ConceptShare, StoredKey, Tenant, Usage
from serving.tenants.audit import note
from serving.tenants.erasure import Erasures
from serving.tenants.tenants import ensured

log = logging.getLogger(__name__)
OWNED = (Delivery, Rate, Flow, Usage, StoredKey)  # tables whose rows of the tenant are deleted as they are


class TenantErasure:
    """Erases tenants from a database, a registry and a storage of videos; blocks.

    Args:
        also: further steps; more may be added. Called with the tenant's name and id. Each may be called again, and returns
            whether nothing is left to do.
    """

    def __init__(
        self,
        store: JobStore,
        erasures: Erasures,
        registry: Registry | None,
        results: Storage,
        also: Sequence[Callable[[str, str], bool]] = (),
    ) -> None:
        self._store, self._erasures, self._registry, self._results = store, erasures, registry, results
        self._database: Database = store.database
        self.also = list(also)

    def begin(self, name: str, actor: str) -> None:
        """Refuse the tenant's keys from now on, and mark it for erasure. Raises NotFound for an unknown tenant."""
        with self._database.exclusive() as session:
            jobs = select(func.count()).select_from(Job).where(Job.tenant == name)
            if session.get(Tenant, name) is None and not session.scalar(jobs):
                raise NotFound(
                    f"there is no tenant {name[:80]!a} in the job database; `motiondirector tenants list` or GET /v1/tenants "
                    "lists them.",
                    code="tenant_not_found",
                )
            row = ensured(session, name)
            if row.erasing_at is None:
                row.erasing_at = time.time()
                note(session, actor, "tenant.erase", row.id)
            session.execute(delete(StoredKey).where(StoredKey.tenant == name))

    def sweep(self) -> None:
        """Go on with every tenant that is being erased."""
        with self._database.sessions() as session:
            rows = session.scalars(select(Tenant).where(Tenant.erasing_at.is_not(None))).all()
        for row in rows:
            try:
                self.proceed(row.name, row.id)
            except UserError as error:  # others need not wait for it
                log.warning("tenant %s is not erased yet: %s", row.id, error.message)

    def proceed(self, name: str, id: str) -> bool:
        """Do what can be done now; returns whether nothing of the tenant is left."""
        self._erase_jobs(name)
        with self._database.sessions.begin() as session:
            for table in OWNED:
                session.execute(delete(table).where(table.tenant == name))
            mine = ConceptShare.concept.startswith(f"t-{id}.")
            session.execute(delete(ConceptShare).where(mine))
        self._hide_concepts(id)
        finished = [step(name, id) for step in self.also]
        if not all(finished) or self._erasures.pending(f"t-{id}."):
            return False
        if self._registry is not None and self._registry.storage.holds(f"concepts/t-{id}."):
            return False
        with self._database.exclusive() as session:
            if session.scalar(select(func.count()).select_from(Job).where(Job.tenant == name)):
                return False  # accepted before its key was refused
            note(session, "erasure", "tenant.erased", id)
            session.execute(delete(Tenant).where(Tenant.name == name))
        self._database.scrub()
        return True

    def _erase_jobs(self, name: str) -> None:
        with self._database.sessions() as session:
            jobs = session.execute(select(Job.id, Job.state).where(Job.tenant == name)).all()
        for id, state in jobs:
            if state not in FINAL:
                with contextlib.suppress(IllegalTransition):  # it ended meanwhile
                    self._store.cancel(id)
            self._results.delete(result_key(id))
            with contextlib.suppress(IllegalTransition):
                self._store.delete(id)

    def _hide_concepts(self, id: str) -> None:
        """Delete every version of its concepts that is not being erased yet."""
        if self._registry is None:
            return
        asked = {(row.concept, row.version) for row in self._erasures.pending(f"t-{id}.")}
        found: dict[str, list[int]] = {}
        for info in self._registry.storage.list(f"concepts/t-{id}."):
            _, concept, what, *rest = info.key.split("/")
            number = rest[0].removesuffix(".json") if rest else ""
            if what == "versions" and number.isdecimal() and (concept, int(number)) not in asked:
                found.setdefault(concept, []).append(int(number))
        for concept, versions in found.items():
            self._erasures.ask(concept, versions)
